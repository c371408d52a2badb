"""Maps in words."""

from __future__ import annotations

import pytest
import torch
from guidance_cases import CAT_AND_DOG, DOG_AND_CAT, PIGEON, random_maps
from interplay.guidance.report import faint_actions, overlap, overlap_lines, summary


def _blobs(**places: tuple[int, int]) -> torch.Tensor:
    """16x16 maps of DOG_AND_CAT on an even ground, a 4x4 patch of .2 for each word at (row, column)."""
    maps = torch.full((1, 6, 16, 16), 0.02)
    for index, word in enumerate(DOG_AND_CAT.words):
        row, column = places[word.text]
        maps[0, index, row : row + 4, column : column + 4] = 0.2
    return maps


PLACES = {"white": (2, 2), "dog": (2, 2), "ginger": (2, 8), "cat": (2, 8), "forest": (11, 11)}


def test_overlap_is_one_for_the_same_place_and_zero_for_another_whatever_the_ground():
    maps = _blobs(plays=(2, 2), **PLACES)[0]
    assert overlap(maps[1], maps[2]).item() == pytest.approx(1.0)
    assert overlap(maps[1], maps[4]).item() == pytest.approx(0.0)
    assert overlap(3 * maps[1] + 0.5, maps[2]).item() == pytest.approx(1.0, abs=1e-5)
    shifted = overlap(maps[1], torch.roll(maps[1], 2, dims=-1)).item()
    assert shifted == pytest.approx(0.5, abs=1e-5)


def test_lines_name_the_parties_first_and_tell_where_the_action_lies():
    on_dog = overlap_lines(_blobs(plays=(2, 2), **PLACES), DOG_AND_CAT)
    assert on_dog == ["'plays' overlaps dog 1.00, cat .00, forest .00"]
    between = overlap_lines(_blobs(plays=(2, 5), **PLACES), DOG_AND_CAT)[0]
    values = dict(part.rsplit(" ", 1) for part in between.removeprefix("'plays' overlaps ").split(", "))
    assert list(values) == ["dog", "cat", "forest"]
    assert 0.2 < float(values["dog"]) < 0.4 and 0.2 < float(values["cat"]) < 0.4 and float(values["forest"]) == 0


def test_every_action_gets_a_line():
    lines = overlap_lines(random_maps(PIGEON), PIGEON)
    assert [line.split(" overlaps ")[0] for line in lines] == ["'carrying'", "'playing'"]
    assert [part.split()[0] for part in lines[1].split("overlaps ")[1].split(", ")] == [
        "pigeon", "dog", "cat", "letter", "forest"
    ]  # fmt: skip


def test_faint_actions_are_named_and_others_not():
    maps = _blobs(plays=(2, 2), **PLACES)
    assert faint_actions(maps, DOG_AND_CAT) == []
    assert "hardly" not in summary(maps, DOG_AND_CAT)
    maps[:, 2] *= 0.1
    assert faint_actions(maps, DOG_AND_CAT) == ["plays"]
    assert "The model hardly attends to 'plays'" in summary(maps, DOG_AND_CAT)


def test_a_prompt_without_actions():
    maps = random_maps(CAT_AND_DOG)
    assert overlap_lines(maps, CAT_AND_DOG) == []
    assert summary(maps, CAT_AND_DOG) == "The prompt has no action to show."
