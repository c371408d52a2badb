"""Questions about a picture, made from the prompt's hypergraph by rule: offline, always the same ones.

As TIFA (Hu et al. 2023) asks for each element of a prompt, by type. The edges are asked beyond it: who does what to
whom, and the same with the parties exchanged, so that a picture in which they changed places does not pass; and, where
a verb has a contrary, which of the two it is, so that push and pull differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...parsing.hypergraph import Hyperedge, Hypergraph, Vertex
from .wording import COLOUR_WORDS, COLOURS, NUMBERS, be, definite, gerund, is_plural, name_of, properties, with_article

TIFA_KINDS = ("object", "attribute", "counting", "action", "environment")
EDGE_KINDS = ("roles", "swapped", "contrary")
KINDS = (*TIFA_KINDS, *EDGE_KINDS)
YES_NO = ("yes", "no")

CONTRARY = {
    a: b
    for pair in (
        "pushing pulling",
        "lifting lowering",
        "throwing catching",
        "opening closing",
        "following leading",
        "building destroying",
        "fixing breaking",
        "loading unloading",
        "entering leaving",
        "buying selling",
        "giving taking",
        "sending receiving",
        "reading writing",
        "teaching learning",
    )
    for a, b in (pair.split(), pair.split()[::-1])
}
# Who acts and who is acted on cannot be told apart.
_MUTUAL_VERBS = "meeting hugging kissing embracing fighting wrestling racing facing marrying touching"
_MUTUAL = frozenset(_MUTUAL_VERBS.split())
_MUTUAL_PARTICLES = "with beside near alongside together against next by and opposite around like"
_MUTUAL_WORDS = frozenset(_MUTUAL_PARTICLES.split())
_ASKED_WITH = {"with": "with", "to": "to", "from": "from", "at": "at", "into": "into", "on": "on", "for": "for"}
_PLACES = (
    "in on at by near under over above below behind beside inside outside through across along around between against "
    "beneath underneath atop within toward towards into onto before among"
)
_PLACED = frozenset(_PLACES.split())


@dataclass(frozen=True)
class Question:
    """text, the choices, the answer that the prompt gives, and one of KINDS.

    noun, attribute, verb, other: what it asks about in the words of the prompt, for whoever answers by other means than
    reading: attribute of noun; noun verb other.
    """

    text: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    noun: str = ""
    attribute: str = ""
    verb: str = ""
    other: str = ""


def questions(graph: Hypergraph) -> tuple[Question, ...]:
    """All questions of a prompt, each once, in the order of its words: things first, then edges."""
    made = [q for vertex in graph.vertices for q in _about(vertex, graph)]
    made += [q for edge in graph.hyperedges for q in _edge(edge, graph)]
    return tuple(dict.fromkeys(made))


# --- things -----------------------------------------------------------------------------------------------------------


def _about(vertex: Vertex, graph: Hypergraph) -> Iterator[Question]:
    name, head = name_of(vertex), vertex.head
    rivals = [v for v in graph.vertices if name_of(v) == name]
    if vertex.environment:
        yield _environment(vertex, graph, name)
    else:
        there = f"{be(head)} there {with_article(name, head)} in the picture?"
        yield Question(there, YES_NO, "yes", "object", noun=name)
    for word in properties(vertex):
        yield _attribute(vertex, graph, name, word, alone=len(rivals) == 1)
    count = sum(v.count or (2 if is_plural(v.head) else 1) for v in rivals)
    if vertex.count is not None or (len(rivals) > 1 and not any(is_plural(v.head) and not v.count for v in rivals)):
        yield _count(vertex, name, count)


def _environment(vertex: Vertex, graph: Hypergraph, name: str) -> Question:
    where = _preposition(vertex, graph)
    text = f"Is this {where} {with_article(name, vertex.head)}?"
    return Question(text, YES_NO, "yes", "environment", noun=name)


def _attribute(vertex: Vertex, graph: Hypergraph, name: str, word: str, alone: bool) -> Question:
    asked = {"noun": name, "attribute": word}
    if not alone:  # of two dogs, one is black
        return Question(f"Is there {with_article(f'{word} {name}', vertex.head)}?", YES_NO, "yes", "attribute", **asked)
    colours = [w for w in properties(vertex) if w in COLOUR_WORDS]
    if word in COLOURS and len(colours) == 1:
        text = f"What color {be(vertex.head).lower()} the {name}?"
        return Question(text, _colour_choices(word, graph), word, "attribute", **asked)
    return Question(f"{be(vertex.head)} the {name} {word}?", YES_NO, "yes", "attribute", **asked)


def _colour_choices(asked: str, graph: Hypergraph) -> tuple[str, ...]:
    """Four colours: the asked one, then those of the other things (which leak), then common ones; sorted."""
    others = [word for v in graph.vertices for word in properties(v) if word in COLOURS]
    return tuple(sorted(list(dict.fromkeys((asked, *others, *COLOURS)))[:4]))


def _count(vertex: Vertex, name: str, count: int) -> Question:
    choices = {*range(1, 5), count, count + 1}
    plural = name if is_plural(vertex.head) else f"{name}s"
    answers = tuple(str(number) for number in sorted(choices))
    return Question(f"How many {plural} are there in the picture?", answers, str(count), "counting", noun=name)


def _preposition(vertex: Vertex, graph: Hypergraph) -> str:
    """The word that puts things there: "under" of "chasing mouse under tree"; "in" where there is none."""
    start = min((vertex.span[0], *(m.span[0] for m in vertex.modifiers)))
    for word in reversed(graph.prompt[:start].lower().split()[-3:]):
        word = word.strip(",.;:")
        if word in _PLACED:
            return word
        if word not in ("a", "an", "the", "its", "his", "her", "their", *NUMBERS):
            break
    return "in"


# --- edges ------------------------------------------------------------------------------------------------------------


def _edge(edge: Hyperedge, graph: Hypergraph) -> Iterator[Question]:
    subjects = [graph.vertex(p.vertex) for p in edge.participants if p.role == "subject"]
    others = [graph.vertex(p.vertex) for p in edge.participants if p.role in ("object", "recipient", "instrument")]
    for subject in subjects:
        if edge.kind == "action":
            yield from _action(edge, graph, subject, others)
        else:
            yield from _relation(edge, graph, subject, others)


def _action(edge: Hyperedge, graph: Hypergraph, subject: Vertex, others: list[Vertex]) -> Iterator[Question]:
    first, *particles = edge.action.lower().split()
    doing = gerund(first)
    said = " ".join((doing, *particles))
    who = f"{be(subject.head)} {definite(subject, graph)}"
    noun = name_of(subject)
    yield Question(f"{who} {said}{' something' if others else ''}?", YES_NO, "yes", "action", noun, verb=doing)
    parties = list(_parties(others, graph))
    if doing in CONTRARY:
        yield _contrary(graph, subject, [other for other, tail in parties if not tail], doing, particles)
    for other, tail in parties:
        what = definite(other, graph)
        asked = f"{who} {said} {what}{tail}?"
        yield Question(asked, YES_NO, "yes", "roles", noun, verb=doing, other=name_of(other))
        if not _mutual(doing, particles) and not tail:
            turned = f"{be(other.head)} {what} {said} {definite(subject, graph)}?"
            yield Question(turned, YES_NO, "no", "swapped", name_of(other), verb=doing, other=noun)


def _parties(others: list[Vertex], graph: Hypergraph) -> Iterator[tuple[Vertex, str]]:
    """Whom the action goes to, each with what the question adds: nothing, or "to the woman", "with the bat"."""
    direct = [v for v in others if not _own_preposition(v, graph)] or others[:1]
    for vertex in others:
        if vertex in direct:
            continue
        yield direct[0], f" {_own_preposition(vertex, graph)} {definite(vertex, graph)}"
    if len(direct) == 2 and not _joined(direct[0], direct[1], graph):  # gives a dog a bone
        yield direct[1], f" to {definite(direct[0], graph)}"
        direct = direct[1:]
    for vertex in direct:
        yield vertex, ""


def _own_preposition(vertex: Vertex, graph: Hypergraph) -> str:
    """ "with" of "hits a ball with a bat", where it is not part of the action."""
    start = min((vertex.span[0], *(m.span[0] for m in vertex.modifiers)))
    words = graph.prompt[:start].lower().split()
    while words and words[-1] in ("a", "an", "the", "its", "his", "her", "their"):
        words.pop()
    word = words[-1] if words else ""
    in_action = any(word in edge.action.lower().split() for edge in graph.edges_of(vertex.id))
    return "" if in_action else _ASKED_WITH.get(word, "")


def _joined(first: Vertex, second: Vertex, graph: Hypergraph) -> bool:
    low, high = sorted((first.span[1], second.span[0]))
    between = graph.prompt[low:high].lower()
    return "and" in between.split() or "," in between or "&" in between or "or" in between.split()


def _contrary(graph: Hypergraph, subject: Vertex, others: list[Vertex], doing: str, particles: list[str]) -> Question:
    tail = " ".join((*particles, *(definite(v, graph) for v in others[:1])))
    choices = tuple(sorted((doing, CONTRARY[doing])))
    text = f"{be(subject.head)} {definite(subject, graph)} {choices[0]} or {choices[1]} {tail}".rstrip() + "?"
    other = name_of(others[0]) if others else ""
    return Question(text, choices, doing, "contrary", name_of(subject), verb=doing, other=other)


def _relation(edge: Hyperedge, graph: Hypergraph, subject: Vertex, others: list[Vertex]) -> Iterator[Question]:
    said = edge.action.lower()
    if said == "of":  # the arm of a chair: a part, which the object question has asked for
        return
    for other in others:
        one, two = definite(subject, graph), definite(other, graph)
        noun, object_ = name_of(subject), name_of(other)
        if said in ("with", "wearing", "has"):
            asked = f"{'Do' if is_plural(subject.head) else 'Does'} {one} have {with_article(object_, other.head)}?"
        else:
            asked = f"{be(subject.head)} {one} {said} {two}?"
        yield Question(asked, YES_NO, "yes", "roles", noun, verb=said, other=object_)
        if said not in ("with", "wearing", "has") and not _MUTUAL_WORDS.intersection(said.split()):
            yield Question(
                f"{be(other.head)} {two} {said} {one}?", YES_NO, "no", "swapped", object_, verb=said, other=noun
            )


def _mutual(doing: str, particles: list[str]) -> bool:
    return doing in _MUTUAL or bool(_MUTUAL_WORDS.intersection(particles))
