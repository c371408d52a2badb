"""Adding to, removing from and replacing parts of a hypergraph: what the lines of the text form do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import InterplayError
from .hypergraph import Hyperedge, Hypergraph, Modifier, Participant, Span, Vertex, numbered
from .prompt_words import find, find_action_word, occurrences


@dataclass(frozen=True)
class Reference:
    """A word as a person names it: its text, which occurrence, and whether an ``@`` marks it as an environment."""

    text: str
    number: int | None = None
    environment: bool = False


@dataclass(frozen=True)
class NounLine:
    """``@head#2*3: modifier, optional?``; the flag of a modifier says optional."""

    head: Reference
    count: int | None
    modifiers: tuple[tuple[Reference, bool], ...]


@dataclass(frozen=True)
class EdgeLine:
    """``~words(parties; places)``; a party has a role or ``None`` for the default."""

    kind: str
    words: tuple[Reference, ...]
    parties: tuple[tuple[str | None, Reference], ...]


def default_role(index: int, environment: bool) -> str:
    """The role of a party that has none written: environments are places, the first is the subject, others objects."""
    if environment:
        return "location"
    return "object" if index else "subject"


class Draft:
    """A hypergraph in the making. Signs: "" and "+" add, "-" removes, "=" replaces."""

    def __init__(self, graph: Hypergraph) -> None:
        self.prompt = graph.prompt
        self.vertices = list(graph.vertices)
        self.edges = list(graph.hyperedges)
        self.silent = list(graph.not_content)
        self.made = 0

    def graph(self, parser: str, warnings: tuple[str, ...]) -> Hypergraph:
        """The finished graph, ids counted anew."""
        vertices, edges = numbered(self.vertices, self.edges)
        return Hypergraph(self.prompt, vertices, edges, tuple(self.silent), parser, warnings)

    def not_content(self, sign: str, texts: Sequence[str]) -> None:
        """Name stretches that are no things; they need not be words of the prompt."""
        if sign == "=":
            self.silent = list(texts)
        elif sign == "-":
            missing = [text for text in texts if text not in self.silent]
            if missing:
                raise InterplayError(f"'{missing[0]}' is not among what names nothing; look at the line with '!'.")
            self.silent = [text for text in self.silent if text not in texts]
        else:
            self.silent += texts

    def noun(self, sign: str, line: NounLine) -> None:
        """Add, replace or remove a vertex, or only some of its modifiers."""
        if sign == "-":
            self._remove_noun(line)
            return
        index = self._place(line.head, strict=sign == "")
        vertex = self.vertices[index]
        modifiers = [self._modifier(vertex, reference, optional) for reference, optional in line.modifiers]
        if sign == "=":
            changed = replace(vertex, environment=line.head.environment, count=line.count)
            changed = replace(changed, modifiers=_distinct(modifiers))
        else:
            count = vertex.count if line.count is None else line.count
            changed = replace(vertex, count=count, modifiers=_distinct([*vertex.modifiers, *modifiers]))
        self.vertices[index] = changed

    def edge(self, sign: str, line: EdgeLine) -> None:
        """Add, replace or remove a hyperedge, or (``+`` on an existing one) add parties to it."""
        if sign == "-":
            for edge in self._matching(line, whole=True):
                self.edges.remove(edge)
            return
        old = self._matching(line, whole=False)[0] if sign == "=" else None
        at = self.edges.index(old) if old else len(self.edges)
        parties = self._parties(line)
        near = [self._vertex(p.vertex).span for p in parties]
        spans: list[Span] = []
        for word in line.words:
            previous = spans[-1] if spans else None
            spans.append(find_action_word(self.prompt, word.text, word.number, previous, near))
        action = " ".join(self.prompt[a:b] for a, b in spans)
        edge = Hyperedge(self._new_id(), line.kind, action, tuple(spans), parties)
        if sign == "+":
            same = next((i for i, e in enumerate(self.edges) if (e.kind, e.spans) == (edge.kind, edge.spans)), None)
            if same is not None:
                self.edges[same] = self._joined(self.edges[same], line)
                return
        self.edges[at : at + (old is not None)] = [edge]

    def _joined(self, edge: Hyperedge, line: EdgeLine) -> Hyperedge:
        more = self._parties(line, start=len(edge.participants))
        known = {p.vertex for p in edge.participants}
        return replace(edge, participants=(*edge.participants, *(p for p in more if p.vertex not in known)))

    def _new_id(self) -> str:
        self.made += 1
        return f"new{self.made}"

    def _vertex(self, id: str) -> Vertex:
        return next(v for v in self.vertices if v.id == id)

    def _lookup(self, reference: Reference) -> int | None:
        """The vertex that a name means: its first occurrence if that is one, else the first vertex of this name."""
        spans = occurrences(self.prompt, reference.text)
        if reference.number is not None:
            spans = [find(self.prompt, reference.text, reference.number)]
        for span in spans:
            for i, vertex in enumerate(self.vertices):
                if vertex.span == span:
                    return i
        return None

    def _place(self, reference: Reference, strict: bool) -> int:
        """Get or make the vertex; ``strict`` takes a name without number for the first occurrence, vertex or not."""
        span = find(self.prompt, reference.text, reference.number)
        index = next((i for i, v in enumerate(self.vertices) if v.span == span), None)
        if index is None and not strict:
            index = self._lookup(reference)
        if index is None:
            self.vertices.append(Vertex(self._new_id(), self.prompt[slice(*span)], span))
            index = len(self.vertices) - 1
        if reference.environment:
            self.vertices[index] = replace(self.vertices[index], environment=True)
        return index

    def _modifier(self, vertex: Vertex, reference: Reference, optional: bool) -> Modifier:
        span = find(self.prompt, reference.text, reference.number, [vertex.span])
        return Modifier(self.prompt[slice(*span)], span, optional)

    def _parties(self, line: EdgeLine, start: int = 0) -> tuple[Participant, ...]:
        parties = []
        for i, (role, reference) in enumerate(line.parties, start):
            vertex = self.vertices[self._place(reference, strict=False)]
            parties.append(Participant(role or default_role(i, reference.environment), vertex.id))
        return tuple(dict.fromkeys(parties))

    def _remove_noun(self, line: NounLine) -> None:
        head = line.head
        find(self.prompt, head.text, head.number)
        index = self._lookup(head)
        if index is None:
            edges = self._matching(EdgeLine("", (head,), ()), whole=True)
            self.edges = [e for e in self.edges if e not in edges]
            return
        vertex = self.vertices[index]
        if line.modifiers:
            gone = [self._own_modifier(vertex, reference) for reference, _ in line.modifiers]
            kept = tuple(m for m in vertex.modifiers if m not in gone)
            self.vertices[index] = replace(vertex, modifiers=kept)
            return
        del self.vertices[index]
        self.edges = [e for edge in self.edges if (e := _without(edge, vertex.id)).participants or e == edge]

    def _own_modifier(self, vertex: Vertex, reference: Reference) -> Modifier:
        own = [m for m in vertex.modifiers if m.text.lower() == reference.text.lower()]
        if reference.number is not None:
            span = find(self.prompt, reference.text, reference.number)
            own = [m for m in own if m.span == span]
        if not own:
            names = ", ".join(f"'{m.text}'" for m in vertex.modifiers) or "none"
            raise InterplayError(f"'{reference.text}' does not describe '{vertex.head}', which has {names}.")
        return own[0]

    def _matching(self, line: EdgeLine, whole: bool) -> list[Hyperedge]:
        """Edges with these words (only the first one unless ``whole``) and these parties."""
        words = line.words if whole else line.words[:1]
        for word in words:
            find(self.prompt, word.text, word.number)
        found = [e for e in self.edges if all(self._says(e, w) for w in words) and line.kind in ("", e.kind)]
        if whole and line.parties:
            indices = [self._lookup(reference) for _, reference in line.parties]
            wanted = {None if i is None else self.vertices[i].id for i in indices}
            found = [e for e in found if wanted <= {p.vertex for p in e.participants}]
        if not found:
            said = " ".join(w.text for w in line.words)
            known = ", ".join(f"'{e.action}'" for e in self.edges) or "no action"
            raise InterplayError(f"'{said}' is neither a vertex nor an action of the graph, which has {known}.")
        return found

    def _says(self, edge: Hyperedge, word: Reference) -> bool:
        if word.number is not None:
            return find(self.prompt, word.text, word.number) in edge.spans
        return any(self.prompt[a:b].lower() == word.text.lower() for a, b in edge.spans)


def _distinct(modifiers: Iterable[Modifier]) -> tuple[Modifier, ...]:
    """Each span once; the later flag counts."""
    return tuple({m.span: m for m in modifiers}.values())


def _without(edge: Hyperedge, vertex: str) -> Hyperedge:
    return replace(edge, participants=tuple(p for p in edge.participants if p.vertex != vertex))
