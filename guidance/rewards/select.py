"""The best of a batch, by one score or a weighted mix of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import InterplayError


@dataclass(frozen=True)
class Choice:
    """order: indices, best first. totals: what they were ordered by; one score of weight 1 stays as it is."""

    order: tuple[int, ...]
    totals: tuple[float, ...]

    @property
    def best(self) -> int:
        """The index of the best."""
        return self.order[0]


def choose(scores: Sequence[Sequence[float]], weights: Sequence[float] = ()) -> Choice:
    """Order candidates by the weighted mix of scores, each a list with one figure for each candidate.

    Several scores are first brought to mean 0 and spread 1 over the candidates, since they come in units of their own;
    a negative weight prefers low figures. Ties keep the order. A score that is NaN for a candidate puts it last.

    Raises:
        InterplayError: no score, one without a figure, lists of different lengths, or another number of weights.
    """
    if not scores or not scores[0]:
        raise InterplayError("There is no score to choose by: connect at least one, with a figure for each picture.")
    if len({len(values) for values in scores}) > 1:
        counts = ", ".join(str(len(values)) for values in scores)
        raise InterplayError(f"The scores count {counts} pictures: connect scores of the same batch.")
    weights = list(weights) or [1.0] * len(scores)
    if len(weights) != len(scores):
        raise InterplayError(f"There are {len(scores)} scores and {len(weights)} weights: give one weight for each.")
    parts = [list(map(float, values)) for values in scores]
    for i, values in enumerate(parts, 1):
        if all(map(math.isnan, values)):
            raise InterplayError(
                f"The score {i} has no figure for any picture: switch it on in the node it comes from."
            )
    if len(parts) > 1:
        parts = [standardised(values) for values in parts]
    totals = [sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*parts, strict=True)]
    order = sorted(range(len(totals)), key=lambda i: (math.isnan(totals[i]), -totals[i], i))
    return Choice(tuple(order), tuple(totals))


def standardised(values: Sequence[float]) -> list[float]:
    """Mean 0 and spread 1; all 0 where all are alike; NaN stays."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return list(values)
    mean = math.fsum(known) / len(known)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / len(known))
    return [(v - mean) / spread if spread > 1e-12 * max(1.0, abs(mean)) else v * 0.0 for v in values]
