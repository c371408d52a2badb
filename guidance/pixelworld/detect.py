"""Read a PixelWorld picture back: which objects in which colours, doing what, where; and judge it against a prompt.

Every pixel is put to its nearest palette colour; every sprite is laid over every position and scored by intersection
over union of outline and fill. Fill counts in any object colour, so that a mixture is seen as one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...errors import InterplayError
from . import sprites
from .world import ACTIONS, COLOURS, ENVIRONMENTS, LAYOUTS, OBJECTS, Request, Scene, request

PRESENT = 0.72  # shape score from which an object counts as there
PURE = 0.7  # share of one colour in the fill from which the object has that colour
CONNECTED = 0.5  # overlap of the connector's pixels from which an action counts as drawn


@dataclass(frozen=True)
class Found:
    """An object in the picture: its place is the top left pixel of its 10x10 box (0..22), score and purity lie in [0,
    1].
    """

    object: str
    colour: str
    x: int
    y: int
    score: float
    purity: float

    @property
    def mixed(self) -> bool:
        """True if no colour prevails in the fill."""
        return self.purity < PURE


@dataclass(frozen=True)
class Detection:
    """What a picture shows. ``action`` is (subject, action, target) by index into ``objects``.

    ``palette_distance`` is the mean RGB distance of pixels to the world's palette (0 exact, 1 black to white);
    ``explained`` the share of pixels that a redrawing of what was found puts to the same colour.
    """

    objects: tuple[Found, ...]
    action: tuple[int, str, int] | None
    environment: str
    palette_distance: float
    explained: float


@dataclass(frozen=True)
class Verdict:
    """A picture held against what its prompt asked for. ``None`` where the prompt did not ask."""

    presence: float  # share of the asked objects that are there, in any colour
    binding: float  # share of the asked objects that are there in their colour
    objects_right: bool  # all of them there in their colours
    action_right: bool | None  # the asked action between the asked kinds, in the asked roles
    environment_right: bool | None
    all_right: bool
    mixture: bool  # an object without a prevailing colour
    extra: int  # objects that were not asked for
    palette_distance: float
    explained: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@cache
def _palette() -> np.ndarray:
    """(K, 3): object colours, outline, ink, then environment colours."""
    rest = [rgb for name in ENVIRONMENTS for rgb in sprites.environment_palette(name)]
    return np.array([*sprites.COLOURS.values(), sprites.OUTLINE, sprites.INK, *rest], np.float32)


_OUTLINE, _INK = len(COLOURS), len(COLOURS) + 1


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill, outline and outside of every sprite, each (12, 100) float32."""
    art = np.stack([sprites.SPRITES[name] for name in OBJECTS]).reshape(len(OBJECTS), -1)
    return tuple((art == letter).astype(np.float32) for letter in "o#.")  # type: ignore[return-value]


def as_art(image: Any) -> np.ndarray:
    """Any picture of 32x32 or a multiple of it, uint8 or float in [0, 1], as (32, 32, 3) float32 in 0..255 (blocks
    averaged).
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.shape[0] != array.shape[1] or array.shape[0] % sprites.SIZE:
        raise InterplayError(
            f"A PixelWorld picture is square RGB, a multiple of 32 pixels wide; this one has the shape {array.shape}."
        )
    array = array.astype(np.float32) * (1 if array.dtype == np.uint8 else 255)
    n = array.shape[0] // sprites.SIZE
    return array.reshape(sprites.SIZE, n, sprites.SIZE, n, 3).mean((1, 3))


def _labels(art: np.ndarray) -> tuple[np.ndarray, float]:
    """Nearest palette entry of every pixel (32, 32), and the mean distance to it in [0, 1]."""
    distance = np.linalg.norm(art[:, :, None] - _palette(), axis=-1)
    return distance.argmin(-1), float(distance.min(-1).mean() / (255 * 3**0.5))


def _windows(plane: np.ndarray) -> np.ndarray:
    """All 10x10 windows of a (32, 32) plane as (23 * 23, 100)."""
    return (
        sliding_window_view(plane, (sprites.SPRITE, sprites.SPRITE)).reshape(-1, sprites.SPRITE**2).astype(np.float32)
    )


def _objects(labels: np.ndarray) -> tuple[Found, ...]:
    """Sprites by falling score, none overlapping a better one by more than a fifth of its side."""
    fill, outline, outside = _templates()
    coloured, dark = _windows(labels < len(COLOURS)), _windows(labels == _OUTLINE)
    hits = coloured @ fill.T + dark @ outline.T
    false = (coloured + dark) @ outside.T
    score = hits / (fill.sum(1) + outline.sum(1) + false)  # (529, 12)
    side, found, taken = sprites.SIZE - sprites.SPRITE + 1, list[Found](), np.zeros(score.shape[0], bool)
    ys, xs = np.divmod(np.arange(side * side), side)
    while True:
        best = int(np.where(taken[:, None], 0, score).argmax())
        place, kind = divmod(best, len(OBJECTS))
        if taken[place] or score[place, kind] < PRESENT:
            return tuple(found)
        y, x = int(ys[place]), int(xs[place])
        window = labels[y : y + sprites.SPRITE, x : x + sprites.SPRITE].reshape(-1)[fill[kind] > 0]
        counts = np.bincount(window[window < len(COLOURS)], minlength=len(COLOURS))
        purity = float(counts.max() / max(1, counts.sum()))
        found.append(Found(OBJECTS[kind], COLOURS[int(counts.argmax())], x, y, float(score[place, kind]), purity))
        taken |= (abs(xs - x) < 9) & (abs(ys - y) < 9)


def _action(found: tuple[Found, ...], labels: np.ndarray) -> tuple[int, str, int] | None:
    """The action whose layout and connector fit two of the objects best."""
    best, choice = CONNECTED, None
    ink = labels == _INK
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            if i == j:
                continue
            for name in ACTIONS:
                layout = LAYOUTS[name]
                dx, dy = (2 * (t - s) for s, t in zip(layout.subject, layout.target, strict=True))
                miss = max(abs(b.x - a.x - dx), abs(b.y - a.y - dy))
                if miss > 2:
                    continue
                fit = _connected(a, name, ink, labels == _OUTLINE) - 0.2 * miss
                if fit > best:
                    best, choice = fit, (i, name, j)
    return choice


def _connected(subject: Found, action: str, ink: np.ndarray, dark: np.ndarray) -> float:
    """How well the connector is drawn, in [0, 1]: intersection over union of ink near the pair, or the share of dark
    pixels there.
    """
    layout = LAYOUTS[action]
    expected = np.zeros_like(ink)
    for x, y in layout.connector:
        left, top = subject.x + 2 * (x - layout.subject[0]), subject.y + 2 * (y - layout.subject[1])
        expected[max(0, top) : max(0, top + 2), max(0, left) : max(0, left + 2)] = True
    if layout.dark:
        return float(dark[expected].mean()) if expected.any() else 0.0
    if not layout.connector:
        return 1.0 - min(1.0, ink.sum() / 12)
    return float((ink & expected).sum() / max(1, (ink | expected).sum()))


def _redraw(found: tuple[Found, ...], environment: str) -> np.ndarray:
    image = sprites.backdrop(environment)
    for item in found:
        sprite = sprites.SPRITES[item.object]
        box = np.s_[item.y : item.y + sprites.SPRITE, item.x : item.x + sprites.SPRITE]
        image[box][sprite == "#"] = sprites.OUTLINE
        image[box][sprite == "o"] = sprites.COLOURS[item.colour]
    return image


def detect(image: Any) -> Detection:
    """Read a picture (32x32 or 128x128 RGB; uint8, or float in [0, 1]).

    Raises:
        InterplayError: the picture has another shape.
    """
    art = as_art(image)
    labels, distance = _labels(art)
    found = _objects(labels)
    free = np.ones(labels.shape, bool)
    for item in found:
        free[item.y : item.y + sprites.SPRITE, item.x : item.x + sprites.SPRITE] = False
    gaps = {e: np.linalg.norm(art - sprites.backdrop(e), axis=-1)[free].clip(max=100).mean() for e in ENVIRONMENTS}
    environment = min(ENVIRONMENTS, key=lambda name: gaps[name])
    redrawn, _ = _labels(_redraw(found, environment).astype(np.float32))
    explained = float(((redrawn == labels) | (labels == _INK)).mean())
    return Detection(found, _action(found, labels), environment, distance, explained)


def judge(prompt: str | Scene, image: Any) -> Verdict:
    """Hold a picture against a prompt (or the scene it was made from)."""
    return verdict(request(prompt), detect(image))


def verdict(asked: Request, seen: Detection) -> Verdict:
    """Hold a detection against a request."""
    left, matches = list(range(len(seen.objects))), list[int | None]()
    bound = 0
    for colour, kind in asked.things:
        same = [i for i in left if seen.objects[i].object == kind]
        right = [i for i in same if colour is None or (seen.objects[i].colour == colour and not seen.objects[i].mixed)]
        choice = next(iter(right or same), None)
        bound += bool(right)
        matches.append(choice)
        if choice is not None:
            left.remove(choice)
    action = None
    if asked.action is not None:
        roles = seen.action and (
            seen.objects[seen.action[0]].object,
            seen.action[1],
            seen.objects[seen.action[2]].object,
        )
        action = roles == (asked.things[0][1], asked.action, asked.things[-1][1])
    environment = None if asked.environment is None else seen.environment == asked.environment
    objects = bound == len(asked.things)
    return Verdict(
        presence=sum(m is not None for m in matches) / len(asked.things),
        binding=bound / len(asked.things),
        objects_right=objects,
        action_right=action,
        environment_right=environment,
        all_right=objects and action is not False and environment is not False,
        mixture=any(item.mixed for item in seen.objects),
        extra=len(left),
        palette_distance=seen.palette_distance,
        explained=seen.explained,
    )
