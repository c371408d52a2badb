"""Score predicted hypergraphs against gold ones: ``python benchmarks/parse_score.py GOLD.jsonl PREDICTED.jsonl``.

Both files hold one JSON object a line in the schema of ``tests/data/prompts_gold.jsonl``, matched by their prompt; what
``interplay parse --jsonl GOLD.jsonl`` prints is such a file. Micro-averaged F1 of vertex (head span), environment,
attribute (modifier span, head span; a modifier that the gold marks optional is free), edge (action and the set of its
parties, locations left out), role (the same with each party's role), and exact: the share of prompts whose vertices and
edges are all right. An edge is paired with the first gold edge of its kind whose action it overlaps.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Graph = dict[str, Any]
EMPTY: Graph = {"vertices": [], "hyperedges": []}


@dataclass
class Tally:
    """Counts of one figure."""

    hit: int = 0
    extra: int = 0
    missed: int = 0

    def add(self, predicted: list[Any], gold: list[Any]) -> None:
        """Compare two bags of facts."""
        found, wanted = Counter(predicted), Counter(gold)
        hit = sum((found & wanted).values())
        self.hit += hit
        self.extra += sum(found.values()) - hit
        self.missed += sum(wanted.values()) - hit

    @property
    def f1(self) -> float:
        """2 hits over all; 1 where there is nothing to find."""
        total = 2 * self.hit + self.extra + self.missed
        return 2 * self.hit / total if total else 1.0


def _attributes(graph: Graph, optional: bool | None = None) -> list[Any]:
    return [
        (tuple(m["span"]), tuple(v["span"]))
        for v in graph["vertices"]
        for m in v.get("mods", [])
        if optional is None or bool(m.get("optional")) == optional
    ]


def _edges(graph: Graph) -> list[Any]:
    head = {v["id"]: tuple(v["span"]) for v in graph["vertices"]}
    return [
        (
            e.get("kind", "action"),
            tuple(tuple(s) for s in e["spans"]),
            [(p["role"], head[p["vertex"]]) for p in e["participants"] if p["role"] != "location"],
        )
        for e in graph["hyperedges"]
    ]


def _paired(edges: list[Any], gold: list[Any], with_roles: bool) -> list[Any]:
    used: set[int] = set()
    out = []
    for kind, spans, parties in edges:
        match = next((i for i, g in enumerate(gold) if i not in used and g[0] == kind and _overlap(spans, g[1])), None)
        if match is not None:
            used.add(match)
        key = spans if match is None else match
        out.append((key, frozenset(parties if with_roles else (where for _, where in parties))))
    return out


def _overlap(spans: Any, others: Any) -> bool:
    return any(a < d and c < b for a, b in spans for c, d in others)


def score(golds: list[Graph], predictions: dict[str, Graph]) -> tuple[dict[str, float], list[str]]:
    """The figures, and the ids of the prompts that are not exact. predictions: by prompt."""
    tally = {name: Tally() for name in ("vertex", "environment", "attribute", "edge", "role")}
    wrong = []
    for gold in golds:
        predicted = predictions.get(gold["prompt"], EMPTY)
        free = set(_attributes(gold, optional=True))
        heads = [[tuple(v["span"]) for v in g["vertices"]] for g in (predicted, gold)]
        places = [[tuple(v["span"]) for v in g["vertices"] if v.get("environment")] for g in (predicted, gold)]
        found, wanted = _edges(predicted), _edges(gold)
        edges = _paired(found, wanted, False), _paired(wanted, wanted, False)
        tally["vertex"].add(*heads)
        tally["environment"].add(*places)
        tally["attribute"].add([a for a in _attributes(predicted) if a not in free], _attributes(gold, optional=False))
        tally["edge"].add(*edges)
        tally["role"].add(_paired(found, wanted, True), _paired(wanted, wanted, True))
        if Counter(heads[0]) != Counter(heads[1]) or Counter(edges[0]) != Counter(edges[1]):
            wrong.append(gold["id"])
    figures = {name: t.f1 for name, t in tally.items()}
    return {**figures, "exact": 1 - len(wrong) / max(1, len(golds))}, wrong


def read(path: Path) -> list[Graph]:
    """One JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    gold_file, predicted_file = (read(Path(p)) for p in sys.argv[1:])
    result, misses = score(gold_file, {p["prompt"]: p for p in predicted_file})
    sys.stdout.write(f"wrong: {' '.join(misses)}\n")
    sys.stdout.write(" ".join(f"{k}={v:.3f}" for k, v in result.items()) + f" n={len(gold_file)}\n")
