"""The sequences that the schedules give, term by term."""

from __future__ import annotations

import collections

import pytest
import torch
from interplay.guidance.selection import Selector

TERMS = ("C", "A", "L")


def _run(selector: Selector, count: int, has=TERMS, progress=(1.0, 1.0, 1.0)) -> str:
    """Letters of the terms chosen for one image."""
    out = []
    for i in range(count):
        names = has(i) if callable(has) else has
        p = progress(i) if callable(progress) else progress
        available = torch.tensor([[name in names for name in TERMS]])
        weights = selector.choose(available, torch.tensor([p]), torch.tensor([True]))
        out.append("".join(name for name, w in zip(TERMS, weights[0].tolist(), strict=True) if w) or "-")
    return " ".join(out)


def test_cycle():
    assert _run(Selector("cycle", TERMS), 7) == "C A L C A L C"


def test_weighted_cycle_gives_link_a_quarter():
    turns = _run(Selector("weighted cycle", TERMS, ("C", "A", "C", "L")), 20).split()
    assert turns[:8] == ["C", "A", "C", "L"] * 2
    assert collections.Counter(turns) == {"C": 10, "A": 5, "L": 5}


def test_a_term_without_pairs_does_not_use_up_its_turn():
    """C lacks pairs for the first two iterations, as with one-word groups at the first step."""
    selector = Selector("weighted cycle", TERMS, ("C", "A", "C", "L"))
    assert _run(selector, 7, has=lambda i: ("A", "L") if i < 2 else TERMS) == "A L C A C L C"
    assert _run(Selector("cycle", TERMS), 4, has=("C", "L")) == "C L C L"
    assert _run(Selector("cycle", TERMS), 3, has=lambda i: () if i < 2 else TERMS) == "- - C"


def test_phase_first_contrast_then_the_others_in_turn():
    selector = Selector("phase", TERMS)
    falling = [0.9, 0.6, 0.5, 0.4, 0.4, 0.7, 0.3]
    assert _run(selector, 7, progress=lambda i: (falling[i], 1.0, 1.0)) == "C C A L A C L"
    assert _run(Selector("phase", TERMS), 2, has=("C",), progress=(0.1, 0, 0)) == "C C"
    assert _run(Selector("phase", TERMS), 3, has=("A", "L")) == "A L A"


def test_worst_first():
    worst = [(0.9, 0.1, 0.2), (0.3, 0.8, 0.2), (0.3, 0.2, 0.9), (0.0, 0.0, 0.0)]
    assert _run(Selector("worst first", TERMS), 4, progress=lambda i: worst[i]) == "C A L C"
    assert _run(Selector("worst first", TERMS), 1, has=("A", "L"), progress=(0.9, 0.0, 0.0)) == "A"
    assert _run(Selector("worst first", TERMS), 1, has=()) == "-"


def test_random_follows_the_seed_and_the_odds():
    def turns(seed: int, count: int) -> list[str]:
        return _run(Selector("random", TERMS, ("C", "A", "C", "L"), seed), count).split()

    assert turns(3, 50) == turns(3, 50) != turns(4, 50)
    count = collections.Counter(turns(1, 997))
    assert count["C"] == pytest.approx(498, abs=60) and count["L"] == pytest.approx(249, abs=60)


@pytest.mark.parametrize("schedule", ["sum", "combined"])
def test_all_terms_at_once(schedule):
    assert _run(Selector(schedule, TERMS), 2) == "CAL CAL"
    assert _run(Selector(schedule, TERMS), 1, has=("A",)) == "A"


def test_an_image_that_rests_keeps_its_place():
    """Two images, the second resting in iterations 1 and 2: each follows its own cycle."""
    selector, out = Selector("cycle", TERMS), []
    for i in range(5):
        moving = torch.tensor([True, i not in (1, 2)])
        weights = selector.choose(torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3), moving)
        out.append(["".join(n for n, w in zip(TERMS, row, strict=True) if w) for row in weights.tolist()])
    assert [row[0] for row in out] == ["C", "A", "L", "C", "A"]
    assert [row[1] for row in out] == ["C", "", "", "A", "L"]


def test_terms_left_out_of_the_settings_leave_the_cycle():
    selector = Selector("weighted cycle", ("C", "L"), ("C", "A", "C", "L"))
    ones = torch.ones(1, 2, dtype=torch.bool)
    picks = [int(selector.choose(ones, torch.ones(1, 2), torch.tensor([True])).argmax()) for _ in range(6)]
    assert picks == [0, 0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="unknown schedule"):
        Selector("cicle", TERMS)
