"""Export to HIF, the Hypergraph Interchange Format (JSON, schema 0.1), which XGI, HyperNetX and NetworkX read."""

from __future__ import annotations

from typing import Any

from .hypergraph import Hypergraph


def to_hif(graph: Hypergraph) -> dict[str, Any]:
    """The hypergraph as a HIF object: ``network-type``, ``metadata``, ``incidences``, ``nodes``, ``edges``.

    HIF knows no further fields, so spans, texts, flags and roles stand in ``attrs``. Every participant is an incidence,
    locations too; its ``attrs`` hold the role. A party with two roles in one edge is two incidences.
    """
    metadata: dict[str, Any] = {"prompt": graph.prompt, "not_content": list(graph.not_content)}
    if graph.parser:
        metadata["parser"] = graph.parser
    return {
        "network-type": "undirected",
        "metadata": metadata,
        "nodes": [
            {
                "node": v.id,
                "attrs": {
                    "head": v.head,
                    "span": list(v.span),
                    "modifiers": [{"text": m.text, "span": list(m.span), "optional": m.optional} for m in v.modifiers],
                    "environment": v.environment,
                    "count": v.count,
                },
            }
            for v in graph.vertices
        ],
        "edges": [
            {"edge": e.id, "attrs": {"kind": e.kind, "action": e.action, "spans": [list(s) for s in e.spans]}}
            for e in graph.hyperedges
        ],
        "incidences": [
            {"edge": e.id, "node": p.vertex, "attrs": {"role": p.role}}
            for e in graph.hyperedges
            for p in e.participants
        ],
    }
