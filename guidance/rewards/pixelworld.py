"""Answers to questions about PixelWorld pictures by its exact detector, so that no model stands between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..pixelworld.detect import Detection, Found, detect
from .answers import scorer
from .questions import Question
from .scorer import Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

NONE = "none"


def answers(image: Image, asked: Sequence[Question]) -> list[str]:
    """One answer for each question; "none" where the picture has no such thing to ask about."""
    seen = detect(np.asarray(image))
    return [answer(question, seen) for question in asked]


def pixelworld_scorer() -> Scorer:
    """TIFA-style scores of PixelWorld pictures."""
    return scorer(answers, "PixelWorld's exact detector")


def answer(question: Question, seen: Detection) -> str:
    """What the picture that was read answers; "none" where it has no such thing to ask about."""
    things = [found for found in seen.objects if found.object == question.noun]
    if question.kind == "object":
        return _said(bool(things))
    if question.kind == "counting":
        return str(len(things))
    if question.kind == "environment":
        return _said(seen.environment == question.noun)
    if question.kind == "attribute":
        return _attribute(question, things)
    return _edge(question, seen)


def _attribute(question: Question, things: Sequence[Found]) -> str:
    word = question.attribute
    if question.answer == "yes":
        return _said(any(word in _looks(found) for found in things))
    colours = [NONE if found.mixed else found.colour for found in things]
    return question.answer if question.answer in colours else next(iter(colours), NONE)


def _looks(found: Found) -> tuple[str | None, ...]:
    return (None if found.mixed else found.colour, found.size, found.pattern)


def _edge(question: Question, seen: Detection) -> str:
    if seen.action is None:
        return "no" if question.kind != "contrary" else NONE
    subject, verb, target = seen.action
    who, whom = seen.objects[subject].object, seen.objects[target].object
    parties = who == question.noun and (not question.other or whom == question.other)
    if question.kind == "contrary":
        return verb if parties else NONE
    return _said(verb == question.verb and parties)


def _said(true: bool) -> str:
    return "yes" if true else "no"
