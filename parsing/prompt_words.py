"""Finding what a person names in a prompt: the n-th ``fish``, the nearest ``red``, and what a misspelt word meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

from ..errors import InterplayError
from .hypergraph import Span


def occurrences(prompt: str, text: str) -> list[Span]:
    """All places of ``text`` in the prompt, whatever the case: those that are whole words first, then the others.

    The numbers in ``fish#2`` count along this list, so that every span of a prompt has a name.
    """
    if not text:
        return []
    folded, sought = _folded(prompt), _folded(text)
    spots: list[Span] = []
    at = folded.find(sought)
    while at >= 0:
        spots.append((at, at + len(text)))
        at = folded.find(sought, at + 1)
    return sorted(spots, key=lambda span: (not _stands_alone(prompt, *span), span))


@lru_cache(maxsize=256)
def _folded(text: str) -> str:
    """Lower case of the same length: a letter whose lower case is two characters stays."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _stands_alone(prompt: str, start: int, end: int) -> bool:
    before = start > 0 and prompt[start - 1].isalnum() and prompt[start].isalnum()
    after = end < len(prompt) and prompt[end].isalnum() and prompt[end - 1].isalnum()
    return not (before or after)


def number_of(prompt: str, span: Span) -> int:
    """Which occurrence of its own text a span is, from 1."""
    return occurrences(prompt, prompt[span[0] : span[1]]).index(span) + 1


def find(prompt: str, text: str, number: int | None, near: Sequence[Span] = ()) -> Span:
    """The span of ``text``: its ``number``-th occurrence, else the whole word nearest to ``near``, else the first.

    Raises:
        InterplayError: the prompt does not say so, or not so often; the message names the nearest words.
    """
    found = occurrences(prompt, text)
    if not found:
        raise InterplayError(f"The prompt does not contain '{text}'; {_advice(prompt, text)}.")
    if number is not None:
        if not 1 <= number <= len(found):
            times = "once" if len(found) == 1 else f"{len(found)} times"
            raise InterplayError(f"The prompt has '{text}' {times}, so there is no '{text}#{number}'; count again.")
        return found[number - 1]
    alone = [s for s in found if _stands_alone(prompt, *s)] or found
    return min(alone, key=lambda span: (sum(distance(span, other) for other in near), span))


def distance(a: Span, b: Span) -> int:
    """Characters between two spans; 0 when they touch or overlap."""
    return max(a[0] - b[1], b[0] - a[1], 0)


def nearest_words(prompt: str, text: str, count: int = 3) -> list[str]:
    """Words of the prompt that look most like ``text``, best first."""
    lowered = {word.lower(): word for word in reversed(_words(prompt))}
    close = difflib.get_close_matches(text.lower(), list(lowered), n=count, cutoff=0.4)
    return [lowered[word] for word in close]


def _words(prompt: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\W_](?:[\w'’-]*[^\W_])?", prompt)))


def _advice(prompt: str, text: str) -> str:
    close = nearest_words(prompt, text)
    if close:
        return "did you mean " + " or ".join(f"'{word}'" for word in close)
    words = _words(prompt)
    if not words:
        return "it has no words at all"
    return "name a word of it, such as " + ", ".join(f"'{word}'" for word in words[:4])


def find_action_word(prompt: str, text: str, number: int | None, previous: Span | None, near: list[Span]) -> Span:
    """A word of an action: the first is the one nearest to the parties, the others stand nearest behind the last."""
    if previous is None or number is not None:
        return find(prompt, text, number, near)
    behind = prompt[previous[1] :]
    try:
        start, end = find(behind, text, None)
    except InterplayError:
        return find(prompt, text, None, [previous])
    return start + previous[1], end + previous[1]
