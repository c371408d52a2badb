"""Draw a scene exactly, with the true mask of every object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import sprites
from .world import Scene, Thing


@dataclass(frozen=True)
class Masks:
    """Boolean (32, 32) masks: one for each object (in the order of ``Scene.things``), and the action's connector (empty
    where there is none).
    """

    objects: tuple[np.ndarray, ...]
    connector: np.ndarray

    @property
    def action(self) -> np.ndarray:
        """Both parties and what connects them."""
        return np.logical_or.reduce((*self.objects[:2], self.connector))


def render(scene: Scene) -> tuple[np.ndarray, Masks]:
    """The picture (32, 32, 3) uint8 and its masks. Shown and encoded at 128x128, see :func:`enlarge`."""
    image = sprites.backdrop(scene.environment)
    connector = np.zeros((sprites.SIZE, sprites.SIZE), bool)
    for x, y in scene.connector:
        connector[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = True
    if scene.layout:
        image[connector] = sprites.OUTLINE if scene.layout.dark else sprites.INK
    masks = [paint(image, thing, 2 * x, 2 * y) for thing, (x, y) in zip(scene.things, scene.positions, strict=True)]
    return image, Masks(tuple(masks), connector & ~np.logical_or.reduce(masks))


def paint(image: np.ndarray, thing: Thing, x: int, y: int) -> np.ndarray:
    """Draw an object with its top left pixel at (x, y), in place; returns its mask."""
    sprite = sprites.sprite(thing.object, thing.size, thing.pattern)
    side = len(sprite)
    box = np.s_[y : y + side, x : x + side]
    for letter, colour in (("#", sprites.OUTLINE), ("o", sprites.COLOURS[thing.colour]), ("s", sprites.STRIPE)):
        image[box][sprite == letter] = colour
    mask = np.zeros(image.shape[:2], bool)
    mask[box] = sprite != "."
    return mask


def enlarge(image: np.ndarray, factor: int = 4) -> np.ndarray:
    """Repeat every pixel, 32x32 to 128x128 by default."""
    return image.repeat(factor, 0).repeat(factor, 1)
