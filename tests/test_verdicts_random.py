"""Verdicts under random prompts, tags, replies and damage: what must hold whatever a language model writes."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from interplay.guidance.grounding.verdicts import STATUSES, Verdicts, judge_offline
from interplay.guidance.grounding.verdicts_judge import judge_pasted, judge_with
from interplay.guidance.grounding.verdicts_repair import candidates, mend
from interplay.guidance.grounding.verdicts_reply import Messages, key
from interplay.guidance.grounding.verdicts_text import plain_prompt, read_tags

WORDS = ("red", "book", "yellow", "pen", "table", "dog", "dogs", "riding", "on", "a", "and", "without", "man", "snowy")
prompts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
names = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
tag_lists = st.lists(names, max_size=6, unique_by=key)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), names, st.sampled_from(("certain", "possible"))
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(("objects", "tag", "verdict", "phrase", "missing", "score", *WORDS)), inner),
    ),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "tag": st.sampled_from(WORDS),
        "verdict": st.sampled_from(("certain", "possible", "unlikely", "maybe", 2, 7, None)),
    },
    optional={"phrase": names, "description": names},
)
replies = st.fixed_dictionaries({"objects": st.lists(entries, max_size=8), "missing": st.lists(names, max_size=3)})
texts = st.one_of(
    replies.map(json.dumps),
    replies.map(repr),
    st.text(max_size=200),
    st.text(alphabet="{}[]\"':,;=>\\/#*`~ \nabtruefalsenull0123456789.-+“”", max_size=120),
    values.map(json.dumps),
    values.map(repr),
    values.map(lambda value: f"<think>well</think> Sure!\n```json\n{json.dumps(value)}\n```\nAnything else?"),
)
quick = settings(max_examples=120, deadline=None)


def sound(found: Verdicts, prompt: str, tags: list[str]) -> None:
    """What every answer holds: each tag in its place, one of three scores, phrases and missing words of the prompt."""
    assert [item.tag for item in found.items] == tags
    assert all(item.score in (2, 0.5, 0) for item in found.items)
    plain = plain_prompt(prompt)
    assert all(phrase in plain for phrase in (*found.phrases(), *found.missing))
    assert found.status.split(":")[0] in STATUSES
    assert Verdicts.from_json(found.to_json()).items == found.items


@quick
@given(prompts, tag_lists, st.lists(texts, min_size=2, max_size=2))
def test_whatever_a_model_writes_every_tag_gets_a_verdict(prompt: str, tags: list[str], said: list[str]) -> None:
    given_in_turn = iter(said)

    def ask(messages: Messages) -> str:
        return next(given_in_turn)

    found = judge_with(ask, prompt, tags)
    sound(found, prompt, tags)
    if tags:
        assert found.raw.startswith(said[0])
    if found.status.startswith("rules"):
        assert found.items == judge_offline(prompt, tags).items


@quick
@given(prompts, tag_lists, texts)
def test_whatever_is_pasted_every_tag_gets_a_verdict(prompt: str, tags: list[str], text: str) -> None:
    found = judge_pasted(text, prompt, tags)
    sound(found, prompt, tags)
    assert found.raw == text


@settings(max_examples=300, deadline=None)
@given(texts)
@example('{"a": "\\ud800"}')
@example("[" * 5000)
def test_no_text_is_too_broken_to_be_looked_at(text: str) -> None:
    for found in candidates(text):
        assert isinstance(found.value, (dict, list))
    mend(text)


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=10,
).filter(lambda value: isinstance(value, (dict, list)))


@quick
@given(plain, st.sampled_from((None, 1)))
def test_sound_json_is_read_and_left_alone(value: Any, indent: int | None) -> None:
    first = next(candidates(json.dumps(value, indent=indent)))
    assert (first.value, first.repaired) == (value, False)


words = st.text(alphabet="abcdefgh ÄÖß", min_size=1, max_size=8).map(str.strip).filter(bool)
simple = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-999, 999), words),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4), st.dictionaries(words, inner, min_size=1, max_size=4)
    ),
    max_leaves=8,
).filter(lambda value: isinstance(value, (dict, list)))


@quick
@given(simple, st.integers(0, 2**32))
def test_the_usual_slips_are_mended_into_what_was_meant(value: Any, seed: int) -> None:
    """Python literals, single quotes, commas at the end, comments and a missing end, all of them at once."""
    assert json.loads(mend(slipped(value, random.Random(seed)))) == value


def slipped(value: Any, source: random.Random) -> str:
    """JSON as language models write it; the last brackets may be missing."""
    text = _slipped(value, source)
    return text.rstrip("]}, ") if source.random() < 0.3 and not text.rstrip("]}, ").endswith(("[", "{", ":")) else text


def _slipped(value: Any, source: random.Random) -> str:
    comma = ", " if source.random() < 0.5 else ",\n  // more\n  "
    last = "," if source.random() < 0.5 else ""
    if isinstance(value, dict):
        return "{" + comma.join(f"{_slipped(k, source)}: {_slipped(v, source)}" for k, v in value.items()) + last + "}"
    if isinstance(value, list):
        return "[" + comma.join(_slipped(v, source) for v in value) + last + "]"
    return repr(value) if source.random() < 0.5 else json.dumps(value, ensure_ascii=False)


@quick
@given(prompts, tag_lists)
def test_rules_judge_a_tag_whatever_stands_beside_it(prompt: str, tags: list[str]) -> None:
    together = judge_offline(prompt, tags).items
    assert [judge_offline(prompt, [tag]).items[0] for tag in tags] == list(together)
    assert judge_offline(prompt, tags[::-1]).items == together[::-1]


@quick
@given(st.lists(st.sampled_from(WORDS), max_size=6, unique=True))
def test_tags_are_the_same_as_text_and_as_json(tags: list[str]) -> None:
    assert read_tags(", ".join(tags)) == read_tags(json.dumps(tags)) == tuple(tags)
    assert read_tags(json.dumps({"pictures": [{"tags": [{"name": tag} for tag in tags]}]})) == tuple(tags)
