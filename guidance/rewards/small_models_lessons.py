"""What the small models of published scorers learn from: PixelWorld's pictures, with answered questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..pixelworld.caption_data import SHARES, Lesson, near_miss, rendered
from ..pixelworld.caption_train import Helper
from ..pixelworld.detect import Detection, Found
from ..pixelworld.world import COLOURS, OBJECTS, Scene, caption
from .answers import questions_of
from .matching import ASK
from .pixelworld import answer
from .small_models import WIDTH, prepared

ROLES = ("absent", "apart", "subject", "target", "bystander")


def seen_pictures(batch: Sequence[Lesson], noise: float = 0.02) -> Tensor:
    """Pictures as the processors prepare them, (B, 3, 128, 128), a little disturbed."""
    pixels = torch.from_numpy(np.stack([lesson.picture for lesson in batch])).float() / 255
    if noise:
        pixels = pixels * (1 + 2 * noise * torch.randn(len(pixels), 3, 1, 1)) + noise * torch.randn_like(pixels)
    return prepared(pixels)


def role(scene: Scene, number: int) -> str:
    """Which part the thing of that number plays."""
    if number == 2:
        return "bystander"
    return ("subject", "target")[number] if scene.action else "apart"


class Asked(nn.Module):
    """What the eye is asked in training only: each place what lies there (as PixelWorld's caption model is), and its
    first token, which answers for the picture as a whole, which kinds are there, in which colour and role.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = Helper(WIDTH)
        self.roles = nn.Linear(WIDTH, len(OBJECTS) * len(ROLES))
        self.colours = nn.Linear(WIDTH, len(OBJECTS) * len(COLOURS))

    def forward(self, seen: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """seen: (B, 65, width) of the scenes; the loss."""
        roles = torch.zeros(len(scenes), len(OBJECTS), dtype=torch.long)
        colours = torch.full((len(scenes), len(OBJECTS)), -1)
        for i, scene in enumerate(scenes):
            for number, thing in enumerate(scene.things):
                kind = OBJECTS.index(thing.object)
                roles[i, kind] = ROLES.index(role(scene, number))
                colours[i, kind] = COLOURS.index(thing.colour)
        whole = seen[:, 0]
        said = self.roles(whole).view(-1, len(ROLES)), self.colours(whole).view(-1, len(COLOURS))
        weights = torch.tensor([0.3, *[1.0] * (len(ROLES) - 1)])
        loss = cross_entropy(said[0], roles.flatten(), weights) + cross_entropy(
            said[1], colours.flatten(), ignore_index=-1
        )
        places: Tensor = self.places(seen[:, 1:], scenes)
        return places + 2 * loss


def truth(scene: Scene) -> Detection:
    """A scene as the exact detector reads it."""
    found = [
        Found(t.object, t.colour, 2 * x, 2 * y, 1.0, 1.0, t.size, t.pattern)
        for t, (x, y) in zip(scene.things, scene.positions, strict=False)
    ]
    if len(found) < len(scene.things):  # read off a drawn picture, without places
        found = [Found(t.object, t.colour, 0, 0, 1.0, 1.0, t.size, t.pattern) for t in scene.things]
    return Detection(tuple(found), (0, scene.action, 1) if scene.action else None, scene.environment, 0.0, 1.0, 0.0)


def asked_about(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Questions with their answers: those of the scene's caption and of two near misses, and whether the picture shows
    each of these captions.
    """
    seen, own = truth(scene), caption(scene)
    misses = [caption(near_miss(scene, rng, kind)) for kind in ("roles", rng.choice(("adjectives", "word")))]
    out = [(ASK.format(own), "yes")] * 2 + [(ASK.format(text), "no") for text in misses if text != own]
    for text in (own, *misses):
        for question in questions_of(text):
            found = answer(question, seen)
            if found in question.choices:
                out.append((question.text, found))
    return list(dict.fromkeys(out)) + out[:1]


@dataclass(frozen=True)
class Pool:
    """Lessons whose pictures were looked at once: seen (N, 65, width) in half precision; kinds: which of rendered,
    decoded and drawn each is.
    """

    lessons: tuple[Lesson, ...]
    seen: Tensor
    kinds: tuple[int, ...]

    def some(self, rng: Random, size: int) -> tuple[Tensor, list[Lesson], list[int]]:
        """A batch, the kinds in the same shares as in training the eye: what is seen, the lessons, their numbers."""
        by_kind = [[i for i, kind in enumerate(self.kinds) if kind == wanted] for wanted in range(len(SHARES))]
        chosen = [rng.choice(by_kind[kind]) for kind in rng.choices(range(len(SHARES)), SHARES, k=size)]
        return self.seen[chosen].float(), [self.lessons[i] for i in chosen], chosen


@torch.no_grad()
def look(eye: nn.Module, pools: Sequence[Sequence[Lesson]], count: int, seed: int, part: int = 64) -> Pool:
    """A pool of ``count`` scenes as they are drawn exactly, and all of the given lessons."""
    rng = Random(f"small models {seed}")
    fresh = [rendered(rng) for _ in range(count)]
    every = [*fresh, *(lesson for pool in pools for lesson in pool)]
    kinds = [0] * len(fresh) + [number for number, pool in enumerate(pools, 1) for _ in pool]
    parts = [eye(seen_pictures(every[i : i + part]))[0].half() for i in range(0, len(every), part)]
    return Pool(tuple(every), torch.cat(parts), tuple(kinds))
