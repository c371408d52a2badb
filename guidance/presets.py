"""Settings of the guidance, checked at the door, and the named presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import InterplayError
from .interaction.layout import from_text
from .losses import TERMS
from .selection import SCHEDULES

STEP_RULES = ("relative", "gradient")
LINK_MODES = ("hinge", "literal", "paper")


@dataclass(frozen=True)
class GuidanceConfig:
    """All that a guided run needs to know, in shares of the sampling schedule, so that any step count works.

    Maps and losses
        terms: of ``losses.TERMS``; temperature_contrast (C, A), temperature_link (L in its InfoNCE modes): > 0;
        kernel_narrow, kernel_wide: (cells, sigma) on a 16x16 map, scaled with the map; literal_blur: CONFORM's released
        kernel exp(-(x/2s)^2), never scaled; keep_ground: False looks only at what rises above each map's mean;
        link_mode, link_margin: see ``losses.link``; environment_weight: [0, 1], share of environments in C;
        role_margin, role_sideways: see ``losses.roles``; presence: what is missing, see ``losses.presence``;
        use_previous: maps of step t+1 join their groups;
        layout: boxes for term B, a line an interaction as ``interaction.layout.from_text`` reads it; "" = none.
    Selection
        selection: of ``selection.SCHEDULES``; cycle: turns of "weighted cycle" and odds of "random"; weights: factor of
        each term in "sum" and "combined", 1 where not named; skip_met: a term under its target gives up its turns.
    Update
        strength: 0 (off) to 10, a factor of the step; step_rule "relative": each iteration moves every image by
        ``step`` of its |z|; "gradient": by ``step`` times the gradient, as in the papers. Both decay with
        sqrt(1 - progress/2). reference_steps: the step count that ``step`` is meant for (other counts keep the total
        displacement), None = never scaled; norm_cap: most that one iteration may move an image, as a share of |z|, or
        None; restore_std: put each channel's standard deviation back.
    When
        start, end: guided while start <= progress < end; windows: (term, start, end), for terms that act in a part of
        that only; refine_at, refine_iterations: at these progresses, so many
        more iterations; targets: (term, progress under which it counts as reached); wake: (term, progress over which it
        begins to move an image; from then on until its target), 0 where not named; early_stop: end a refinement when
        all terms are reached or stand still; off_switch: an image whose terms are all reached, or never woke, is left
        alone from there.
    loss_scale: power of two that keeps half-precision gradients from vanishing.
    """

    preset: str = "SHY"
    strength: float = 1.0
    terms: tuple[str, ...] = ("C", "R")
    selection: str = "combined"
    cycle: tuple[str, ...] = ("C", "A", "C", "L")
    weights: tuple[tuple[str, float], ...] = (("R", 2.0),)
    skip_met: bool = False
    temperature_contrast: float = 0.5
    temperature_link: float = 0.5
    kernel_narrow: tuple[int, float] = (3, 0.5)
    kernel_wide: tuple[int, float] = (7, 1.75)
    literal_blur: bool = False
    keep_ground: bool = True
    link_mode: str = "hinge"
    link_margin: float = 0.35
    environment_weight: float = 0.5
    role_margin: float = 0.4
    role_sideways: bool = True
    use_previous: bool = True
    layout: str = ""
    step_rule: str = "relative"
    step: float = 0.06
    reference_steps: int | None = 25
    norm_cap: float | None = 0.06
    restore_std: bool = True
    start: float = 0.08
    end: float = 0.5
    windows: tuple[tuple[str, float, float], ...] = (("R", 0.0, 0.4),)
    refine_at: tuple[float, ...] = (0.08,)
    refine_iterations: tuple[int, ...] = (3,)
    early_stop: bool = True
    off_switch: bool = True
    targets: tuple[tuple[str, float], ...] = (("C", 0.4), ("A", 0.8), ("L", 1.0), ("R", 0.2))
    wake: tuple[tuple[str, float], ...] = (("C", 0.75), ("R", 0.6))
    loss_scale: float = 4096.0
    presence: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_names()
        if not 0.0 <= self.start < self.end <= 1.0:
            raise InterplayError(
                f"Guidance cannot run from {self.start} to {self.end} of the schedule; "
                "choose a start and a greater end between 0 and 1."
            )
        for name, start, end in self.windows:
            if not 0.0 <= start < end <= 1.0:
                raise InterplayError(
                    f"The term {name} cannot act from {start} to {end} of the schedule; "
                    "choose a start and a greater end between 0 and 1."
                )
        if len(self.refine_at) != len(self.refine_iterations) or any(n < 0 for n in self.refine_iterations):
            raise InterplayError(
                f"refine_at has {len(self.refine_at)} places and refine_iterations {self.refine_iterations}; "
                "give one count of 0 or more for each place."
            )

    def _check_numbers(self) -> None:
        most = math.inf
        limits = {
            "strength": (0.0, 10.0),
            "step": (0.0, most),
            "temperature_contrast": (0.01, most),
            "temperature_link": (0.01, most),
            "environment_weight": (0.0, 1.0),
            "link_margin": (0.01, 1.0),
            "role_margin": (0.01, 1.0),
            "loss_scale": (1.0, 2.0**24),
            "norm_cap": (1e-6, most),
            "reference_steps": (1, most),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is None and name in ("norm_cap", "reference_steps"):
                continue
            if not (math.isfinite(value) and low <= value <= high):
                bound = f"from {low:g} to {high:g}" if high < most else f"of at least {low:g}"
                raise InterplayError(f"The guidance setting {name} is {value}; give a number {bound}.")
        for name in ("kernel_narrow", "kernel_wide"):
            cells, sigma = getattr(self, name)
            if cells < 1 or cells % 2 == 0 or not sigma > 0:
                raise InterplayError(f"{name} is {(cells, sigma)}; give an odd number of cells and a positive sigma.")

    def _check_names(self) -> None:
        for name, value, known in (
            ("selection", self.selection, SCHEDULES),
            ("step_rule", self.step_rule, STEP_RULES),
            ("link_mode", self.link_mode, LINK_MODES),
        ):
            if value not in known:
                raise InterplayError(f"There is no {name} called '{value}'; choose one of {', '.join(known)}.")
        if not self.terms or len(set(self.terms)) != len(self.terms):
            raise InterplayError(f"The terms {self.terms} must be one or more different ones of {', '.join(TERMS)}.")
        settings = (self.weights, self.targets, self.wake, self.windows)
        for name in (*self.terms, *self.cycle, *(entry[0] for entries in settings for entry in entries)):
            if name not in TERMS:
                raise InterplayError(f"There is no loss term called '{name}'; choose of {', '.join(TERMS)}.")
        if self.selection in ("weighted cycle", "random") and not set(self.cycle) & set(self.terms):
            raise InterplayError(f"The cycle {self.cycle} has none of the terms {self.terms}; name one of them.")
        if self.layout:
            from_text(self.layout)

    def window(self, term: str) -> tuple[float, float]:
        """Start and end of a term, in shares of the schedule."""
        limits = {name: (start, end) for name, start, end in self.windows}
        start, end = limits.get(term, (0.0, 1.0))
        return max(start, self.start), min(end, self.end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for picture metadata and reports; ``presence`` and ``layout`` only where there is something."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value or name not in ("presence", "layout")}


_SHY = GuidanceConfig()
_PAPER = GuidanceConfig(
    preset="SHY (paper)",
    terms=("C", "A", "L"),
    selection="cycle",
    weights=(),
    skip_met=False,
    environment_weight=1.0,
    link_mode="paper",
    step_rule="gradient",
    step=20.0,
    reference_steps=50,
    norm_cap=None,
    restore_std=False,
    start=0.0,
    end=0.5,
    windows=(),
    refine_at=(0.0, 0.2, 0.4),
    refine_iterations=(20, 20, 20),
    early_stop=False,
    off_switch=False,
    targets=(),
    wake=(),
    loss_scale=1.0,
)

PRESETS: dict[str, GuidanceConfig] = {
    "SHY": _SHY,
    "SHY (combined)": dataclasses.replace(_SHY, preset="SHY (combined)", terms=("C", "A", "L"), weights=(), windows=()),
    "SHY (paper)": _PAPER,
    "CONFORM": dataclasses.replace(
        _SHY, preset="CONFORM", terms=("C",), cycle=("C",), weights=(), windows=(), environment_weight=1.0
    ),
    "CONFORM (paper)": dataclasses.replace(
        _PAPER, preset="CONFORM (paper)", terms=("C",), cycle=("C",), literal_blur=True, reference_steps=None
    ),
}
"""Named settings. Those marked "(paper)" follow the publications; the others are gentle and switch themselves off."""


def preset(name: str, **changes: Any) -> GuidanceConfig:
    """The preset ``name`` with some settings changed; InterplayError for an unknown name or setting."""
    if name not in PRESETS:
        raise InterplayError(f"There is no guidance preset called '{name}'; choose one of {', '.join(PRESETS)}.")
    unknown = set(changes) - {field.name for field in dataclasses.fields(GuidanceConfig)}
    if unknown:
        raise InterplayError(
            f"There is no guidance setting called '{sorted(unknown)[0]}'; see GuidanceConfig for names."
        )
    return dataclasses.replace(PRESETS[name], **changes)


def with_layout(config: GuidanceConfig, layout: str, weight: float = 1.0, target: float = 0.15) -> GuidanceConfig:
    """``config`` with term B as well: words in their boxes, actions between them, for any model and without fusers.

    layout: as ``interaction.layout.Layout.text`` gives it; weight: beside the other terms; target: share under which
    an image is left alone.
    """
    return dataclasses.replace(
        config,
        layout=layout,
        terms=(*(name for name in config.terms if name != "B"), "B"),
        weights=(*(entry for entry in config.weights if entry[0] != "B"), ("B", weight)),
        targets=(*(entry for entry in config.targets if entry[0] != "B"), ("B", target)) if config.targets else (),
    )


def layout_only(**changes: Any) -> GuidanceConfig:
    """Term B alone, with some settings changed; ``with_layout`` gives it its boxes."""
    alone: dict[str, Any] = {"terms": ("B",), "cycle": ("B",), "weights": (), "windows": (), "wake": ()}
    return preset("SHY", **{**alone, "targets": (("B", 0.15),), **changes})
