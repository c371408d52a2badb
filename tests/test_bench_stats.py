"""Intervals and tests, held against enumeration and published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from interplay.guidance.bench.stats import bootstrap_interval, mcnemar_exact, paired_difference, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(k, n, low, high):
    """Newcombe 1998, table I, method 3."""
    assert wilson(k, n) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (250, 1000)])
def test_wilsons_ends_are_where_the_score_test_rejects(k, n):
    low, high = wilson(k, n)
    for p in (low, high):
        if 0 < p < 1:
            assert (k / n - p) ** 2 == pytest.approx(1.959963984540054**2 * p * (1 - p) / n)
    assert low <= k / n <= high
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 6), (6, 0), (2, 7), (4, 4), (5, 6), (1, 10)])
def test_mcnemar_counts_the_splits_that_are_as_uneven(b, c):
    n = b + c
    splits = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    brute = sum(abs(k - n / 2) >= abs(b - n / 2) for k in splits) / len(splits)
    assert mcnemar_exact(b, c) == pytest.approx(brute)


def exact_quantiles(values, groups):
    """The bootstrap's own distribution, by drawing every possible sample of groups once."""
    members = [[v for v, g in zip(values, groups, strict=True) if g == group] for group in dict.fromkeys(groups)]
    means = [
        np.concatenate([members[i] for i in sample]).mean()
        for sample in itertools.product(range(len(members)), repeat=len(members))
    ]
    return np.quantile(np.tile(means, 1000), (0.025, 0.975))


def test_the_bootstrap_draws_whole_groups():
    values, groups = [1.0, 1.0, 1.0, 0.0, 0.0, 5.0], ["a", "a", "a", "b", "b", "c"]
    assert bootstrap_interval(values, groups=groups, draws=40_000) == pytest.approx(exact_quantiles(values, groups))
    alone = exact_quantiles(values, range(6))
    assert bootstrap_interval(values, draws=40_000) == pytest.approx(alone, abs=0.05)
    assert not np.allclose(alone, exact_quantiles(values, groups), atol=0.05)


def test_both_ways_of_drawing_agree():
    """Values that repeat are drawn by how often each comes up; a hair's breadth makes them all different."""
    rng = np.random.default_rng(5)
    repeated = rng.integers(0, 2, 400).astype(float)
    distinct = repeated + rng.normal(0, 1e-9, 400)
    assert bootstrap_interval(repeated) == pytest.approx(bootstrap_interval(distinct), abs=0.004)
    half = 1.96 * repeated.std() / math.sqrt(400)
    low, high = bootstrap_interval(repeated)
    assert (low, high) == pytest.approx((repeated.mean() - half, repeated.mean() + half), abs=0.006)


def test_pairing_takes_out_what_pictures_share():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, 50)
    ours = (shared + 1).tolist()
    assert paired_difference(ours, shared.tolist()) == pytest.approx((1, 1, 1))
    assert paired_difference(shared.tolist(), ours) == pytest.approx((-1, -1, -1))
    with pytest.raises(ValueError, match="paired"):
        paired_difference([1.0], [1.0, 2.0])
    assert all(map(math.isnan, paired_difference([], [])))


def test_the_seed_repeats_a_figure():
    values = np.random.default_rng(0).normal(size=300).tolist()
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
