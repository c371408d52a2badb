"""Questions from elsewhere, as JSON: an LLM's answer, a file of TIFA's, or a list that a person wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InterplayError
from .answers import Asker, questions_of
from .questions import KINDS, YES_NO, Question

# TIFA's element types by the kinds that are counted here.
_TYPES = {
    "object": "object animal human animal/human food vehicle person",
    "attribute": "attribute color colour material shape size texture other",
    "counting": "counting count number",
    "action": "activity action verb",
    "environment": "environment location spatial place scene",
    "roles": "roles role relation",
    "swapped": "swapped",
    "contrary": "contrary",
}
_KIND = {word: kind for kind, words in _TYPES.items() for word in words.split()}
SYSTEM = (
    "You write questions that check whether a picture shows a caption. For every thing, attribute, number, action and "
    "place in the caption write one multiple-choice question whose right answer follows from the caption. For every "
    "action with two parties also ask whether it is this way round (type roles, answer yes) and whether it is the "
    "other way round (type swapped, answer no). Answer with JSON only."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "question": {"type": "string"},
                    "choices": {"type": "array", "items": {"type": "string"}},
                    "answer": {"type": "string"},
                    "type": {"type": "string", "enum": list(KINDS)},
                },
                "required": ["question", "choices", "answer", "type"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["questions"],
    "additionalProperties": False,
}


def asker(text: str | None) -> Asker:
    """Questions by prompt out of JSON: a list for all prompts, or lists by prompt; None: by rule from the hypergraph.

    Raises:
        InterplayError: it is no such JSON.
    """
    if text is None or not text.strip():
        return questions_of
    found = outermost(text)
    if isinstance(found, Mapping) and "questions" in found:
        found = found["questions"]
    if isinstance(found, Mapping):
        by_prompt = {prompt: read_questions(entries) for prompt, entries in found.items()}
        return lambda prompt: _listed(by_prompt, prompt)
    same = read_questions(found)
    return lambda prompt: same


def _listed(by_prompt: Mapping[str, tuple[Question, ...]], prompt: str) -> tuple[Question, ...]:
    if prompt not in by_prompt:
        raise InterplayError(f"The questions have none for the prompt {prompt!r}; add its list, or give one for all.")
    return by_prompt[prompt]


def outermost(text: str) -> Any:
    """The JSON in a text that may say more around it.

    Raises:
        InterplayError: there is none.
    """
    plain = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    starts = [i for i in (plain.find("{"), plain.find("[")) if i >= 0]
    end = max(plain.rfind("}"), plain.rfind("]"))
    body = re.sub(r",(\s*[}\]])", r"\1", plain[min(starts, default=0) : end + 1])
    try:
        return json.loads(body)
    except ValueError as error:
        raise InterplayError("The questions are no JSON; give a list of {question, choices, answer, type}.") from error


def read_questions(entries: Any) -> tuple[Question, ...]:
    """Questions of a list, each once; those without choices, or whose answer is none of them, are left out.

    Raises:
        InterplayError: it is no list, or holds no question that can be asked.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise InterplayError("The questions are no list; give a list of {question, choices, answer, type}.")
    made = [q for entry in entries if isinstance(entry, Mapping) and (q := _question(entry)) is not None]
    if not made:
        raise InterplayError("None of the questions can be asked: each needs question, choices and an answer of them.")
    return tuple({q.text.lower(): q for q in made}.values())


def _question(entry: Mapping[str, Any]) -> Question | None:
    text, answer = str(entry.get("question", "")).strip(), str(entry.get("answer", "")).strip().lower()
    choices = entry.get("choices") or (YES_NO if answer in YES_NO else ())
    known = tuple(dict.fromkeys(str(choice).strip().lower() for choice in choices))
    kind = _KIND.get(str(entry.get("type", entry.get("element_type", "other"))).strip().lower(), "attribute")
    return Question(text, known, answer, kind) if text and answer in known and len(known) > 1 else None
