"""Stops a run whose model is running away: its errors are held against the frozen model's on the same batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TERMS = {"u": ("L_u", "without a caption"), "c": ("L_c", "under the right caption")}
LOST, STRAY = 1.3, 1.15
"""How many times the frozen model's L_u and L_c may be."""
DECAY = 0.8


@dataclass
class Tripwire:
    """Moving averages of L_u and L_c and of their values with the LoRA off; ``held`` is what a checkpoint keeps.

    stray: how many times the frozen model's L_c may be.
    """

    held: dict[str, Any]
    stray: float = STRAY

    @property
    def limits(self) -> dict[str, float]:
        """Of each term's ratio."""
        return {"u": LOST, "c": self.stray}

    def see(self, values: Mapping[str, float]) -> str:
        """Take in a batch's means c, c_ref, u, u_ref; returns which term ran away and how far, or ""."""
        for key in ("c", "c_ref", "u", "u_ref"):
            if key not in values:
                continue
            if not math.isfinite(values[key]):
                return f"the error {TERMS[key[0]][1]} ({TERMS[key[0]][0]}) is not finite"
            before = self.held.get(key, values[key])
            self.held[key] = DECAY * before + (1 - DECAY) * values[key]
        for key, (name, where) in TERMS.items():
            ratio, limit = self.ratio(key), self.limits[key]
            if ratio > limit:
                return f"the error {where} ({name}) is {ratio:.2f} times the frozen model's, and {limit:g} is the limit"
        return ""

    def ratio(self, key: str) -> float:
        """How many times the frozen model's error it is."""
        if key not in self.held or f"{key}_ref" not in self.held:
            return 1.0
        return float(self.held[key] / max(self.held[f"{key}_ref"], 1e-12))

    @property
    def healthy(self) -> bool:
        """Whether a checkpoint of this moment is one to go back to: less than half the way to either limit."""
        return all(self.ratio(key) - 1 < (limit - 1) / 2 for key, limit in self.limits.items())
