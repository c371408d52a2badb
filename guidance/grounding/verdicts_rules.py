"""Verdicts by rule: tags against the nouns of the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...parsing import parse
from ...parsing.hypergraph import Hypergraph, Vertex
from ...parsing.lexicon import noun_lemma
from .verdicts import CERTAIN, UNLIKELY, TagVerdict, Verdicts

_GAP = re.compile(r"[\s,\-]*(?:and[\s,]+)?")


def phrase_of(graph: Hypergraph, vertex: Vertex) -> str:
    """The noun with the modifiers right before it, in the prompt's words: "red book"."""
    start = vertex.span[0]
    for modifier in sorted(vertex.modifiers, key=lambda m: -m.span[0]):
        if modifier.span[1] <= start and _GAP.fullmatch(graph.prompt[modifier.span[1] : start]):
            start = modifier.span[0]
    return graph.prompt[start : vertex.span[1]]


def judge(prompt: str, tags: Sequence[str], graph: Hypergraph | None = None) -> Verdicts:
    """See ``verdicts.judge_offline``."""
    graph = graph or parse(prompt)
    items = []
    for tag in tags:
        same = [v for v in graph.vertices if noun_lemma(v.head) == noun_lemma(tag.strip())]
        phrases = tuple(phrase_of(graph, v) for v in same)
        score, reason = (CERTAIN, "the prompt names it") if same else (UNLIKELY, "nothing in the prompt asks for it")
        items.append(TagVerdict(tag, score, phrases[0] if phrases else "", reason, phrases[1:]))
    met = {phrase for item in items for phrase in (item.phrase, *item.others)}
    missing = tuple(p for v in graph.vertices if not v.environment and (p := phrase_of(graph, v)) not in met)
    return Verdicts(tuple(items), "rules", "", missing)
