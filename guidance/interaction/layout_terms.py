"""Boxes as a loss on attention maps, for any model: things inside their boxes, actions between those who take part.

After the layout losses of training-free grounding (Chen et al. 2024, "Training-free layout control with cross-attention
guidance", eq. 2): the share of a map's mass that lies in its box should be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import TokenGraph
from .layout import Box, Layout, grown
from .layout_maps import match

ACTION_WEIGHT = 0.5  # an action's map is wider than a thing's
SMALLEST_MIDDLE = 0.125  # two boxes that touch leave nothing between them


@dataclass(frozen=True)
class Target:
    """A word (index into ``TokenGraph.words``), the box that its map should fill, and how much that counts."""

    word: int
    box: Box
    weight: float = 1.0


def layout_targets(layout: Layout, graph: TokenGraph, action_weight: float = ACTION_WEIGHT) -> tuple[Target, ...]:
    """What a layout asks of a prompt's maps: noun groups in their boxes, action words on the box between."""
    vertices, edges = match(layout, graph)
    found: dict[tuple[int, Box], Target] = {}
    for thing, index in zip(layout.things, vertices, strict=True):
        if thing.box is not None:
            for word in graph.vertices[index].words:
                found.setdefault((word, thing.box), Target(word, thing.box))
    for interaction, edge in zip(layout.interactions, edges, strict=True):
        middle = grown(layout.boxes(interaction)[2], SMALLEST_MIDDLE)
        for word in graph.edges[edge].words if edge is not None and action_weight > 0 else ():
            found.setdefault((word, middle), Target(word, middle, action_weight))
    return tuple(found.values())


def coverage(boxes: Sequence[Box] | Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """(K, H, W): the share of each cell that lies in each box; exact at edges that cut cells."""
    corners = torch.as_tensor(boxes, dtype=like.dtype, device=like.device).reshape(-1, 4)
    along = _overlap(corners[:, 1], corners[:, 3], height)[:, :, None]
    return along * _overlap(corners[:, 0], corners[:, 2], width)[:, None, :]


def _overlap(start: Tensor, end: Tensor, cells: int) -> Tensor:
    edges = torch.arange(cells + 1, dtype=start.dtype, device=start.device)
    low = torch.maximum(start[:, None] * cells, edges[None, :-1])
    high = torch.minimum(end[:, None] * cells, edges[None, 1:])
    return (high - low).clamp(min=0)


def inside_share(maps: Tensor, boxes: Sequence[Box] | Tensor) -> Tensor:
    """(B, K): which share of each map's mass lies in its box. maps: (B, K, H, W), not negative; boxes: K."""
    with torch.inference_mode(False):
        mask = coverage(boxes, maps.shape[-2], maps.shape[-1], maps)
    total = maps.sum((-2, -1)).clamp(min=1e-12)
    return (maps * mask).sum((-2, -1)) / total


def layout_loss(maps: Tensor, boxes: Sequence[Box] | Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """(B,): the weighted mean over maps of (1 - share inside the box)^2; 0 when all lie in their boxes, 1 when none.

    maps: (B, K, H, W), not negative, differentiable; boxes: K of (x1, y1, x2, y2) in 0..1; weights: K, by default even.
    """
    outside = (1.0 - inside_share(maps, boxes)).square()
    if weights is None:
        return outside.mean(1)
    share = torch.tensor(list(weights), dtype=outside.dtype, device=outside.device)
    return (outside * share).sum(1) / share.sum()


def graph_layout_loss(maps: Tensor, layout: Layout, graph: TokenGraph) -> Tensor:
    """(B,): ``layout_loss`` of word maps (B, J, H, W) whose words are ``graph.words``, for everything in a layout."""
    targets = layout_targets(layout, graph)
    chosen = maps[:, [target.word for target in targets]]
    return layout_loss(chosen, [target.box for target in targets], [target.weight for target in targets])
