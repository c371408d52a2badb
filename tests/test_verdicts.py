"""Verdicts: the rules against the project's own verdicts, and the corpus of broken replies down the ladder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from interplay.errors import InterplayError
from interplay.guidance.grounding.verdicts import TagVerdict, Verdicts, judge_offline
from interplay.guidance.grounding.verdicts_judge import BREAK, JudgeError, judge_pasted, judge_with
from interplay.guidance.grounding.verdicts_repair import candidates, mend
from interplay.guidance.grounding.verdicts_reply import BadReply, read_reply
from interplay.guidance.grounding.verdicts_text import plain_prompt, read_tags, verbatim
from interplay.parsing import parse

DATA = Path(__file__).parent / "data"
CORPUS = json.loads((DATA / "broken_replies.json").read_text(encoding="utf-8"))
PROMPT, TAGS, RIGHT = CORPUS["prompt"], CORPUS["tags"], CORPUS["right"]
REPLIES = {entry["name"]: entry for entry in CORPUS["replies"]}
SCORES = {"certain": 2.0, "possible": 0.5, "unlikely": 0.0}


def text_of(name: str) -> str:
    return REPLIES[name]["text"] * REPLIES[name].get("repeat", 1)


def answers(*texts: str) -> Callable[[list], str]:
    """A judge that gives these replies in turn, the last one for ever, and keeps what it was asked."""
    asked: list[list] = []

    def ask(messages: list) -> str:
        asked.append(messages)
        return texts[min(len(asked), len(texts)) - 1]

    ask.asked = asked  # type: ignore[attr-defined]
    return ask


# --- rules ------------------------------------------------------------------------------------------------------------


def test_the_example_of_the_paper():
    found = judge_offline("a red book and a yellow pen", ["book", "pen", "sign", "banana", "table"])
    assert [item.score for item in found.items] == [2, 2, 0, 0, 0.5]
    assert [item.phrase for item in found.items] == ["red book", "yellow pen", "", "", ""]
    assert (found.status, found.raw, found.missing) == ("rules", "", ())


@pytest.mark.parametrize(("which", "floor"), [("development", 0.97), ("kept back", 0.90), ("fresh", 0.85)])
def test_rules_agree_with_the_projects_own_verdicts(which, floor):
    rows = [json.loads(line) for line in (DATA / "verdict_cases.jsonl").read_text(encoding="utf-8").splitlines()]
    right = total = 0
    for row in (r for r in rows if r["set"] == which):
        wanted = {tag: SCORES[name] for name in SCORES for tag in row[name]}
        found = judge_offline(row["prompt"], list(wanted))
        right += sum(item.score == wanted[item.tag] for item in found.items)
        total += len(wanted)
    assert total > 190 and right / total >= floor


@pytest.mark.parametrize(
    ("prompt", "tag", "score", "phrase"),
    [
        ("a sofa", "couch", 2, "sofa"),
        ("a poodle", "dog", 2, "poodle"),
        ("a dog", "poodle", 2, "dog"),
        ("a dog", "cat", 0, ""),
        ("a kitten asleep", "cat", 2, "kitten"),
        ("three geese", "goose", 2, "three geese"),
        ("a goose", "Geese", 2, "goose"),
        ("a woman", "man", 0, ""),
        ("a king on a throne", "woman", 0, ""),
        ("an astronaut", "woman", 0.5, "astronaut"),
        ("a hot dog on a plate", "dog", 0, ""),
        ("a blue car", "red car", 2, "blue car"),
        ("a man without a hat", "hat", 0, ""),
        ("a man surfing a wave", "surfer", 2, "man"),
        ("a (red:1.3) ((shiny)) car", "car", 2, "red shiny car"),
        ("a wooden table", "wood", 0.5, "wooden table"),
        ("a dog", "device", 0, ""),
        ("a camera on a wall", "equipment", 0.5, "camera"),
        ("a dog", "photo", 0, ""),
        ("a statue of a horse", "sculpture", 2, "statue"),
        ("a panda in a tree", "bear", 2, "panda"),
        ("a golden retriever puppy", "golden retriever", 2, "golden retriever puppy"),
        ("a golden retriever puppy", "gold", 0, ""),
    ],
)
def test_nouns_of_the_prompt(prompt, tag, score, phrase):
    item = judge_offline(prompt, [tag]).items[0]
    assert (item.score, item.phrase) == (score, phrase), item.reason


def test_the_best_match_in_colour_comes_first_and_the_others_follow():
    item = judge_offline("a red car, a blue car", ["blue car", "car"]).items
    assert (item[0].phrase, item[0].others) == ("blue car", ("red car",))
    assert (item[1].phrase, item[1].others) == ("red car", ("blue car",))


def test_missing_things_are_those_that_no_tag_answers_to():
    found = judge_offline("a red robot carrying a blue box in a factory", ["machine", "wall"])
    assert found.missing == ("blue box",)
    assert judge_offline("a red robot carrying a blue box", []).missing == ("red robot", "blue box")


def test_every_phrase_stands_in_the_prompt():
    rows = [json.loads(line) for line in (DATA / "verdict_cases.jsonl").read_text(encoding="utf-8").splitlines()]
    tags = sorted({tag for row in rows for name in SCORES for tag in row[name]})
    for row in rows[::4]:
        for phrase in judge_offline(row["prompt"], tags).phrases():
            assert phrase in plain_prompt(row["prompt"])


def test_a_graph_that_is_given_is_the_one_that_counts():
    from dataclasses import replace

    graph = parse("a cat and a dog")
    cut = replace(graph, vertices=graph.vertices[:1], hyperedges=())
    assert [i.phrase for i in judge_offline(graph.prompt, ["cat"], cut).items] == ["cat"]
    assert judge_offline(graph.prompt, ["cat"], cut).missing == ()


def test_odd_tags_and_prompts_are_judged_too():
    found = judge_offline("", ["", "  ", "cat", "1,5", "ça va", "_", "x" * 500])
    assert len(found.items) == 7 and all(item.score in (0, 0.5) for item in found.items)


# --- replies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(REPLIES))
def test_the_ladder_over_the_corpus(name):
    entry = REPLIES[name]
    second = text_of(entry["second"]) if "second" in entry else text_of(name)
    found = judge_with(answers(text_of(name), second), PROMPT, TAGS)
    assert {item.tag: [item.score, item.phrase] for item in found.items} == RIGHT
    assert found.status.startswith(tuple(entry.get("status_any", (entry["status"],)))), found.status
    assert found.raw.startswith(text_of(name))


@pytest.mark.parametrize("name", [n for n in REPLIES if "second" not in REPLIES[n]])
def test_pasted_replies_go_down_the_same_ladder(name):
    found = judge_pasted(text_of(name), PROMPT, TAGS)
    assert {item.tag: [item.score, item.phrase] for item in found.items} == RIGHT
    fell = REPLIES[name]["status"].startswith("rules")
    assert found.status.startswith("rules: the pasted JSON cannot be used" if fell else "pasted")
    if fell:
        with pytest.raises(InterplayError):
            judge_pasted(text_of(name), PROMPT, TAGS, strict=True)


def test_a_model_may_overrule_the_rules():
    said = '{"book": "unlikely", "pen": "possible", "table": "certain", "banana": "certain"}'
    found = judge_with(answers(said), PROMPT, TAGS)
    assert [item.score for item in found.items] == [0, 0.5, 2, 2]
    assert found.status == "llm"


def test_the_second_question_quotes_the_error_and_the_reply():
    ask = answers("no idea", text_of("clean"))
    found = judge_with(ask, PROMPT, TAGS)
    first, second = ask.asked
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": "no idea"}
    assert "holds no JSON" in second[-1]["content"]
    assert found.raw == f"no idea{BREAK}{text_of('clean')}"
    assert json.loads(first[1]["content"]) == {"prompt": "a red book and a yellow pen", "tags": TAGS}


def test_it_is_asked_twice_at_most():
    ask = answers("no", "no", text_of("clean"))
    assert judge_with(ask, PROMPT, TAGS).status.startswith("rules: ")
    assert len(ask.asked) == 2


def test_the_first_reply_is_kept_where_the_second_is_worse():
    found = judge_with(answers(text_of("only one of four tags"), "no"), PROMPT, ["pen", "book", "table", "banana"])
    assert found.status.startswith("retry") and "3 of 4 tags by rule" in found.status
    assert found.items[1].reason == "" and found.items[0].reason.startswith("by rule")


def test_a_judge_that_cannot_be_asked_leaves_it_to_the_rules():
    def ask(messages: list) -> str:
        raise JudgeError("The endpoint answered 500.")

    found = judge_with(ask, PROMPT, TAGS)
    assert found.status == "rules: The endpoint answered 500."
    assert [i.score for i in found.items] == [i.score for i in judge_offline(PROMPT, TAGS).items]
    with pytest.raises(InterplayError, match="answered 500"):
        judge_with(ask, PROMPT, TAGS, strict=True)


def test_other_errors_are_not_swallowed():
    class Cancelled(Exception):
        pass

    def ask(messages: list) -> str:
        raise Cancelled

    with pytest.raises(Cancelled):
        judge_with(ask, PROMPT, TAGS)


def test_no_tags_ask_nobody():
    ask = answers("never")
    assert judge_with(ask, PROMPT, []).status == "rules: there are no tags"
    assert ask.asked == []


def test_missing_things_of_a_reply_must_stand_in_the_prompt_and_be_unanswered():
    said = '{"objects": [{"tag": "book", "verdict": "certain", "phrase": "red book"}], "missing": %s}'
    found = judge_with(answers(said % '["yellow pen", "a dragon", 7, "book"]'), PROMPT, ["book"])
    assert found.missing == ("yellow pen",)


def test_a_description_is_kept_short_and_in_one_line():
    said = [
        {
            "tag": "book",
            "verdict": "certain",
            "phrase": "red book",
            "description": "a thick\n" + "very " * 20 + "red book",
        },
        {"tag": "pen", "verdict": "certain", "phrase": "yellow pen", "description": 7, "reason": "it is named"},
    ]
    found = judge_with(answers(json.dumps({"objects": said})), PROMPT, ["book", "pen", "table"])
    assert [i.description for i in found.items] == ["a thick " + " ".join(["very"] * 10), "", ""]
    assert "pen = yellow pen  (it is named)" in found.table() and f"({found.items[0].description})" in found.table()
    assert Verdicts.from_json(found.to_json()).items == found.items
    assert "description" not in judge_offline(PROMPT, TAGS).to_json()


def test_read_reply_says_what_is_wrong():
    with pytest.raises(BadReply, match="no JSON"):
        read_reply("hello", PROMPT, TAGS)
    with pytest.raises(BadReply, match="no verdict on any of the tags"):
        read_reply('{"objects": []}', PROMPT, TAGS)


@pytest.mark.parametrize(
    "text", ["{'a': 'it's', 'b': [1, .5, 2., +3, 007,]", '{"a": "x\ny"}', "{a: {b: {c: 1", "{,}", "[1 2 3"]
)
def test_mended_text_is_json(text):
    json.loads(mend(text), strict=False)


def test_sound_json_is_taken_as_it_is():
    value = {"a": "it's {not} [broken], // not a comment", "b": [1, 2.5, None, True], "c": {"d": "“x”"}}
    assert json.loads(mend(json.dumps(value, ensure_ascii=False))) == value
    assert next(candidates(json.dumps(value))).value == value


def test_any_piece_of_a_reply_can_be_read():
    text = text_of("Python literals and an apostrophe")
    for end in range(len(text)):
        for found in candidates(text[:end]):
            assert isinstance(found.value, (dict, list))
        assert len(judge_with(answers(text[:end]), PROMPT, TAGS).items) == 4


# --- small parts ------------------------------------------------------------------------------------------------------


def test_verdicts_survive_json():
    found = judge_offline("a red car, a blue car and a dog", ["car", "cat", "tree"])
    assert Verdicts.from_json(found.to_json()) == found
    with pytest.raises(InterplayError):
        Verdicts.from_json('{"verdicts": [{"tag": "a"}]}')
    with pytest.raises(InterplayError):
        TagVerdict("a", math.nan)


def test_other_numbers_for_the_three_verdicts():
    found = judge_offline(PROMPT, TAGS).rescaled(1.5, 0.7, 0.1)
    assert [item.score for item in found.items] == [1.5, 1.5, 0.7, 0.1]


def test_tags_as_text_and_json():
    assert read_tags(" Book, pen,\nbook | table. ") == ("Book", "pen", "table")
    assert read_tags('["a", {"name": "b", "score": 1}, {"tag": "c"}]') == ("a", "b", "c")
    assert read_tags('{"pictures": [{"tags": [{"name": "a"}], "caption": "x"}, {"tags": ["b", "a"]}]}') == ("a", "b")
    assert read_tags("") == ()
    with pytest.raises(InterplayError):
        read_tags('[{"name": ')


def test_plain_prompts_and_quotes_of_them():
    assert plain_prompt(r"a (red:1.2) [[old]] book \(1984\), {x}") == "a red old book (1984), x"
    assert verbatim("The  Red old BOOK.", "a (red:1.2) [old] book") == "red old book"
    assert verbatim("the boo", "a book") is None
    assert verbatim("", "a book") is None


def test_reasons_are_short_clauses():
    for item in judge_offline("a knight", ["sword", "person", "banana", "red", "run", "photo"]).items:
        assert item.reason and not re.search(r"[.\n]", item.reason)
