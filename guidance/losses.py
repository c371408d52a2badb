"""The losses of SHY: contrast (C), action contrast (A) and link (L), per image, with normalised progress.

Source: SHYI, section 2.1 and appendix A.1; CONFORM (Meral et al. 2023) for the InfoNCE form. Maps come in smoothed.
An *instance* is a word's map of this step (index j) or of the step before, t+1 (index J + j, detached).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .directions import Direction, direction
from .graph import TokenGraph
from .interaction.layout import from_text
from .interaction.layout_terms import graph_layout_loss
from .maps import above_mean

if TYPE_CHECKING:
    from .presets import GuidanceConfig


@dataclass(frozen=True)
class Term:
    """One loss of a batch. loss: (B,); progress: (B,) in [0, 1], 0 = reached, 1 = worst; pairs: how many there were."""

    loss: Tensor
    progress: Tensor
    pairs: int


@dataclass(frozen=True)
class Pair:
    """``anchor`` is drawn to ``target``; ``others`` share the denominator, each counted ``shares`` times."""

    anchor: int
    target: int
    others: tuple[int, ...]
    shares: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class MapBundle:
    """Smoothed maps (B, J, H, W) for the terms: ``narrow`` for C and A, ``wide`` for L; t+1 maps detached or None."""

    narrow: Tensor
    wide: Tensor
    previous_narrow: Tensor | None = None
    previous_wide: Tensor | None = None


# --- which pairs: plain Python, cached per graph ---------------------------------------------------------------------


def _instances(words: tuple[int, ...] | list[int], graph: TokenGraph, previous: bool) -> list[int]:
    return [*words, *(len(graph.words) + j for j in words)] if previous else list(words)


@lru_cache(maxsize=128)
def contrast_pairs(graph: TokenGraph, previous: bool, environment_weight: float = 1.0) -> tuple[Pair, ...]:
    """Ordered pairs inside each noun group, against every other group. ``environment_weight`` in [0, 1] weighs an
    environment's own pairs and its share in the others' denominators; 0 leaves environments out."""
    groups = [
        (_instances(vertex.words, graph, previous), environment_weight if vertex.environment else 1.0)
        for vertex in graph.vertices
        if not (vertex.environment and environment_weight == 0)
    ]
    pairs = []
    for group, weight in groups:
        others = [(n, share) for other, share in groups if other is not group for n in other if n not in group]
        if others:  # without a negative the loss is -log 1
            names, shares = zip(*others, strict=True)
            pairs += [Pair(a, p, names, shares, weight) for a, p in permutations(group, 2)]
    return tuple(pairs)


@lru_cache(maxsize=128)
def action_pairs(graph: TokenGraph, previous: bool) -> tuple[Pair, ...]:
    """Each action word to the words of its parties (and to the rest of its own group: other action words of the edge,
    t+1 maps), against other actions and other noun groups."""
    everything = sorted({w for v in graph.vertices for w in v.words} | {w for e in graph.edges for w in e.words})
    pairs = []
    for edge in graph.edges:
        party_words = [w for v in edge.parties for w in graph.vertices[v].words]
        group = list(dict.fromkeys([*party_words, *edge.words]))
        targets = _instances(group, graph, previous)
        others = tuple(n for n in _instances(everything, graph, previous) if n not in targets)
        if others and party_words:
            shares = (1.0,) * len(others)
            pairs += [Pair(a, t, others, shares) for a in edge.words for t in targets if t != a]
    return tuple(pairs)


@lru_cache(maxsize=128)
def link_pairs(graph: TokenGraph, previous: bool) -> tuple[Pair, ...]:
    """Ordered pairs of heads that share an edge; ``others`` are the anchor's own group (the reference positives)."""
    pairs = []
    for first, second in _linked(graph):
        vertex = graph.vertices[first]
        own = tuple(n for n in _instances(vertex.words, graph, previous) if n != vertex.head)
        pairs.append(Pair(vertex.head, graph.vertices[second].head, own, (1.0,) * len(own)))
    return tuple(pairs)


def _linked(graph: TokenGraph) -> Iterator[tuple[int, int]]:
    """Each ordered pair of linked vertices once, however many edges share it."""
    seen: dict[tuple[int, int], None] = {}
    for edge in graph.edges:
        for pair in permutations(dict.fromkeys(edge.parties), 2):
            seen.setdefault(pair)
    yield from seen


# --- pairs as tensors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Index:
    anchors: Tensor  # (K,)
    targets: Tensor  # (K,)
    bias: Tensor  # (K, M): log share of an instance in the denominator, -inf where it is none of it
    weights: Tensor  # (K,), sum 1
    mass: Tensor  # (K,): sum of the shares, the N of the bounds


@lru_cache(maxsize=128)
def _index(pairs: tuple[Pair, ...], instances: int, device: torch.device, dtype: torch.dtype) -> _Index:
    with torch.inference_mode(False):  # a cached inference tensor could not be saved for backward later
        shares = torch.zeros(len(pairs), instances, dtype=torch.float64)
        for row, pair in enumerate(pairs):
            shares[row, list(pair.others)] = torch.tensor(pair.shares, dtype=torch.float64)
        weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
        return _Index(
            torch.tensor([pair.anchor for pair in pairs], device=device),
            torch.tensor([pair.target for pair in pairs], device=device),
            shares.log().to(device=device, dtype=dtype),
            (weights / weights.sum()).to(device=device, dtype=dtype),
            shares.sum(1).to(device=device, dtype=dtype),
        )


def _units(maps: Tensor, previous: Tensor | None) -> Tensor:
    """(B, M, H*W) unit vectors of all instances."""
    every = maps if previous is None else torch.cat([maps, previous.detach().to(maps)], dim=1)
    return F.normalize(every.flatten(2), dim=-1)


def _info_nce(target: Tensor, rest: Tensor, index: _Index, temperature: float) -> Tensor:
    """(B,): mean over pairs of -log e^{s(a,t)/T} / (e^{s(a,t)/T} + sum_n share_n e^{s(a,n)/T}); (B, M, M) cosines."""
    drawn = target[:, index.anchors, index.targets] / temperature
    away = (rest[:, index.anchors] / temperature + index.bias).logsumexp(-1)
    share = torch.sigmoid(drawn - away)
    return -((share + torch.finfo(share.dtype).tiny).log() * index.weights).sum(-1)


def _progress(loss: Tensor, floor: Tensor, ceiling: Tensor, weights: Tensor) -> Tensor:
    low, high = (floor * weights).sum(), (ceiling * weights).sum()
    return ((loss.detach() - low) / (high - low)).clamp(0.0, 1.0)


def bounds(mass: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Least and greatest value of one InfoNCE pair with ``mass`` negatives: log(1 + N e^{-1/T}), log(1 + N)."""
    return torch.log1p(mass * torch.exp(torch.tensor(-1.0 / temperature, dtype=mass.dtype))), torch.log1p(mass)


# --- the terms -------------------------------------------------------------------------------------------------------


def contrast(
    maps: Tensor,
    previous: Tensor | None,
    graph: TokenGraph,
    temperature: float = 0.5,
    environment_weight: float = 1.0,
) -> Term | None:
    """C: words of a noun group look alike, words of different groups apart (CONFORM's loss over all vertices).

    maps: (B, J, H, W), narrow smoothing; previous: the same of step t+1, or None. None when no group has two instances
    or there is only one group. Other positives are not in the denominator; mean over ordered positive pairs.
    """
    pairs = contrast_pairs(graph, previous is not None, environment_weight)
    if not pairs:
        return None
    units = _units(maps, previous)
    index = _index(pairs, units.shape[1], units.device, units.dtype)
    cosines = units.matmul(units.transpose(1, 2))
    loss = _info_nce(cosines, cosines, index, temperature)
    return Term(loss, _progress(loss, *bounds(index.mass, temperature), index.weights), len(pairs))


def action_contrast(maps: Tensor, previous: Tensor | None, graph: TokenGraph, temperature: float = 0.5) -> Term | None:
    """A: an action's map is drawn to its parties and off other groups and actions; every other map is detached, so the
    action moves to the objects and not the reverse. None without an action that has both parties and negatives."""
    pairs = action_pairs(graph, previous is not None)
    if not pairs:
        return None
    units = _units(maps, previous)
    index = _index(pairs, units.shape[1], units.device, units.dtype)
    cosines = units.matmul(units.detach().transpose(1, 2))  # gradient through the anchor (the row) alone
    loss = _info_nce(cosines, cosines, index, temperature)
    return Term(loss, _progress(loss, *bounds(index.mass, temperature), index.weights), len(pairs))


def link(
    maps: Tensor,
    previous: Tensor | None,
    graph: TokenGraph,
    temperature: float = 0.5,
    mode: str = "hinge",
    margin: float = 0.35,
) -> Term | None:
    """L: heads that share an action touch, on widely smoothed maps. Mean over ordered linked pairs.

    mode "hinge": max(0, margin - cosine), which stops pulling once the margin is met. "literal": InfoNCE with the roles
    swapped, the anchor's own group detached in the denominator (else L also falls by tearing a group apart). "paper":
    the same without the detaching. None without linked pairs, in the InfoNCE modes without own-group references.
    Progress of the InfoNCE modes runs from log(1 + N), partner as close as one's own words, to log(1 + N e^{1/T}).
    """
    pairs = link_pairs(graph, previous is not None)
    if mode != "hinge":
        pairs = tuple(pair for pair in pairs if pair.others)
    if not pairs:
        return None
    units = _units(maps, previous)
    index = _index(pairs, units.shape[1], units.device, units.dtype)
    cosines = units.matmul(units.transpose(1, 2))
    if mode == "hinge":
        loss = ((margin - cosines[:, index.anchors, index.targets]).clamp_min(0.0) * index.weights).sum(-1)
        return Term(loss, (loss.detach() / margin).clamp(0.0, 1.0), len(pairs))
    loss = _info_nce(cosines, cosines if mode == "paper" else cosines.detach(), index, temperature)
    worst = torch.log1p(index.mass * torch.exp(torch.tensor(1.0 / temperature, dtype=index.mass.dtype)))
    return Term(loss, _progress(loss, torch.log1p(index.mass), worst, index.weights), len(pairs))


# --- roles -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def role_pairs(graph: TokenGraph, sideways: bool) -> tuple[tuple[int, int, Direction], ...]:
    """Heads of subject and object of every action whose verb says where the object lies, and that direction."""
    pairs = []
    for edge in graph.edges:
        side = direction(edge.label, sideways)
        objects = [v for v in edge.parties if v not in edge.subjects]
        if side != (0.0, 0.0) and edge.kind == "action":
            heads = [(graph.vertices[s].head, graph.vertices[o].head) for s in edge.subjects for o in objects]
            pairs += [(subject, target, side) for subject, target in heads]
    return tuple(pairs)


def centroids(maps: Tensor) -> Tensor:
    """(B, J, H, W) -> (B, J, 2): x and y of the centre of mass of what lies above each map's mean, in [0, 1].

    A thousandth of the sum is counted to the middle, so that a flat map has its centre there and no wild gradient.
    """
    raised = above_mean(maps)
    ground = 1e-3 * maps.sum((-2, -1)) + torch.finfo(maps.dtype).tiny
    mass = raised.sum((-2, -1)) + ground
    x, y = ((torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5) / n for n in (maps.shape[-1], maps.shape[-2]))
    across, down = (raised.sum(-2) * x).sum(-1), (raised.sum(-1) * y).sum(-1)
    return torch.stack([(across + 0.5 * ground) / mass, (down + 0.5 * ground) / mass], -1)


def roles(maps: Tensor, graph: TokenGraph, margin: float = 0.2, sideways: bool = False) -> Term | None:
    """R: who acts and who is acted upon stand as the verb says (``directions.direction``), so that the parties do not
    change places: max(0, margin - d.(c_object - c_subject)) / margin, c the centroids in shares of the map, d the
    verb's direction. Mean over pairs; progress is the loss, at most 1. None where no verb says anything.
    """
    pairs = role_pairs(graph, sideways)
    if not pairs:
        return None
    centres = centroids(maps)
    sides = torch.tensor([side for _, _, side in pairs], device=maps.device, dtype=maps.dtype)
    gaps = centres[:, [o for _, o, _ in pairs]] - centres[:, [s for s, _, _ in pairs]]
    loss = ((margin - (gaps * sides).sum(-1)).clamp_min(0.0) / margin).mean(-1)
    return Term(loss, loss.detach().clamp(0.0, 1.0), len(pairs))


# --- presence --------------------------------------------------------------------------------------------------------


def _named(graph: TokenGraph, names: tuple[str, ...]) -> list[int]:
    """The vertices that ``names`` speak of: all words of a name ("blue box", "box") are words of the vertex."""
    said = [set(name.lower().split()) for name in names]
    own = [{graph.words[w].text.lower() for w in vertex.words} for vertex in graph.vertices]
    return [i for i, words in enumerate(own) if any(name and name <= words for name in said)]


def presence(maps: Tensor, graph: TokenGraph, names: tuple[tuple[str, ...], ...]) -> Term | None:
    """P: things that a picture lacks get a place of their own: 1 - (peak of the head's map) / (greatest peak among the
    other heads, detached; 1 where there is none), at least 0, mean over what the image lacks; 0 for an image that lacks
    nothing. Progress is the loss. After Attend-and-Excite (Chefer et al. 2023), held against the other things in place
    of 1, because peaks of probabilities differ between models.

    names: what is missing, for all images or a tuple for each. None where no vertex is meant. ValueError when there are
    names for another number of images.
    """
    if len(names) not in (0, 1, len(maps)):
        raise ValueError(f"things are missing in {len(names)} images, but the batch has {len(maps)}")
    wanted = [_named(graph, names[b] if len(names) > 1 else names[0]) if names else [] for b in range(len(maps))]
    if not any(wanted):
        return None
    heads = [vertex.head for vertex in graph.vertices]
    peaks = maps[:, heads].flatten(2).amax(-1)  # (B, V)
    losses = []
    for row, lacking in zip(peaks, wanted, strict=True):
        if not lacking:
            losses.append(row.sum() * 0.0)
            continue
        others = [[u for u in range(len(heads)) if heads[u] != heads[v]] for v in lacking]
        most = torch.stack([row[o].detach().amax() if o else row.new_ones(()) for o in others])
        losses.append((1.0 - row[lacking] / most.clamp_min(torch.finfo(row.dtype).tiny)).clamp_min(0.0).mean())
    loss = torch.stack(losses)
    return Term(loss, loss.detach().clamp(0.0, 1.0), sum(map(len, wanted)))


TermFunction = Callable[[MapBundle, TokenGraph, "GuidanceConfig"], "Term | None"]


def _contrast_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    return contrast(maps.narrow, maps.previous_narrow, graph, config.temperature_contrast, config.environment_weight)


def _action_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    return action_contrast(maps.narrow, maps.previous_narrow, graph, config.temperature_contrast)


def _link_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    return link(maps.wide, maps.previous_wide, graph, config.temperature_link, config.link_mode, config.link_margin)


def _roles_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    return roles(maps.narrow, graph, config.role_margin, config.role_sideways)


def _presence_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    return presence(maps.narrow, graph, config.presence)


def _boxes_term(maps: MapBundle, graph: TokenGraph, config: GuidanceConfig) -> Term | None:
    """B: words in the boxes of ``config.layout`` and actions between them; None where there is no layout."""
    if not config.layout:
        return None
    loss = graph_layout_loss(maps.narrow, from_text(config.layout), graph)
    return Term(loss, loss.detach().clamp(0.0, 1.0), len(graph.vertices))


TERMS: dict[str, TermFunction] = {
    "C": _contrast_term,
    "A": _action_term,
    "L": _link_term,
    "R": _roles_term,
    "P": _presence_term,
    "B": _boxes_term,
}
"""The terms by name. A new one is a function of maps, graph and settings; add it here and name it in a preset."""
