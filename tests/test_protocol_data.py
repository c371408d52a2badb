"""The papers' prompts and published numbers that the pack carries."""

from __future__ import annotations

import hashlib
import math
from itertools import combinations

import pytest
from corpus import PAPER
from interplay.errors import InterplayError
from interplay.guidance.bench.protocol_data import (
    AE_SETS,
    attend_and_excite,
    paper_prompts,
    prompts_of_file,
    published,
)

# SHA-256 over the sorted list, taken from a public copy of the authors' list (with "mouse", see docs/protocols.md).
AE_DIGEST = "9e690b4b6aee8c55bcd46d3fd9bbf5714e2b275a35788dcefa4479641f603ca8"
ANIMALS = {"cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit", "mouse"}
WORN = {"glasses", "crown", "bow"}
COLOURED = {"backpack", "suitcase", "chair", "balloon", "car", "bowl", "bench", "clock", "apple"}
COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "black", "white"}


def test_the_fourteen_prompts_are_the_papers():
    assert tuple(paper_prompts("shyi")) == PAPER


def test_attend_and_excites_subsets_have_their_sizes():
    assert {name: len(attend_and_excite()[name]) for name in AE_SETS} == {
        "animal-animal": 66,
        "animal-object": 144,
        "object-object": 66,
    }
    everything = [prompt for prompts in attend_and_excite().values() for prompt in prompts]
    assert len(set(everything)) == 276
    assert hashlib.sha256("\n".join(sorted(everything)).encode()).hexdigest() == AE_DIGEST


def test_attend_and_excites_prompts_follow_their_templates():
    """Taken apart word by word: every pair once, every animal with every object, colours of the authors' eleven."""
    pairs = set()
    for prompt in attend_and_excite()["animal-animal"]:
        a, first, and_, b, second = prompt.split()
        assert (a, and_, b) == ("a", "and", "a")
        pairs.add(frozenset((first, second)))
    assert pairs == {frozenset(p) for p in combinations(ANIMALS, 2)}

    met = set()
    for prompt in attend_and_excite()["animal-object"]:
        words = prompt.split()
        if "with" in words:
            assert words[0::3] == ["a", "a"] and words[2] == "with" and words[4] in WORN
        else:
            assert words[0::3] == ["a", "a"] and words[2] == "and" and words[4] in COLOURS and words[5] in COLOURED
        met.add((words[1], words[-1]))
    assert met == {(animal, thing) for animal in ANIMALS for thing in WORN | COLOURED}

    things = set()
    for prompt in attend_and_excite()["object-object"]:
        a, colour, first, and_, b, other, second = prompt.split()
        assert (a, and_, b) == ("a", "and", "a") and {colour, other} <= COLOURS
        things.add(frozenset((first, second)))
    assert things == {frozenset(p) for p in combinations(WORN | COLOURED, 2)}


def test_every_published_number_names_its_source():
    for number in published():
        assert number.source and number.table and number.method and math.isfinite(number.value)
        assert number.protocol in ("shyi", "realign")
        assert ("arXiv" in number.source) or ("published by the authors" in number.source)
    keys = [(n.protocol, n.table, n.set, n.method, n.metric) for n in published()]
    assert len(set(keys)) == len(keys)


def value(protocol: str, table: str, set_: str, method: str, metric: str) -> float:
    return next(
        n.value
        for n in published()
        if (n.protocol, n.table, n.set, n.method, n.metric) == (protocol, table, set_, method, metric)
    )


def test_published_numbers_are_what_the_papers_say():
    assert value("shyi", "averages", "shyi", "CONFORM", "tifa") == 0.89
    assert value("shyi", "averages", "shyi", "SHYI", "tifa") == 0.86
    assert value("shyi", "averages", "shyi", "SHYI", "clip") == 0.312
    votes = [value("shyi", "votes", "shyi", m, "votes_prompt") for m in ("CONFORM", "SHYI")]
    assert sum(votes) == pytest.approx(1, abs=2e-4)
    assert value("realign", "Table I", "MS-COCO", "RealignDiff", "fid") == 6.9617
    assert value("realign", "Table I", "ViLG-300", "SDXL", "clip") == 0.4213
    assert value("realign", "Table II", "MS-COCO", "coarse", "clip") == 0.2548
    assert value("realign", "Table IV", "ViLG-300", "RAM + GPT-4", "success") == 0.99


def test_every_data_set_of_table_one_has_the_nine_methods():
    rows = [n for n in published() if n.table == "Table I" and n.metric == "tifa"]
    for name in ("MS-COCO", "ABC-6K", "CC-500", "ViLG-300"):
        assert len([n for n in rows if n.set == name]) == 9
    human = {n.method for n in published() if n.metric == "human_alignment"}
    assert "PixArt-alpha" not in human and len(human) == 8


def test_prompt_files_are_read_line_by_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat\n\n  a dog \na cat\n", encoding="utf-8")
    assert prompts_of_file(path) == ["a cat", "a dog"]
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(InterplayError, match="holds no prompt"):
        prompts_of_file(path)
    with pytest.raises(InterplayError, match="cannot be read"):
        prompts_of_file(tmp_path / "none.txt")
