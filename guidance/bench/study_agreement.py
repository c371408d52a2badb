"""How far raters agree beyond chance, in exact arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    units: the values that each unit was given, by however many raters; units of fewer than two do not count.
    1 is full agreement, 0 what chance gives, below 0 systematic disagreement. None where it is not defined: nothing to
    pair, or one value throughout.
    """
    counts = [Counter(unit) for unit in units if len(unit) >= 2]
    total: Counter[Hashable] = Counter()
    for unit in counts:
        total.update(unit)
    n = sum(total.values())
    expected = n * n - sum(k * k for k in total.values())  # ordered pairs of unlike values, all units thrown together
    if expected == 0:
        return None
    observed = sum(
        (Fraction(m * m - sum(k * k for k in unit.values()), m - 1) for unit in counts for m in [sum(unit.values())]),
        Fraction(0),
    )
    return float(1 - (n - 1) * observed / expected)


def fleiss_kappa(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa (Fleiss 1971). units: the values each unit was given.

    None where it is not defined: units of different numbers of raters, fewer than two, or one value throughout.
    """
    sizes = {len(unit) for unit in units}
    if len(sizes) != 1 or (raters := sizes.pop()) < 2:
        return None
    counts = [Counter(unit) for unit in units]
    alike = sum(Fraction(sum(k * k for k in unit.values()) - raters, raters * (raters - 1)) for unit in counts)
    observed = Fraction(alike, len(units))
    total: Counter[Hashable] = Counter()
    for unit in counts:
        total.update(unit)
    chance = sum((Fraction(k, raters * len(units)) ** 2 for k in total.values()), Fraction(0))
    return None if chance == 1 else float((observed - chance) / (1 - chance))
