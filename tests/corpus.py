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
    "Cat chasing mouse under tree",
    "Dog carrying stick over bridge",
    "Child reading book by fireplace",
    "Bird building nest on cliff",
    "Fisherman catching fish near river",
    "Artist sculpting statue in gallery",
    "Red robot fixing broken car in garage",
    "Small cat chasing gray mouse under table",
    "Golden retriever holding wooden stick on beach",
    "Young girl reading thick book by window",
    "Blue bird weaving tiny nest on branch",
    "Old fisherman reeling big fish near lake",
    "Skilled artist carving marble statue in workshop",
)
"""The fourteen test prompts of the SHYI paper, appendix A.2."""


@lru_cache(maxsize=1)
def gold() -> tuple[dict[str, Any], ...]:
    """Every line of the corpus."""
    return tuple(json.loads(line) for line in GOLD.read_text(encoding="utf-8").splitlines() if line.strip())


def gold_graph(id: str) -> Hypergraph:
    """The graph of one line, by its id such as "d008"."""
    return Hypergraph.from_dict(next(line for line in gold() if line["id"] == id))
