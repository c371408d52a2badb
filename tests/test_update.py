"""Step sizes, caps, standard deviation, and the combined map gradient."""

from __future__ import annotations

import math

import pytest
import torch
from interplay.guidance.update import combine, decay, displacement, norms, restore_std, step_factor


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_step_sizes_of_the_papers():
    assert [round(20 * decay(i / 50), 2) for i in (0, 10, 20)] == [20.0, 18.97, 17.89]
    assert 20 * decay(1.0) == pytest.approx(14.14, abs=0.01)


def test_other_step_counts_keep_the_total_displacement():
    def total(steps: int) -> float:
        return sum(step_factor(50, steps) * decay(i / steps) for i in range(steps // 2))

    assert total(20) == pytest.approx(total(50), rel=0.02) == pytest.approx(total(100), rel=0.02)
    assert step_factor(None, 10) == step_factor(50, None) == 1.0
    assert step_factor(50, 2) == 4.0 and step_factor(50, 1000) == 0.25


def test_gradient_rule_and_cap_per_image():
    z, g = _random(2, 4, 6, 5), _random(2, 4, 6, 5, seed=1)
    g[1] *= 1e-3
    assert torch.allclose(displacement(z, g, 20.0, "gradient"), -20 * g)
    capped = displacement(z, g, 20.0, "gradient", cap=0.05)
    shares = (norms(capped) / norms(z)).flatten().tolist()
    assert shares[0] == pytest.approx(0.05)
    assert torch.allclose(capped[1], -20 * g[1]) and shares[1] < 0.05
    cosine = torch.nn.functional.cosine_similarity(capped[0].flatten(), -g[0].flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0)


def test_relative_rule_moves_each_image_by_a_share_of_itself():
    z, g = _random(3, 4, 6, 5), _random(3, 4, 6, 5, seed=1)
    g[1] *= 1e-9
    g[2] = 0
    shares = (norms(displacement(z, g, 0.015, "relative")) / norms(z)).flatten().tolist()
    assert shares == pytest.approx([0.015, 0.015, 0.0])
    for size, share in ((0.5, 0.04), (0.05, 0.04), (0.03, 0.03)):
        delta = displacement(z, g, size, "relative", cap=0.04)
        assert (norms(delta) / norms(z)).max().item() == pytest.approx(share)


def test_restored_deviation_and_kept_mean():
    before, moved = _random(2, 4, 6, 5), 3 * _random(2, 4, 6, 5, seed=1) + 1
    after = restore_std(moved, before)
    deviation = {"dim": (-2, -1), "unbiased": False}
    assert torch.allclose(after.std(**deviation), before.std(**deviation))
    assert torch.allclose(after.mean((-2, -1)), moved.mean((-2, -1)))
    flat = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(restore_std(flat, _random(1, 1, 4, 4)), flat)


def test_combined_gradients_do_not_oppose_contrast():
    c, a, link = _random(2, 3, 4, 4), _random(2, 3, 4, 4, seed=1), _random(2, 3, 4, 4, seed=2)
    a[0] = -c[0] + 0.1 * a[0]  # opposes C in the first image
    a[1] = c[1] + 0.1 * a[1]  # agrees with it in the second
    ones = {name: torch.ones(2) for name in "CAL"}
    only = {"C": ones["C"], "A": ones["A"]}
    both = combine({"C": c, "A": 100 * a}, only)
    for image in range(2):
        lead, other, got = c[image], 100 * a[image], both[image]
        mean = (lead.norm() + other.norm()) / 2
        lead, other = lead * mean / lead.norm(), other * mean / other.norm()
        dot = (other * lead).sum()
        other = other - lead * dot / lead.pow(2).sum() if dot < 0 else other
        assert torch.allclose(got, lead + other)
        assert (got * c[image]).sum() > 0
    together = combine({"C": c, "A": a, "L": link}, ones)
    alone = combine({n: t[1:] for n, t in (("C", c), ("A", a), ("L", link))}, {n: torch.ones(1) for n in "CAL"})
    assert torch.allclose(together[1:], alone)


def test_combined_gradients_with_missing_parts():
    a, zero = _random(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    assert torch.allclose(combine({"C": zero, "A": a}, {"C": torch.ones(1), "A": torch.ones(1)}), a)
    assert combine({"C": zero}, {"C": torch.ones(1)}).abs().max() == 0
    assert combine({"C": a, "A": a}, {"C": torch.zeros(1), "A": torch.zeros(1)}).abs().max() == 0
    assert math.isfinite(combine({"A": a * 1e-300}, {"A": torch.ones(1)}).sum().item())
