"""How DiffusionITM draws noise and counts errors: the settings, their presets, and what a noise level is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import InterplayError

METRICS = ("norm", "mse", "nats")
SPACES = ("native", "eps")
NOISES = ("shared", "antithetic")
NORMALISE = ("auto", "on", "off")
LAST = 999.0  # the last of a thousand timesteps


@dataclass(frozen=True)
class Level:
    """A noise level: noised = signal * clean + noise * eps. timestep: 0 to 999. native: what turns an error of the
    clean picture into one of what the model was trained to predict.
    """

    timestep: float
    signal: float
    noise: float
    native: float

    @property
    def log_snr(self) -> float:
        """log(signal^2 / noise^2)."""
        return 2.0 * math.log(self.signal / self.noise)

    def scale(self, space: str) -> float:
        """What turns an error of the clean picture into one in ``space`` ("eps" or "native")."""
        return self.native if space == "native" else self.signal / self.noise


def eps_level(timestep: float, signal: float, noise: float) -> Level:
    """A level of a model that predicts the noise."""
    return Level(timestep, signal, noise, signal / noise)


def v_level(timestep: float, signal: float, noise: float) -> Level:
    """A level of a model that predicts v = alpha eps - sigma clean, with alpha^2 + sigma^2 = 1 after scaling."""
    return Level(timestep, signal, noise, math.hypot(signal, noise) / noise)


def flow_level(timestep: float, noise: float) -> Level:
    """A level of rectified flow, noised = (1 - noise) clean + noise eps, whose model predicts eps - clean."""
    return Level(timestep, 1.0 - noise, noise, 1.0 / noise)


@dataclass(frozen=True)
class ItmSettings:
    """levels: noise levels, evenly spaced from ``low`` to ``high`` of the timesteps (0 clean, 1 pure noise), or just
    those ``steps`` (0 to 999) that are given. repeats: noises at each. noise: "shared" by all pictures and texts, or
    "antithetic", each with its mirror image (twice the cost). metric: "norm" of the error as the paper takes it, "mse",
    or "nats", whose score estimates log p(picture | text) - log p(picture). space: errors of what the model predicts
    ("native") or of the noise ("eps"). normalise: subtract the empty text's error; "auto" where pictures vary. prune:
    drop the worse half on the way. stop: end once the decision is ahead by this many standard errors; 0 never. batch:
    pictures at a time. heat: also map where the text helps.

    Raises:
        InterplayError: a value out of range.
    """

    levels: int = 10
    low: float = 0.5
    high: float = 0.98
    steps: tuple[float, ...] = ()
    repeats: int = 1
    metric: str = "norm"
    space: str = "native"
    noise: str = "antithetic"
    normalise: str = "auto"
    prune: bool = True
    stop: float = 4.0
    seed: int = 0
    batch: int = 16
    heat: bool = True

    def __post_init__(self) -> None:
        words = (("metric", METRICS), ("space", SPACES), ("noise", NOISES), ("normalise", NORMALISE))
        for name, options in words:
            if getattr(self, name) not in options:
                raise InterplayError(f"{name} is one of {', '.join(options)}, not '{getattr(self, name)}'.")
        for name in ("levels", "repeats", "batch"):
            if getattr(self, name) < 1:
                raise InterplayError(f"{name} is {getattr(self, name)}; give a whole number from 1.")
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise InterplayError(f"The noise range is {self.low:g} to {self.high:g}; give 0 <= low <= high <= 1.")
        if any(not 0.0 <= step <= LAST for step in self.steps):
            raise InterplayError("A timestep lies outside 0 to 999; correct the list.")
        if self.metric == "nats" and (self.prune or self.stop):
            raise InterplayError("The metric 'nats' integrates over all levels: set prune to off and stop to 0.")

    def timesteps(self) -> tuple[float, ...]:
        """Where on the noise axis to look, 0 to 999."""
        if self.steps:
            return self.steps
        if self.levels == 1:
            return (LAST * (self.low + self.high) / 2,)
        step = (self.high - self.low) / (self.levels - 1)
        return tuple(LAST * (self.low + i * step) for i in range(self.levels))

    def normalised(self, pictures: int, texts: int, has_empty: bool) -> bool:
        """Whether the empty text's error is subtracted. InterplayError when it must be and there is none."""
        needed = self.normalise == "on" or self.metric == "nats"
        if needed and not has_empty:
            raise InterplayError("Normalising needs the empty prompt: give its conditioning or set normalise to off.")
        return needed or (self.normalise == "auto" and has_empty and (pictures > 1 or texts == 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def paper_steps(samples: int = 10) -> tuple[float, ...]:
    """The timesteps of the released code: 10, 110, ..., 910 for 10 samples; 245 of them for 250."""
    return tuple(float(t) for t in range(10, 990, 1000 // samples))


_PAPER = ItmSettings(steps=paper_steps(10), space="eps", noise="shared", prune=False, stop=0.0)
PRESETS = {
    "fast": ItmSettings(),
    "paper": _PAPER,
    "paper (250)": replace(_PAPER, steps=paper_steps(250)),
    "nats": ItmSettings(levels=50, low=0.005, high=0.995, metric="nats", space="eps", prune=False, stop=0.0),
}


def itm_preset(name: str, **changes: Any) -> ItmSettings:
    """A preset with some settings changed. InterplayError when there is none of that name."""
    if name not in PRESETS:
        raise InterplayError(f"There is no preset '{name}'; choose one of {', '.join(PRESETS)}.")
    return replace(PRESETS[name], **changes)
