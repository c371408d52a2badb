"""The guided pass: the host prepares a cond as it always does, and the gradient is opened around the U-Net alone."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import InterplayError
from ...engine import GuidedMaps
from ...graph import TokenGraph
from .attention import with_exact_attention
from .capture import MapCapture, PassComplete, guided_layers
from .conditioning import KEY
from .weights import OrdinaryInputs, recompute

WRAPPER_KEY = "interplay_guidance"
CACHES = ("easycache", "lazycache")  # they count and skip model calls; a measuring call is not a sampler's call


@contextlib.contextmanager
def gradient_region(network: torch.nn.Module) -> Iterator[None]:
    """Gradients to inputs, through any weight state and any input that other nodes made in inference mode."""
    with torch.inference_mode(False), torch.enable_grad(), recompute(network), OrdinaryInputs():
        yield


class GuidedPass:
    """One place of one sampling run at which maps can be taken: the sampler's model, its latent x, sigma and options.

    x: (B, C, h, w) as the sampler holds it; sigma: (B,). graphs: words of each guided cond, by its uuid. one_by_one:
    image after image, and each once more in the backward pass: the memory of one image, the time of three passes.
    """

    def __init__(
        self,
        guider: Any,
        model: Any,
        x: Tensor,
        sigma: Tensor,
        extra_args: Mapping[str, Any],
        graphs: Mapping[Any, TokenGraph],
    ) -> None:
        self.guider, self.model, self.extra_args, self.graphs = guider, model, extra_args, graphs
        self.one_by_one = False
        self.unet = guider.inner_model.diffusion_model
        with torch.inference_mode(False):
            self.x, self.sigma = x.detach().clone(), sigma.detach().clone()
            ones = torch.ones((x.shape[0], *[1] * (x.ndim - 1)), dtype=torch.float32, device=x.device)
            self.scale: Tensor = guider.inner_model.model_sampling.calculate_input(self.sigma, ones)
            self.z: Tensor = self.x.float() * self.scale

    def latent(self, z: Tensor) -> Tensor:
        """The sampler's latent for a network latent z (differentiable); exactly x for z as it was."""
        return self.x + (z - self.z) / self.scale

    def capture(self, z: Tensor) -> list[GuidedMaps]:
        """Word maps of every guided cond that is active at this sigma, with their graph down to z."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        x, sigma, options = self._network_input(self.latent(z))
        conds = [cond for cond in guided_conds(self.guider.conds) if self._part(cond, x, sigma) is not None]
        # hooks patch the weights cond by cond: with several, each must be made again for its own backward pass
        again = len({id(cond.get("hooks")) for cond in conds}) > 1
        found = []
        for cond in conds:
            measure = functools.partial(self._maps, cond, sigma, options)
            maps = _Again.apply(x, measure) if again else measure(x)
            found.append(GuidedMaps(cond["uuid"], self.graphs[cond["uuid"]], maps))
        return found

    def _network_input(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """x as the guider gets it: outside an inpainting mask it is the noised original, by the host's own rule."""
        if not isinstance(self.model, comfy.samplers.KSamplerX0Inpaint):
            return x, self.sigma, self.extra_args.get("model_options", {})
        model, probe = copy.copy(self.model), _Probe(self.guider)
        model.inner_model = probe
        with OrdinaryInputs():
            model(x, self.sigma, **self.extra_args)
        return probe.x, probe.sigma, probe.model_options

    def _part(self, cond: dict[str, Any], x: Tensor, sigma: Tensor) -> Any:
        """The host's view of a cond at this sigma: its area, mask and strength; None outside its timestep range."""
        with torch.inference_mode():
            return comfy.samplers.get_area_and_mult(cond, x.detach(), sigma)

    def _maps(self, cond: dict[str, Any], sigma: Tensor, options: dict[str, Any], x: Tensor) -> Tensor:
        part, graph = self._part(cond, x, sigma), self.graphs[cond["uuid"]]
        measure = _Measure(self.unet, _crop(x, part.area), cond["uuid"], graph, self.one_by_one)
        with torch.inference_mode():
            conds = [[{key: value for key, value in cond.items() if key != "default"}]]
            comfy.samplers.calc_cond_batch(
                self.guider.inner_model, conds, x.detach(), sigma, measure.options(options)
            )
        maps = measure.result()
        return maps if "mask" not in cond else maps * _cells(part.mult, maps)


class _Again(torch.autograd.Function):
    """A function that is run without a graph, and again with one in the backward pass: nothing is kept in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return function(x.detach()).detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(ctx.function(x), x, grads[0])[0], None


class _Probe:
    """Stands where the guider stands inside the host's inpainting model, and keeps what the guider would be given."""

    def __init__(self, guider: Any) -> None:
        self._guider = guider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        self.x, self.sigma, self.model_options = x, sigma, model_options or {}
        return x.detach()


class _Measure:
    """An APPLY_MODEL wrapper for one measuring call: the U-Net up to the last wanted layer, differentiable in crop."""

    def __init__(self, unet: Any, crop: Tensor, uuid: Any, graph: TokenGraph, one_by_one: bool) -> None:
        self.unet, self.crop, self.uuid, self.graph, self.one_by_one = unet, crop, uuid, graph, one_by_one
        self._maps: Tensor | None = None

    def options(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the host's options with this wrapper innermost."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
        for by_key in wrappers.values():
            for key in CACHES:
                by_key.pop(key, None)
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        comfy.patcher_extension.add_wrapper_with_key(kind, WRAPPER_KEY, self, options, is_model_options=True)
        return options

    def result(self) -> Tensor:
        """(B, J, H, W) word maps, after the host's call."""
        if self._maps is None:
            raise InterplayError(
                "Another node answered in place of the model, so there are no attention maps to guide: leave out the "
                "node that skips or caches model calls."
            )
        return self._maps

    def __call__(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        transformer_options = transformer_options or {}
        if x.shape != self.crop.shape or list(transformer_options.get("uuids", [self.uuid])) != [self.uuid]:
            raise InterplayError(
                f"Another node splits or joins the latent before the model ({tuple(x.shape)} in place of "
                f"{tuple(self.crop.shape)}; tiled diffusion does), so guidance cannot follow it: use one of the two."
            )
        call = (x, t, c_concat, c_crossattn, control)
        with torch.inference_mode(False), torch.enable_grad():
            one = functools.partial(self._unet_maps, executor, call, transformer_options, kwargs)
            if self.one_by_one and len(x) > 1:
                parts = [_Again.apply(self.crop[i : i + 1], functools.partial(one, i)) for i in range(len(x))]
                self._maps = torch.cat(parts)
            else:
                self._maps = one(None, self.crop)
        return torch.zeros_like(x)

    def _unet_maps(
        self, executor: Any, call: tuple[Any, ...], options: dict[str, Any], kwargs: Any, row: int | None, crop: Tensor
    ) -> Tensor:
        count = len(call[0])
        x, *others = (_row(value, row, count) for value in call)
        extra = {key: _row(value, row, count) for key, value in kwargs.items()}
        capture = MapCapture(guided_layers(self.unet, *crop.shape[-2:]), self.graph, len(crop))
        with gradient_region(self.unet), capture.hooked(), contextlib.suppress(PassComplete):
            # the values that the host made, with the gradient of our own latent
            given = x.clone() + (crop - crop.detach())
            t, c_concat, c_crossattn, control = others
            executor(given, t, c_concat, c_crossattn, control, with_exact_attention(options), **extra)
        return capture.maps()


def _row(value: Any, row: int | None, count: int) -> Any:
    """One image's share of what the host made for ``count`` images; lists are copied, for the U-Net empties control."""
    if isinstance(value, dict):
        return {key: _row(entry, row, count) for key, entry in value.items()}
    if isinstance(value, list):
        return [_row(entry, row, count) for entry in value]
    if row is None or not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
        return value
    return value[row : row + 1]


def guided_conds(conds: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The conds of a guider that carry a hypergraph and are its own, each once.

    For areas the host copies a cond, key and uuid included, into the negative list and gives it the negative's tensors;
    the negative itself is never guided.
    """
    found: dict[Any, dict[str, Any]] = {}
    for name, entries in conds.items():
        if name.startswith(("negative", "empty")):
            continue
        for cond in entries:
            model_cond = cond.get("model_conds", {}).get("c_crossattn")
            own = model_cond is None or model_cond.cond is cond.get("cross_attn")
            if KEY in cond and own:
                found.setdefault(cond["uuid"], cond)
    return list(found.values())


def _crop(x: Tensor, area: Any) -> Tensor:
    if area is None:
        return x
    dims = len(area) // 2
    for i in range(dims):
        x = x.narrow(i + 2, area[dims + i], area[i])
    return x


def _cells(mult: Tensor, maps: Tensor) -> Tensor:
    """A cond's mask on the grid of its maps: outside it the cond paints nothing, and its attention means nothing."""
    with torch.inference_mode(False):
        weight = mult[:, :1].clone().to(maps)
        return F.interpolate(weight, size=maps.shape[-2:], mode="area")
