"""InteractDiffusion's fusers inside a ComfyUI model, through the places that ComfyUI keeps for GLIGEN.

A cond's key ``gligen`` holds (kind, patcher, parameters). Each time the cond is used the host asks ``patcher.model``
for a function and calls it in every transformer block between self- and cross-attention, where the fusers belong; it
also loads the patcher together with the U-Net. Fusers without boxes come by an APPLY_MODEL wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ....errors import InterplayError
from ...interaction.layout import Layout
from ...interaction.network import Grounding, PositionNet, Schedule
from .weights import recompute

KEY = "gligen"
NULL_KEY = "interplay_null_interactions"
APPLY = comfy.patcher_extension.WrappersMP.APPLY_MODEL
TABLE = 65  # points at which a decaying schedule is kept


@dataclass(frozen=True)
class Gate:
    """A schedule in noise levels: factors at falling sigmas, straight in between. ``sigmas`` empty: always ``full``."""

    full: float
    sigmas: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    def scale(self, sigma: float) -> float:
        """The factor at a noise level."""
        if not self.sigmas or sigma >= self.sigmas[0] * (1 - 1e-6):
            return self.full
        for i in range(1, len(self.sigmas)):
            high, low = self.sigmas[i - 1], self.sigmas[i]
            if sigma >= low and high > low:
                part = (high - sigma) / (high - low)
                return self.factors[i - 1] + part * (self.factors[i] - self.factors[i - 1])
        return 0.0


def gate(schedule: Schedule, sampling: Any) -> Gate:
    """``schedule`` in the sigmas of a model's noise schedule (``model_sampling``).

    A share of the steps is a share of the timesteps, as in the published code, whose schedules are even.
    """
    if schedule.beta >= 1.0:
        return Gate(schedule.strength)
    end = min(1.0, schedule.beta + schedule.decay)
    count = TABLE if schedule.decay > 0 else 1
    points = [schedule.beta + (end - schedule.beta) * i / max(1, count - 1) for i in range(count)]
    factors = [schedule.strength, *(schedule.scale(p) for p in points[1:])]
    return Gate(schedule.strength, tuple(float(sampling.percent_to_sigma(p)) for p in points), tuple(factors))


class GroundingParameters:
    """What one cond asks of the fusers: its tokens (1, 3N, D) and when they act.

    Stands in the place of GLIGEN's list of boxes; adding to it means that a text-box node comes after ours.
    """

    def __init__(self, tokens: Tensor, gate: Gate) -> None:
        self.tokens, self.gate = tokens, gate
        self._there: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __add__(self, other: Any) -> Any:
        raise InterplayError(
            "This conditioning already holds interactions and cannot hold GLIGEN text boxes as well: give the text "
            "boxes to another conditioning and combine the two."
        )

    def at(self, like: Tensor) -> Tensor:
        """The tokens where ``like`` is, one row for each of its rows."""
        place = (like.device, like.dtype)
        if place not in self._there:
            self._there = {place: self.tokens.to(*place)}
        return rows_for(self._there[place], len(like))

    def seen(self, like: Tensor, options: dict[str, Any]) -> tuple[Tensor, float] | None:
        """The tokens for the rows of ``like`` and how strongly they act at this point; None where they do not."""
        scale = self.gate.scale(float(options["sigmas"].flatten()[0]))
        return (self.at(like), scale) if scale != 0.0 else None


def rows_for(tokens: Tensor, rows: int) -> Tensor:
    """(R, 3N, D) for R rows: of one picture for all, or picture by picture."""
    return tokens.expand(rows, -1, -1) if len(tokens) == 1 else tokens.repeat(rows // len(tokens), 1, 1)


class HostFusers(nn.Module):
    """The fusers as ComfyUI manages them, in the order of the U-Net's blocks.

    blocks: for each fuser the name of its block, once for each of the block's layers; None = one fuser a block.
    """

    def __init__(self, fusers: nn.ModuleList, null_tokens: Tensor, blocks: Sequence[str] | None = None) -> None:
        super().__init__()
        self.fusers = fusers
        self._null = null_tokens
        names = list(blocks if blocks is not None else map(str, range(len(fusers))))
        self._first = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]

    def fuser(self, block: int, layer: int) -> Any:
        """The fuser of a layer of the block that runs as number ``block``. InterplayError when there is none."""
        bounds = [*self._first, len(self.fusers)]
        if block >= len(self._first) or bounds[block] + layer >= bounds[block + 1]:
            raise InterplayError(
                f"The model has more transformer blocks than the {len(self.fusers)} of the interactions: load the "
                "model that they were trained on."
            )
        return self.fusers[bounds[block] + layer]

    def set_position(self, shape: Any, parameters: GroundingParameters, device: Any) -> Callable[..., Tensor]:
        """The function for ``middle_patch`` of a cond with ``parameters``."""
        return FuserPatch(self, parameters)

    def set_empty(self, shape: Any, device: Any) -> Callable[..., Tensor]:
        """The same for a cond without interactions: null tokens, always on."""
        return FuserPatch(self, GroundingParameters(self._null, Gate(1.0)))


class FuserPatch:
    """Called by every transformer block, between its self- and its cross-attention."""

    def __init__(self, model: HostFusers, parameters: GroundingParameters) -> None:
        self.model, self.parameters = model, parameters

    def __call__(self, h: Tensor, options: dict[str, Any]) -> Tensor:
        found = self.parameters.seen(h, options)
        if found is None:
            return h
        tokens, scale = found
        fuser = self.model.fuser(options["transformer_index"], options.get("block_index", 0))
        latent = tuple(options["original_shape"][-2:])
        if not (torch.is_grad_enabled() and h.requires_grad):
            return fuser(h, tokens, scale, latent)
        with recompute(fuser):  # guidance asks for a gradient through the fusers, whose weights may be anywhere
            return fuser(h, tokens, scale, latent)


@dataclass(frozen=True)
class InteractDiffusion:
    """A loaded InteractDiffusion: its fusers as ComfyUI's ModelPatcher, its tokenizer on the CPU in fp32, null tokens.

    sampling: of the model that it was loaded with or for. width: of the prompt's features.
    """

    patcher: Any
    tokenizer: PositionNet
    null_tokens: Tensor
    sampling: Any
    report: str = ""
    widths: tuple[int, ...] = field(default=())

    @property
    def slots(self) -> int:
        """How many interactions fit."""
        return self.tokenizer.slots

    def parameters(self, tokens: Tensor, schedule: Schedule) -> GroundingParameters:
        """Tokens and when they act, for a cond."""
        return GroundingParameters(tokens, gate(schedule, self.sampling))


def with_null_tokens(model: Any, interact: InteractDiffusion, schedule: Schedule) -> Any:
    """A clone of ``model`` whose every pass sees null tokens, unless the pass has interactions of its own."""
    patched = model.clone()
    patched.remove_wrappers_with_key(APPLY, NULL_KEY)
    null = NullWrapper(FuserPatch(interact.patcher.model, interact.parameters(interact.null_tokens, schedule)))
    patched.add_wrapper_with_key(APPLY, NULL_KEY, null)
    patched.set_additional_models(NULL_KEY, [interact.patcher])
    return patched


class NullWrapper:
    """An APPLY_MODEL wrapper that puts a patch into passes that have none of its kind."""

    def __init__(self, patch: FuserPatch) -> None:
        self.patch = patch

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
        options = dict(transformer_options or {})
        patches = dict(options.get("patches", {}))
        middle = list(patches.get("middle_patch", []))
        if not any(isinstance(patch, FuserPatch) for patch in middle):
            patches["middle_patch"] = [*middle, self.patch]
            options["patches"] = patches
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def phrase_feature(clip: Any, text: str) -> Tensor:
    """(D,) what InteractDiffusion knows a phrase by: the end token's state, not projected. fp32 on the CPU.

    Of SDXL's two text encoders: that of CLIP-L, and behind it the projected one of CLIP-G.
    """
    tokens = clip.tokenize(text)
    if not {"l", "g"} <= set(tokens):
        _, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
        return pooled[0].float().cpu()
    model = clip.cond_stage_model
    if getattr(model, "clip_l", None) is None or getattr(model, "clip_g", None) is None:
        raise InterplayError("The CLIP has only one of SDXL's two text encoders: connect that of an SDXL checkpoint.")
    _, second = clip.encode_from_tokens(tokens, return_pooled=True)  # also loads the encoders to where they run
    model.set_clip_options({"projected_pooled": False, "execution_device": clip.patcher.load_device})
    try:
        first = model.clip_l.encode_token_weights(tokens["l"])[1]
    finally:
        model.reset_clip_options()
    return torch.cat([first[0].float().cpu(), second[0].float().cpu()])


def phrases_of(interact: InteractDiffusion, clip: Any, layout: Layout) -> list[Tensor]:
    """For each interaction (3, D): what subject, action and object are called. InterplayError when there are too many
    or CLIP is missing or does not fit.
    """
    if clip is None:
        raise InterplayError("There is no CLIP: connect the text encoder of the checkpoint to read the phrases with.")
    if len(layout.interactions) > interact.slots:
        raise InterplayError(
            f"There are {len(layout.interactions)} interactions and this model takes {interact.slots}: leave some out."
        )
    found, width = [], interact.tokenizer.width
    for interaction in layout.interactions:
        subject, object = layout.things[interaction.subject], layout.things[interaction.object]
        names = (subject.name, interaction.action, object.name)
        found.append(torch.stack([phrase_feature(clip, name) for name in names]))
    if found and found[0].shape[1] != width:
        raise InterplayError(
            f"The CLIP gives phrases {found[0].shape[1]} wide and the interactions take {width}: connect the CLIP of "
            "the model that they were trained on."
        )
    return found


def tokens_of(interact: InteractDiffusion, phrases: list[Tensor], layout: Layout) -> Tensor:
    """(1, 3N, D) tokens of a layout whose interactions are called ``phrases``. InterplayError when a box is missing."""
    width, slots = interact.tokenizer.width, interact.slots
    boxes = [torch.tensor(layout.boxes(interaction)[:2]) for interaction in layout.interactions]
    subject, action, object = (_padded([phrase[i] for phrase in phrases], slots, width) for i in range(3))
    first, second = (_padded([box[i] for box in boxes], slots, 4) for i in range(2))
    given = Grounding(subject, action, object, first, second, _padded([torch.ones(1) for _ in boxes], slots, 1)[..., 0])
    with torch.no_grad():
        return interact.tokenizer(given)


def ground(interact: InteractDiffusion, clip: Any, layout: Layout) -> Tensor:
    """(1, 3N, D) tokens of a layout. InterplayError when there are too many or a box or CLIP is missing."""
    return tokens_of(interact, phrases_of(interact, clip, layout), layout)


def _padded(rows: list[Tensor], slots: int, width: int) -> Tensor:
    out = torch.zeros(1, slots, width)
    for index, row in enumerate(rows):
        out[0, index] = row
    return out


def condition(
    positive: list[list[Any]],
    negative: list[list[Any]],
    interact: InteractDiffusion,
    clip: Any,
    layout: Layout,
    schedule: Schedule,
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Copies of both conditionings: the positive sees the layout, the negative the null tokens, for as long.

    The negative must get an entry of its own, or ComfyUI copies the positive's boxes into it.
    InterplayError when one of them already holds GLIGEN text boxes.
    """
    tokens = ground(interact, clip, layout)
    seen = interact.parameters(tokens, schedule)
    null = interact.parameters(interact.null_tokens, schedule)
    return attached(positive, interact, seen), attached(negative, interact, null)


def attached(
    conditioning: list[list[Any]], interact: InteractDiffusion, parameters: GroundingParameters
) -> list[list[Any]]:
    """A copy of a conditioning whose conds see ``parameters``. InterplayError when one holds GLIGEN text boxes."""
    out = []
    for tensor, extra in conditioning:
        if KEY in extra and not isinstance(extra[KEY][2], GroundingParameters):
            raise InterplayError(
                "This conditioning already holds GLIGEN text boxes, and one conditioning can hold either those or "
                "interactions: give them to two conditionings and combine these."
            )
        out.append([tensor, {**extra, KEY: ("position", interact.patcher, parameters)}])
    return out
