"""Where each word of a hypergraph stands in the text encoders, as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from ..parsing.hypergraph import Hypergraph, Span
from ..parsing.tokens import TokenTable


def words_of(graph: Hypergraph) -> list[tuple[str, Span]]:
    """All words of vertices and hyperedges with their spans, in the order of the prompt, each place once."""
    spans = {v.span for v in graph.vertices}
    spans |= {m.span for v in graph.vertices for m in v.modifiers}
    spans |= {span for edge in graph.hyperedges for span in edge.spans}
    return [(graph.prompt[a:b], (a, b)) for a, b in sorted(spans)]


def token_report(text: str, graph: Hypergraph, tables: Mapping[str, TokenTable]) -> str:
    """The graph's text form, then one line a word with its positions in each encoder, then the warnings."""
    words = words_of(graph)
    width = max((len(word) for word, _ in words), default=0)
    lines = [text, "", f"tokens ({', '.join(f'{name}: {table.length}' for name, table in tables.items())})"]
    for word, span in words:
        lines.append(
            f"{word:<{width}}  " + "  ".join(f"{name} {_places(table, span)}" for name, table in tables.items())
        )
    warnings = dict.fromkeys((*graph.warnings, *(w for table in tables.values() for w in table.warnings)))
    return "\n".join([*lines, *(f"note: {warning}" for warning in warnings)])


def _places(table: TokenTable, span: Span) -> str:
    return "+".join(str(p) for p in table.positions(span)) or "not found"
