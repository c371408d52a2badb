"""Guidance that asks for what a picture lacks: the term P of ``losses`` for the next drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..presets import PRESETS, GuidanceConfig

TARGET = 0.1  # a thing counts as there when its peak is within a tenth of the others'


def presence_guidance(
    missing: Sequence[Sequence[str]], base: GuidanceConfig | None = None, strength: float = 1.0
) -> GuidanceConfig | None:
    """Settings that look after ``missing`` things, given for each image of the batch; None when nothing is missing.

    base: guidance that acts already; the term joins it with its own settings, and ``strength`` weighs the term. Alone
    it acts in the first 40 % of the schedule, where things get their places, and ``strength`` scales the steps.
    """
    names = tuple(tuple(image) for image in missing)
    if not any(names):
        return None
    if base is not None and base.strength > 0:
        others = base.terms if "P" not in base.terms else tuple(t for t in base.terms if t != "P")
        targets = (*base.targets, ("P", TARGET)) if base.targets else ()
        weights = (*base.weights, ("P", strength))
        return replace(base, terms=(*others, "P"), presence=names, targets=targets, weights=weights)
    return replace(
        PRESETS["SHY"],
        preset="presence",
        strength=strength,
        terms=("P",),
        weights=(),
        presence=names,
        use_previous=False,
        start=0.0,
        end=0.4,
        windows=(),
        refine_at=(0.0, 0.1),
        refine_iterations=(4, 4),
        targets=(("P", TARGET),),
        wake=(),
    )
