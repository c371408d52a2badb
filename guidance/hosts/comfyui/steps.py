"""Which model call of a sampler is the one that evaluates its own latent at a step of the schedule.

Samplers of second and higher order call the model again, at predicted places; a move there would be lost. ComfyUI's
samplers report each step through their callback, so the steps are counted there and a call counts when its sigma is the
one of the step to come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

REPEATS = {  # calls at the next step's sigma that predict it, before the call that evaluates it
    "sample_heun": 1,
    "sample_heunpp2": 1,
    "sample_exp_heun_2_x0": 1,
    "sample_exp_heun_2_x0_sde": 1,
    "sample_dpm_2_ancestral": 1,  # the middle of a step with eta 1 is the next sigma
    "sample_dpmpp_2s_ancestral": 1,
    "sample_dpmpp_2s_ancestral_cfg_pp": 1,
}
STRIDES = {"dpm_fast_function": 3, "dpm_adaptive_function": 3}  # own sigmas; every third call evaluates the latent
CORRECTED = ("sample_sa_solver_pece",)  # the latent is known after the callback, when it is evaluated a second time
COPIES = ("sample_unipc", "sample_unipc_bh2")  # the model is given copies; only the callback holds the latent itself
REBUILDS = ("sample_sa_solver",)  # the latent comes from the history of pictures; moving it is never seen
CLOSE = 1e-4


def name_of(function: Callable[..., Any]) -> str:
    """The name of a sampler function, through ``functools.partial``."""
    return getattr(function, "__name__", "") or getattr(getattr(function, "func", None), "__name__", "")


@dataclass
class StepTracker:
    """Follows one run. sigmas: the schedule, ending at the last sigma; sampler: name of the sampler's function."""

    sigmas: Sequence[float]
    sampler: str = ""
    churn: float = 0.0
    done: int = 0  # steps reported by the callback
    calls: int = 0
    repeats: int | None = field(init=False)
    _met: int = 0  # calls at the coming step's sigma since the last report

    def __post_init__(self) -> None:
        self.repeats = REPEATS.get(self.sampler)

    @property
    def count(self) -> int:
        """Steps in all."""
        return max(1, len(self.sigmas) - 1)

    def reported(self) -> None:
        """The sampler has reported a step. What it did at this sigma tells what it does at the next."""
        if self.done > 0 and self._met > 0:
            self.repeats = self._met - 1
        self.done += 1
        self._met = 0

    def step(self, sigma: float) -> int | None:
        """The index of the step that a model call at ``sigma`` evaluates; None for the sampler's auxiliary calls."""
        self.calls += 1
        if self.sampler in STRIDES:
            return self._between(sigma) if (self.calls - 1) % STRIDES[self.sampler] == 0 else None
        if self.sampler in CORRECTED and self.done > 0:
            return self._corrected(sigma)
        if self.done >= self.count or not self._at(self.done, sigma):
            return None
        self._met += 1
        waited = self.done == 0 or self.repeats is None or self._met > self.repeats
        return self.done if waited else None

    def _corrected(self, sigma: float) -> int | None:
        return self.done - 1 if self.done > 1 and self._at(self.done - 1, sigma) else None

    def _between(self, sigma: float) -> int:
        return max(i for i in range(self.count) if i == 0 or sigma <= self.sigmas[i] * (1 + CLOSE))

    def _at(self, index: int, sigma: float) -> bool:
        here = self.sigmas[index]
        raised = here * (1 + min(self.churn / self.count, 2**0.5 - 1))
        return any(abs(sigma - s) <= CLOSE * max(s, 1e-12) for s in (here, raised))
