"""Intervals and tests for shares and paired differences; numpy only."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
DRAWS = 10_000


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``k`` in ``n`` (Wilson 1927); (0, 1) when there is nothing to go by."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = k / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return 0.0 if k == 0 else low, 1.0 if k == n else high  # exactly, whatever rounding says


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p of McNemar's test: ``b`` pairs went one way, ``c`` the other; ties do not count."""
    n, least = b + c, min(b, c)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**n)


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None, draws: int = DRAWS
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the mean.

    groups: what each value belongs to (its prompt): whole groups are drawn, since the values of one are not
    independent. Without it every value stands for itself. seed: of the draws, so that the figure can be repeated.
    (nan, nan) without values.
    """
    array = np.asarray(values, float)
    if array.size == 0:
        return math.nan, math.nan
    index = _numbers(groups, array.size)
    pairs = np.stack([np.bincount(index, array), np.bincount(index)], 1)  # sum and count of every group
    kinds, times = np.unique(pairs, axis=0, return_counts=True)
    rng, size, means = np.random.default_rng(seed), len(pairs), []
    for start in range(0, draws, 500):
        some = min(500, draws - start)
        if len(kinds) < 100:  # equal groups are drawn together: how often each kind comes up is multinomial
            sums = rng.multinomial(size, times / size, some) @ kinds
        else:
            sums = pairs[rng.integers(0, size, (some, size))].sum(1)
        means.append(sums[:, 0] / sums[:, 1])
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def paired_difference(
    a: Sequence[float], b: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """Mean of ``a - b``, pair by pair, with its bootstrap 95 % interval over ``groups``; nan without pairs.

    Raises:
        ValueError: they are not of one length.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    if not len(a):
        return math.nan, math.nan, math.nan
    differences = np.asarray(a, float) - np.asarray(b, float)
    return float(differences.mean()), *bootstrap_interval(differences.tolist(), seed, groups)


def _numbers(groups: Sequence[Hashable] | None, size: int) -> list[int]:
    """Groups as numbers in order of appearance."""
    if groups is None:
        return list(range(size))
    known: dict[Hashable, int] = {}
    return [known.setdefault(group, len(known)) for group in groups]
