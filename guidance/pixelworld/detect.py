"""Read a PixelWorld picture back: which objects in which colours, doing what, where; and judge it against a prompt.

Every pixel is put to its nearest palette colour; every sprite in every size is laid over every position and scored by
intersection over union of outline and fill. Fill counts in any object colour and as stripes, so that a mixture is seen
as one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...errors import InterplayError
from . import sprites
from .render import paint
from .world import ACTIONS, COLOURS, ENVIRONMENTS, OBJECTS, Layout, Request, Scene, Thing, Wanted, layout, request

PRESENT = 0.72  # shape score from which an object counts as there
PURE = 0.7  # share of one colour in the fill from which the object has that colour
STRIPED = 0.5  # share of stripes where a striped sprite has them from which an object counts as striped
CONNECTED = 0.5  # overlap of the connector's pixels from which an action counts as drawn


@dataclass(frozen=True)
class Found:
    """An object in the picture: its place is the top left pixel of its box, score and purity lie in [0, 1]."""

    object: str
    colour: str
    x: int
    y: int
    score: float
    purity: float
    size: str | None = None
    pattern: str | None = None

    @property
    def side(self) -> int:
        """Pixels of its side."""
        return sprites.SIDES[self.size]

    @property
    def thing(self) -> Thing:
        """What it is, without its place."""
        return Thing(self.object, self.colour, self.size, self.pattern)

    @property
    def mixed(self) -> bool:
        """True if no colour prevails in the fill."""
        return self.purity < PURE


@dataclass(frozen=True)
class Detection:
    """What a picture shows. ``action`` is (subject, action, target) by index into ``objects``.

    ``palette_distance`` is the mean RGB distance of pixels to the world's palette (0 exact, 1 black to white);
    ``explained`` the share of pixels that a redrawing of what was found (objects, connector, environment) puts to the
    same palette colour; ``quality`` the mean RGB distance to that redrawing: how far the picture is from any that the
    world could show, 0 for a perfect one, lower is better.
    """

    objects: tuple[Found, ...]
    action: tuple[int, str, int] | None
    environment: str
    palette_distance: float
    explained: float
    quality: float


@dataclass(frozen=True)
class Verdict:
    """A picture held against what its prompt asked for. ``None`` where the prompt did not ask."""

    presence: float  # share of the asked objects that are there, in any colour
    binding: float  # share of the asked objects that are there in their colour
    objects_right: bool  # all of them there in their colours
    action_right: bool | None  # the asked action between the asked kinds, in the asked roles
    environment_right: bool | None
    attributes_right: bool | None  # sizes and patterns of the asked objects, those not asked for included
    bystander_right: bool | None  # the third object there in its colour and out of the action
    all_right: bool  # everything asked for as it was asked, nothing else, no mixture
    mixture: bool  # an object without a prevailing colour
    extra: int  # objects that were not asked for
    palette_distance: float
    explained: float
    quality: float  # distance to the nearest picture of the world, see Detection; lower is better

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@cache
def _palette() -> np.ndarray:
    """(K, 3): object colours, outline, ink, stripes, then environment colours."""
    rest = [rgb for name in ENVIRONMENTS for rgb in sprites.environment_palette(name)]
    return np.array([*sprites.COLOURS.values(), sprites.OUTLINE, sprites.INK, sprites.STRIPE, *rest], np.float32)


_OUTLINE, _INK, _STRIPE = len(COLOURS), len(COLOURS) + 1, len(COLOURS) + 2


@cache
def _templates(size: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill, outline and outside of every sprite in a size, each (12, side * side) float32."""
    art = np.stack([sprites.sprite(name, size) for name in OBJECTS]).reshape(len(OBJECTS), -1)
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


def _windows(plane: np.ndarray, side: int) -> np.ndarray:
    """All windows of a (32, 32) plane, (places, side * side) float32, row by row."""
    return sliding_window_view(plane, (side, side)).reshape(-1, side**2).astype(np.float32)


def _scores(labels: np.ndarray, size: str | None) -> np.ndarray:
    """(places, 12): intersection over union of every sprite in a size at every place."""
    fill, outline, outside = _templates(size)
    coloured = _windows((labels < len(COLOURS)) | (labels == _STRIPE), sprites.SIDES[size])
    dark = _windows(labels == _OUTLINE, sprites.SIDES[size])
    hits = coloured @ fill.T + dark @ outline.T
    return hits / (fill.sum(1) + outline.sum(1) + (coloured + dark) @ outside.T)


def _objects(labels: np.ndarray) -> tuple[Found, ...]:
    """Sprites of all sizes by falling score, none overlapping a better one by more than a pixel."""
    sizes = tuple(sprites.SIDES)
    scores = [_scores(labels, size) for size in sizes]
    found = list[Found]()
    while True:
        best = max(range(len(sizes)), key=lambda i: scores[i].max())
        place, kind = divmod(int(scores[best].argmax()), len(OBJECTS))
        if scores[best][place, kind] < PRESENT:
            return tuple(found)
        item = _look(labels, OBJECTS[kind], sizes[best], place, float(scores[best][place, kind]))
        found.append(item)
        for size, table in zip(sizes, scores, strict=True):
            side = sprites.SIDES[size]
            ys, xs = np.divmod(np.arange(len(table)), sprites.SIZE - side + 1)
            near = (xs < item.x + item.side - 1) & (xs + side - 1 > item.x)
            table[near & (ys < item.y + item.side - 1) & (ys + side - 1 > item.y)] = 0


def _look(labels: np.ndarray, kind: str, size: str | None, place: int, score: float) -> Found:
    """The object at a place: its colour, how pure that is, and whether it is striped."""
    side = sprites.SIDES[size]
    y, x = divmod(place, sprites.SIZE - side + 1)
    window, striped = labels[y : y + side, x : x + side], sprites.sprite(kind, size, "striped")
    stripes = float((window[striped == "s"] == _STRIPE).mean())
    fill = window[striped == "o"] if stripes >= STRIPED else window[(striped == "o") | (striped == "s")]
    counts = np.bincount(fill[fill < len(COLOURS)], minlength=len(COLOURS))
    purity = float(counts.max() / max(1, counts.sum()))
    pattern = "striped" if stripes >= STRIPED else None
    return Found(kind, COLOURS[int(counts.argmax())], x, y, score, purity, size, pattern)


def _action(found: tuple[Found, ...], labels: np.ndarray) -> tuple[int, str, int] | None:
    """The action whose layout and connector fit two of the objects best."""
    best, choice = CONNECTED, None
    ink = labels == _INK
    for i, j in permutations(range(len(found)), 2):
        a, b = found[i], found[j]
        for name in ACTIONS:
            plan = layout(name, a.size, b.size)
            dx, dy = (2 * (t - s) for s, t in zip(plan.subject, plan.target, strict=True))
            miss = max(abs(b.x - a.x - dx), abs(b.y - a.y - dy))
            if miss > (2 if plan.connector else 1):  # idle neighbours are two pixels apart
                continue
            fit = _connected(a, plan, ink, labels == _OUTLINE) - 0.2 * miss
            if fit > best:
                best, choice = fit, (i, name, j)
    return choice


def _connector(subject: Found, plan: Layout) -> np.ndarray:
    """(32, 32) bool: where the connector of an action is to be, from where its subject is."""
    expected = np.zeros((sprites.SIZE, sprites.SIZE), bool)
    for x, y in plan.connector:
        left, top = subject.x + 2 * (x - plan.subject[0]), subject.y + 2 * (y - plan.subject[1])
        expected[max(0, top) : max(0, top + 2), max(0, left) : max(0, left + 2)] = True
    return expected


def _connected(subject: Found, plan: Layout, ink: np.ndarray, dark: np.ndarray) -> float:
    """How well the connector is drawn, in [0, 1]: intersection over union of ink near the pair, or the share of dark
    pixels there.
    """
    expected = _connector(subject, plan)
    if plan.dark:
        return float(dark[expected].mean()) if expected.any() else 0.0
    if not plan.connector:
        return 1.0 - min(1.0, ink.sum() / 12)
    return float((ink & expected).sum() / max(1, (ink | expected).sum()))


def _redraw(found: tuple[Found, ...], action: tuple[int, str, int] | None, environment: str) -> np.ndarray:
    image = sprites.backdrop(environment)
    if action is not None:
        subject, target = found[action[0]], found[action[2]]
        plan = layout(action[1], subject.size, target.size)
        image[_connector(subject, plan)] = sprites.OUTLINE if plan.dark else sprites.INK
    for item in found:
        paint(image, item.thing, item.x, item.y)
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
        free[item.y : item.y + item.side, item.x : item.x + item.side] = False
    gaps = {e: np.linalg.norm(art - sprites.backdrop(e), axis=-1)[free].clip(max=100).mean() for e in ENVIRONMENTS}
    environment = min(ENVIRONMENTS, key=lambda name: gaps[name])
    action = _action(found, labels)
    redrawn = _redraw(found, action, environment).astype(np.float32)
    explained = float((_labels(redrawn)[0] == labels).mean())
    quality = float(np.linalg.norm(art - redrawn, axis=-1).mean() / (255 * 3**0.5))
    return Detection(found, action, environment, distance, explained, quality)


def judge(prompt: str | Scene, image: Any) -> Verdict:
    """Hold a picture against a prompt (or the scene it was made from)."""
    return verdict(request(prompt), detect(image))


def _matches(asked: Request, seen: Detection) -> list[int | None]:
    """For each asked object the found one that fits best (kind, then colour, then size and pattern), or None."""
    left, matches = list(range(len(seen.objects))), list[int | None]()
    for wanted in asked.things:
        same = [i for i in left if seen.objects[i].object == wanted.object]
        choice = max(
            same, key=lambda i: (_coloured(wanted, seen.objects[i]), _adorned(wanted, seen.objects[i])), default=None
        )
        matches.append(choice)
        if choice is not None:
            left.remove(choice)
    return matches


def _fit(wanted: Wanted, item: Found) -> tuple[bool, bool]:
    return _coloured(wanted, item), _adorned(wanted, item)


def _coloured(wanted: Wanted, item: Found) -> bool:
    return wanted.colour is None or (item.colour == wanted.colour and not item.mixed)


def _adorned(wanted: Wanted, item: Found) -> bool:
    """Size and pattern as asked; an object without adjectives is to be middling and plain."""
    return (item.size, item.pattern) == (wanted.size, wanted.pattern)


def verdict(asked: Request, seen: Detection) -> Verdict:
    """Hold a detection against a request."""
    matches = _matches(asked, seen)
    items = [None if m is None else seen.objects[m] for m in matches]
    pairs = list(zip(asked.things, items, strict=True))
    bound = [item is not None and _coloured(wanted, item) for wanted, item in pairs]
    adorned = [item is not None and _adorned(wanted, item) for wanted, item in pairs]
    parties = None if seen.action is None else (seen.action[0], seen.action[2])
    action = None
    if asked.action is not None and len(asked.things) > 1:
        action = seen.action is not None and seen.action[1] == asked.action and parties == tuple(matches[:2])
    aside = bound[2] and matches[2] not in (parties or ()) if len(asked.things) > 2 else None
    environment = None if asked.environment is None else seen.environment == asked.environment
    objects, extra = all(bound), len(seen.objects) - sum(m is not None for m in matches)
    mixture = any(item.mixed for item in seen.objects)
    return Verdict(
        presence=sum(m is not None for m in matches) / len(asked.things),
        binding=sum(bound) / len(asked.things),
        objects_right=objects,
        action_right=action,
        environment_right=environment,
        attributes_right=all(adorned) if any(w.size or w.pattern for w in asked.things) else None,
        bystander_right=aside,
        all_right=objects and all(adorned) and not extra and not mixture and False not in (action, environment, aside),
        mixture=mixture,
        extra=extra,
        palette_distance=seen.palette_distance,
        explained=seen.explained,
        quality=seen.quality,
    )
