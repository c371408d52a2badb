"""Draw a scene exactly, with the true mask of every object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import sprites
from .world import LAYOUTS, Scene


@dataclass(frozen=True)
class Masks:
    """Boolean (32, 32) masks: one for each object (subject first), and the action's connector (empty where there is
    none).
    """

    objects: tuple[np.ndarray, ...]
    connector: np.ndarray

    @property
    def action(self) -> np.ndarray:
        """Both parties and what connects them."""
        return np.logical_or.reduce((*self.objects, self.connector))


def render(scene: Scene) -> tuple[np.ndarray, Masks]:
    """The picture (32, 32, 3) uint8 and its masks. Shown and encoded at 128x128, see :func:`enlarge`."""
    image = sprites.backdrop(scene.environment)
    connector = np.zeros((sprites.SIZE, sprites.SIZE), bool)
    if scene.action is not None:
        layout = LAYOUTS[scene.action]
        for x, y in layout.connector:
            connector[2 * y : 2 * y + 2, 2 * (scene.x + x) : 2 * (scene.x + x) + 2] = True
        image[connector] = sprites.OUTLINE if layout.dark else sprites.INK
    masks = []
    for thing, (x, y) in zip(scene.things, scene.positions, strict=True):
        sprite = sprites.SPRITES[thing.object]
        box = np.s_[2 * y : 2 * y + sprites.SPRITE, 2 * x : 2 * x + sprites.SPRITE]
        image[box][sprite == "#"] = sprites.OUTLINE
        image[box][sprite == "o"] = sprites.COLOURS[thing.colour]
        mask = np.zeros((sprites.SIZE, sprites.SIZE), bool)
        mask[box] = sprite != "."
        masks.append(mask)
    return image, Masks(tuple(masks), connector & ~np.logical_or.reduce(masks))


def enlarge(image: np.ndarray, factor: int = 4) -> np.ndarray:
    """Repeat every pixel, 32x32 to 128x128 by default."""
    return image.repeat(factor, 0).repeat(factor, 1)
