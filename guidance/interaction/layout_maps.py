"""A layout from the model's own attention: each thing's smoothed map, its highest connected part, the box around it."""

from __future__ import annotations

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


def match(layout: Layout, graph: TokenGraph) -> tuple[list[int], list[int]]:
    """For each thing of a layout its place in ``graph.vertices``, for each interaction its place in ``graph.edges``.

    Raises:
        InterplayError: the layout names what the prompt does not.
    """
    free = list(range(len(graph.vertices)))
    vertices = []
    for thing in layout.things:
        found = next((i for i in free if graph.vertices[i].label == thing.label), None)
        if found is None:
            raise InterplayError(
                f"The prompt names no '{thing.name}', which the layout places: use words of the prompt."
            )
        free.remove(found)
        vertices.append(found)
    edges = []
    for interaction in layout.interactions:
        edge = next((i for i, e in enumerate(graph.edges) if e.label == interaction.action), None)
        if edge is None:
            raise InterplayError(
                f"The prompt has no action '{interaction.action}', which the layout places: use words of the prompt."
            )
        edges.append(edge)
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
