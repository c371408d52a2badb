"""What the losses see of a hypergraph: words with token positions, vertices as lists of words, edges as action words
and their parties. Pure Python; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..parsing.hypergraph import Hyperedge, Hypergraph, Span, Vertex
from ..parsing.tokens import TokenTable


@dataclass(frozen=True)
class TokenWord:
    """A word and its positions on the cross-attention axis (77 * chunk + offset), one for each of its pieces."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class VertexTokens:
    """A noun group: indices into ``TokenGraph.words``, the head being one of them."""

    words: tuple[int, ...]
    head: int
    environment: bool = False
    label: str = ""


@dataclass(frozen=True)
class EdgeTokens:
    """An action: indices of its words (no particles, no prepositions) and of its parties in ``TokenGraph.vertices``;
    ``subjects`` are those of the parties that act.
    """

    words: tuple[int, ...]
    parties: tuple[int, ...]
    label: str = ""
    kind: str = "action"
    subjects: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenGraph:
    """The hypergraph in token positions of one text encoder. ``length`` is the length of the cross-attention axis."""

    words: tuple[TokenWord, ...]
    vertices: tuple[VertexTokens, ...]
    edges: tuple[EdgeTokens, ...]
    length: int
    prompt: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """The distinct token positions of all words, ascending."""
        return tuple(sorted({p for word in self.words for p in word.positions}))


# Words that go with a verb but do not show what happens: prepositions, particles, auxiliaries, articles.
_LIGHT_WORDS = (
    "a an the is are was were be been being am 's has have had do does did will would can could may might must shall "
    "should to of with at by for from in into inside on onto off out outside over under up down upon along alongside "
    "across through around round about above below behind beside besides between beyond before after against among "
    "amid near next close nearby toward towards away back forward apart together past via within without as while "
    "underneath beneath atop aboard"
)
_LIGHT = frozenset(_LIGHT_WORDS.split())
# These name the relation in "to the left of", but only a place in "lying on top of".
_PLACE_WORDS = "top front left right side bottom middle center centre edge"
_LIGHT_IN_ACTIONS = _LIGHT | frozenset(_PLACE_WORDS.split())


def token_graph(hypergraph: Hypergraph, table: TokenTable, relations: bool = False) -> TokenGraph:
    """Put a hypergraph in terms of token positions.

    A vertex holds its head and modifiers in the order of the prompt; an edge holds its action words without particles
    and prepositions ("plays" of "plays with"), and its parties without locations and environments, which stand in no
    edge. Edges of kind "relation" are left out unless ``relations``. What has no tokens is dropped, with a sentence in
    ``warnings``: a modifier, a vertex whose head has none, an edge without words or without parties.
    """
    return _Builder(hypergraph, table).build(relations)


class _Builder:
    def __init__(self, hypergraph: Hypergraph, table: TokenTable) -> None:
        self.hypergraph, self.table = hypergraph, table
        self.warnings: list[str] = []

    def build(self, relations: bool) -> TokenGraph:
        graph = self.hypergraph
        vertices = {v.id: v for v in graph.vertices if self._seen(v.head, v.span, "the vertex")}
        edges = [e for e in graph.hyperedges if relations or e.kind == "action"]
        spans_of = {id: self._vertex_spans(v) for id, v in vertices.items()}
        action_spans = [self._action_spans(e) for e in edges]
        spans = sorted({s for some in (*spans_of.values(), *action_spans) for s in some})
        number = {span: i for i, span in enumerate(spans)}
        place = {id: i for i, id in enumerate(vertices)}
        return TokenGraph(
            words=tuple(TokenWord(graph.prompt[a:b], self.table.positions((a, b))) for a, b in spans),
            vertices=tuple(
                VertexTokens(tuple(number[s] for s in spans_of[id]), number[v.span], v.environment, v.head)
                for id, v in vertices.items()
            ),
            edges=tuple(
                EdgeTokens(tuple(number[s] for s in said), parties, edge.action, edge.kind, self._acting(edge, place))
                for edge, said in zip(edges, action_spans, strict=True)
                if said and (parties := self._parties(edge, place))
            ),
            length=self.table.length,
            prompt=graph.prompt,
            warnings=tuple(dict.fromkeys((*graph.warnings, *self.table.warnings, *self.warnings))),
        )

    def _seen(self, text: str, span: Span, role: str) -> bool:
        if self.table.positions(span):
            return True
        self.warnings.append(f"'{text}' has no token in the text encoder, so {role} '{text}' is left out.")
        return False

    def _vertex_spans(self, vertex: Vertex) -> list[Span]:
        if vertex.count is not None and vertex.count > 1:
            self.warnings.append(
                f"'{vertex.head}' counts {vertex.count} but is one group: guidance cannot tell its members apart."
            )
        modifiers = {m.span for m in vertex.modifiers if self._seen(m.text, m.span, "the word")}
        return sorted(modifiers | {vertex.span})

    def _action_spans(self, edge: Hyperedge) -> list[Span]:
        light = _LIGHT if edge.kind == "relation" else _LIGHT_IN_ACTIONS
        prompt = self.hypergraph.prompt
        heavy = [s for s in edge.spans if prompt[s[0] : s[1]].lower() not in light]
        seen = [s for s in sorted(heavy or edge.spans) if self.table.positions(s)]
        if not seen:
            self.warnings.append(f"'{edge.action}' has no token in the text encoder, so this {edge.kind} is left out.")
        return seen

    @staticmethod
    def _acting(edge: Hyperedge, place: dict[str, int]) -> tuple[int, ...]:
        return tuple(place[p.vertex] for p in edge.participants if p.role == "subject" and p.vertex in place)

    def _parties(self, edge: Hyperedge, place: dict[str, int]) -> tuple[int, ...]:
        graph = self.hypergraph
        parties = tuple(place[id] for id in edge.parties if id in place and not graph.vertex(id).environment)
        if not parties:
            self.warnings.append(f"Nobody takes part in '{edge.action}', so this {edge.kind} is left out.")
        return parties
