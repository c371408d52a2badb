"""Which tokens of a prompt belong to which object of a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..parsing.hypergraph import Hypergraph, Span
from ..parsing.tokens import TokenTable

CERTAIN = 2.0  # the score of an object that a prompt names and nobody has judged
_ARTICLE = re.compile(r"^(a|an|the|some|one)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Bound:
    """An object and the characters of the prompt that speak of it; no spans when the prompt does not."""

    label: str
    spans: tuple[Span, ...]
    score: float


def bind(objects: Sequence[Any], graph: Hypergraph) -> list[Bound]:
    """Find the words of ``PictureObject``-like objects (label, phrase, verdict, weight) in a prompt.

    The phrase is looked for first, then the label with what the hypergraph says of it ("red" of "red robot"), then the
    phrase's last word in the same way. Where the prompt says it several times, the k-th object of that name takes the
    k-th. An object's score is its weight, else its verdict, else CERTAIN where the prompt names it and 0 where it does
    not.
    """
    seen: dict[tuple[Span, ...], int] = {}
    found = []
    for item in objects:
        head = (item.phrase.split() or [""])[-1]
        places = _places(item.phrase, graph, False) or _places(item.label, graph, True) or _places(head, graph, True)
        key = places[0] if places else ()
        count = seen.get(key, 0)
        seen[key] = count + 1
        spans = places[min(count, len(places) - 1)] if places else ()
        score = item.weight if item.weight is not None else item.verdict
        found.append(Bound(item.label, spans, (CERTAIN if spans else 0.0) if score is None else float(score)))
    return found


def _places(text: str, graph: Hypergraph, widen: bool) -> list[tuple[Span, ...]]:
    """The occurrences of a text, each as spans. widen: with the modifiers of the vertex whose head it is."""
    words = _ARTICLE.sub("", text.strip())
    if not words:
        return []
    pattern = r"(?<!\w)" + r"\s+".join(re.escape(w) for w in words.split()) + r"(?:s|es)?(?!\w)"
    spans = [match.span() for match in re.finditer(pattern, graph.prompt, re.IGNORECASE)]
    return [_widened(span, graph) if widen else (span,) for span in spans]


def _widened(span: Span, graph: Hypergraph) -> tuple[Span, ...]:
    for vertex in graph.vertices:
        if vertex.span[0] < span[1] and span[0] < vertex.span[1]:
            return tuple(sorted({span, vertex.span, *(m.span for m in vertex.modifiers)}))
    return (span,)


def positions(spans: Sequence[Span], table: TokenTable) -> tuple[int, ...]:
    """Token positions of characters, ascending."""
    return tuple(sorted({p for span in spans for p in table.positions(span)}))


def all_words(graph: Hypergraph, table: TokenTable) -> tuple[int, ...]:
    """Positions of all pieces of the prompt."""
    return table.positions((0, len(graph.prompt)))
