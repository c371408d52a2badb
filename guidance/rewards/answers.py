"""TIFA-style scores: the share of questions whose answer is the one that the prompt gives (Hu et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ...parsing import parse
from .questions import EDGE_KINDS, KINDS, TIFA_KINDS, Question, questions
from .scorer import Reading, Scorer
from .wording import NUMBERS

if TYPE_CHECKING:
    from PIL.Image import Image

Answerer = Callable[["Image", Sequence[Question]], list[str]]
"""A picture and questions to one answer each: one of the question's choices, or any other text, which is wrong."""

Asker = Callable[[str], Sequence[Question]]
"""A prompt to its questions."""

PARTS = ("pairs", "edges", *KINDS, "all")


@lru_cache(maxsize=1024)
def questions_of(prompt: str) -> tuple[Question, ...]:
    """The questions of a prompt's hypergraph."""
    return questions(parse(prompt))


def plain_answer(text: str) -> str:
    """An answer without case, article and full stop, with numbers as digits."""
    low = re.sub(r"[^\w\s-]", "", text.lower()).strip()
    low = re.sub(r"^(a|an|the)\s+", "", low)
    digits = {word: str(number) for word, number in NUMBERS.items()}
    return {"grey": "gray", "zero": "0", **digits}.get(low, low)


def right(question: Question, answer: str) -> bool:
    """Whether an answer is the expected one."""
    return plain_answer(answer) == plain_answer(question.answer)


def read(asked: Sequence[Question], answers: Sequence[str]) -> Reading:
    """Value: share of right answers to the questions that TIFA asks, too.

    Parts: the share of each kind (None where the prompt has none); ``edges``: of the edge questions (roles, swapped,
    contrary); ``pairs``: of the roles whose twin was right, too, so that saying yes or no to everything gains nothing;
    ``all``: of all questions.
    """
    marks = [right(question, answer) for question, answer in zip(asked, answers, strict=True)]

    def share(kinds: Sequence[str]) -> float | None:
        of_kind = [mark for mark, question in zip(marks, asked, strict=True) if question.kind in kinds]
        return sum(of_kind) / len(of_kind) if of_kind else None

    parts = {kind: share((kind,)) for kind in KINDS}
    parts |= {"pairs": _pairs(asked, marks), "edges": share(EDGE_KINDS), "all": share(KINDS)}
    told = " / ".join(f"{q.text} {a}{'' if m else ' ✗'}" for q, a, m in zip(asked, answers, marks, strict=True))
    return Reading(share(TIFA_KINDS), parts, {"answers": told})


def _pairs(asked: Sequence[Question], marks: Sequence[bool]) -> float | None:
    """Share of swapped twins that are right together with the question they are the twin of."""
    roles = {(q.noun, q.verb, q.other): m for q, m in zip(asked, marks, strict=True) if q.kind == "roles"}
    twins = [(q, m) for q, m in zip(asked, marks, strict=True) if q.kind == "swapped"]
    right_ones = [m and roles[q.other, q.verb, q.noun] for q, m in twins]
    return sum(right_ones) / len(right_ones) if right_ones else None


def scorer(answerer: Answerer, needs: str, ask: Asker = questions_of) -> Scorer:
    """The scorer "tifa" on any way of answering; ask: where the questions of a prompt come from."""

    def measure(images: Sequence[Image], prompts: Sequence[str]) -> list[Reading]:
        readings = []
        for image, prompt in zip(images, prompts, strict=True):
            asked = ask(prompt)
            readings.append(read(asked, answerer(image, asked)))
        return readings

    return Scorer("tifa", needs, PARTS, measure)
