"""The semantic hypergraph of a prompt: noun groups as vertices, actions and relations as hyperedges.

Everything here is immutable and checked when it is made, so that whoever receives a ``Hypergraph`` can trust it: every
span lies inside the prompt, every text is what the prompt says there, and every participant is one of the vertices.

After "SHYI: Action support for contrastive learning in high-fidelity text-to-image generation", section 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InterplayError

Span = tuple[int, int]
"""Character offsets into the raw prompt, ``[start, end)``."""

ROLES = ("subject", "object", "instrument", "recipient", "location")
KINDS = ("action", "relation")


@dataclass(frozen=True)
class Modifier:
    """A word that describes a vertex: ``white`` of ``white dog``. ``optional`` marks one that a judge may leave out."""

    text: str
    span: Span
    optional: bool = False


@dataclass(frozen=True)
class Vertex:
    """A noun group. ``environment`` marks a place or surrounding; ``count`` is the number the prompt asks for."""

    id: str
    head: str
    span: Span
    modifiers: tuple[Modifier, ...] = ()
    environment: bool = False
    count: int | None = None


@dataclass(frozen=True)
class Participant:
    """One party of a hyperedge. A location takes part in the sentence, but is not a party of the core edge."""

    role: str
    vertex: str


@dataclass(frozen=True)
class Hyperedge:
    """An action (``kind`` "action") or a relation without a verb (``kind`` "relation") and those who take part.

    ``spans`` holds one span a word, in reading order of the action; ``action`` is these words joined by spaces.
    """

    id: str
    kind: str
    action: str
    spans: tuple[Span, ...]
    participants: tuple[Participant, ...]

    @property
    def parties(self) -> tuple[str, ...]:
        """Vertex ids of the participants that are not locations, each once, in order."""
        return tuple(dict.fromkeys(p.vertex for p in self.participants if p.role != "location"))


@dataclass(frozen=True)
class Hypergraph:
    """What a prompt says: who there is, and who does what to whom.

    Vertices are called ``v0, v1, …`` and hyperedges ``e0, e1, …`` in their order. ``not_content`` lists the stretches
    of the prompt that name no thing (style tags, artists, BREAK). ``parser`` and ``warnings`` say where the graph
    came from; they take no part in comparisons.

    Raises:
        InterplayError: a span outside the prompt, a text that differs from its span, an unknown role, kind or vertex.
    """

    prompt: str
    vertices: tuple[Vertex, ...] = ()
    hyperedges: tuple[Hyperedge, ...] = ()
    not_content: tuple[str, ...] = ()
    parser: str = field(default="", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _check_vertices(self)
        _check_hyperedges(self)
        for text in self.not_content:
            _require(isinstance(text, str) and bool(text), "not_content holds texts, but one is", text)

    def vertex(self, id: str) -> Vertex:
        """The vertex called ``id``; ``InterplayError`` when there is none."""
        return self.vertices[self.index(id)]

    def index(self, id: str) -> int:
        """The place of the vertex called ``id`` in ``vertices``."""
        for i, vertex in enumerate(self.vertices):
            if vertex.id == id:
                return i
        raise InterplayError(f"The hypergraph has no vertex '{id}'; it has {len(self.vertices)}, counted from v0.")

    def edges_of(self, id: str) -> tuple[Hyperedge, ...]:
        """The hyperedges that the vertex takes part in, as a party or as a location."""
        return tuple(e for e in self.hyperedges if any(p.vertex == id for p in e.participants))

    def with_warnings(self, *warnings: str) -> Hypergraph:
        """The same graph with more warnings, each at most once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *warnings))))

    def to_dict(self) -> dict[str, Any]:
        """A plain dict in the schema of the gold corpus, ready for ``json.dumps``."""
        out: dict[str, Any] = {
            "prompt": self.prompt,
            "vertices": [_vertex_dict(v) for v in self.vertices],
            "hyperedges": [_edge_dict(e) for e in self.hyperedges],
            "not_content": list(self.not_content),
        }
        if self.parser:
            out["parser"] = self.parser
        if self.warnings:
            out["warnings"] = list(self.warnings)
        return out

    def to_json(self, indent: int | None = None) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hypergraph:
        """Read the schema of the gold corpus; ids may be any names and are renumbered.

        Raises:
            InterplayError: a field is missing or of the wrong type, or the graph is not valid.
        """
        if not isinstance(data, Mapping):
            raise InterplayError(f"A hypergraph is a JSON object, not {type(data).__name__}; paste the whole object.")
        try:
            return _read(cls, data)
        except KeyError as error:
            raise InterplayError(f"The hypergraph lacks the field {error}; add it or parse again.") from error
        except InterplayError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise InterplayError(f"The hypergraph has a field of the wrong type ({error}); correct it.") from error

    @classmethod
    def from_json(cls, text: str) -> Hypergraph:
        """``from_dict`` of JSON text; ``InterplayError`` when it is not JSON."""
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InterplayError(f"The hypergraph is not valid JSON ({error}); check quotes and commas.") from error
        return cls.from_dict(data)


def numbered(
    vertices: Iterable[Vertex], hyperedges: Iterable[Hyperedge]
) -> tuple[tuple[Vertex, ...], tuple[Hyperedge, ...]]:
    """Give vertices and hyperedges the ids v0.. and e0.. in their order, and let participants follow."""
    vertices = tuple(vertices)
    names = {vertex.id: f"v{i}" for i, vertex in enumerate(vertices)}
    if len(names) < len(vertices):
        raise InterplayError("Two vertices of the hypergraph have the same id; give each its own.")
    edges = []
    for i, edge in enumerate(hyperedges):
        unknown = [p.vertex for p in edge.participants if p.vertex not in names]
        _require(not unknown, f"the hyperedge '{edge.action}' has a participant that is no vertex:", *unknown[:1])
        parties = tuple(Participant(p.role, names[p.vertex]) for p in edge.participants)
        edges.append(replace(edge, id=f"e{i}", participants=parties))
    return tuple(replace(v, id=names[v.id]) for v in vertices), tuple(edges)


def _require(fact: bool, complaint: str, *values: object) -> None:
    if not fact:
        shown = " ".join(repr(v) for v in values)
        raise InterplayError(f"The hypergraph is not valid: {complaint} {shown}; correct it or parse the prompt again.")


def _check_span(prompt: str, span: Span) -> None:
    numbers = isinstance(span, tuple) and len(span) == 2 and all(type(x) is int for x in span)
    _require(numbers, "a span is a pair of whole numbers, not", span)
    inside = 0 <= span[0] < span[1] <= len(prompt)
    _require(inside, f"a span lies inside the {len(prompt)} characters of the prompt, unlike", span)


def _check_text(prompt: str, span: Span, text: str) -> None:
    _check_span(prompt, span)
    said = prompt[span[0] : span[1]]
    _require(said == text, f"at {span} the prompt says {said!r}, not", text)


def _check_vertices(graph: Hypergraph) -> None:
    for i, vertex in enumerate(graph.vertices):
        _require(vertex.id == f"v{i}", f"vertex {i} must be called 'v{i}', not", vertex.id)
        _check_text(graph.prompt, vertex.span, vertex.head)
        for modifier in vertex.modifiers:
            _check_text(graph.prompt, modifier.span, modifier.text)
        spans = [m.span for m in vertex.modifiers]
        _require(len(set(spans)) == len(spans), "a modifier is named twice for", vertex.head)
        count = vertex.count
        _require(count is None or (type(count) is int and count >= 0), f"the count of {vertex.head!r} cannot be", count)
    spans = [v.span for v in graph.vertices]
    repeated = [s for s in spans if spans.count(s) > 1]
    _require(not repeated, "two vertices stand on the same word", *repeated[:1])


def _check_hyperedges(graph: Hypergraph) -> None:
    known = {v.id for v in graph.vertices}
    for i, edge in enumerate(graph.hyperedges):
        _require(edge.id == f"e{i}", f"hyperedge {i} must be called 'e{i}', not", edge.id)
        _require(edge.kind in KINDS, f"a hyperedge is one of {', '.join(KINDS)}, not", edge.kind)
        for span in edge.spans:
            _check_span(graph.prompt, span)
        _require(len(edge.spans) > 0, "a hyperedge needs a word of the prompt, but none is given for", edge.action)
        _require(len(set(edge.spans)) == len(edge.spans), "a word is named twice in the hyperedge", edge.action)
        said = " ".join(graph.prompt[a:b] for a, b in edge.spans)
        _require(said == edge.action, f"the words of a hyperedge are {said!r}, not", edge.action)
        for party in edge.participants:
            _require(party.role in ROLES, f"a role is one of {', '.join(ROLES)}, not", party.role)
            _require(party.vertex in known, f"in {edge.action!r} a participant is no vertex:", party.vertex)
        distinct = len(set(edge.participants)) == len(edge.participants)
        _require(distinct, "a participant is named twice in", edge.action)


def _vertex_dict(vertex: Vertex) -> dict[str, Any]:
    mods = [{"text": m.text, "span": list(m.span), "optional": m.optional} for m in vertex.modifiers]
    out: dict[str, Any] = {"id": vertex.id, "head": vertex.head, "span": list(vertex.span), "mods": mods}
    out["environment"] = vertex.environment
    if vertex.count is not None:
        out["count"] = vertex.count
    return out


def _edge_dict(edge: Hyperedge) -> dict[str, Any]:
    return {
        "id": edge.id,
        "kind": edge.kind,
        "action": edge.action,
        "spans": [list(s) for s in edge.spans],
        "participants": [{"role": p.role, "vertex": p.vertex} for p in edge.participants],
    }


def _span(value: Any) -> Span:
    start, end = value
    return start, end


def _read(cls: type[Hypergraph], data: Mapping[str, Any]) -> Hypergraph:
    prompt = data["prompt"]
    if not isinstance(prompt, str):
        raise InterplayError(f"The prompt of a hypergraph is a text, not {type(prompt).__name__}; correct it.")
    vertices = [_read_vertex(prompt, v) for v in data["vertices"]]
    edges = [_read_edge(prompt, e) for e in data["hyperedges"]]
    numbered_vertices, numbered_edges = numbered(vertices, edges)
    return cls(
        prompt,
        numbered_vertices,
        numbered_edges,
        tuple(data.get("not_content", ())),
        str(data.get("parser", "")),
        tuple(str(w) for w in data.get("warnings", ())),
    )


def _read_vertex(prompt: str, data: Mapping[str, Any]) -> Vertex:
    span = _span(data["span"])
    mods = tuple(
        Modifier(m.get("text", prompt[slice(*_span(m["span"]))]), _span(m["span"]), bool(m.get("optional", False)))
        for m in data.get("mods", ())
    )
    head = data.get("head", prompt[slice(*span)])
    return Vertex(str(data["id"]), head, span, mods, bool(data.get("environment", False)), data.get("count"))


def _read_edge(prompt: str, data: Mapping[str, Any]) -> Hyperedge:
    spans = tuple(_span(s) for s in data["spans"])
    action = data.get("action", " ".join(prompt[a:b] for a, b in spans))
    parties = tuple(Participant(str(p["role"]), str(p["vertex"])) for p in data["participants"])
    return Hyperedge(str(data.get("id", "")), str(data.get("kind", "action")), action, spans, parties)
