"""Whose region of a picture shall be whose when it is drawn again.

RealignDiff gives each region the words of what was found in it. That mends looks, but keeps a picture in which the
parties of an action have changed places, or in which a thing came up that nobody asked for. Here the regions go to what
the prompt wants in them; this is ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...parsing.hypergraph import Hypergraph, Vertex
from ...parsing.lexicon import noun_lemma
from ...parsing.tokens import TokenTable
from ..modulation import Binding
from ..modulation_words import CERTAIN, Bound, bind, positions
from .detectors import phrase_of
from .objects import PictureObject, PictureObjects


def as_wanted(picture: PictureObjects, graph: Hypergraph) -> PictureObjects:
    """The objects of a picture with their regions given to what the prompt wants in them.

    - Of several finds of a thing that the prompt names once (or n times) the surest keep its words.
    - The regions of the others, and of things judged unlikely (verdict 0), go to things that are missing, one each;
      what is left over is cleared: all words are pushed out of it.
    - Where the asked action was seen the wrong way round, its parties change places.

    Several finds of a thing are told apart only when they were looked for with instances "separate"; ``missing`` stays.
    """
    things = [vertex for vertex in graph.vertices if not vertex.environment]
    given = _given(picture.objects, things, graph.prompt)
    for subject, action, target in picture.acts or ():
        for edge in graph.hyperedges:
            roles = {p.role: p.vertex for p in edge.participants}
            a, b = roles.get("subject", ""), roles.get("object", "")
            if edge.action == action and (given.get(target), given.get(subject)) == (a, b):
                given[subject], given[target] = a, b
    return replace(picture, objects=tuple(_wanted(i, picture.objects, given, graph) for i in range(len(given))))


def mendable(picture: PictureObjects, graph: Hypergraph, regions: str = "wanted") -> bool:
    """Whether regions can mend what is wrong in a picture: they can change what is in a place, and not bring a thing
    where there is no region for it, or an action that is not shown at all.
    """
    objects = (as_wanted(picture, graph) if regions == "wanted" else picture).objects
    things = [vertex for vertex in graph.vertices if not vertex.environment]
    there = [item for item in objects if not item.cleared]
    if not all(any(_is(item, vertex, things, graph.prompt) for item in there) for vertex in things):
        return False
    asked = {edge.action for edge in graph.hyperedges if edge.kind == "action" and len(edge.parties) > 1}
    return picture.acts is None or asked <= {action for _, action, _ in picture.acts}


def _given(objects: Sequence[PictureObject], things: Sequence[Vertex], prompt: str) -> dict[int, str | None]:
    """The vertex each object's region goes to: its id, None to be cleared, "" for what stays as it is."""
    given: dict[int, str | None] = dict.fromkeys(range(len(objects)), "")
    for vertex in things:
        found = [i for i, item in enumerate(objects) if given[i] == "" and _is(item, vertex, things, prompt)]
        found.sort(key=lambda i: -objects[i].score)
        many = noun_lemma(vertex.head.lower()) != vertex.head.lower()
        most = vertex.count or (len(found) if many else 1)
        given |= {i: vertex.id if place < most else None for place, i in enumerate(found)}
    given |= {i: None for i, item in enumerate(objects) if given[i] == "" and item.verdict == 0}
    spare = [i for i, to in given.items() if to is None]
    lacking = [vertex.id for vertex in things if vertex.id not in given.values()]
    return given | dict(zip(spare, lacking, strict=False))


def _is(item: PictureObject, vertex: Vertex, things: Sequence[Vertex], prompt: str) -> bool:
    """Whether an object is what a vertex names; things of one name are told apart by their phrases."""
    name = noun_lemma(vertex.head.lower())
    alike = sum(noun_lemma(other.head.lower()) == name for other in things) > 1
    same = noun_lemma(item.label.lower()) == name
    return same and (not alike or item.phrase.lower() == phrase_of(vertex, prompt).lower())


def _wanted(
    index: int, objects: Sequence[PictureObject], given: dict[int, str | None], graph: Hypergraph
) -> PictureObject:
    """The object that is to be in a region."""
    item, to = objects[index], given[index]
    if to == "":
        return item
    if to is None:
        return replace(item, phrase="", verdict=None, weight=None, cleared=True)
    vertex, things = graph.vertex(to), [v for v in graph.vertices if not v.environment]
    if _is(item, vertex, things, graph.prompt):
        return item
    was = next((other for other in objects if _is(other, vertex, things, graph.prompt)), PictureObject(vertex.head))
    verdict = CERTAIN if was.verdict is None else was.verdict
    phrase = phrase_of(vertex, graph.prompt)
    return replace(item, label=vertex.head, phrase=phrase, verdict=verdict, weight=was.weight)


def bound_objects(picture: PictureObjects, graph: Hypergraph) -> list[Bound]:
    """The words of each object; none for one whose region is to be cleared."""
    found = iter(bind([item for item in picture.objects if not item.cleared], graph))
    return [Bound(item.label, (), CERTAIN) if item.cleared else next(found) for item in picture.objects]


def bindings(picture: PictureObjects, bound: Sequence[Bound], table: TokenTable) -> list[Binding]:
    """What re-weighting needs of the objects that have words or are to be cleared."""
    return [
        Binding(picture.mask(i), positions(one.spans, table), one.score)
        for i, (item, one) in enumerate(zip(picture.objects, bound, strict=True))
        if used(item, one)
    ]


def used(item: PictureObject, one: Bound) -> bool:
    """Whether re-weighting does something with an object."""
    return bool(one.spans) or item.cleared
