"""Re-weighting attention modulation (RealignDiff, arXiv 2305.19599, Eq. 6-10; DenseDiffusion, arXiv 2308.12964).

In an object's region the logits of its own words move towards the greatest of the row, those of other words towards
the least. With W = lambda_t (1 - B) S this is sim' = (1 - W) sim + W (R ? max : min), row by row. Tensors in, tensors
out. Where the paper leaves a reading open (what B is, along which axis the extremes are taken, what overlapping regions
mean) the readings are named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InterplayError

OTHER_TOKENS = ("neutral", "suppress")
BACKGROUNDS = ("skip", "segment", "literal", "clear")
REGIONS = ("found", "wanted")
CHUNK = 1024  # queries whose logits are held at once


@dataclass(frozen=True)
class ModulationConfig:
    """How attention is re-weighted.

    strength: w in lambda_t = w (t / 1000)^power; 0 leaves attention as it is. power: 5 as in DenseDiffusion, 1 is
    "proportional to t" literally. start, end: share of the schedule, 0 the first step. area_adapt: how much large
    regions are spared, 0..1. max_weight: the most W may be; above 1 the order of words turns over (None = no bound).
    other_tokens: words of no phrase (start, end and padding among them) are left ("neutral") or pushed down
    ("suppress"). background: pixels of no object are left ("skip"), belong to the prompt's remaining words ("segment"),
    lose all words ("literal") or the objects' words alone ("clear"), so that nothing comes up twice. scored: S is the
    verdict's score (2, 0.5, 0), else 1. self_strength: w for self-attention. replace_phrases: phrases are encoded
    alone. scales: only layers whose grid is so many times coarser than the latent (1, 2, 4, 8); () = all. regions: each
    goes to what was found in it ("found"), or to what the prompt wants there ("wanted", see ``grounding.regions``);
    hosts that are given bindings do not look at this.
    """

    preset: str = "RealignDiff (recommended)"
    strength: float = 1.0
    power: float = 5.0
    start: float = 0.0
    end: float = 0.3
    area_adapt: float = 1.0
    max_weight: float | None = 1.0
    other_tokens: str = "neutral"
    background: str = "skip"
    scored: bool = True
    self_strength: float = 0.0
    replace_phrases: bool = False
    scales: tuple[int, ...] = ()
    regions: str = "found"

    def __post_init__(self) -> None:
        if self.strength < 0 or self.self_strength < 0 or self.power < 0:
            raise InterplayError("Strengths and power of re-weighting must not be negative; use 0 to switch it off.")
        if not 0 <= self.start <= self.end <= 1 or not 0 <= self.area_adapt <= 1:
            raise InterplayError("Re-weighting needs 0 <= start <= end <= 1 and area_adapt from 0 to 1; change them.")
        for name, known in (("other_tokens", OTHER_TOKENS), ("background", BACKGROUNDS), ("regions", REGIONS)):
            if getattr(self, name) not in known:
                raise InterplayError(f"Re-weighting knows {name} {', '.join(known)}; choose from these.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


PRESETS = {
    "RealignDiff (recommended)": ModulationConfig(),
    "RealignDiff (literal, area B)": ModulationConfig(
        "RealignDiff (literal, area B)", max_weight=None, other_tokens="suppress", background="literal"
    ),
    "DenseDiffusion": ModulationConfig(
        "DenseDiffusion",
        max_weight=None,
        other_tokens="suppress",
        background="segment",
        scored=False,
        self_strength=0.3,
        replace_phrases=True,
    ),
    "Regions as wanted": ModulationConfig("Regions as wanted", background="clear", regions="wanted"),
}


def modulation(name: str, **changes: Any) -> ModulationConfig:
    """A preset by name, with fields changed. InterplayError when there is no such preset or field."""
    if name not in PRESETS:
        raise InterplayError(f"There is no re-weighting preset '{name}'; choose one of {', '.join(PRESETS)}.")
    unknown = set(changes) - set(asdict(PRESETS[name]))
    if unknown:
        raise InterplayError(f"Re-weighting has no setting '{min(unknown)}'; leave it out.")
    return replace(PRESETS[name], **changes)


@dataclass(frozen=True)
class Binding:
    """An object of one image: its mask (H, W) in [0, 1], its words' positions on the token axis, and its score s."""

    mask: Tensor
    positions: tuple[int, ...]
    score: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What one layer needs, for B images of Q pixels and T tokens; all pixels row by row.

    allowed (B, Q, T) is R; spared (B, Q) is 1 - B; scale (B, Q) is S; touched (B, Q, T): which logits may move;
    owner (B, Q): index of the region, -1 where there is none.
    """

    allowed: Tensor
    spared: Tensor
    scale: Tensor
    touched: Tensor
    owner: Tensor

    def to(self, device: Any) -> Plan:
        """The same on another device."""
        return Plan(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lambda_t(t: float, config: ModulationConfig, strength: float | None = None) -> float:
    """w (t / 1000)^power for a timestep on the training scale 0..1000."""
    share = min(1.0, max(0.0, t / 1000))
    return (config.strength if strength is None else strength) * share**config.power


def active(t: float, config: ModulationConfig) -> bool:
    """Whether a timestep on the training scale lies between ``start`` and ``end``, which are shares of that scale."""
    t = min(999.0, max(0.0, t))
    return (1 - config.end) * 999 <= t <= (1 - config.start) * 999 and config.end > config.start


def wanted(grid: tuple[int, int], latent: tuple[int, int], config: ModulationConfig) -> bool:
    """Whether a layer of ``grid`` is one of ``config.scales``."""
    return not config.scales or round(max(latent[0] / grid[0], latent[1] / grid[1])) in config.scales


def owners(masks: Sequence[Tensor], height: int, width: int) -> Tensor:
    """(height * width,) index of the region of each pixel, -1 for none. Where regions overlap the smallest wins.

    A mask holds a cell from half its area on; one that would vanish keeps the cells in which it is strongest.
    """
    owner = torch.full((height * width,), -1, dtype=torch.long)
    cells = []
    for mask in masks:
        plane = mask.detach().float().cpu()[None, None]
        small = F.interpolate(plane, size=(height, width), mode="area")[0, 0]
        held = small >= 0.5
        if not held.any() and bool((plane > 0).any()):
            most = F.adaptive_max_pool2d(plane, (height, width))[0, 0] * (small > 0)
            held = (most > 0) & (small == small.max())
        cells.append(held.flatten())
    for index in sorted(range(len(cells)), key=lambda i: -int(cells[i].sum())):
        owner[cells[index]] = index
    return owner


def plan(
    images: Sequence[Sequence[Binding]],
    grid: tuple[int, int],
    length: int,
    config: ModulationConfig,
    words: Sequence[int] = (),
) -> Plan:
    """The plan of a layer of ``grid`` (rows, columns) for one list of bindings per image, which may be empty.

    length: tokens of the conditioning. words: positions of all words of the prompt, for background "segment".
    """
    rows = [_image_plan(bindings, grid, length, config, words) for bindings in images]
    return Plan(*(torch.stack(part) for part in zip(*rows, strict=True)))


def _image_plan(
    bindings: Sequence[Binding], grid: tuple[int, int], length: int, config: ModulationConfig, words: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    owner = owners([binding.mask for binding in bindings], *grid)
    named = {p for binding in bindings for p in binding.positions}
    phrases = [tuple(binding.positions) for binding in bindings]
    scores = [binding.score if config.scored else 1.0 for binding in bindings]
    if config.background == "segment" and bindings:
        owner = torch.where(owner < 0, len(bindings), owner)
        phrases.append(tuple(p for p in words if p not in named))
        scores.append(1.0)
    table = torch.zeros(len(phrases) + 1, length, dtype=torch.bool)  # the last row is "no region"
    for index, positions in enumerate(phrases):
        table[index, list(positions)] = True
    cells = owner.numel()
    areas = torch.stack([(owner == i).float().mean() for i in range(len(phrases))] + [torch.zeros(())])
    scale = torch.tensor([*scores, 1.0])[owner]
    covered = (owner >= 0) | (torch.ones(cells, dtype=torch.bool) & (config.background == "literal"))
    covered &= bool(bindings)
    column = torch.ones(length, dtype=torch.bool)
    if config.other_tokens == "neutral":
        column = table.any(0)
    spared = 1 - config.area_adapt * areas[owner]
    touched = covered[:, None] & column[None]
    if config.background == "clear":
        touched |= (owner < 0)[:, None] & table.any(0)[None]
    return table[owner], spared, scale, touched, owner


def modulate(sim: Tensor, allowed: Tensor, weight: Tensor, touched: Tensor | None = None) -> Tensor:
    """(1 - W) sim + W (R ? max : min), the extremes over the keys of each row; fp32 logits of any leading shape.

    sim (..., Q, K); allowed, touched bool (..., Q, K); weight (..., Q, 1). Untouched logits, and W = 0, stay exact.
    """
    high, low = sim.amax(-1, keepdim=True), sim.amin(-1, keepdim=True)
    moved = (1 - weight) * sim + weight * torch.where(allowed, high, low)
    stays = weight == 0 if touched is None else (weight == 0) | ~touched
    return torch.where(stays, sim, moved)


def weights_of(layer: Plan, strength: float, config: ModulationConfig) -> Tensor:
    """W (B, Q) = lambda_t (1 - B) S, within max_weight."""
    weight = strength * layer.spared * layer.scale
    return weight if config.max_weight is None else weight.clamp(max=config.max_weight)


def region_weights(
    bindings: Sequence[Binding], config: ModulationConfig, grid: tuple[int, int] = (64, 64)
) -> list[tuple[float, float, float]]:
    """For each region B, and W at the first and at the last re-weighted step."""
    owner = owners([binding.mask for binding in bindings], *grid)
    first, last = (lambda_t((1 - share) * 999, config) for share in (config.start, config.end))
    most = float("inf") if config.max_weight is None else config.max_weight
    found = []
    for index, binding in enumerate(bindings):
        area = float((owner == index).float().mean())
        scale = (1 - config.area_adapt * area) * (binding.score if config.scored else 1.0)
        found.append((area, min(most, first * scale), min(most, last * scale)))
    return found


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: Plan,
    strength: float,
    config: ModulationConfig,
    chunk: int = CHUNK,
    change: bool = False,
) -> Tensor:
    """Cross-attention with modulated logits: (B, Q, H * D) from q (B, Q, H * D), k and v (B, T, H * D).

    strength is lambda_t. T may be a multiple of the plan's tokens: the host repeats conds of different length. change:
    return what modulation changes, modulated less plain attention, to be added to what others made of the plain one.
    """
    allowed, touched = layer.allowed, layer.touched
    copies, rest = divmod(k.shape[1], allowed.shape[-1])
    if rest or allowed.shape[:2] != q.shape[:2]:
        raise InterplayError(
            f"Attention has {tuple(q.shape[:2])} queries and {k.shape[1]} tokens where the objects fit "
            f"{tuple(allowed.shape[:2])} and {allowed.shape[-1]}; make the conditioning and the objects anew."
        )
    allowed, touched = allowed.repeat(1, 1, copies), touched.repeat(1, 1, copies)
    return _explicit(q, k, v, heads, allowed, touched, weights_of(layer, strength, config), chunk, change)


def probabilities(
    q: Tensor, k: Tensor, heads: int, layer: Plan, strength: float, config: ModulationConfig
) -> tuple[Tensor, Tensor]:
    """Cross-attention before and after, (B, Q, T) each, mean over heads; for heat-maps. Arguments as ``attend``."""
    length = layer.allowed.shape[-1]
    qs, ks = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))
    sim = qs @ ks[:, :, :length].transpose(-1, -2) * qs.shape[-1] ** -0.5
    weight = weights_of(layer, strength, config)[:, None, :, None]
    moved = modulate(sim, layer.allowed[:, None], weight, layer.touched[:, None])
    return sim.softmax(-1).mean(1), moved.softmax(-1).mean(1)


def attend_self(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    layer: Plan,
    strength: float,
    config: ModulationConfig,
    chunk: int = CHUNK,
    change: bool = False,
) -> Tensor:
    """Self-attention in which pixels of one region attend to each other; lambda_t is made with ``self_strength``."""
    same = (layer.owner[:, :, None] == layer.owner[:, None]) & (layer.owner >= 0)[:, :, None]
    touched = layer.touched.any(-1, keepdim=True).expand_as(same)
    weight = strength * layer.spared
    weight = weight if config.max_weight is None else weight.clamp(max=config.max_weight)
    return _explicit(q, k, v, heads, same, touched, weight, chunk, change)


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    allowed: Tensor,
    touched: Tensor,
    weight: Tensor,
    chunk: int,
    change: bool,
) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2).float()

    qs, ks, vs = split(q), split(k), split(v)
    out = torch.empty_like(qs)
    scale = qs.shape[-1] ** -0.5
    for start in range(0, q.shape[1], chunk):
        part = slice(start, start + chunk)
        sim = qs[:, :, part] @ ks.transpose(-1, -2) * scale
        moved = modulate(sim, allowed[:, None, part], weight[:, None, part, None], touched[:, None, part]).softmax(-1)
        out[:, :, part] = (moved - sim.softmax(-1) if change else moved) @ vs
    return out.transpose(1, 2).flatten(2).to(v.dtype)
