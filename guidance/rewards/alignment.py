"""Scores of a batch as a table: means with bootstrap intervals, and against a second batch of the same seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InterplayError
from ..bench.stats import bootstrap_interval, paired_difference
from .scorer import Reading, Scorer

Values = Sequence[float | None]


@dataclass(frozen=True)
class Batch:
    """Figures of pictures by column, and what a person wants to read with them; needs: what each scorer reads with."""

    prompts: tuple[str, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)

    def values(self, *names: str) -> list[float]:
        """The first of these columns that is there, as numbers, NaN where there is no figure."""
        columns = [self.columns[name] for name in names if name in self.columns]
        found = columns[0] if columns else (None,) * len(self.prompts)
        return [math.nan if v is None else v for v in found]


def gather(prompts: Sequence[str], readings: Mapping[str, tuple[Scorer, Sequence[Reading]]]) -> Batch:
    """The readings of several scorers as one batch; columns as ``Scorer.columns`` names them."""
    columns: dict[str, tuple[float | None, ...]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for scorer, found in readings.values():
        cells = [scorer.cells(reading) for reading in found]
        columns |= {name: tuple(cell[name] for cell in cells) for name in scorer.columns}
        kinds = dict.fromkeys(key for reading in found for key in reading.notes)
        notes |= {kind: tuple(reading.notes.get(kind, "") for reading in found) for kind in kinds}
    return Batch(tuple(prompts), columns, notes, {s.name: s.needs for s, _ in readings.values()})


@dataclass(frozen=True)
class Line:
    """A column's mean and its 95 % bootstrap interval, over ``count`` units: prompts where there are several, else
    pictures. With a baseline: its mean, and the mean of the paired differences with their interval.
    """

    column: str
    count: int
    mean: float
    interval: tuple[float, float]
    baseline: float | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


def lines(batch: Batch, baseline: Batch | None = None) -> list[Line]:
    """One line for each column that has figures.

    Where there are several prompts, the bootstrap draws prompts: pictures of one are no independent evidence.

    Raises:
        InterplayError: the baseline's pictures were not made for the same prompts.
    """
    if baseline is not None and baseline.prompts != batch.prompts:
        raise InterplayError(
            f"The baseline has {len(baseline.prompts)} pictures and the batch {len(batch.prompts)}, or other prompts; "
            "give pictures of the same prompts and seeds in the same order."
        )
    return [line for column in batch.columns if (line := _line(batch, baseline, column)) is not None]


def _line(batch: Batch, baseline: Batch | None, column: str) -> Line | None:
    own = batch.columns[column]
    other: Values = own if baseline is None else baseline.columns[column]
    known = [(a, b, p) for a, b, p in zip(own, other, batch.prompts, strict=True) if a is not None and b is not None]
    if not known:
        return None
    mine, theirs, prompts = map(list, zip(*known, strict=True))
    groups = prompts if len(set(prompts)) > 1 else None
    count, mean = len(set(prompts)) if groups else len(mine), sum(mine) / len(mine)
    interval = bootstrap_interval(mine, groups=groups)
    if baseline is None:
        return Line(column, count, mean, interval)
    gain, low, high = paired_difference(mine, theirs, groups=groups)
    return Line(column, count, mean, interval, sum(theirs) / len(theirs), gain, (low, high))


def to_table(found: Sequence[Line]) -> str:
    """Markdown, for people."""
    compared = any(line.difference is not None for line in found)
    head = ["score", "n", "mean", "95 %", *(["baseline", "difference", "95 %"] if compared else [])]
    rows = [head, ["---"] * len(head), *(_row(line) for line in found)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(line: Line) -> list[str]:
    cells = [line.column, str(line.count), f"{line.mean:.4g}", _range(line.interval)]
    if line.difference is not None and line.difference_interval is not None:
        cells += [f"{line.baseline:.4g}", f"{line.difference:+.4g}", _range(line.difference_interval)]
    return cells


def _range(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4g}, {interval[1]:.4g}]"


def to_csv(batch: Batch, baseline: Batch | None = None) -> str:
    """A row for each picture: index, batch, prompt, every figure, every note."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["picture", "batch", "prompt", *batch.columns, *batch.notes])
    for name, one in (("pictures", batch), ("baseline", baseline)):
        if one is None:
            continue
        for i, prompt in enumerate(one.prompts):
            figures = ["" if (v := one.columns[c][i]) is None else f"{v:.6g}" for c in batch.columns]
            notes = [one.notes[kind][i] if kind in one.notes else "" for kind in batch.notes]
            writer.writerow([i, name, prompt, *figures, *notes])
    return file.getvalue()


def to_json(batch: Batch, found: Sequence[Line], extra: Mapping[str, Any] | None = None) -> str:
    """Everything, for programs."""
    whole = {
        "prompts": batch.prompts,
        "scores": batch.columns,
        "notes": batch.notes,
        "read_with": batch.needs,
        "summary": [vars(line) for line in found],
        **(extra or {}),
    }
    return json.dumps(whole, ensure_ascii=False, indent=1)


def prompts_for(text: str, count: int) -> list[str]:
    """One prompt for all pictures, or one a line.

    Raises:
        InterplayError: there is none, or there are as many lines as fit neither.
    """
    given = [line.strip() for line in text.splitlines() if line.strip()]
    if len(given) == 1:
        return given * count
    if not given:
        raise InterplayError("There is no prompt to hold the pictures against; write one, or one a line.")
    if len(given) != count:
        raise InterplayError(
            f"There are {len(given)} lines of prompts for {count} pictures; write one prompt for all, or one a line."
        )
    return given
