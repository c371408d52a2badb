"""Iterative loss selection: which terms act in a gradient iteration (SHYI, section 2.1)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

SCHEDULES = ("cycle", "weighted cycle", "phase", "worst first", "random", "sum", "combined")
"""``combined`` is no selection: every term acts in every iteration, put together at the maps (``update.combine``)."""

RANDOM_LENGTH = 997  # draws before the random sequence repeats
PHASE_SWITCH = 0.5  # progress of C under which A and L get their turns


class Selector:
    """Weights of the terms for each image, one gradient iteration after the other.

    Every image has its own place in the cycle, and all images follow the same sequence, so a batch does what its images
    would do one by one. A term without pairs (or one that the caller masks) is passed over without using up its turn.
    """

    def __init__(self, schedule: str, terms: Sequence[str], cycle: Sequence[str] | None = None, seed: int = 0) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}")
        self.schedule, self.terms = schedule, tuple(terms)
        self._sequence = [self.terms.index(name) for name in self._names(schedule, cycle, seed)]
        self._place: Tensor | None = None  # (B,) place in the sequence

    def _names(self, schedule: str, cycle: Sequence[str] | None, seed: int) -> list[str]:
        weighted = [name for name in (cycle or self.terms) if name in self.terms] or list(self.terms)
        if schedule == "weighted cycle":
            return weighted
        if schedule == "random":
            draw = random.Random(seed)
            return [draw.choice(weighted) for _ in range(RANDOM_LENGTH)]
        if schedule == "phase":
            return [name for name in self.terms if name != "C"] or list(self.terms)
        return list(self.terms)

    def choose(self, available: Tensor, progress: Tensor, moving: Tensor) -> Tensor:
        """(B, K) weights of zeros and ones.

        available: (B, K) bool, which terms have pairs; progress: (B, K) in [0, 1]; moving: (B,) bool, which images take
        part (the place of the others stays). A row without an available term is all zero.
        """
        live = available & moving[:, None]
        if self.schedule in ("sum", "combined"):
            return live.to(progress.dtype)
        if self.schedule == "worst first":
            ranked = torch.where(live, progress, torch.full_like(progress, -1.0))
            return self._one_hot(ranked.argmax(1), live)
        if self.schedule == "phase" and "C" in self.terms:
            c = self.terms.index("C")
            rest = live.clone()
            rest[:, c] = False
            contrast_turn = live[:, c] & ((progress[:, c] > PHASE_SWITCH) | ~rest.any(1))
            chosen = self._from_sequence(rest & ~contrast_turn[:, None])
            only_c = self._one_hot(torch.full((len(live),), c, device=live.device), live)
            return torch.where(contrast_turn[:, None], only_c, chosen)
        return self._from_sequence(live)

    def _from_sequence(self, live: Tensor) -> Tensor:
        batch = live.shape[0]
        if self._place is None or self._place.shape[0] != batch:
            self._place = torch.zeros(batch, dtype=torch.long, device=live.device)
        size = len(self._sequence)
        sequence = torch.tensor(self._sequence, device=live.device)
        places = (self._place[:, None] + torch.arange(size, device=live.device)) % size  # (B, size), from here on
        offered = sequence[places]
        usable = live.gather(1, offered)
        first = usable.to(torch.uint8).argmax(1, keepdim=True)
        self._place = torch.where(usable.any(1), (places.gather(1, first)[:, 0] + 1) % size, self._place)
        return self._one_hot(offered.gather(1, first)[:, 0], live)

    @staticmethod
    def _one_hot(term: Tensor, live: Tensor) -> Tensor:
        weights = torch.nn.functional.one_hot(term, live.shape[1]).to(torch.float32)
        return weights * live.any(1, keepdim=True)
