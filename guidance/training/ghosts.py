"""Ghosts: pictures in which a part stands a second time, fainter, from which a model learns to draw a thing once.

In the noisy steps a thing is often planned at two places, and both grow: one red cup is asked for, two are drawn.
Neither captions nor rewards say much against it, since a picture of two red cups shows a red cup. So a lively part of a
picture is blended in at another place, the sum is noised, and the model is asked for the picture as it was. It learns
what to do with a second, fainter plan of the same thing: let it go.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .refl_model import Trainee, noise_like, seed_of, stacked

GHOSTS_FROM, GHOSTS_TO = 0.45, 0.98
"""Shares of noise between which ghosts are shown. Below, the plan is made and a copy is a part of the picture."""
SIDE = (0.25, 0.375)  # of the copied part, shares of the picture's shorter side
STRENGTH = (0.25, 0.95)  # of the copy; never 1, so that there is always one that came first
LOOKS = 6  # parts of which the liveliest is copied, so that it is seldom mere background
TRIES = 20  # for a place beside the original


def with_ghost(latent: Tensor, generator: torch.Generator) -> Tensor:
    """A clean latent (C, h, w) with a copy of a part of itself blended in at another place; the same (C, h, w)."""
    height, width = latent.shape[-2:]
    parts = [_part(latent, generator) for _ in range(LOOKS)]
    top, left, side = max(parts, key=lambda p: float(_cut(latent, *p).var((1, 2), correction=0).sum()))
    part = _cut(latent, top, left, side)
    for _ in range(TRIES):
        there = _whole(0, height - side, generator), _whole(0, width - side, generator)
        if max(abs(there[0] - top), abs(there[1] - left)) >= side:
            break
    else:
        return latent
    strength = STRENGTH[0] + (STRENGTH[1] - STRENGTH[0]) * float(torch.rand((), generator=generator))
    ghosted = latent.clone()
    _cut(ghosted, *there, side).lerp_(part, strength)
    return ghosted


def with_ghosts(latents: Tensor, names: Sequence[Sequence[object]]) -> Tensor:
    """The same for a batch (B, C, h, w); names: of what is random, one a row. Made on the CPU, so that every device
    has the same ghosts and none waits for each look.
    """
    made = [
        with_ghost(latent, torch.Generator().manual_seed(seed_of(*name)))
        for latent, name in zip(latents.cpu(), names, strict=True)
    ]
    return torch.stack(made).to(latents)


def _part(latent: Tensor, generator: torch.Generator) -> tuple[int, int, int]:
    """Top, left and side of a random square."""
    height, width = latent.shape[-2:]
    shorter = min(height, width)
    least, most = (max(1, round(share * shorter)) for share in SIDE)
    side = _whole(least, most, generator)
    return _whole(0, height - side, generator), _whole(0, width - side, generator), side


def _cut(latent: Tensor, top: int, left: int, side: int) -> Tensor:
    return latent[:, top : top + side, left : left + side]


def _whole(least: int, most: int, generator: torch.Generator) -> int:
    """A whole number from ``least`` to ``most``, both included."""
    return int(torch.randint(least, most + 1, (), generator=generator))


@lru_cache(maxsize=65536)
def once_each(caption: str) -> bool:
    """Whether a caption names things, each of them once and in the singular. Only then a second one is one too many:
    "two dogs", "flowers" and "a dog chasing a dog" may well be there twice.
    """
    from ...parsing import parse
    from ..rewards.wording import is_plural
    from .negatives import several

    graph = parse(caption)
    heads = [vertex.head.lower() for vertex in graph.vertices]
    many = any(is_plural(vertex.head) or several(vertex, graph) for vertex in graph.vertices)
    return bool(heads) and len(set(heads)) == len(heads) and not many


def errors(model: Any, level: Any, said: Any, ghosts: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance (B,) of the estimate for noised ``ghosts`` from ``goal``, all (B, C, h, w). model: a
    Trainee or a Learner; level: its Rung or Levels of each row.
    """
    found = model.denoise(level.signal * ghosts + level.noise * noise, level, said).float()
    return (found - goal).square().flatten(1).mean(1)


def ghost_loss(
    model: Trainee, captions: Sequence[str], clean: Tensor, names: Sequence[Sequence[object]], own: bool = False
) -> Tensor:
    """The mean of ``errors`` over a batch (B, C, h, w), each at a noise level of its own; captions that do not name
    each thing once count as 0. names: of everything random, one a row. own: the pictures are the model's own, whose
    blemishes are no goal; then the goal is what it expects, without its LoRA, of the picture as it was.
    """
    rows = [i for i, caption in enumerate(captions) if once_each(caption)]
    if not rows:
        return torch.zeros((), device=clean.device)
    keys, clean = [names[i] for i in rows], clean[rows]
    shares = [GHOSTS_FROM + (GHOSTS_TO - GHOSTS_FROM) * (seed_of(*key, "level") % 10_000 / 10_000) for key in keys]
    rung = stacked([model.random_rung(share) for share in shares], clean.device)
    ghosts = with_ghosts(clean, [(*key, "ghost") for key in keys])
    said, noise = model.condition([captions[i] for i in rows]), noise_like(model, [(*key, "noise") for key in keys])
    goal = clean.float()
    if own:
        with torch.no_grad(), model.adapter_off():
            goal = model.denoise(rung.signal * clean + rung.noise * noise, rung, said).float()
    return errors(model, rung, said, ghosts, noise, goal).sum() / len(captions)
