"""Token graphs of the two worked prompts, and random ones. Not a test itself."""

from __future__ import annotations

import random
from typing import Any

import torch
from interplay.guidance.graph import EdgeTokens, TokenGraph, TokenWord, VertexTokens
from interplay.guidance.presets import GuidanceConfig, preset
from torch import Tensor


def graph_of(
    words: dict[str, int | tuple[int, ...]],
    vertices: list[tuple[str, ...]],
    edges: list[tuple[str, tuple[int, ...]]] = (),
    environments: tuple[int, ...] = (),
    length: int = 77,
) -> TokenGraph:
    """words: text -> position(s); vertices: their words, the head last; edges: (action words, vertex indices)."""
    names = list(words)
    tokens = tuple(TokenWord(n, p if isinstance(p, tuple) else (p,)) for n, p in words.items())
    return TokenGraph(
        tokens,
        tuple(
            VertexTokens(tuple(names.index(n) for n in v), names.index(v[-1]), i in environments, v[-1])
            for i, v in enumerate(vertices)
        ),
        tuple(EdgeTokens(tuple(names.index(n) for n in e.split()), parties, e) for e, parties in edges),
        length,
    )


DOG_AND_CAT = graph_of(  # "A white dog plays with a ginger cat in a forest"
    {"white": 2, "dog": 3, "plays": 4, "ginger": 7, "cat": 8, "forest": 11},
    [("white", "dog"), ("ginger", "cat"), ("forest",)],
    [("plays", (0, 1))],
    environments=(2,),
)
PIGEON = graph_of(  # "A pigeon carrying a letter is playing with a white dog and a cat in a forest"
    {"pigeon": 2, "carrying": 3, "letter": 5, "playing": 7, "white": 10, "dog": 11, "cat": 14, "forest": 17},
    [("pigeon",), ("letter",), ("white", "dog"), ("cat",), ("forest",)],
    [("carrying", (0, 1)), ("playing", (0, 2, 3))],
    environments=(4,),
)
CAT_AND_DOG = graph_of({"cat": 2, "dog": 5}, [("cat",), ("dog",)])
CHASE = graph_of({"dog": 2, "chasing": 3, "cat": 5}, [("dog",), ("cat",)], [("chasing", (0, 1))])

ORACLE_MAPS = torch.tensor(
    [[1, 0, 0], [0.8, 0.2, 0], [0.5, 0.1, 0.6], [0, 1, 0], [0.1, 0.9, 0.1], [0.3, 0.3, 0.9]], dtype=torch.float64
)[None, :, None]  # (1, 6, 1, 3), in the order of DOG_AND_CAT.words


def random_graph(rng: random.Random) -> TokenGraph:
    """One to five noun groups of one to three words, up to three actions of one or two words."""
    names: dict[str, int | tuple[int, ...]] = {}
    place = 1

    def add(prefix: str) -> str:
        nonlocal place
        pieces = rng.choice((1, 1, 1, 2, 3))
        name = f"{prefix}{len(names)}"
        names[name] = tuple(range(place, place + pieces)) if pieces > 1 else place
        place += pieces + rng.randrange(2)
        return name

    vertices = [tuple(add("n") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 5))]
    edges = []
    for _ in range(rng.randint(0, 3)):
        action = " ".join(add("v") for _ in range(rng.choice((1, 1, 2))))
        edges.append((action, tuple(rng.sample(range(len(vertices)), rng.randint(1, len(vertices))))))
    parties = {v for _, some in edges for v in some}
    loose = tuple(v for v in range(len(vertices)) if v not in parties and rng.random() < 0.5)
    return graph_of(names, vertices, edges, loose)


def random_maps(graph: TokenGraph, batch: int = 2, size: tuple[int, int] = (5, 7), seed: int = 0) -> Tensor:
    """(B, J, H, W) positive float64 maps."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, len(graph.words), *size, dtype=torch.float64, generator=generator) ** 3 + 1e-3


GENTLE: dict[str, Any] = {
    "terms": ("C", "A", "L"),
    "selection": "weighted cycle",
    "cycle": ("C", "A", "C", "L"),
    "weights": (),
    "step": 0.015,
    "norm_cap": 0.04,
    "start": 0.0,
    "end": 0.2,
    "windows": (),
    "refine_at": (),
    "refine_iterations": (),
    "targets": (("C", 0.25), ("A", 0.8), ("L", 1.0)),
    "wake": (),
}
_OWN: dict[str, dict[str, Any]] = {
    "SHY": {},
    "SHY (combined)": {"selection": "combined"},
    "CONFORM": {"terms": ("C",), "selection": "cycle", "cycle": ("C",)},
}


def gentle(name: str, **changes: Any) -> GuidanceConfig:
    """A preset with settings that mechanics can be tested on whatever the tuned ones are: short, from the first step,
    all three of the paper's losses in turn. The presets called (paper) are as they are."""
    return preset(name, **({**GENTLE, **_OWN[name]} if name in _OWN else {}) | changes)
