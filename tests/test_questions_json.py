"""Questions that come as JSON instead of by rule."""

from __future__ import annotations

import json

import pytest
from interplay.errors import InterplayError
from interplay.guidance.rewards.answers import questions_of, read
from interplay.guidance.rewards.questions_json import asker, read_questions

PROMPT = "a red robot carrying a blue box"
TIFA = {"question": "Is there a robot?", "choices": ["yes", "no"], "answer": "yes", "element_type": "animal/human"}
SWAPPED = {"question": "Is the box carrying the robot?", "answer": "No", "type": "swapped"}


def test_none_means_by_rule():
    assert asker(None)(PROMPT) == asker("  ")(PROMPT) == questions_of(PROMPT)


def test_a_list_is_asked_of_every_prompt_and_types_are_those_of_tifa():
    asked = asker(json.dumps([TIFA, SWAPPED, TIFA]))(PROMPT)
    assert [(q.text, q.kind, q.choices, q.answer) for q in asked] == [
        ("Is there a robot?", "object", ("yes", "no"), "yes"),
        ("Is the box carrying the robot?", "swapped", ("yes", "no"), "no"),
    ]
    reading = read(asked, ["yes", "yes"])
    assert reading.value == 1.0 and reading.parts["swapped"] == 0.0 and reading.parts["all"] == 0.5


def test_an_answer_with_talk_around_it_is_read():
    text = f'<think>[no]</think>Here they are:\n```json\n{{"questions": [{json.dumps(TIFA)},]}}\n```'
    assert [q.text for q in asker(text)(PROMPT)] == ["Is there a robot?"]


def test_lists_by_prompt():
    ask = asker(json.dumps({PROMPT: [TIFA], "a cat": [SWAPPED]}))
    assert ask("a cat")[0].kind == "swapped"
    with pytest.raises(InterplayError, match="none for the prompt 'a dog'"):
        ask("a dog")


def test_what_cannot_be_asked_is_left_out_or_said():
    wrong = {"question": "What color?", "choices": ["red", "blue"], "answer": "green", "type": "color"}
    assert len(read_questions([wrong, TIFA, {"question": "?"}, "talk"])) == 1
    for text, said in (("no json", "no JSON"), ('"a"', "no JSON"), ("[1]", "can be asked"), ("{]", "no JSON")):
        with pytest.raises(InterplayError, match=said):
            asker(text)
    with pytest.raises(InterplayError, match="no list"):
        asker('{"questions": "a"}')
