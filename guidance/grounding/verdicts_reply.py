"""Verdicts out of a judge's reply: what holds against the prompt and the tags is taken, the rest falls to rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InterplayError
from ...parsing.lexicon import noun_lemma
from .verdicts import CERTAIN, POSSIBLE, SCORES, UNLIKELY, TagVerdict
from .verdicts_repair import candidates
from .verdicts_text import plain_prompt, verbatim

SYSTEM = (
    "A picture was drawn from a prompt, and a program tagged what it saw in the picture. For every tag decide whether "
    "an object of that name must be in a picture that shows the prompt: "
    '"certain" (the prompt names it, in these or other words), "possible" (not named, but it may well be there, such '
    'as a background), or "unlikely" (nothing in the prompt asks for it; also tags that name no object). For certain '
    "tags give the phrase: the words of the prompt that describe this object, copied letter by letter and without "
    'article; else "". Add a description: how the object should look by the prompt, in at most twelve words, "" for '
    'unlikely tags. Example: for the prompt "a red book and a yellow pen" and the tags book, pen, desk, banana: '
    'book is certain with the phrase "red book", pen is certain with the phrase "yellow pen", desk is possible, '
    "banana is unlikely. Under missing list the things of the prompt that no tag names. Answer with JSON only: "
    '{"objects": [{"tag": "...", "verdict": "certain", "phrase": "...", "description": "..."}], "missing": []}'
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "tag": {"type": "string"},
                    "verdict": {"type": "string", "enum": list(SCORES)},
                    "phrase": {"type": "string"},
                    "description": {"type": "string"},
                },
                "required": ["tag", "verdict", "phrase", "description"],
                "additionalProperties": False,
            },
        },
        "missing": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["objects", "missing"],
    "additionalProperties": False,
}

LONGEST = 12  # words of a reason or description
Messages = list[dict[str, str]]
_WORDS = {
    **SCORES, "definite": CERTAIN, "definitely": CERTAIN, "sure": CERTAIN, "must appear": CERTAIN, "may": POSSIBLE,
    "may appear": POSSIBLE, "maybe": POSSIBLE, "perhaps": POSSIBLE, "impossible": UNLIKELY, "absent": UNLIKELY,
    "not certain": POSSIBLE,
}  # fmt: skip
_LISTS = ("objects", "verdicts", "tags", "items", "results", "answer", "data")
_NAMES = ("tag", "name", "label", "object")


class BadReply(InterplayError):
    """A reply without usable verdicts; the message is fit to be quoted to whoever wrote it."""


@dataclass(frozen=True)
class Reply:
    """What could be used of a reply. verdicts: by index of the tag; missing: None where nothing was said of it; notes:
    what had to be mended, for the status.
    """

    verdicts: Mapping[int, TagVerdict]
    missing: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Notes:
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, note: str) -> None:
        self.counts[note] = self.counts.get(note, 0) + 1

    def lines(self) -> tuple[str, ...]:
        return tuple(note if n == 1 else f"{note} ({n} times)" for note, n in self.counts.items())


def messages_for(prompt: str, tags: Sequence[str]) -> Messages:
    """The question to a chat model."""
    user = json.dumps({"prompt": plain_prompt(prompt), "tags": list(tags)}, ensure_ascii=False)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def again(messages: Messages, said: str, error: str) -> Messages:
    """The same question once more, quoting what was wrong with the answer."""
    wrong = f"{error} Answer again: the JSON object only, with one entry for every tag."
    return [*messages, {"role": "assistant", "content": said[:8000]}, {"role": "user", "content": wrong}]


def read_reply(text: str, prompt: str, tags: Sequence[str]) -> Reply:
    """The best reading of a reply: the one with the most usable verdicts, unmended where there is a choice.

    Raises:
        BadReply: there is no JSON in it, or none with a verdict on any of the tags.
    """
    best, seen = Reply({}), False
    for found in candidates(text):
        seen, notes = True, _Notes()
        if found.repaired:
            notes.add("JSON mended")
        entries, missing = _entries(found.value)
        verdicts = _verdicts(entries, prompt, tags, notes)
        reply = Reply(verdicts, _missing(missing, prompt), notes.lines())
        if len(verdicts) > len(best.verdicts):
            best = reply
        if len(best.verdicts) == len(tags):
            break
    if not best.verdicts and tags:
        what = "it holds no verdict on any of the tags" if seen else "it holds no JSON"
        raise BadReply(f"The reply cannot be used: {what}; give an entry with tag, verdict and phrase for every tag.")
    return best


def _entries(value: Any) -> tuple[list[Any], Any]:
    """The list of entries, wherever it stands, and what is said of missing things."""
    if isinstance(value, list):
        return value, None
    missing = value.get("missing")
    for name in _LISTS:
        inner = value.get(name)
        if isinstance(inner, list):
            return inner, missing
        if isinstance(inner, dict):
            return _by_name(inner), inner.get("missing", missing)
    if any(isinstance(value.get(name), str) for name in _NAMES) and ("verdict" in value or "score" in value):
        return [value], missing
    return _by_name({k: v for k, v in value.items() if k != "missing"}), missing


def _by_name(value: Mapping[str, Any]) -> list[Any]:
    """{"book": "certain"} or {"book": {"verdict": "certain"}} as entries."""
    return [{**(v if isinstance(v, dict) else {"verdict": v}), "tag": k} for k, v in value.items()]


def _verdicts(entries: Sequence[Any], prompt: str, tags: Sequence[str], notes: _Notes) -> dict[int, TagVerdict]:
    places = _places(tags)
    found: dict[int, TagVerdict] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            notes.add("an entry of the wrong type dropped")
            continue
        name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
        score = _score(entry)
        index = None if name is None else _place(name, places)
        if index is None:
            notes.add("an unknown tag dropped")
        elif score is None:
            notes.add("a verdict of the wrong type dropped")
        elif index in found:
            notes.add("a second verdict on a tag dropped")
        else:
            found[index] = _verdict(tags[index], score, entry, prompt, notes)
    return found


def _verdict(tag: str, score: float, entry: Mapping[str, Any], prompt: str, notes: _Notes) -> TagVerdict:
    said = entry.get("phrase")
    phrase = verbatim(said, prompt) if isinstance(said, str) and said.strip() else ""
    if phrase is None or (said is not None and not isinstance(said, str)):
        notes.add("a phrase that is not in the prompt dropped")
    reason, description = (_short(entry.get(name)) for name in ("reason", "description"))
    return TagVerdict(tag, score, phrase or "" if score > 0 else "", reason, (), description)


def _short(value: Any) -> str:
    """A short text in one line; "" for what is none."""
    return " ".join(value.split()[:LONGEST]) if isinstance(value, str) else ""


def _places(tags: Sequence[str]) -> dict[str, int]:
    """Names that a tag may be called by: itself first, then its lemma."""
    exact = {key(tag): i for i, tag in reversed(list(enumerate(tags)))}
    return {**{lemma_key(tag): i for i, tag in reversed(list(enumerate(tags)))}, **exact}


def _place(name: str, places: Mapping[str, int]) -> int | None:
    return places.get(key(name), places.get(lemma_key(name)))


def key(tag: str) -> str:
    """A tag as it is compared: lower case, single spaces."""
    return " ".join(re.sub(r"[_\s]+", " ", tag).strip(" .\"'").lower().split())


def lemma_key(tag: str) -> str:
    """The same with its last word in the singular."""
    first, _, last = key(tag).rpartition(" ")
    return f"{first} {noun_lemma(last) if last else ''}".strip()


def _score(entry: Mapping[str, Any]) -> float | None:
    """2, 0.5 or 0 from a word or one of these numbers; None for anything else, such as NaN, true or 7."""
    for value in (entry.get("verdict"), entry.get("score")):
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, str):
            word = " ".join(value.lower().strip(" .!\"'").split())
            if word in _WORDS:
                return _WORDS[word]
            try:
                value = float(word)
            except ValueError:
                continue
        if isinstance(value, (int, float)) and math.isfinite(value) and value in SCORES.values():
            return float(value)
    return None


def _missing(value: Any, prompt: str) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(dict.fromkeys(_phrases(value, prompt)))


def _phrases(value: Sequence[Any], prompt: str) -> Iterator[str]:
    for name in value:
        found = verbatim(name, prompt) if isinstance(name, str) else None
        if found:
            yield found
