"""Re-weighting attention modulation as a MODEL -> MODEL patch made of wrappers.

The slots of replaced attention are filled for the time of one U-Net call, around whatever stands in them then. So it
does not matter whether IP-Adapter and its like are placed before this patch or after it, and none of them is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from torch import Tensor

from ....errors import InterplayError
from ...modulation import Binding, ModulationConfig, Plan, active, attend, attend_self, lambda_t, plan, probabilities
from ...modulation import wanted as wanted_layer
from .conditioning import KEY as GRAPH_KEY
from .conditioning import NO_GRAPH
from .families import check_model
from .passes import WRAPPER_KEY as GUIDANCE
from .passes import guided_conds

log = logging.getLogger(__name__)

KEY = "interplay_reweight"
AREAS = "Interplay leaves prompts with an area, and tiles, as they are: its masks are of whole images."
WRAPPERS = comfy.patcher_extension.WrappersMP
Replace = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


def patch_reweight(
    model: Any,
    images: Sequence[Sequence[Binding]],
    prompt: str,
    config: ModulationConfig,
    words: Sequence[int] = (),
    labels: Sequence[Sequence[str]] = (),
) -> Any:
    """A clone of ``model`` whose attention is re-weighted in the rows of ``prompt``, wherever they stand in the batch.

    images: bindings for each image of the batch, or of one image for all of them; prompt: of the conditioning that they
    were made for, which has to come from 'Prompt to Hypergraph'; words: positions of its words; labels: names of the
    objects, for heat-maps. Re-weighting a re-weighted model again replaces its objects. InterplayError for another
    model family.
    """
    check_model(model)
    patch = ReweightPatch(tuple(map(tuple, images)), prompt, config, tuple(words), tuple(map(tuple, labels)))
    patched = unweighted(model)
    patched.add_wrapper_with_key(WRAPPERS.OUTER_SAMPLE, KEY, patch.outer_sample)
    patched.add_wrapper_with_key(WRAPPERS.CALC_COND_BATCH, KEY, patch.calc_cond_batch)
    patched.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, KEY, patch.apply_model)
    return patched


def unweighted(model: Any) -> Any:
    """A clone of ``model`` without our re-weighting."""
    clone = model.clone()
    for kind in (WRAPPERS.OUTER_SAMPLE, WRAPPERS.CALC_COND_BATCH, WRAPPERS.APPLY_MODEL):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def find_patch(model: Any) -> ReweightPatch:
    """The re-weighting of a patched model. InterplayError when it has none."""
    for call in model.get_wrappers(WRAPPERS.APPLY_MODEL, KEY):
        return call.__self__  # type: ignore[no-any-return]
    raise InterplayError("The model is not re-weighted: connect the one that comes out of 'Attention Re-weighting'.")


@dataclass(frozen=True)
class Call:
    """What the conds of one sampling step tell the U-Net call: tokens of each cond of our prompt, by its place in the
    guider's list and its uuid; height and width of the whole latent.
    """

    lengths: dict[tuple[int, Any], int]
    latent: tuple[int, int]


class ReweightPatch:
    """What a patched model carries: settings and masks. Never copied, because masks may be large.

    steps: U-Net calls re-weighted in the last run; record: where heat-maps are collected, or None.
    """

    def __init__(
        self,
        images: tuple[tuple[Binding, ...], ...],
        prompt: str,
        config: ModulationConfig,
        words: tuple[int, ...] = (),
        labels: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        self.images, self.prompt, self.config, self.words, self.labels = images, prompt, config, words, labels
        self.steps = 0
        self.warned = False
        self.record: Record | None = None
        self._plans: dict[tuple[int, tuple[int, int], int, Any], Plan] = {}

    def __deepcopy__(self, memo: Any) -> ReweightPatch:
        return self

    @property
    def idle(self) -> bool:
        """Whether nothing can happen at all."""
        return (self.config.strength == 0 and self.config.self_strength == 0) or not any(self.images)

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE: look for our prompt before the host spends a step; say so when nothing was re-weighted."""
        found = [c for c in guided_conds(executor.class_obj.conds) if c[GRAPH_KEY].prompt == self.prompt]
        if not found and not self.idle:
            known = guided_conds(executor.class_obj.conds)
            raise InterplayError(
                "The sampler's positive conditioning is of another prompt than the objects were bound to: connect the "
                "same 'Prompt to Hypergraph' to both."
                if known
                else NO_GRAPH
            )
        self.steps, self.warned = 0, False
        out = executor(*args, **kwargs)
        if self.steps == 0 and not self.idle:
            log.warning("Interplay re-weighted none of the steps: check its start, end and strength.")
        return out

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: Any, x: Tensor, timestep: Any, options: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """CALC_COND_BATCH: mark the conds of our prompt. Guidance's own measuring passes are left alone."""
        lengths = {}
        for index, entries in enumerate(conds):
            for cond in entries or ():
                model_cond = cond.get("model_conds", {}).get("c_crossattn")
                # for areas the host copies a cond, key and uuid included, into the negative list
                own = model_cond is None or model_cond.cond is cond.get("cross_attn")
                if own and GRAPH_KEY in cond and cond[GRAPH_KEY].prompt == self.prompt:
                    lengths[index, cond["uuid"]] = int(cond["cross_attn"].shape[1])
        measuring = GUIDANCE in _wrappers(options, WRAPPERS.APPLY_MODEL)
        if lengths and not self.idle and not measuring:
            marked = {KEY: Call(lengths, (int(x.shape[-2]), int(x.shape[-1])))}
            options = {**options, "transformer_options": {**options.get("transformer_options", {}), **marked}}
        return executor(model, conds, x, timestep, options, *args, **kwargs)

    def apply_model(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        """APPLY_MODEL: lambda_t by the schedule that the model has now, and our layers in the slots for this call."""
        options = transformer_options or {}
        step = self._step(executor.class_obj, x, t, options) if KEY in options else None
        if step is not None:
            self.steps += 1
            transformer_options = step.options(executor.class_obj.diffusion_model, options)
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _step(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Step | None:
        call: Call = options[KEY]
        time = float(model.model_sampling.timestep(sigma.max()))
        if not active(time, self.config):
            return None
        if tuple(x.shape[-2:]) != call.latent:
            if not self.warned:
                log.warning(AREAS)
            self.warned = True
            return None
        chunks = list(zip(options["cond_or_uncond"], options["uuids"], strict=True))
        rows = x.shape[0] // len(chunks)
        if len(self.images) not in (1, rows):
            raise InterplayError(
                f"There are objects of {len(self.images)} images but the batch has {rows}; give one for each or one."
            )
        marked = {i: call.lengths[chunk] for i, chunk in enumerate(chunks) if chunk in call.lengths}
        if not marked:
            return None
        strengths = (lambda_t(time, self.config), lambda_t(time, self.config, self.config.self_strength))
        return Step(self, strengths, marked, len(chunks), rows, call.latent)

    def found(self, rows: int) -> list[int]:
        """Which images of the batch have objects; the others are left to the host."""
        return [i for i in range(rows) if self.images[i if len(self.images) > 1 else 0]]

    def plan(self, rows: int, grid: tuple[int, int], length: int, device: Any) -> Plan:
        """The plan of a layer for those images; the same one again for the same layer."""
        key = (rows, grid, length, device)
        if key not in self._plans:
            images = [self.images[i if len(self.images) > 1 else 0] for i in self.found(rows)]
            self._plans[key] = plan(images, grid, length, self.config, self.words).to(device)
        return self._plans[key]


@dataclass(frozen=True)
class Step:
    """One U-Net call. strengths: lambda_t of cross- and self-attention; marked: tokens of each chunk of the batch that
    is of our prompt; chunks of ``rows`` images each.
    """

    patch: ReweightPatch
    strengths: tuple[float, float]
    marked: dict[int, int]
    chunks: int
    rows: int
    latent: tuple[int, int]

    def options(self, unet: Any, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the host's options with our layers in the slots, around what was in them."""
        replaced = {name: dict(slots) for name, slots in options.get("patches_replace", {}).items()}
        for name, strength in zip(("attn2", "attn1"), self.strengths, strict=True):
            if strength == 0:
                continue
            slots = replaced.setdefault(name, {})
            for block, number, index in places(unet):
                before = slots.get((block, number, index), slots.get((block, number)))
                slots[block, number, index] = Layer(self, strength, name == "attn1", before)
        return {**options, "patches_replace": replaced}


def places(unet: Any) -> list[tuple[str, int, int]]:
    """(block, number, index) of every transformer block. The host looks for these before the shorter (block, number)
    that other packs use on SD1.x, so nothing can stand in front of them.
    """
    blocks = [("input", i, b) for i, b in enumerate(unet.input_blocks)]
    blocks += [("middle", 0, unet.middle_block)] if unet.middle_block is not None else []
    blocks += [("output", i, b) for i, b in enumerate(unet.output_blocks)]
    return [
        (name, number, index)
        for name, number, block in blocks
        for layer in block.children()
        if isinstance(layer, SpatialTransformer)
        for index in range(len(layer.transformer_blocks))
    ]


@dataclass(frozen=True)
class Layer:
    """One slot during one U-Net call. before: what stood in it."""

    step: Step
    strength: float
    own: bool  # self-attention
    before: Replace | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """(b, N, H * D) from projected q, k, v."""
        step = self.step
        grid = (int(options["activations_shape"][-2]), int(options["activations_shape"][-1]))
        if not self._fits(q, k, grid) or not wanted_layer(grid, step.latent, step.patch.config):
            return self._earlier(q, k, v, options)
        found = step.patch.found(step.rows)
        every = self.before is None and len(step.marked) == step.chunks and len(found) == step.rows
        out = torch.empty_like(q) if every else self._earlier(q, k, v, options).clone()
        for chunk, length in step.marked.items():
            rows = [chunk * step.rows + i for i in found]
            layer = step.patch.plan(step.rows, grid, length, q.device)
            parts = (q[rows], k[rows], v[rows], options["n_heads"], layer, self.strength, step.patch.config)
            act = attend_self if self.own else attend
            out[rows] = act(*parts) if self.before is None else out[rows] + act(*parts, change=True)
            if step.patch.record is not None and not self.own:
                step.patch.record.add(q[rows], k[rows], *parts[3:], grid)
        return out

    def _earlier(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """What would be here without us."""
        if self.before is not None:
            return self.before(q, k, v, options)
        precision = options.get("attn_precision")
        out: Tensor = optimized_attention(
            q, k, v, options["n_heads"], attn_precision=precision, transformer_options=options
        )
        return out

    def _fits(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> bool:
        """Whether queries are the grid's pixels, and in self-attention keys as well (packs that merge tokens)."""
        pixels = grid[0] * grid[1]
        if self.own:
            return q.shape[1] == k.shape[1] == pixels
        if q.shape[0] != self.step.chunks * self.step.rows or q.shape[1] != pixels:
            raise InterplayError(
                f"Another node changed the rows of cross-attention ({q.shape[0]} of {q.shape[1]} in place of "
                f"{self.step.chunks * self.step.rows} of {pixels}; regional prompts do so): use one of the two."
            )
        return True


class Record:
    """Heat-maps before and after, summed over a step's layers: (2, B, J, h, w) of word groups, plain first."""

    def __init__(self, groups: Sequence[Sequence[int]], size: tuple[int, int]) -> None:
        self.groups, self.size = groups, size
        self.total: Tensor | None = None
        self.count = 0

    def add(
        self,
        q: Tensor,
        k: Tensor,
        heads: int,
        layer: Plan,
        strength: float,
        config: ModulationConfig,
        grid: tuple[int, int],
    ) -> None:
        """One layer's probabilities, mean over heads, summed over the tokens of each group."""
        pair = torch.stack(probabilities(q, k, heads, layer, strength, config))  # (2, B, Q, T)
        maps = torch.stack([pair[..., list(group)].sum(-1) for group in self.groups], 2)  # (2, B, J, Q)
        maps = maps.unflatten(-1, grid).flatten(0, 1)
        maps = torch.nn.functional.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)
        maps = maps.unflatten(0, (2, -1)).cpu()
        self.total = maps if self.total is None else self.total + maps
        self.count += 1


def _wrappers(options: dict[str, Any], kind: str) -> dict[Any, Any]:
    found: dict[Any, Any] = options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    return found
