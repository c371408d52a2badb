"""Captions that say the same words the wrong way round, made from a hypergraph: what a picture is held against.

Three kinds: who acts and who is acted on change places ("a goat chases a sheep"), two things exchange their properties
("a blue robot and a red box"), and a verb gives way to its contrary ("pulling"). Each is parsed again and kept only if
it then says what it was made to say, so that no swap leaves the meaning as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from ...parsing import parse
from ...parsing.hypergraph import Hyperedge, Hypergraph, Modifier, Span, Vertex
from .questions import _MUTUAL_WORDS, CONTRARY, _mutual
from .wording import NUMBERS, gerund, is_compound, is_plural, with_article

OPERATIONS = ("roles", "properties", "contrary")
_DIRECTED = "on under above below behind over beneath underneath atop inside in left right front"
DIRECTED = frozenset(_DIRECTED.split())
_OWNING = ("with", "of", "wearing", "has", "in")
_NO_PROPERTY = frozenset((*NUMBERS, *map(str, range(100)), "teddy"))
_DETERMINER = re.compile(r"\b(?:an?|the|some|his|her|its|their)\s+$", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Swap:
    """A caption, how it was made (one of OPERATIONS), and the two stretches that changed places."""

    text: str
    operation: str
    changed: tuple[str, str]


def swapped_captions(graph: Hypergraph, limit: int = 4) -> tuple[Swap, ...]:
    """Up to ``limit`` different captions that a picture of the prompt does not match, roles first; none where the
    prompt has nothing that could be swapped.
    """
    found: dict[str, Swap] = {}
    for swap in (*_roles(graph), *_properties(graph), *_contraries(graph)):
        if _plain(swap.text) != _plain(graph.prompt):
            found.setdefault(_plain(swap.text), swap)
    return tuple(found.values())[:limit]


# --- who does it to whom ----------------------------------------------------------------------------------------------


def _roles(graph: Hypergraph) -> Iterator[Swap]:
    for edge in graph.hyperedges:
        pair = _pair(edge, graph)
        if pair is None or _symmetric(edge) or any(v.environment for v in pair):
            continue
        subject, other = pair
        if is_plural(subject.head) != is_plural(other.head) and not edge.action.lower().split()[0].endswith("ing"):
            continue  # the verb would no longer agree
        spans = sorted((_phrase(subject, graph), _phrase(other, graph)))
        if spans[0][1] > spans[1][0]:
            continue
        text = _exchange(graph.prompt, *spans)
        if _says_turned(text, edge, subject, other):
            yield Swap(text, "roles", (subject.head, other.head))


def _pair(edge: Hyperedge, graph: Hypergraph) -> tuple[Vertex, Vertex] | None:
    """The one subject and the first object of an edge."""
    subjects = [p.vertex for p in edge.participants if p.role == "subject"]
    others = [p.vertex for p in edge.participants if p.role == "object"]
    if len(subjects) != 1 or not others or subjects[0] == others[0]:
        return None
    subject, other = graph.vertex(subjects[0]), graph.vertex(others[0])
    return None if subject.head.lower() == other.head.lower() else (subject, other)


def _symmetric(edge: Hyperedge) -> bool:
    words = edge.action.lower().split()
    if edge.kind == "relation":
        return not DIRECTED.intersection(words)
    return _mutual(gerund(words[0]), words[1:])


def _phrase(vertex: Vertex, graph: Hypergraph) -> Span:
    """Determiner, properties before the noun, and the noun."""
    start = _start(vertex)
    before = _DETERMINER.search(graph.prompt[:start])
    return (before.start() if before else start), vertex.span[1]


def _start(vertex: Vertex) -> int:
    return min((vertex.span[0], *(m.span[0] for m in vertex.modifiers if m.span < vertex.span)))


def _exchange(prompt: str, first: Span, second: Span) -> str:
    a, b = prompt[slice(*first)], prompt[slice(*second)]
    if first[0] == 0 and a[:1].isupper():
        a, b = a[:1].lower() + a[1:], b[:1].upper() + b[1:]
    return prompt[: first[0]] + b + prompt[first[1] : second[0]] + a + prompt[second[1] :]


def _says_turned(text: str, edge: Hyperedge, subject: Vertex, other: Vertex) -> bool:
    graph = parse(text)
    for found in graph.hyperedges:
        pair = _pair(found, graph)
        if pair is None or found.action.lower() != edge.action.lower():
            continue
        if (pair[0].head.lower(), pair[1].head.lower()) == (other.head.lower(), subject.head.lower()):
            return True
    return False


# --- whose property it is ---------------------------------------------------------------------------------------------


def _properties(graph: Hypergraph) -> Iterator[Swap]:
    things = [v for v in graph.vertices if not v.environment]
    for first, second in combinations(sorted(things, key=lambda v: v.span), 2):
        own = {v.id: _own(v) for v in (first, second)}
        if first.head.lower() == second.head.lower() or not any(own.values()):
            continue
        words = [[m.text.lower() for m in own[v.id]] for v in (first, second)]
        apart = _together(first, graph) and _together(second, graph) and not _belongs(first, second, graph)
        if words[0] == words[1] or not apart:
            continue
        text = graph.prompt
        for vertex, given in ((second, own[first.id]), (first, own[second.id])):  # from the back, so that spans hold
            text = _described(text, graph.prompt, vertex, own[vertex.id], given)
        if _says_properties(text, (first, words[1]), (second, words[0])):
            yield Swap(text, "properties", (" ".join(words[0]), " ".join(words[1])))


def _own(vertex: Vertex) -> list[Modifier]:
    """The properties right before the noun; not its number, nor parts of its name."""
    before = sorted((m for m in vertex.modifiers if m.span < vertex.span), key=lambda m: m.span)
    return [m for m in before if not is_compound(m.text) and m.text.lower() not in _NO_PROPERTY]


def _together(vertex: Vertex, graph: Hypergraph) -> bool:
    """Whether nothing else stands among the properties, as "and" does in "black and white cat"."""
    own = _own(vertex)
    if not own:
        return True
    said = graph.prompt[own[0].span[0] : _name_start(vertex)].split()
    return said == [m.text for m in own]


def _belongs(first: Vertex, second: Vertex, graph: Hypergraph) -> bool:
    """Whether one is a part or the clothes of the other: "a girl with long hair"."""
    for edge in graph.hyperedges:
        roles = {p.vertex: p.role for p in edge.participants}
        owning = edge.kind == "relation" and edge.action.lower() in _OWNING
        if owning and {roles.get(first.id), roles.get(second.id)} == {"subject", "object"}:
            return True
    return False


def _described(text: str, prompt: str, vertex: Vertex, own: list[Modifier], given: list[Modifier]) -> str:
    """``text`` with the vertex's own properties replaced; up to the vertex's noun it still reads as ``prompt`` does."""
    start = own[0].span[0] if own else _name_start(vertex)
    rest = text[_name_start(vertex) if not own else own[-1].span[1] :].lstrip()
    middle = " ".join(m.text for m in given)
    phrase = f"{middle} {rest}" if middle else rest
    before = prompt[:start]
    article = _ARTICLE.search(before)
    if article:
        before = before[: article.start(1)] + _article(article[1], phrase) + article[2]
    return before + phrase


def _name_start(vertex: Vertex) -> int:
    named = [m.span[0] for m in vertex.modifiers if m.span < vertex.span and is_compound(m.text)]
    return min((vertex.span[0], *named))


def _article(old: str, phrase: str) -> str:
    new = with_article(phrase.split()[0], "thing").split()[0]
    return new.capitalize() if old[0].isupper() else new


def _says_properties(text: str, *wanted: tuple[Vertex, list[str]]) -> bool:
    vertices = parse(text).vertices
    for vertex, words in wanted:
        found = [v for v in vertices if v.head.lower() == vertex.head.lower()]
        if not any([m.text.lower() for m in _own(v)] == words for v in found):
            return False
    return True


# --- the contrary -----------------------------------------------------------------------------------------------------


def _contraries(graph: Hypergraph) -> Iterator[Swap]:
    for edge in graph.hyperedges:
        span = edge.spans[0]
        verb = graph.prompt[slice(*span)]
        contrary = CONTRARY.get(verb.lower())
        if edge.kind == "action" and contrary and not _MUTUAL_WORDS.intersection(edge.action.lower().split()):
            text = graph.prompt[: span[0]] + contrary + graph.prompt[span[1] :]
            yield Swap(text, "contrary", (verb, contrary))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
