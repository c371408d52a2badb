"""Which words of a prompt an object gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from interplay.guidance.modulation_words import CERTAIN, all_words, bind, positions
from interplay.parsing import parse
from interplay.parsing.tokens import Piece, TokenTable

PROMPT = "A red robot carries a blue box, and two big robots watch a cat in the forest"


@dataclass(frozen=True)
class Thing:
    """As ``PictureObject``, without torch."""

    label: str
    phrase: str = ""
    verdict: float | None = None
    weight: float | None = None


def said(*things, prompt=PROMPT):
    return [" ".join(prompt[a:b] for a, b in found.spans) for found in bind(things, parse(prompt))]


def test_phrases_come_first_and_articles_and_case_do_not_count():
    assert said(Thing("robot", "a red robot"), Thing("box", "The Blue box")) == ["red robot", "blue box"]


def test_a_label_takes_what_the_prompt_says_of_it():
    assert said(Thing("box"), Thing("cat"), Thing("forest")) == ["blue box", "cat", "forest"]


def test_words_inside_other_words_do_not_count():
    assert said(Thing("ox"), Thing("bot"), Thing("at")) == ["", "", ""]


def test_an_unknown_phrase_falls_back_to_the_label_and_then_to_its_last_word():
    assert said(Thing("box", "azure box"), Thing("container", "azure box")) == ["blue box", "blue box"]


def test_the_kth_of_a_name_takes_the_kth_that_the_prompt_names():
    assert said(Thing("robot"), Thing("robot"), Thing("robot")) == ["red robot", "two big robots", "two big robots"]


@pytest.mark.parametrize(
    ("thing", "score"),
    [
        (Thing("box"), CERTAIN),
        (Thing("box", verdict=0.5), 0.5),
        (Thing("box", verdict=2.0, weight=0.0), 0.0),
        (Thing("table"), 0.0),
        (Thing("table", verdict=0.5), 0.5),
    ],
)
def test_scores(thing, score):
    assert bind([thing], parse(PROMPT))[0].score == score


def test_positions_are_those_of_all_pieces():
    prompt = "a red robot"
    table = TokenTable("l", 77, (Piece((0, 1), "a", 5, 1), Piece((2, 5), "red", 6, 2), Piece((6, 9), "rob", 7, 3),
                                 Piece((9, 11), "ot", 8, 4)))  # fmt: skip
    assert positions([(2, 5), (6, 11)], table) == (2, 3, 4)
    assert all_words(parse(prompt), table) == (1, 2, 3, 4)
