"""The gold corpus: prompts of every kind with the hypergraph that a careful reader gives them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from interplay.parsing.hypergraph import Hypergraph

GOLD = Path(__file__).parent / "data" / "prompts_gold.jsonl"

PAPER = (
    "Robot painting canvas in studio",
    "Dog carrying stick over bridge",
)


@lru_cache(maxsize=1)
def gold() -> tuple[dict[str, Any], ...]:
    """Every line of the corpus."""
    return tuple(json.loads(line) for line in GOLD.read_text(encoding="utf-8").splitlines() if line.strip())


def gold_graph(id: str) -> Hypergraph:
    """The graph of one line, by its id such as "d008"."""
    return Hypergraph.from_dict(next(line for line in gold() if line["id"] == id))
