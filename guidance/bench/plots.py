"""Plots as SVG without colours of their own: the page's style gives them, so that they fit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LABEL, PLOT, ROW, TOP, BOTTOM = 150, 250, 20, 24, 22


@dataclass(frozen=True)
class Mark:
    """A point with its interval."""

    label: str
    value: float
    low: float
    high: float
    hint: str = ""


def forest(title: str, marks: Sequence[Mark], low: float, high: float, ticks: Sequence[float], form: str = "g") -> str:
    """A row for each mark on an axis from ``low`` to ``high``; the tick at 0 stands out."""
    height = TOP + ROW * len(marks) + BOTTOM
    parts = [_open(title, LABEL + PLOT + 20, height), f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in ticks:
        x = _x(tick, low, high)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 7}">{format(tick, form)}</text>')
    for i, mark in enumerate(marks):
        parts.append(_row(mark, TOP + ROW * i + ROW / 2, low, high))
    return "".join([*parts, "</svg>"])


def _row(mark: Mark, y: float, low: float, high: float) -> str:
    left, middle, right = (_x(v, low, high) for v in (mark.low, mark.value, mark.high))
    return (
        f'<g><title>{escape(mark.hint or mark.label)}</title><text x="{LABEL - 8}" y="{y + 4}" class="label">'
        f'{escape(_short(mark.label))}</text><line class="interval" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        f'<circle class="mark" cx="{middle}" cy="{y}" r="4"/></g>'
    )


def scatter(title: str, marks: Sequence[tuple[float, Mark]], x_label: str, y_ticks: Sequence[float]) -> str:
    """Marks at (cost, share); the share's axis is that of the ticks, cost begins at 0."""
    width, height, left, bottom = 560, 260, 44, 220
    most = max(x for x, _ in marks) * 1.15 or 1.0
    low, high = y_ticks[0], y_ticks[-1]
    parts = [_open(title, width, height), f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in y_ticks:
        y = _y(tick, low, high, bottom)
        parts.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="label" x="{left - 6}" y="{y + 4}">{tick:g}</text>')
    for tick in _round_ticks(most):
        x = left + (width - left - 130) * tick / most
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{(left + width) / 2}" y="{height - 4}">{escape(x_label)}</text>')
    for cost, mark in marks:
        x = round(left + (width - left - 130) * cost / most, 1)
        top, middle, foot = (_y(v, low, high, bottom) for v in (mark.high, mark.value, mark.low))
        parts.append(
            f'<g><title>{escape(mark.hint or mark.label)}</title><line class="interval" x1="{x}" x2="{x}" y1="{top}" '
            f'y2="{foot}"/><circle class="mark" cx="{x}" cy="{middle}" r="4"/></g>'
        )
    places = _apart([(_y(mark.value, low, high, bottom), cost, mark) for cost, mark in marks])
    for y, cost, mark in places:
        x = round(left + (width - left - 130) * cost / most, 1)
        parts.append(f'<text x="{x + 8}" y="{y + 4}">{escape(_short(mark.label))}</text>')
    return "".join([*parts, "</svg>"])


def _apart(places: list[tuple[float, float, Mark]]) -> list[tuple[float, float, Mark]]:
    """Labels moved down until none covers another (those that are far apart in cost may share a line)."""
    out: list[tuple[float, float, Mark]] = []
    for y, cost, mark in sorted(places, key=lambda place: place[0]):
        while any(abs(y - other) < 13 for other, _, _ in out):
            y += 1
        out.append((round(y, 1), cost, mark))
    return out


def _round_ticks(most: float) -> list[float]:
    step = next(s for e in range(-2, 9) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if most / s <= 6)
    return [step * i for i in range(int(most / step) + 1)]


def _open(title: str, width: float, height: float) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}">'


def _x(value: float, low: float, high: float) -> float:
    return round(LABEL + PLOT * (min(high, max(low, value)) - low) / (high - low), 1)


def _y(value: float, low: float, high: float, bottom: float) -> float:
    return round(bottom - (bottom - 30) * (min(high, max(low, value)) - low) / (high - low), 1)


def _short(label: str) -> str:
    return label if len(label) <= 22 else label[:21] + "…"
