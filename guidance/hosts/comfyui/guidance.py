"""Contrast and link guidance as a MODEL -> MODEL patch made of wrappers; nothing of the host is replaced or copied.

The OUTER_SAMPLE wrapper hands on a shallow copy of the sampler whose function is given a stand-in for its model. The
stand-in moves the sampler's latent (or shifts the denoised picture) before or after the model is called; everything else
goes through. All state belongs to one run.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ....errors import InterplayError
from ...engine import Guide, GuideReport
from ...presets import GuidanceConfig
from .conditioning import KEY, NO_GRAPH, PromptGraph
from .passes import WRAPPER_KEY, GuidedPass, guided_conds
from .steps import COPIES, REBUILDS, StepTracker, name_of

log = logging.getLogger(__name__)

MODES = ("latent", "denoised")
WRAPPERS = comfy.patcher_extension.WrappersMP
BYTES_PER_CELL = {False: 90_000, True: 260_000}  # kept for backward per latent cell in fp16, SDXL or not


def patch_model(
    model: Any,
    config: GuidanceConfig,
    seed: int = 0,
    mode: str = "latent",
    on_report: Callable[[GuideReport], None] | None = None,
) -> Any:
    """A clone of ``model`` (ModelPatcher) that guides every sampling run by the hypergraph in its conditioning.

    seed: of the "random" selection schedule. mode: "latent" moves the sampler's latent as the papers do, "denoised"
    shifts the denoised picture by sigma^2 times the gradient (classifier guidance). on_report: called with the report
    after each run. Guiding an already guided model replaces its settings. InterplayError for another model family.
    """
    check_model(model)
    if mode not in MODES:
        raise InterplayError(f"There is no guidance mode called '{mode}'; choose one of {', '.join(MODES)}.")
    patched = model.clone()
    patch = GuidancePatch(config, seed, mode, on_report)
    for kind, wrapper in ((WRAPPERS.OUTER_SAMPLE, patch.outer_sample), (WRAPPERS.PREPARE_SAMPLING, patch.prepare_sampling)):
        patched.remove_wrappers_with_key(kind, WRAPPER_KEY)
        patched.add_wrapper_with_key(kind, WRAPPER_KEY, wrapper)
    return patched


def check_model(model: Any) -> None:
    """InterplayError unless ``model`` is a Stable Diffusion 1.x, 2.x or SDXL that is not compiled."""
    network = model.get_model_object("diffusion_model")
    compiled = type(network).__name__ == "OptimizedModule" or "torch_compile_kwargs" in model.model_options
    if compiled or "diffusion_model" in getattr(model, "object_patches", {}):
        raise InterplayError(
            "The model is compiled by torch.compile or replaced by another node, which hides its attention: leave that "
            "node out to guide it."
        )
    video = isinstance(network, UNetModel) and any(isinstance(m, SpatialVideoTransformer) for m in network.modules())
    if not isinstance(network, UNetModel) or video:
        raise InterplayError(
            f"Guidance works with Stable Diffusion 1.x, 2.x and SDXL, not with {type(model.model).__name__}: load one of "
            "those."
        )


@dataclass(frozen=True)
class GuidancePatch:
    """What a patched model carries: settings only."""

    config: GuidanceConfig
    seed: int
    mode: str
    on_report: Callable[[GuideReport], None] | None

    def outer_sample(
        self, executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """OUTER_SAMPLE: one guided run."""
        if self.config.strength == 0:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        run = GuidedRun(self, executor.class_obj, latent_image, sampler, sigmas)
        out = executor(noise, latent_image, run.sampler(), sigmas, *args, **kwargs)
        run.finish()
        return out

    def prepare_sampling(self, executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING: tell the host how much memory the backward pass keeps, by a larger batch."""
        if self.config.strength > 0:
            noise_shape = reserved_shape(model, noise_shape)
        return executor(model, noise_shape, *args, **kwargs)


def reserved_shape(model: Any, noise_shape: Any) -> list[int]:
    """``noise_shape`` with the batch raised until the host's own estimate covers the guided pass as well."""
    shape = list(noise_shape)
    large = bool(getattr(model.model, "adm_channels", 0))
    estimate = float(model.model.memory_required(shape))
    needed = BYTES_PER_CELL[large] * shape[0]
    for size in shape[2:]:
        needed *= size
    if estimate > 0:
        shape[0] *= 1 + -(-int(needed) // max(1, int(2 * estimate)))
    return shape


class GuidedRun:
    """State of one sampling run."""

    def __init__(self, patch: GuidancePatch, guider: Any, latent: Tensor, sampler: Any, sigmas: Tensor) -> None:
        check_model(guider.model_patcher)
        self.patch, self.guider, self._sampler = patch, guider, sampler
        self.graphs = _token_graphs(guider)
        _check_latent(latent, guider.model_patcher)
        if not hasattr(sampler, "sampler_function"):
            raise InterplayError(
                f"The sampler {type(sampler).__name__} is not one of ComfyUI's kind (KSAMPLER), so its latent cannot be "
                "guided: choose another sampler."
            )
        name = name_of(sampler.sampler_function)
        churn = float(getattr(sampler, "extra_options", {}).get("s_churn", 0.0))
        self.tracker = StepTracker([float(s) for s in sigmas], name, churn)
        self.mode = patch.mode
        if self.mode == "latent" and name in REBUILDS:
            log.info("Interplay: %s builds its latent anew at each step, so the denoised picture is shifted instead.", name)
            self.mode = "denoised"
        self.in_callback = self.mode == "latent" and name in COPIES
        self.guide = Guide(patch.config, patch.seed, self.tracker.count)
        self.shift: Tensor | None = None  # "denoised": the move of this step, in network space

    def sampler(self) -> Any:
        """A shallow copy of the sampler whose function sees a stand-in for its model."""
        guided = copy.copy(self._sampler)
        function = self._sampler.sampler_function

        def sample(model: Any, x: Tensor, *args: Any, callback: Any = None, **kwargs: Any) -> Tensor:
            stand_in = GuidedModel(model, self)

            def report(state: dict[str, Any]) -> None:
                if self.in_callback:
                    stand_in.move_state(state)
                self.tracker.reported()
                if callback is not None:
                    callback(state)

            return function(stand_in, x, *args, callback=report, **kwargs)

        guided.sampler_function = functools.update_wrapper(sample, function) if name_of(function) else sample
        return guided

    def move(self, model: Any, x: Tensor, sigma: Tensor, extra_args: dict[str, Any], step: int) -> Tensor | None:
        """The network-space move of this step (B, C, h, w); None when the step is not guided. Leaves x alone."""
        progress = step / self.tracker.count
        if not self.guide.active(progress):
            return None
        if "multigpu_clones" in extra_args.get("model_options", {}):
            raise InterplayError("Guidance runs on one GPU only: leave out the node that spreads the model over several.")
        place = GuidedPass(self.guider, model, x, sigma, extra_args, self.graphs)
        return self.guide.step(place.z, progress, place.capture) - place.z

    def finish(self) -> None:
        """Tell the log and the caller what was done."""
        report = self.guide.report
        if report.guided_steps:
            log.info("Interplay: %s", report.summary())
        elif not report.idle_steps:
            log.warning(
                "Interplay guided no step of this run: no step of the schedule lies between %.0f %% and %.0f %% of it, or "
                "the sampler never asked for one.",
                100 * self.patch.config.start,
                100 * self.patch.config.end,
            )
        if self.patch.on_report is not None:
            self.patch.on_report(report)


class GuidedModel:
    """Stands in for the sampler's model: moves the latent, then calls on."""

    def __init__(self, model: Any, run: GuidedRun) -> None:
        self._model, self._run = model, run
        self._args: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **extra_args: Any) -> Tensor:
        run = self._run
        self._args = extra_args
        step = run.tracker.step(float(sigma.flatten()[0]))
        if step is not None and not run.in_callback:
            delta = run.move(self._model, x, sigma, extra_args, step)
            if run.mode == "latent" and delta is not None:
                x.add_((delta / self._scale(x, sigma)).to(x.dtype))
            run.shift = delta
        out = self._model(x, sigma, *args, **extra_args)
        if run.mode == "denoised" and run.shift is not None:
            variance = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
            out = out + (run.shift * variance * self._scale(x, sigma)).to(out.dtype)
        return out

    def move_state(self, state: dict[str, Any]) -> None:
        """For samplers that give the model copies: move the latent that the callback shows (network space)."""
        run = self._run
        step, z = int(state["i"]), state["x"]
        sigma = torch.full((z.shape[0],), run.tracker.sigmas[step], device=z.device, dtype=torch.float32)
        x = z / self._scale(z, sigma)
        delta = run.move(self._model, x, sigma, self._args, step)
        if delta is not None:
            z.add_(delta.to(z.dtype))

    def _scale(self, x: Tensor, sigma: Tensor) -> Tensor:
        ones = torch.ones((x.shape[0], *[1] * (x.ndim - 1)), device=x.device, dtype=torch.float32)
        return self._run.guider.inner_model.model_sampling.calculate_input(sigma, ones)


def _token_graphs(guider: Any) -> dict[Any, Any]:
    conds = guided_conds(guider.conds)
    if not conds:
        raise InterplayError(NO_GRAPH)
    graphs = {}
    for cond in conds:
        prompt: PromptGraph = cond[KEY]
        tokens = cond["cross_attn"].shape[1]
        if tokens != prompt.length or cond["cross_attn"].shape[0] != 1:
            raise InterplayError(
                f"The conditioning has {tuple(cond['cross_attn'].shape[:2])} prompts and tokens but its hypergraph belongs "
                f"to one of {prompt.length} tokens ('{prompt.prompt[:60]}'): do not join other prompts to it."
            )
        graphs[cond["uuid"]] = prompt.token_graph()
    return graphs


def _check_latent(latent: Tensor, model: Any) -> None:
    channels = model.get_model_object("latent_format").latent_channels
    if getattr(latent, "is_nested", False) or latent.ndim != 4 or latent.shape[1] != channels:
        raise InterplayError(
            f"A latent of shape {tuple(latent.shape)} does not fit this model, which takes (batch, {channels}, height, "
            "width): make it with 'Empty Latent Image' or encode a picture with this model's VAE."
        )
    if not bool(torch.isfinite(latent).all()):
        raise InterplayError(
            "The latent to start from holds NaN or infinite values: encode the picture again, with the VAE in fp32."
        )
