"""Scenes as training tensors: pictures, token ids, and the region each word should look at."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from .render import render
from .world import ACTIONS, COLOURS, OBJECTS, Scene, caption

LENGTH = 77
BOS, EOS = 49406, 49407
REGIONS = 3  # subject, target, action
NO_REGION = -1


@cache
def vocabulary(path: Path) -> dict[str, int]:
    """CLIP's vocabulary; whole words end in ``</w>``."""
    return json.loads(path.read_text(encoding="utf-8"))


def token_ids(prompt: str, vocab: dict[str, int]) -> list[int]:
    """CLIP's ids of a prompt of plain lower-case words, all of them single tokens, padded to 77 with the end token."""
    ids = [vocab[word + "</w>"] for word in re.findall(r"[a-z]+", prompt)]
    return [BOS, *ids] + [EOS] * (LENGTH - 1 - len(ids))


def word_regions(prompt: str) -> list[int]:
    """For each of the 77 positions the region its word belongs to: 0 subject, 1 target, 2 action, -1 none."""
    regions, seen = [NO_REGION] * LENGTH, 0
    for i, word in enumerate(re.findall(r"[a-z]+", prompt), start=1):
        if word in COLOURS or word in OBJECTS:
            regions[i] = min(seen, 1)
            seen += word in OBJECTS
        elif word in ACTIONS:
            regions[i] = 2
    return regions


def pictures(scenes: Sequence[Scene]) -> np.ndarray:
    """(N, 3, 32, 32) float32 in [-1, 1]."""
    images = np.stack([render(scene)[0] for scene in scenes])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def cell_masks(scene: Scene) -> np.ndarray:
    """(3, 16, 16) bool, cells at least half covered by the subject, the target, and both with their connector."""
    _, masks = render(scene)
    regions = [masks.objects[0], masks.objects[-1], masks.action]
    return np.stack([m.reshape(16, 2, 16, 2).mean((1, 3)) >= 0.5 for m in regions])


def vary(prompt: str, rng: Random, vocab: dict[str, int]) -> list[int]:
    """Token ids with, rarely, a word exchanged for a random id, so that rows of unknown words share a meaning: none."""
    ids = token_ids(prompt, vocab)
    if rng.random() < 0.04:
        ids[rng.randrange(1, ids.index(EOS))] = -1
    return ids


def training_caption(scene: Scene, rng: Random, drop: float = 0.1) -> str:
    """A caption, empty with probability ``drop`` (for classifier-free guidance)."""
    return "" if rng.random() < drop else caption(scene, rng)
