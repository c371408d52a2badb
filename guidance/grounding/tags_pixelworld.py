"""PixelWorld's exact detector as a tagger: things with boxes, the place, a caption in the world's words."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixelworld import sprites
from ..pixelworld.detect import Detection, Found, detect
from .tags import Box, PictureTags, Tag, gathered


def look(image: Tensor) -> PictureTags:
    """The tags of a PixelWorld picture (H, W, 3), 0..1.

    A thing's score is how well its sprite fits (1 = to the pixel); the place's, how much of the picture is explained.
    Raises InterplayError for pictures that are not square or no multiple of 32 pixels wide.
    """
    seen = detect(np.asarray(image.detach().float().cpu().clamp(0, 1)))
    things = [Tag(item.object, min(1.0, item.score), _box(item)) for item in seen.objects]
    return gathered([*things, Tag(seen.environment, seen.explained)], caption(seen))


def caption(seen: Detection) -> str:
    """What a picture shows: "a red robot carrying a blue box in the forest"."""
    names = [_name(item) for item in seen.objects]
    if seen.action is not None:
        subject, verb, target = seen.action
        rest = [name for i, name in enumerate(names) if i not in (subject, target)]
        names = [f"{names[subject]} {verb} {names[target]}", *rest]
    what = " and ".join(names) if names else "nothing"
    return f"{what} in the {seen.environment}"


def _name(item: Found) -> str:
    colour = None if item.mixed else item.colour
    words = " ".join(word for word in (item.size, item.pattern, colour, item.object) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _box(item: Found) -> Box:
    size = sprites.SIZE
    return (item.x / size, item.y / size, (item.x + item.side) / size, (item.y + item.side) / size)
