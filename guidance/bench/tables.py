"""The figures of a bench directory, computed from its rows: what each method reached, and against another method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .results import Row
from .stats import bootstrap_interval, mcnemar_exact, paired_difference, wilson

SHARES = ("all_right", "objects_right", "action_right", "attributes_right", "bystander_right", "mixture")
MEANS = ("presence", "binding", "extra", "quality")
COSTS = ("unet_passes", "flops", "seconds")
ALL = "all sets"


@dataclass(frozen=True)
class Figure:
    """A share or mean with its 95 % interval, of ``n`` pictures."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A method against ``base``, picture by picture from the same noise.

    difference, low, high: of the means of a column, with the bootstrap interval over prompts; better, worse: pictures
    that became right, or ceased to be (None where the column is no truth value); p: McNemar's exact test of these two;
    lost: share of the pictures right under ``base`` that are not right any more, None where there were none.
    """

    base: str
    difference: float
    low: float
    high: float
    n: int
    better: int | None = None
    worse: int | None = None
    p: float | None = None
    lost: float | None = None


def methods(rows: Iterable[Row]) -> list[str]:
    """In order of appearance."""
    return list(dict.fromkeys(row.method for row in rows))


def sets(rows: Iterable[Row]) -> list[str]:
    """In order of appearance."""
    return list(dict.fromkeys(row.prompt_set for row in rows))


def select(rows: Iterable[Row], method: str, prompt_set: str = ALL) -> list[Row]:
    """The rows of a method in a set, or in all of them."""
    return [row for row in rows if row.method == method and prompt_set in (ALL, row.prompt_set)]


def figure(rows: Sequence[Row], column: str) -> Figure | None:
    """A column's share (Wilson) or mean (bootstrap over prompts); None where no row has a value."""
    found = [(row, value) for row in rows if (value := row.value(column)) is not None]
    if not found:
        return None
    values = [value for _, value in found]
    mean = sum(values) / len(values)
    if column in SHARES:
        low, high = wilson(sum(values), len(values))
    else:
        low, high = bootstrap_interval(values, groups=[(row.prompt_set, row.prompt) for row, _ in found])
    return Figure(mean, low, high, len(values))


def compare(rows: Sequence[Row], base: Sequence[Row], column: str) -> Comparison | None:
    """``rows`` against ``base`` on the pictures that both have; None where there are none."""
    partner = {(row.prompt_set, row.prompt, row.seed): row.value(column) for row in base}
    pairs = []
    for row in rows:
        ours, theirs = row.value(column), partner.get((row.prompt_set, row.prompt, row.seed))
        if ours is not None and theirs is not None:
            pairs.append(((row.prompt_set, row.prompt), ours, theirs))
    if not pairs:
        return None
    groups, a, b = zip(*pairs, strict=True)
    difference, low, high = paired_difference(a, b, groups=groups)
    name = base[0].method
    if column not in SHARES:
        return Comparison(name, difference, low, high, len(a))
    better = sum(x > y for x, y in zip(a, b, strict=True))
    worse = sum(x < y for x, y in zip(a, b, strict=True))
    lost = worse / sum(b) if sum(b) else None
    return Comparison(name, difference, low, high, len(a), better, worse, mcnemar_exact(better, worse), lost)


def cost_ratio(rows: Sequence[Row], base: Sequence[Row], column: str) -> float | None:
    """Mean cost of ``rows`` over that of ``base``, on the pictures that both have."""
    keys = {row.key[1:] for row in rows} & {row.key[1:] for row in base}
    ours, theirs = (sum(r.value(column) or 0.0 for r in part if r.key[1:] in keys) for part in (rows, base))
    return ours / theirs if theirs else None


def markdown(rows: Sequence[Row], base: str = "plain") -> str:
    """All of it as Markdown tables, one for each set and one for all."""
    parts = []
    for prompt_set in (ALL, *sets(rows)):
        parts.append("\n".join([f"### {prompt_set}", "", *_table(rows, prompt_set, base)]))
    return "\n\n".join(parts)


HEADER = (
    "method",
    "n",
    "all right",
    "objects",
    "action",
    "presence",
    "binding",
    "mixtures",
    "too many",
    "quality",
    "passes",
    "time",
    "all right − {base}",
    "better/worse",
    "p",
    "lost",
)


def _table(rows: Sequence[Row], prompt_set: str, base: str) -> list[str]:
    lines = ["| " + " | ".join(HEADER).format(base=base) + " |", "|" + "---|" * len(HEADER)]
    reference = select(rows, base, prompt_set)
    for method in methods(rows):
        mine = select(rows, method, prompt_set)
        if mine:
            lines.append("| " + " | ".join(_cells(mine, reference, method == base)) + " |")
    return lines


def _cells(mine: Sequence[Row], reference: Sequence[Row], is_base: bool) -> list[str]:
    right = figure(mine, "all_right")
    cells = [mine[0].method, str(len(mine)), spread(right)]
    for column in ("objects_right", "action_right", "presence", "binding", "mixture", "extra", "quality"):
        found = figure(mine, column)
        cells.append("" if found is None else f"{found.value:.3f}")
    cells.append(f"{sum(row.unet_passes or 0 for row in mine) / len(mine):.1f}")
    ratio = cost_ratio(mine, reference, "seconds") if reference else None
    cells.append("" if ratio is None else f"×{ratio:.2f}")
    versus = None if is_base or not reference else compare(mine, reference, "all_right")
    if versus is None:
        return [*cells, "", "", "", ""]
    points = f"{100 * versus.difference:+.1f} [{100 * versus.low:+.1f}, {100 * versus.high:+.1f}]"
    lost = "" if versus.lost is None else f"{versus.lost:.3f}"
    return [*cells, points, f"{versus.better}/{versus.worse}", f"{versus.p:.2g}", lost]


def spread(found: Figure | None) -> str:
    """ "0.860 [0.779, 0.915]"."""
    return "" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
