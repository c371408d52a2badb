"""Plots as SVG without colours of their own: the page's style gives them, so that they fit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LABEL, PLOT, ROW, TOP, BOTTOM = 185, 250, 20, 24, 22


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
    """Marks at (cost, share); the share's axis is that of the ticks, cost begins at 0. Names stand to the right."""
    width, left, right, bottom = 640, 44, 440, 220
    height = max(bottom + 40, 30 + 14 * len(marks))
    most = max(x for x, _ in marks) * 1.1 or 1.0
    low, high = y_ticks[0], y_ticks[-1]
    parts = [_open(title, width, height), f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in y_ticks:
        y = _y(tick, low, high, bottom)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="label" x="{left - 6}" y="{y + 4}">{tick:g}</text>')
    for tick in _round_ticks(most):
        x = left + (right - left) * tick / most
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}">{tick:g}</text>')
    parts.append(f'<text class="tick" x="{(left + right) / 2}" y="{bottom + 36}">{escape(x_label)}</text>')
    names = _apart([(_y(mark.value, low, high, bottom), i) for i, (_, mark) in enumerate(marks)])
    for i, (cost, mark) in enumerate(marks):
        x = round(left + (right - left) * cost / most, 1)
        top, middle, foot = (_y(v, low, high, bottom) for v in (mark.high, mark.value, mark.low))
        parts.append(
            f"<g><title>{escape(mark.hint or mark.label)}</title>"
            f'<line class="lead" x1="{x}" x2="{right + 10}" y1="{middle}" y2="{names[i]}"/>'
            f'<text x="{right + 14}" y="{names[i] + 4}">{escape(_short(mark.label))}</text>'
            f'<line class="interval" x1="{x}" x2="{x}" y1="{top}" y2="{foot}"/>'
            f'<circle class="mark" cx="{x}" cy="{middle}" r="4"/></g>'
        )
    return "".join([*parts, "</svg>"])


def _apart(wanted: Sequence[tuple[float, int]]) -> dict[int, float]:
    """Heights of names, each as wanted or moved down until it covers none; moved up again where that left the plot."""
    out: dict[int, float] = {}
    last = 16.0
    for y, i in sorted(wanted):
        last = out[i] = max(y, last + 14)
    above = max(0.0, last - max(220.0, 16.0 + 14 * len(wanted)))
    return {i: round(y - above, 1) for i, y in out.items()}


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
    return label if len(label) <= 26 else label[:25] + "…"
