"""The figures of a bench directory, computed from its rows: what each method reached, and against another method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .results import Row
from .stats import bootstrap_interval, mcnemar_exact, paired_difference, wilson

SHARES = ("all_right", "objects_right", "action_right", "attributes_right", "bystander_right", "mixture")
MEANS = ("presence", "binding", "extra", "quality", "unet_passes", "flops", "seconds")
COMPARED = ("all_right", "objects_right", "action_right", "mixture", "extra", "quality")
LABELS = {
    "all_right": "all right",
    "objects_right": "objects right",
    "action_right": "action right",
    "attributes_right": "attributes right",
    "bystander_right": "bystander right",
    "mixture": "mixtures",
    "presence": "presence",
    "binding": "binding",
    "extra": "objects too many",
    "quality": "quality",
    "unet_passes": "U-Net passes",
    "flops": "FLOPs",
    "seconds": "seconds",
}
ALL, HELD_OUT = "all sets", "held out"
BASES = ("plain", "CONFORM")
POOLS: dict[str, Callable[[str], bool]] = {ALL: lambda name: True, HELD_OUT: lambda name: name.endswith(HELD_OUT)}
"""Sets taken together, shown where they hold more than one."""


@dataclass(frozen=True)
class Figure:
    """A share or mean with its 95 % interval, of ``n`` pictures."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A method against another, picture by picture from the same noise.

    difference, low, high: of the means of a column, with the bootstrap interval over prompts; n: pictures that both
    have; better, worse: pictures that became right, or ceased to be; p: McNemar's exact test of these two; lost: share
    of the pictures right before that are not right any more. The last four are None where the column is no truth
    value, lost also where nothing was right.
    """

    difference: float
    low: float
    high: float
    n: int
    better: int | None = None
    worse: int | None = None
    p: float | None = None
    lost: float | None = None


@dataclass(frozen=True)
class Results:
    """Rows, ready to be asked."""

    rows: tuple[Row, ...]

    @cached_property
    def methods(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def sets(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(row.prompt_set for row in self.rows))

    @cached_property
    def groups(self) -> list[str]:
        """The pools with more than one set, then the sets."""
        return [p for p, holds in POOLS.items() if sum(map(holds, self.sets)) > 1] + self.sets

    @property
    def bases(self) -> list[str]:
        """The methods that others are held against."""
        return [name for name in BASES if name in self.methods]

    @property
    def reference(self) -> str:
        """The method whose cost is 1: plain sampling, or the first."""
        return (self.bases or self.methods)[0]

    def select(self, method: str, group: str) -> list[Row]:
        """The rows of a method in a set or pool."""
        return [row for row in self._by_method.get(method, ()) if self.holds(group, row.prompt_set)]

    def holds(self, group: str, prompt_set: str) -> bool:
        """Whether a set is the group, or in the pool of that name."""
        return prompt_set == group if group in self.sets else POOLS[group](prompt_set)

    def figure(self, method: str, group: str, column: str) -> Figure | None:
        """See ``figure``."""
        return figure(self.select(method, group), column)

    def compare(self, method: str, base: str, group: str, column: str) -> Comparison | None:
        """See ``compare``."""
        return compare(self.select(method, group), self.select(base, group), column)

    def cost_ratio(self, method: str, base: str, group: str, column: str) -> float | None:
        """See ``cost_ratio``."""
        return cost_ratio(self.select(method, group), self.select(base, group), column)

    @cached_property
    def _by_method(self) -> dict[str, list[Row]]:
        return {name: [row for row in self.rows if row.method == name] for name in self.methods}


def figure(rows: Sequence[Row], column: str) -> Figure | None:
    """A column's share (Wilson) or mean (bootstrap over prompts); None where no row has a value."""
    found = [(row, value) for row in rows if (value := row.value(column)) is not None]
    if not found:
        return None
    values = [value for _, value in found]
    if column in SHARES:
        low, high = wilson(sum(values), len(values))
    else:
        low, high = bootstrap_interval(values, groups=[(row.prompt_set, row.prompt) for row, _ in found])
    return Figure(sum(values) / len(values), low, high, len(values))


def compare(rows: Sequence[Row], base: Sequence[Row], column: str) -> Comparison | None:
    """``rows`` against ``base`` on the pictures that both have; None where there are none."""
    partner = {row.key[1:]: row.value(column) for row in base}
    found = [(row, row.value(column), partner.get(row.key[1:])) for row in rows]
    pairs = [((row.prompt_set, row.prompt), a, b) for row, a, b in found if a is not None and b is not None]
    if not pairs:
        return None
    groups, ours, theirs = zip(*pairs, strict=True)
    difference, low, high = paired_difference(ours, theirs, groups=groups)
    if column not in SHARES:
        return Comparison(difference, low, high, len(pairs))
    better = sum(a > b for a, b in zip(ours, theirs, strict=True))
    worse = sum(a < b for a, b in zip(ours, theirs, strict=True))
    lost = worse / sum(theirs) if sum(theirs) else None
    return Comparison(difference, low, high, len(pairs), better, worse, mcnemar_exact(better, worse), lost)


def cost_ratio(rows: Sequence[Row], base: Sequence[Row], column: str) -> float | None:
    """Mean cost of ``rows`` over that of ``base``, on the pictures that both have; None where there are none."""
    keys = {row.key[1:] for row in rows} & {row.key[1:] for row in base}
    ours, theirs = (sum(r.value(column) or 0.0 for r in part if r.key[1:] in keys) for part in (rows, base))
    return ours / theirs if theirs else None


# --- as Markdown ------------------------------------------------------------------------------------------------------

_REACHED = ("objects_right", "action_right", "presence", "binding", "mixture", "extra", "quality", "unet_passes")


def markdown(rows: Iterable[Row]) -> str:
    """Two Markdown tables for every set and pool: what the methods reached, and their differences."""
    results = Results(tuple(rows))
    parts = []
    for group in results.groups:
        parts.append("\n".join([f"### {group}", "", *_reached(results, group)]))
        if differences := _differences(results, group):
            parts.append("\n".join(differences))
    return "\n\n".join(parts)


def _reached(results: Results, group: str) -> list[str]:
    lines = _head("method", "n", LABELS["all_right"], *(LABELS[c] for c in _REACHED), "time")
    for method in results.methods:
        mine = results.select(method, group)
        if not mine:
            continue
        cells = [method, str(len(mine)), spread(figure(mine, "all_right"))]
        found = {column: figure(mine, column) for column in _REACHED}
        cells += ["" if f is None else f"{f.value:.{1 if c == 'unet_passes' else 3}f}" for c, f in found.items()]
        ratio = results.cost_ratio(method, results.reference, group, "seconds")
        lines.append(_line(*cells, "" if ratio is None else f"×{ratio:.2f}"))
    return lines


def _differences(results: Results, group: str) -> list[str]:
    lines = _head("method − other", "all right, points", "+/−", "p", "lost", "action, points", "+/−", "p", "quality")
    head = len(lines)
    for base in results.bases:
        for method in results.methods:
            right = None if method in (base, results.reference) else results.compare(method, base, group, "all_right")
            if right is None:
                continue
            action = results.compare(method, base, group, "action_right")
            quality = results.compare(method, base, group, "quality")
            cells = [f"{method} − {base}", *_compared(right), "" if right.lost is None else f"{right.lost:.3f}"]
            cells += ["", "", ""] if action is None else _compared(action)
            lines.append(_line(*cells, "" if quality is None else f"{quality.difference:+.4f}"))
    return lines if len(lines) > head else []


def _compared(found: Comparison) -> list[str]:
    return [points(found), f"{found.better}/{found.worse}", f"{found.p:.2g}"]


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def points(found: Comparison) -> str:
    """ "+4.0 [+1.0, +7.0]", in points of a hundred."""
    return f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def spread(found: Figure | None) -> str:
    """ "0.860 [0.779, 0.915]"."""
    return "" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
