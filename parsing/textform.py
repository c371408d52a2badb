"""The short text form of a hypergraph that a person edits, and back.

One line says one thing::

    dog: white, big                      a vertex and its modifiers
    @forest                              an environment
    dogs*2: two                          a vertex that counts two
    playing with(dog, cat; @forest)      an action: subject, then objects; places after the semicolon
    cutting(chef, carrot, instrument=knife)      a role that is not the default
    ~next to(dog, car)                   a relation
    ! masterpiece, best quality          stretches that name nothing
    # a remark

``fish#2`` is the second ``fish`` of the prompt; without a number a modifier is the one nearest to its noun, and an
action the one nearest to its parties. A modifier with ``?`` is optional. A text that holds one of
``: , ; ( ) = # * @ ~ ! ?`` or begins with ``+`` or ``-`` is written as a JSON string: ``"a, b"``.

A text of such lines replaces the parsed graph. Lines that begin with ``+`` (add), ``-`` (remove) or ``=`` (replace)
change it instead. A JSON object in the schema of the gold corpus replaces it too.
"""

from __future__ import annotations

import json
import re

from ..errors import InterplayError
from .graph_edit import Draft, EdgeLine, NounLine, Reference, default_role
from .hypergraph import ROLES, Hyperedge, Hypergraph, Modifier, Span, Vertex
from .prompt_words import find, find_action_word, number_of

_SPECIAL = re.compile(r"[:,;()=#*@~!?\"]|^[+\-{]|\s{2,}|[^\S ]")
_NAME = re.compile(r'\s*(?P<text>"(?:[^"\\]|\\.)*"|[^:,;()=#*@~!?"]*)')


def format_text(graph: Hypergraph) -> str:
    """The text form; ``apply_text(Hypergraph(graph.prompt), text)`` gives the graph back."""
    lines = [_noun_line(graph, v) for v in graph.vertices]
    lines += [_edge_line(graph, e) for e in graph.hyperedges]
    if graph.not_content:
        lines.append("! " + ", ".join(_quoted(text) for text in graph.not_content))
    return "\n".join(lines)


def is_whole(override: str) -> bool:
    """Whether an override says the whole graph, so that the prompt need not be parsed."""
    lines = _lines(override)
    return bool(lines) and lines[0][1][0] not in "+-="


def apply_text(graph: Hypergraph, override: str) -> Hypergraph:
    """Apply what a person wrote to a parsed graph.

    Args:
        graph: what the parser made of the prompt.
        override: lines as above; empty text changes nothing.

    Raises:
        InterplayError: a line that cannot be read, or names a word that the prompt lacks (with the nearest words).
    """
    if override.lstrip().startswith("{"):
        return _pasted(graph, override)
    lines = _lines(override)
    if not lines:
        return graph
    whole = is_whole(override)
    draft = Draft(Hypergraph(graph.prompt) if whole else graph)
    for number, line in lines:
        sign = line[0] if line[0] in "+-=" else ""
        try:
            _apply_line(draft, sign, line[len(sign) :].strip())
        except InterplayError as error:
            raise InterplayError(f"Line {number} of the text ({line}): {error}") from error
    return draft.graph(parser="text" if whole else graph.parser, warnings=() if whole else graph.warnings)


def _lines(override: str) -> list[tuple[int, str]]:
    numbered = ((i, line.strip()) for i, line in enumerate(override.split("\n"), 1))
    return [(i, line) for i, line in numbered if line and not line.startswith("#")]


def _pasted(graph: Hypergraph, override: str) -> Hypergraph:
    pasted = Hypergraph.from_json(override)
    if pasted.prompt != graph.prompt:
        raise InterplayError("The pasted hypergraph belongs to another prompt; paste this prompt's or clear the text.")
    return pasted


# Writing


def _quoted(text: str, spaces: bool = True) -> str:
    plain = text and text == text.strip() and not _SPECIAL.search(text) and (spaces or " " not in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _named(graph: Hypergraph, span: Span, default: Span, spaces: bool = True) -> str:
    """A span by its text, with its number where the default reading would be another one."""
    text = _quoted(graph.prompt[span[0] : span[1]], spaces)
    return text if span == default else f"{text}#{number_of(graph.prompt, span)}"


def _vertex_name(graph: Hypergraph, vertex: Vertex) -> str:
    name = _named(graph, vertex.span, find(graph.prompt, vertex.head, None))
    return f"@{name}" if vertex.environment else name


def _modifier_name(graph: Hypergraph, vertex: Vertex, modifier: Modifier) -> str:
    name = _named(graph, modifier.span, find(graph.prompt, modifier.text, None, [vertex.span]))
    return f"{name}?" if modifier.optional else name


def _noun_line(graph: Hypergraph, vertex: Vertex) -> str:
    line = _vertex_name(graph, vertex)
    if vertex.count is not None:
        line += f"*{vertex.count}"
    if vertex.modifiers:
        line += ": " + ", ".join(_modifier_name(graph, vertex, m) for m in vertex.modifiers)
    return line


def _edge_line(graph: Hypergraph, edge: Hyperedge) -> str:
    parties = list(edge.participants)
    places: list[str] = []
    while parties and parties[-1].role == "location":
        places.insert(0, _vertex_name(graph, graph.vertex(parties.pop().vertex)))
    names = []
    for i, party in enumerate(parties):
        vertex = graph.vertex(party.vertex)
        name = _vertex_name(graph, vertex)
        names.append(name if party.role == default_role(i, vertex.environment) else f"{party.role}={name}")
    inside = ", ".join(names) + ("; " + ", ".join(places) if places else "")
    near = [graph.vertex(p.vertex).span for p in edge.participants]
    words: list[str] = []
    previous: Span | None = None
    for span in edge.spans:
        default = find_action_word(graph.prompt, graph.prompt[span[0] : span[1]], None, previous, near)
        words.append(_named(graph, span, default, spaces=False))
        previous = span
    return f"{'~' if edge.kind == 'relation' else ''}{' '.join(words)}({inside})"


# Reading


class _Cursor:
    """Reads a line from left to right."""

    def __init__(self, line: str) -> None:
        self.rest = line.strip()

    def take(self, mark: str) -> bool:
        if self.rest.startswith(mark):
            self.rest = self.rest[len(mark) :].lstrip()
            return True
        return False

    def name(self) -> str:
        match = _NAME.match(self.rest)
        text = match["text"] if match else ""
        self.rest = self.rest[match.end() if match else 0 :].lstrip()
        if text.startswith('"'):
            try:
                return str(json.loads(text, strict=False))
            except json.JSONDecodeError as error:
                raise InterplayError(f"{text} is not a text in quotes ({error.msg}); write it as in JSON.") from error
        if not text.strip():
            here = f"before '{self.rest[:12]}'" if self.rest else "at the end"
            raise InterplayError(f"A word is missing {here}; write one, or put special characters in double quotes.")
        return text.strip()

    def number(self, mark: str) -> int | None:
        if not self.take(mark):
            return None
        match = re.match(r"\d{1,9}", self.rest)
        if not match:
            raise InterplayError(f"A number must follow '{mark}', as in fish{mark}2; write one.")
        self.rest = self.rest[match.end() :].lstrip()
        return int(match[0])

    def reference(self) -> Reference:
        environment = self.take("@")
        text = self.name()
        return Reference(text, self.number("#"), environment)

    def end(self) -> None:
        if self.rest:
            raise InterplayError(f"'{self.rest}' is left over; put special characters in double quotes.")


def _apply_line(draft: Draft, sign: str, line: str) -> None:
    if not line:
        raise InterplayError(f"Nothing follows '{sign}'; name a word or an action.")
    cursor = _Cursor(line)
    if cursor.take("!"):
        texts = [cursor.name()]
        while cursor.take(","):
            texts.append(cursor.name())
        cursor.end()
        draft.not_content(sign, texts)
    elif _opens_edge(line):
        draft.edge(sign, _read_edge(cursor))
    else:
        draft.noun(sign, _read_noun(cursor))


def _opens_edge(line: str) -> bool:
    """Whether the line is an edge: it starts with ``~`` or has a parenthesis outside quotes."""
    return line.startswith("~") or "(" in re.sub(r'"(?:[^"\\]|\\.)*"', "", line)


def _read_noun(cursor: _Cursor) -> NounLine:
    head = cursor.reference()
    count = cursor.number("*")
    modifiers = []
    if cursor.take(":"):
        while True:
            text = cursor.name()
            number = cursor.number("#")
            modifiers.append((Reference(text, number), cursor.take("?")))
            if not cursor.take(","):
                break
    cursor.end()
    return NounLine(head, count, tuple(modifiers))


def _read_edge(cursor: _Cursor) -> EdgeLine:
    kind = "relation" if cursor.take("~") else "action"
    words: list[Reference] = []
    while not cursor.take("("):
        if not cursor.rest:
            break
        quoted = cursor.rest.startswith('"')
        text = cursor.name()
        number = cursor.number("#")
        parts = [text] if quoted else text.split()
        words += [Reference(part, None) for part in parts[:-1]] + [Reference(parts[-1], number)]
    parties: list[tuple[str | None, Reference]] = []
    places = False
    closed = cursor.take(")")
    while not closed and cursor.rest:
        if cursor.take(";"):
            places = True
        else:
            parties.append(_read_party(cursor, places))
            closed = cursor.take(")")
            if not closed and cursor.rest and not cursor.take(",") and not cursor.rest.startswith(";"):
                raise InterplayError(f"')' or ',' is missing before '{cursor.rest[:12]}'; write playing(dog, cat).")
    cursor.end()
    if not words:
        raise InterplayError("The action has no word before '('; write playing(dog, cat).")
    return EdgeLine(kind, tuple(words), tuple(parties))


def _read_party(cursor: _Cursor, place: bool) -> tuple[str | None, Reference]:
    reference = cursor.reference()
    if cursor.take("="):
        if reference.text not in ROLES:
            raise InterplayError(f"'{reference.text}' is no role; use one of {', '.join(ROLES)}.")
        return reference.text, cursor.reference()
    return ("location" if place else None), reference
