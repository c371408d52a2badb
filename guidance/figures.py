"""Pictures that explain: the hypergraph, heat-maps of words, and labelled contact sheets. Pillow and numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..parsing.hypergraph import Hyperedge, Hypergraph, Vertex

PAPER = (250, 250, 247)
INK = (34, 38, 46)
FAINT = (122, 128, 138)
CARD = (221, 232, 247)
CARD_EDGE = (92, 128, 180)
PLACE = (222, 240, 222)
PLACE_EDGE = (96, 152, 98)
ACTION = (252, 222, 196)
ACTION_EDGE = (208, 116, 48)
RELATION = (238, 232, 246)
RELATION_EDGE = (140, 112, 176)
HEAT = ((10, 8, 30), (70, 20, 110), (165, 45, 110), (235, 105, 75), (252, 190, 90), (252, 250, 190))
"""Stops of the heat-map's ramp, from none to most: dark violet, red, orange, pale yellow."""

SUPERSAMPLING = 2
MARGIN = 14


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's own scalable font, so that figures look the same on every machine."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of a line in pixels."""
    return math.ceil(font(size).getlength(text))


def shortened(text: str, size: int, width: int) -> str:
    """The text, or as much of it as fits into ``width`` pixels, with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text.rstrip() + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break a text at spaces into at most ``lines`` lines of ``width`` pixels; the last one is shortened."""
    out: list[str] = []
    words = text.split()
    while words and len(out) < lines - 1:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), size) <= width:
            count += 1
        out.append(shortened(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*out, shortened(" ".join(words), size, width)] if words else out


# --- heat-maps -------------------------------------------------------------------------------------------------------


def colour_ramp(values: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 3) uint8 by linear interpolation between the stops of ``HEAT``."""
    stops = np.linspace(0.0, 1.0, len(HEAT))
    table = np.array(HEAT, dtype=np.float64)
    channels = [np.interp(values, stops, table[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def heatmap(map: Any, image: Image.Image, size: tuple[int, int] | None = None, opacity: float = 0.65) -> Image.Image:
    """A word's attention map over a picture.

    map: (h, w) array or tensor, any range; shown from its smallest to its largest value. image: what it lies over,
    greyed so that all colour is heat. size: (width, height) of the result, the picture's own by default. opacity: of
    the heat, 0 to 1.
    """
    width, height = size or image.size
    values = np.nan_to_num(_array(map))
    if values.ndim != 2:
        raise ValueError(f"a heat-map needs a map of (h, w), not of {values.shape}")
    low, high = values.min(), values.max()
    level = (values - low) / (high - low) if high > low else np.zeros_like(values)
    grid = Image.fromarray(level.astype(np.float32), mode="F").resize((width, height), Image.Resampling.BILINEAR)
    heat = Image.fromarray(colour_ramp(np.clip(np.asarray(grid), 0.0, 1.0)), mode="RGB")
    under = image.convert("L").convert("RGB").resize((width, height), Image.Resampling.NEAREST)
    return Image.blend(under, heat, opacity)


# --- contact sheet ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A picture with a bold line and, below it, smaller lines."""

    image: Image.Image
    title: str = ""
    note: str = ""


def sheet(rows: Sequence[Sequence[Panel]], title: str = "", subtitle: str = "", width: int = 0) -> Image.Image:
    """A labelled contact sheet: rows of panels under a heading.

    Pictures keep their pixels. Lines that do not fit their panel are broken, notes into at most three lines. width: at
    least that many pixels.
    """
    rows = [row for row in rows if row]
    inner = max([sum(p.image.width + MARGIN for p in row) - MARGIN for row in rows] + [width - 2 * MARGIN, 240])
    heading = _heading(title, subtitle, inner)
    blocks = [_row(row) for row in rows]
    height = MARGIN + heading.height + sum(block.height + MARGIN for block in blocks)
    page = Image.new("RGB", (inner + 2 * MARGIN, height + (MARGIN if not blocks else 0)), PAPER)
    page.paste(heading, (MARGIN, MARGIN))
    y = MARGIN + heading.height
    for block in blocks:
        page.paste(block, (MARGIN, y))
        y += block.height + MARGIN
    return page


def _heading(title: str, subtitle: str, width: int) -> Image.Image:
    large, small = wrapped(title, 22, width, 3), wrapped(subtitle, 14, width, 4)
    height = 30 * len(large) + 20 * len(small) + (8 if large or small else 0)
    block = Image.new("RGB", (width, max(height, 1)), PAPER)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(large):
        draw.text((0, 30 * i), line, INK, font(22))
    for i, line in enumerate(small):
        draw.text((0, 30 * len(large) + 20 * i), line, FAINT, font(14))
    return block


def _row(row: Sequence[Panel]) -> Image.Image:
    titled = 20 if any(p.title for p in row) else 0
    notes = [wrapped(p.note, 12, p.image.width, 3) for p in row]
    tallest = max(p.image.height for p in row)
    height = titled + tallest + 16 * max(len(lines) for lines in notes) + 4
    block = Image.new("RGB", (sum(p.image.width + MARGIN for p in row) - MARGIN, height), PAPER)
    draw, x = ImageDraw.Draw(block), 0
    for panel, lines in zip(row, notes, strict=True):
        if panel.title:
            draw.text((x, 0), shortened(panel.title, 15, panel.image.width), INK, font(15))
        block.paste(panel.image.convert("RGB"), (x, titled))
        for i, line in enumerate(lines):
            draw.text((x, titled + panel.image.height + 4 + 16 * i), line, FAINT, font(12))
        x += panel.image.width + MARGIN
    return block


# --- curves ----------------------------------------------------------------------------------------------------------

LINES = ((64, 112, 184), (214, 110, 38), (84, 150, 84), (150, 96, 180))


def curves(series: Mapping[str, Sequence[Sequence[float]]], size: tuple[int, int]) -> Image.Image:
    """Progress of the losses: a line per name through points (share of the schedule, progress from 1, worst, to 0)."""
    scale = SUPERSAMPLING
    width, height = size[0] * scale, size[1] * scale
    left, top, right, foot = 34 * scale, 26 * scale, width - 12 * scale, height - 34 * scale
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    last = max([point[0] for line in series.values() for point in line], default=1.0) or 1.0
    for level in (0.0, 0.5, 1.0):
        y = foot + (top - foot) * level
        draw.line((left, y, right, y), (225, 226, 222), scale)
        draw.text((left - 6 * scale, y), f"{level:g}", FAINT, font(11 * scale), anchor="rm")
    draw.text((left, foot + 6 * scale), "0", FAINT, font(11 * scale))
    draw.text((right, foot + 6 * scale), f"{last:.0%} of the schedule", FAINT, font(11 * scale), anchor="ra")
    x = left
    for (name, line), colour in zip(series.items(), LINES, strict=False):
        points = [(left + (right - left) * p / last, foot + (top - foot) * min(1.0, max(0.0, v))) for p, v in line]
        if len(points) > 1:
            draw.line([c for point in points for c in point], colour, 3 * scale, joint="curve")
        for px, py in points:
            draw.ellipse((px - 3 * scale, py - 3 * scale, px + 3 * scale, py + 3 * scale), colour)
        draw.rectangle((x, 8 * scale, x + 10 * scale, 18 * scale), colour)
        draw.text((x + 15 * scale, 13 * scale), name, INK, font(12 * scale), anchor="lm")
        x += 15 * scale + text_width(name, 12 * scale) + 16 * scale
    if not series:
        draw.text((width // 2, height // 2), "no step was guided", FAINT, font(14 * scale), anchor="mm")
    return page.resize(size, Image.Resampling.LANCZOS)


# --- hypergraph ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """A laid-out card or pill; x, y is its top left corner."""

    x: int
    y: int
    width: int
    height: int
    head: str
    above: str = ""

    @property
    def middle(self) -> int:
        return self.x + self.width // 2


def draw_hypergraph(graph: Hypergraph, size: tuple[int, int] | None = None) -> Image.Image:
    """Draw the hypergraph: noun groups as cards (places green), actions as pills above, tied to their parties.

    size: (width, height) to fit the drawing into, centred; its natural size by default. Roles other than subject and
    object are written on their lines.
    """
    scale = SUPERSAMPLING
    cards = [_card(vertex, scale) for vertex in graph.vertices]
    gap, edge = 26 * scale, MARGIN * scale
    width = max(sum(c.width + gap for c in cards) - gap + 2 * edge, 360 * scale)
    levels = _levels(graph)
    step = 66 * scale
    top = edge + step * (max(levels.values(), default=-1) + 1)
    x, laid = (width - (sum(c.width + gap for c in cards) - gap)) // 2, []
    for card in cards:
        laid.append(_Box(x, top, card.width, card.height, card.head, card.above))
        x += card.width + gap
    page = Image.new("RGB", (width, top + 62 * scale + edge), PAPER)
    draw = ImageDraw.Draw(page)
    if not cards:
        draw.text((edge, edge), "no noun group found in the prompt", FAINT, font(16 * scale))
    lowest = max(levels.values(), default=0)
    pills = {e.id: _pill(graph, e, laid, edge + step * (lowest - levels[e.id]), width, scale) for e in graph.hyperedges}
    for hyperedge in graph.hyperedges:
        _draw_ties(draw, graph, hyperedge, pills, laid, scale)
    for hyperedge in graph.hyperedges:
        _draw_pill(draw, hyperedge, pills[hyperedge.id], scale)
    for vertex, box in zip(graph.vertices, laid, strict=True):
        _draw_card(draw, vertex, box, scale)
    natural = page.resize((page.width // scale, page.height // scale), Image.Resampling.LANCZOS)
    return natural if size is None else _fitted(natural, size)


def _card(vertex: Vertex, scale: int) -> _Box:
    words = [m.text for m in vertex.modifiers]
    if vertex.count is not None and not any(w.isdigit() for w in words):
        words = [f"{vertex.count} ×", *words]
    above = " ".join(words)
    width = max(text_width(vertex.head, 17 * scale), text_width(above, 12 * scale), 44 * scale) + 24 * scale
    return _Box(0, 0, width, 56 * scale, vertex.head, above)


def _levels(graph: Hypergraph) -> dict[str, int]:
    """Hyperedges that share a stretch of the row go to different levels, shorter ones lower."""

    def reach(edge: Hyperedge) -> tuple[int, int]:
        places = [graph.index(p.vertex) for p in edge.participants] or [0]
        return min(places), max(places)

    levels: dict[str, int] = {}
    spans: list[tuple[int, int, int]] = []
    for edge in sorted(graph.hyperedges, key=lambda e: reach(e)[1] - reach(e)[0]):
        low, high = reach(edge)
        taken = {level for a, b, level in spans if low <= b and a <= high}
        level = next(n for n in range(len(spans) + 1) if n not in taken)
        levels[edge.id] = level
        spans.append((low, high, level))
    return levels


def _pill(graph: Hypergraph, edge: Hyperedge, cards: Sequence[_Box], y: int, width: int, scale: int) -> _Box:
    middles = [cards[graph.index(p.vertex)].middle for p in edge.participants] or [width // 2]
    span = text_width(edge.action, 15 * scale) + 26 * scale
    x = sum(middles) // len(middles) - span // 2
    x = min(max(x, 2 * scale), width - span - 2 * scale)
    return _Box(x, y, span, 28 * scale, edge.action)


def _draw_ties(
    draw: ImageDraw.ImageDraw,
    graph: Hypergraph,
    edge: Hyperedge,
    pills: Mapping[str, _Box],
    cards: Sequence[_Box],
    scale: int,
) -> None:
    """From the pill's side (or its foot, for a party below it) along its height, then straight down to each party."""
    colour = ACTION_EDGE if edge.kind == "action" else RELATION_EDGE
    pill = pills[edge.id]
    level = pill.y + pill.height // 2
    for party in edge.participants:
        card = cards[graph.index(party.vertex)]
        x = _landing(graph, edge, party.vertex, card, pills, scale)
        corners = [(pill.middle, level), (x, level), (x, card.y)]
        for start, end in pairwise(corners):
            if party.role == "location":
                _dashed(draw, start, end, PLACE_EDGE, scale)
            else:
                draw.line((*start, *end), colour, 3 * scale if party.role == "subject" else 2 * scale)
        if party.role not in ("subject", "object"):
            _draw_role(draw, party.role, pill, x, card.y, scale)


def _draw_role(draw: ImageDraw.ImageDraw, role: str, pill: _Box, x: int, foot: int, scale: int) -> None:
    """Write a role on its line: on the level part where that is long enough, else on the drop."""
    half = text_width(role, 11 * scale) // 2 + 3 * scale
    side = pill.x + pill.width if x > pill.middle else pill.x
    level = abs(x - side) > 2 * half + 8 * scale and not pill.x <= x <= pill.x + pill.width
    place = ((side + x) // 2, pill.y + pill.height // 2) if level else (x, foot - 17 * scale)
    draw.rectangle((place[0] - half, place[1] - 8 * scale, place[0] + half, place[1] + 8 * scale), PAPER)
    draw.text(place, role, FAINT, font(11 * scale), anchor="mm")


def _landing(graph: Hypergraph, edge: Hyperedge, vertex: str, card: _Box, pills: Mapping[str, _Box], scale: int) -> int:
    """Where on its card an edge ends: side by side, in the one order in which no drop crosses another edge."""

    def place(other: Hyperedge) -> tuple[int, int]:
        pill = pills[other.id]
        return (0, -pill.y) if pill.middle < card.middle else (1, pill.y)

    order = sorted(graph.edges_of(vertex), key=place)
    gap = min(14 * scale, (card.width - 16 * scale) // max(1, len(order) - 1))
    return card.middle + round((order.index(edge) - (len(order) - 1) / 2) * gap)


def _dashed(draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], colour: Any, scale: int) -> None:
    length = math.dist(start, end)
    count = max(1, int(length / (10 * scale)))
    for i in range(count):
        a, b = i / count, (i + 0.55) / count
        points = [(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in (a, b)]
        draw.line((*points[0], *points[1]), colour, 2 * scale)


def _draw_pill(draw: ImageDraw.ImageDraw, edge: Hyperedge, pill: _Box, scale: int) -> None:
    fill, outline = (ACTION, ACTION_EDGE) if edge.kind == "action" else (RELATION, RELATION_EDGE)
    corners = (pill.x, pill.y, pill.x + pill.width, pill.y + pill.height)
    draw.rounded_rectangle(corners, pill.height // 2, fill, outline, 2 * scale)
    draw.text((pill.middle, pill.y + pill.height // 2), pill.head, INK, font(15 * scale), anchor="mm")


def _draw_card(draw: ImageDraw.ImageDraw, vertex: Vertex, box: _Box, scale: int) -> None:
    fill, outline = (PLACE, PLACE_EDGE) if vertex.environment else (CARD, CARD_EDGE)
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    draw.rounded_rectangle(corners, 9 * scale, fill, outline, 2 * scale)
    middle = box.y + box.height // 2
    if box.above:
        draw.text((box.middle, middle - 13 * scale), box.above, FAINT, font(12 * scale), anchor="mm")
        middle += 8 * scale
    draw.text((box.middle, middle), box.head, INK, font(17 * scale), anchor="mm")


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image centred on paper of that size, made smaller where it must be, never larger."""
    factor = min(1.0, size[0] / image.width, size[1] / image.height)
    small = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    page = Image.new("RGB", size, PAPER)
    fitted = image if factor == 1.0 else image.resize(small, Image.Resampling.LANCZOS)
    page.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return page
