"""What guidance did in one run, for reports, metadata and people. Tensors stay on their device until a step ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

COUNTERS = ("preset", "guided_steps", "idle_steps", "iterations", "forwards", "retries", "nonfinite")


@dataclass
class StepRecord:
    """One step that was looked at.

    progress: share of the schedule; iterations: how many moved something; curve: term -> one row for each forward of
    the step, a row holding the progress p in [0, 1] of each image, measured before that iteration's move.
    """

    progress: float
    iterations: int = 0
    curve: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass
class GuideReport:
    """Sums over one run.

    guided_steps moved at least one image, idle_steps none (no pairs yet, or all on target); forwards counts the
    captures; retries: gradients taken again with half the loss scale; nonfinite: updates of an image that were left
    out; off_at: progress at which each image was left alone, None = never; moved: sum of each image's moves as shares
    of its |z|.
    """

    preset: str = ""
    guided_steps: int = 0
    idle_steps: int = 0
    iterations: int = 0
    forwards: int = 0
    retries: int = 0
    nonfinite: int = 0
    off_at: list[float | None] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; progress that is not a number becomes None."""
        steps = [
            {
                "progress": step.progress,
                "iterations": step.iterations,
                "curve": {
                    name: [[p if math.isfinite(p) else None for p in row] for row in rows]
                    for name, rows in step.curve.items()
                },
            }
            for step in self.steps
        ]
        plain = {name: getattr(self, name) for name in COUNTERS}
        return {**plain, "off_at": list(self.off_at), "moved": list(self.moved), "steps": steps}

    def summary(self) -> str:
        """One line for people."""
        if not self.guided_steps and not self.idle_steps:
            return f"{self.preset}: no step was guided."
        parts = [f"{self.guided_steps} guided steps, {self.iterations} iterations"]
        for name in dict.fromkeys(name for step in self.steps for name in step.curve):
            rows = [row for step in self.steps for row in step.curve.get(name, [])]
            parts.append(f"{name} {_mean(rows[0]):.2f} → {_mean(rows[-1]):.2f}")
        done = [p for p in self.off_at if p is not None]
        if done:
            parts.append(f"{len(done)} of {len(self.off_at)} images on target by {max(done):.0%} of the schedule")
        parts.append(f"moved {100 * _mean(self.moved):.1f} % of |z| in all")
        if self.nonfinite:
            parts.append(f"{self.nonfinite} updates left out because their gradient was not finite")
        return f"{self.preset}: {'; '.join(parts)}."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class StepNotes:
    """Collects one step's measurements as tensors; ``close`` brings them to the host in one go."""

    def __init__(self, progress: float, terms: Sequence[str]) -> None:
        self.record = StepRecord(progress)
        self._terms = tuple(terms)
        self._rows: list[Tensor] = []
        self._names: list[tuple[str, ...]] = []
        self._moved: list[Tensor] = []

    def measured(self, names: Sequence[str], reached: Tensor) -> None:
        """names: the terms that had pairs; reached: (B, K) progress of all terms."""
        self._names.append(tuple(names))
        self._rows.append(reached.detach())

    def moved(self, share: Tensor) -> None:
        """share: (B,) length of an iteration's move over |z|."""
        self._moved.append(share.detach())

    def close(self, report: GuideReport) -> None:
        """Write the step into the report."""
        if self._rows:
            for names, rows in zip(self._names, torch.stack(self._rows).transpose(1, 2).tolist(), strict=True):
                for name in names:
                    self.record.curve.setdefault(name, []).append(rows[self._terms.index(name)])
        if self._moved:
            moves = torch.stack(self._moved)
            self.record.iterations = int((moves != 0).any(1).sum())
            report.moved = [a + b for a, b in zip(report.moved, moves.sum(0).tolist(), strict=True)]
        report.steps.append(self.record)
        report.iterations += self.record.iterations
        if self.record.iterations:
            report.guided_steps += 1
        else:
            report.idle_steps += 1
