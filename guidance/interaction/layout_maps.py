"""A layout from the model's own attention: each thing's smoothed map, its highest connected part, the box around it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InterplayError
from ..graph import TokenGraph
from ..maps import gaussian_blur
from .layout import Box, Layout, grown

THRESHOLD = 0.45  # between a map's least and its greatest value


def map_box(values: Tensor, threshold: float = THRESHOLD) -> Box:
    """The box around the heaviest connected part of a map (H, W) that lies above ``threshold``.

    threshold: 0..1, between the map's least and greatest value. Returns a box in 0..1, at least a cell large.
    InterplayError when the map is flat.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        raise InterplayError("An attention map is flat, so it names no place: look at a later step.")
    above = values > low + threshold * (high - low)
    part = max(_parts(above), key=lambda cells: sum(float(values[c]) for c in cells))
    rows, columns = [r for r, _ in part], [c for _, c in part]
    height, width = values.shape
    box = (min(columns) / width, min(rows) / height, (max(columns) + 1) / width, (max(rows) + 1) / height)
    return grown(box)


def _parts(mask: Tensor) -> list[list[tuple[int, int]]]:
    """The connected parts (four neighbours) of a (H, W) mask."""
    waiting = {(int(r), int(c)) for r, c in mask.nonzero()}
    parts = []
    while waiting:
        edge = [waiting.pop()]
        part = []
        while edge:
            r, c = edge.pop()
            part.append((r, c))
            near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & waiting
            waiting -= near
            edge += near
        parts.append(part)
    return parts


def match(layout: Layout, graph: TokenGraph) -> tuple[list[int], list[int | None]]:
    """For each thing of a layout its place in ``graph.vertices``, for each interaction its place in ``graph.edges``,
    None for one that has no action word there, such as a relation without a verb.

    Raises:
        InterplayError: the layout names what the prompt does not.
    """
    free = list(range(len(graph.vertices)))
    vertices = []
    for thing in layout.things:
        said = (thing.label, *thing.name.split()) if thing.label else thing.name.split()
        found = next((i for i in free for word in said if graph.vertices[i].label == word), None)
        if found is None:
            raise InterplayError(
                f"The prompt names no '{thing.name}', which the layout places: use words of the prompt."
            )
        free.remove(found)
        vertices.append(found)
    labels = [edge.label for edge in graph.edges]
    edges = [labels.index(i.action) if i.action in labels else None for i in layout.interactions]
    return vertices, edges


def from_maps(layout: Layout, maps: Tensor, graph: TokenGraph, threshold: float = THRESHOLD) -> Layout:
    """Boxes for all things of a layout from word maps (J, H, W) of a prompt whose words are ``graph.words``."""
    vertices, _ = match(layout, graph)
    smoothed = gaussian_blur(maps[None].detach().float(), 3, 0.5)[0]
    boxes: list[Box | None] = []
    for index in vertices:
        head = smoothed[graph.vertices[index].head]
        boxes.append(map_box(head, threshold))
    return layout.placed(boxes, "from attention")


def moved_to(layout: Layout, maps: Tensor, graph: TokenGraph, sideways: bool = False) -> Layout:
    """A layout whose pairs are moved, as a whole, to where the model's attention (maps as in ``from_maps``) sees them.

    What a rule knows better, who stands where relative to whom, stays; what the model has begun to paint is met.
    sideways: heights stay too, for rules that know the ground.
    """
    from ..losses import centroids  # not above: the losses know layouts

    vertices, _ = match(layout, graph)
    heads = torch.stack([maps[graph.vertices[i].head] for i in vertices]).detach().float()
    centres = centroids(heads[None])[0]
    boxes: list[Box | None] = [thing.box for thing in layout.things]
    placed = [i for i, box in enumerate(boxes) if box is not None]
    if not placed:
        raise InterplayError("A layout without boxes cannot be moved: place it by rule first.")
    corners = torch.tensor([boxes[i] for i in placed])
    wanted = centres[placed].mean(0) - (corners[:, :2] + corners[:, 2:]).mean(0) / 2
    low, high = -corners[:, :2].amin(0), 1 - corners[:, 2:].amax(0)
    x, y = torch.maximum(torch.minimum(wanted, high), low).tolist()
    y = 0.0 if sideways else y
    for i in placed:
        x1, y1, x2, y2 = boxes[i] or (0.0, 0.0, 1.0, 1.0)
        boxes[i] = (x1 + x, y1 + y, x2 + x, y2 + y)
    return layout.placed(boxes, "by rule, at the attention")
