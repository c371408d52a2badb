"""The gold corpus: prompts of every kind with the hypergraph that a careful reader gives them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from interplay.parsing.hypergraph import Hypergraph

DATA = Path(__file__).parent / "data"

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
    return _lines("prompts_gold.jsonl")


@lru_cache(maxsize=1)
def kept() -> tuple[dict[str, Any], ...]:
    """Prompts by another author that were kept back while the parser's rules were made."""
    return _lines("prompts_kept.jsonl")


def _lines(name: str) -> tuple[dict[str, Any], ...]:
    text = (DATA / name).read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines() if line.strip())


def gold_graph(id: str) -> Hypergraph:
    """The graph of one line, by its id such as "d008"."""
    return Hypergraph.from_dict(next(line for line in gold() if line["id"] == id))
