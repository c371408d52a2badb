"""Alignment scores as a table: intervals, paired differences, prompts by line."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from interplay.errors import InterplayError
from interplay.guidance.bench.stats import bootstrap_interval
from interplay.guidance.rewards.alignment import Batch, gather, lines, prompts_for, to_csv, to_json, to_table
from interplay.guidance.rewards.scorer import Reading, Scorer


def batch(values, prompts=None, name="clip") -> Batch:
    return Batch(tuple(prompts or ["a cat"] * len(values)), {name: tuple(values)})


def test_readings_of_several_scorers_become_columns():
    one = Scorer("clip", "CLIP", ("hessel",), lambda i, p: [])
    two = Scorer("tifa", "BLIP", (), lambda i, p: [])
    found = gather(
        ["a", "b"],
        {
            "clip": (one, [Reading(0.3, {"hessel": 0.75}), Reading(0.1, {"hessel": 0.25})]),
            "tifa": (two, [Reading(None, {}, {"answers": "?"}), Reading(1.0)]),
        },
    )
    assert found.columns == {"clip": (0.3, 0.1), "clip_hessel": (0.75, 0.25), "tifa": (None, 1.0)}
    assert found.notes == {"answers": ("?", "")} and found.needs == {"clip": "CLIP", "tifa": "BLIP"}
    assert np.isnan(found.values("tifa")[0]) and found.values("no", "clip") == [0.3, 0.1]


def test_one_prompt_is_resampled_by_picture_and_several_by_prompt():
    values = [0.1, 0.5, 0.3, 0.9, 0.2, 0.6]
    (line,) = lines(batch(values))
    assert line.count == 6 and line.mean == pytest.approx(np.mean(values))
    assert line.interval == bootstrap_interval(values)
    prompts = ["a", "a", "a", "b", "b", "b"]
    (line,) = lines(batch(values, prompts))
    assert line.count == 2 and line.interval == bootstrap_interval(values, groups=prompts)
    assert line.interval == (pytest.approx(0.3), pytest.approx(np.mean([0.9, 0.2, 0.6])))  # two prompts: one or other


def test_differences_are_paired_picture_by_picture():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 40)
    (line,) = lines(batch((base + 1).tolist()), batch(base.tolist()))
    assert line.difference == pytest.approx(1.0) and line.baseline == pytest.approx(base.mean())
    assert line.difference_interval == (pytest.approx(1.0), pytest.approx(1.0))  # the spread of pictures cancels
    assert line.interval[1] - line.interval[0] > 3
    with pytest.raises(InterplayError, match="same prompts and seeds"):
        lines(batch([1.0, 2.0]), batch([1.0, 2.0], ["b", "b"]))


def test_pictures_without_a_figure_are_left_out_of_the_mean():
    (line,) = lines(batch([None, 1.0, 3.0]), batch([0.5, None, 2.0]))
    assert line.count == 1 and line.difference == pytest.approx(1.0)
    assert lines(batch([None, None])) == []


def test_tables():
    one, two = batch([0.25, 0.5]), batch([0.5, 0.5])
    rows = list(csv.DictReader(io.StringIO(to_csv(one, two))))
    assert [(r["picture"], r["batch"], r["clip"]) for r in rows] == [
        ("0", "pictures", "0.25"), ("1", "pictures", "0.5"), ("0", "baseline", "0.5"), ("1", "baseline", "0.5"),
    ]  # fmt: skip
    table = to_table(lines(one, two)).splitlines()
    assert table[0].count("|") == table[2].count("|") == 8 and "-0.125" in table[2]
    assert "baseline" not in to_table(lines(one))
    whole = json.loads(to_json(one, lines(one)))
    assert whole["scores"]["clip"] == [0.25, 0.5] and whole["summary"][0]["mean"] == 0.375


def test_prompts_by_line():
    assert prompts_for(" a cat \n\n", 3) == ["a cat"] * 3
    assert prompts_for("a cat\n\na dog", 2) == ["a cat", "a dog"]
    with pytest.raises(InterplayError, match="2 lines of prompts for 3 pictures"):
        prompts_for("a cat\na dog", 3)
    with pytest.raises(InterplayError, match="no prompt"):
        prompts_for(" \n", 2)
