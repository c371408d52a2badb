"""Prompts with the graph that a careful reader gives them, in a short notation. Not a test itself."""

from __future__ import annotations

from pathlib import Path

from interplay.parsing.hypergraph import Hypergraph

CASES = Path(__file__).parent / "data" / "parser_cases.txt"
LETTERS = {"subject": "s", "object": "o", "instrument": "i", "recipient": "r", "location": "@"}


def brief(graph: Hypergraph) -> str:
    """``head[modifiers] @environment | action(s:head, o:head); ~relation(…) | not content``."""
    vertices = []
    for v in graph.vertices:
        modifiers = f"[{','.join(m.text for m in v.modifiers)}]" if v.modifiers else ""
        vertices.append(f"{'@' * v.environment}{v.head}{modifiers}")
    edges = []
    for e in graph.hyperedges:
        parties = ", ".join(f"{LETTERS[p.role]}:{graph.vertex(p.vertex).head}" for p in e.participants)
        edges.append(f"{'~' * (e.kind == 'relation')}{e.action}({parties})")
    return " | ".join((" ".join(vertices), "; ".join(edges), "; ".join(graph.not_content))).rstrip(" |")


def cases() -> list[tuple[str, str]]:
    """Prompt and graph of every case; the file holds a prompt a line and its graph, indented, below."""
    lines = [line for line in CASES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(prompt, graph.strip()) for prompt, graph in zip(lines[::2], lines[1::2], strict=True)]
