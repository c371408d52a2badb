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
from .world import ACTIONS, CARELESS, COLOURS, OBJECTS, PATTERNS, SIZES, Carelessness, Scene, caption, careless

LENGTH = 77
BOS, EOS = 49406, 49407
ACTION_REGION = 3
REGIONS = 4  # subject, target, bystander, action
NO_REGION = -1


@cache
def vocabulary(path: Path) -> dict[str, int]:
    """CLIP's vocabulary; whole words end in ``</w>``."""
    return json.loads(path.read_text(encoding="utf-8"))


def words(prompt: str) -> list[str]:
    """The words and commas of a plain lower-case prompt, each one token of CLIP."""
    return re.findall(r"[a-z]+|,", prompt)


def token_ids(prompt: str, vocab: dict[str, int]) -> list[int]:
    """CLIP's ids of a prompt of plain lower-case words, all of them single tokens, padded to 77 with the end token."""
    ids = [vocab[word + "</w>"] for word in words(prompt)]
    return [BOS, *ids] + [EOS] * (LENGTH - 1 - len(ids))


def word_regions(prompt: str, scene: Scene) -> list[int]:
    """For each of the 77 positions the region its word belongs to in the picture: 0 subject, 1 target, 2 bystander, 3
    action, -1 none. A noun belongs to the object of its kind, the adjectives before a noun to the object that has their
    colour, whichever noun the caption puts them to.
    """
    kinds = {t.object: i for i, t in enumerate(scene.things)}
    colours = {t.colour: i for i, t in enumerate(scene.things)}
    regions, spoken, waiting = [NO_REGION] * LENGTH, words(prompt), list[int]()
    for i, word in enumerate(spoken, start=1):
        if word in OBJECTS:
            regions[i], waiting = kinds.get(word, NO_REGION), []
        elif word in SIZES or word in PATTERNS:
            waiting.append(i)
        elif word in COLOURS:
            for place in (*waiting, i):
                regions[place] = colours.get(word, NO_REGION)
        elif word in ACTIONS:
            regions[i] = ACTION_REGION
    return regions


def pictures(scenes: Sequence[Scene]) -> np.ndarray:
    """(N, 3, 32, 32) float32 in [-1, 1]."""
    images = np.stack([render(scene)[0] for scene in scenes])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def cell_masks(scene: Scene) -> np.ndarray:
    """(4, 16, 16) bool, cells at least half covered by the subject, the target, the bystander (empty where there is
    none), and by both parties with their connector.
    """
    _, masks = render(scene)
    none = np.zeros_like(masks.connector)
    target = masks.objects[1] if scene.target else none
    regions = [masks.objects[0], target, masks.objects[-1] if scene.bystander else none, masks.action]
    return np.stack([m.reshape(16, 2, 16, 2).mean((1, 3)) >= 0.5 for m in regions])


def vary(prompt: str, rng: Random, vocab: dict[str, int]) -> list[int]:
    """Token ids with, rarely, a word exchanged for a random id, so that rows of unknown words share a meaning: none."""
    ids = token_ids(prompt, vocab)
    if rng.random() < 0.04:
        ids[rng.randrange(1, ids.index(EOS))] = -1
    return ids


def training_caption(scene: Scene, rng: Random, how: Carelessness = CARELESS, drop: float = 0.1) -> str:
    """A careless caption, empty with probability ``drop`` (for classifier-free guidance)."""
    return "" if rng.random() < drop else caption(careless(scene, rng, how), rng)
