"""PixelWorld's exact detector as a detector of objects with exact masks, and as a judge of what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...parsing.lexicon import noun_lemma
from ..pixelworld import detect as reader
from ..pixelworld import sprites
from ..pixelworld.world import COLOURS, PATTERNS, SIZES
from .detectors import Found, Wanted
from .objects import PictureObjects

NAME = "PixelWorld (exact)"


def find(image: Tensor, things: Sequence[Wanted]) -> list[Found]:
    """A detector for PixelWorld's pictures (H, W, 3): boxes and masks to the pixel, for the kinds of its world.

    Things of one kind share what is there of it: each takes what looks most like its phrase. A find's score is how well
    its sprite fits, a tenth less for each word of colour, size or pattern in the phrase that it lacks.
    """
    seen = reader.detect(image.detach().float().cpu().numpy())
    left, out = list(range(len(seen.objects))), list[Found]()
    for number, thing in enumerate(things):
        kind = noun_lemma(thing.label.lower().split()[-1]) if thing.label.strip() else ""
        same = [i for i in left if seen.objects[i].object == kind]
        rivals = sum(noun_lemma(t.label.lower().split()[-1]) == kind for t in things if t.label.strip())
        if rivals > 1:
            same = sorted(same, key=lambda i: -_likeness(seen.objects[i], thing.phrase))[:1]
        for i in same:
            left.remove(i)
            out.append(_found(number, seen.objects[i], image.shape[0], _lacking(seen.objects[i], thing.phrase)))
    return out


def tags(image: Tensor) -> list[str]:
    """The kinds of things that a picture (H, W, 3) shows, each once."""
    return list(dict.fromkeys(item.object for item in reader.detect(image.detach().float().cpu().numpy()).objects))


def with_acts(image: Tensor, picture: PictureObjects) -> PictureObjects:
    """The objects of a picture (H, W, 3) and who of them does what to whom."""
    seen = reader.detect(image.detach().float().cpu().numpy())
    if seen.action is None or picture.masks is None:
        return replace(picture, acts=())
    subject, action, target = seen.action
    places = [_place(_mask(seen.objects[i], image.shape[0]), picture.masks) for i in (subject, target)]
    known = [place for place in places if place is not None]
    return replace(picture, acts=((known[0], action, known[1]),) if len(known) == 2 else ())


def _place(mask: Tensor, masks: Tensor) -> int | None:
    """Which object's mask covers a mask most; None where none does."""
    shares = (masks * mask).flatten(1).sum(-1)
    return int(shares.argmax()) if bool((shares > 0).any()) else None


def _lacking(item: reader.Found, phrase: str) -> int:
    words = phrase.lower().split()
    asked = [w for w in words if w in (*COLOURS, *SIZES, *PATTERNS)]
    return sum(word not in (item.colour, item.size, item.pattern) for word in asked)


def _likeness(item: reader.Found, phrase: str) -> int:
    words = phrase.lower().split()
    return sum(look in words for look in (item.colour, item.size, item.pattern) if look is not None)


def _mask(item: reader.Found, pixels: int) -> Tensor:
    """(H, W) ones where its sprite is."""
    scale = pixels // sprites.SIZE
    art = np.zeros((sprites.SIZE, sprites.SIZE), np.float32)
    art[item.y : item.y + item.side, item.x : item.x + item.side] = sprites.sprite(item.object, item.size) != "."
    return torch.from_numpy(art).repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def _found(number: int, item: reader.Found, pixels: int, lacking: int) -> Found:
    size = sprites.SIZE
    box = (item.x / size, item.y / size, (item.x + item.side) / size, (item.y + item.side) / size)
    return Found(number, box, min(1.0, item.score) * 0.9**lacking, _mask(item, pixels))


def judge(prompt: str, image: Tensor) -> tuple[float, tuple[str, ...]]:
    """How right a picture is, 0..1, and what is wrong with it; 1 and nothing when all is as asked.

    The score is the mean over what the prompt asks for (things in their colours, action, environment, ...), less a
    tenth where there is something besides it.
    """
    verdict = reader.judge(prompt, image.detach().float().cpu().numpy())
    asked = {
        "things in their colours": verdict.binding,
        "who does what": verdict.action_right,
        "environment": verdict.environment_right,
        "sizes and patterns": verdict.attributes_right,
        "third thing": verdict.bystander_right,
    }
    parts = {name: float(value) for name, value in asked.items() if value is not None}
    besides = {"something besides": verdict.extra > 0, "a mixture of colours": verdict.mixture}
    wrong = tuple(f"{name} ({value:.0%})" for name, value in parts.items() if value < 1)
    wrong += tuple(name for name, there in besides.items() if there)
    score = sum(parts.values()) / len(parts) - 0.1 * any(besides.values())
    return max(0.0, score), wrong if wrong or verdict.all_right else ("not all right",)
