"""The world of PixelWorld: what can be in a scene, how scenes are drawn at random, and how people caption them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from ...errors import InterplayError
from . import sprites

OBJECTS: tuple[str, ...] = tuple(sprites.SPRITES)
COLOURS: tuple[str, ...] = tuple(sprites.COLOURS)
ENVIRONMENTS: tuple[str, ...] = sprites.ENVIRONMENTS

_STAND = sprites.GROUND - 5  # cell row of a sprite that stands on the ground


@dataclass(frozen=True)
class Layout:
    """Where an action puts its two parties, in cells relative to the pair's left edge, and the connector's cells."""

    subject: tuple[int, int]  # x, y of the sprite's top left cell
    target: tuple[int, int]
    connector: tuple[tuple[int, int], ...]
    dark: bool = False  # connector in the outline's colour instead of ink

    @property
    def width(self) -> int:
        """Cells that the pair takes from left to right."""
        return max(self.subject[0], self.target[0]) + 5


_S = _STAND
LAYOUTS: dict[str, Layout] = {
    "carrying": Layout((0, _S), (0, _S - 6), ((0, _S - 1), (4, _S - 1)), dark=True),  # held up on two arms
    "riding": Layout((0, _S - 5), (0, _S), ()),  # sits right on top
    "pushing": Layout((0, _S), (5, _S), ()),  # side by side, touching
    "pulling": Layout((0, _S), (8, _S), ((5, _S + 2), (6, _S + 2), (7, _S + 2))),  # a rope across the gap
    "chasing": Layout((0, _S), (8, _S), ((5, _S), (6, _S), (6, _S + 4), (7, _S + 4))),  # speed lines, high and low
    "throwing": Layout((0, _S), (7, _S - 6), ((5, _S - 1), (5, _S - 3), (6, _S - 5))),  # an arc of dots, up and away
    "kicking": Layout((0, _S), (8, _S), ((6, _S + 2), (5, _S + 3), (6, _S + 3), (7, _S + 3), (6, _S + 4))),  # a spark
    "watching": Layout((0, _S), (10, _S), ((5, _S + 1), (7, _S + 1), (9, _S + 1))),  # a dotted look, far apart
}
ACTIONS: tuple[str, ...] = tuple(LAYOUTS)


@dataclass(frozen=True)
class Thing:
    """An object in its colour."""

    object: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """One picture: a subject, perhaps acting on a target, in an environment.

    ``x``, ``y`` are cells (0..15): the top left of the subject when it is alone, else ``x`` is the left edge of the
    pair and ``y`` is unused, because an action fixes the heights.
    """

    subject: Thing
    environment: str
    action: str | None = None
    target: Thing | None = None
    x: int = 0
    y: int = _STAND

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects, subject first."""
        return (self.subject,) if self.target is None else (self.subject, self.target)

    @property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """Top left cell (x, y) of each object."""
        if self.action is None:
            return ((self.x, self.y),)
        layout = LAYOUTS[self.action]
        return tuple((self.x + x, y) for x, y in (layout.subject, layout.target))


@dataclass(frozen=True)
class HeldOut:
    """Combinations that training never shows."""

    pairs: frozenset[tuple[str, str]]  # colour, object
    triples: frozenset[tuple[str, str, str]]  # object, action, object

    def hits(self, scene: Scene) -> bool:
        """True if the scene contains a held-out combination."""
        if any((t.colour, t.object) in self.pairs for t in scene.things):
            return True
        return scene.target is not None and (scene.subject.object, scene.action, scene.target.object) in self.triples


@cache
def held_out() -> HeldOut:
    """The list in ``held_out.json``."""
    data = json.loads((Path(__file__).parent / "held_out.json").read_text(encoding="utf-8"))
    pairs = frozenset(tuple(line.split()) for line in data["colour object"])
    triples = frozenset(tuple(line.split()) for line in data["object action object"])
    return HeldOut(pairs, triples)  # type: ignore[arg-type]


def _thing(rng: Random) -> Thing:
    return Thing(rng.choice(OBJECTS), rng.choice(COLOURS))


def sample_scene(rng: Random, two: bool | None = None, seen: bool = True) -> Scene:
    """Draw a scene. ``two`` fixes the number of objects (None: two in three of four scenes). Two objects always
    differ in kind and in colour, as prompts that tell them apart do. ``seen`` leaves out the held-out combinations.
    """
    two = rng.random() < 0.75 if two is None else two
    while True:
        subject, environment = _thing(rng), rng.choice(ENVIRONMENTS)
        if not two:
            scene = Scene(subject, environment, x=rng.randint(0, 11), y=rng.randint(3, _STAND))
        else:
            action, target = rng.choice(ACTIONS), _thing(rng)
            if target.object == subject.object or target.colour == subject.colour:
                continue
            scene = Scene(subject, environment, action, target, x=rng.randint(0, 16 - LAYOUTS[action].width))
        if not (seen and held_out().hits(scene)):
            return scene


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(scene: Scene, rng: Random | None = None) -> str:
    """Describe a scene. Without ``rng``: the plain sentence "a red robot carrying a blue box in the forest". With it:
    one of the ways people write, sometimes without articles, without the environment, with "is", or with "a photo of"
    in front.
    """
    style = rng.random() if rng else 0.0
    telegraphic = style > 0.85

    def noun(thing: Thing) -> str:
        words = f"{thing.colour} {thing.object}"
        return words if telegraphic else f"{_article(words)} {words}"

    text = noun(scene.subject)
    if scene.target is not None:
        verb = f"is {scene.action}" if 0.75 < style <= 0.85 else scene.action
        text = f"{text} {verb} {noun(scene.target)}"
    if rng is None or rng.random() < 0.7:
        text += f" in {scene.environment}" if telegraphic else f" in the {scene.environment}"
    if 0.6 < style <= 0.75 and rng is not None:
        text = rng.choice(("a picture of ", "a photo of ", "pixel art of ", "a drawing of ")) + text
    return text


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: the objects in order, and action and environment where named."""

    things: tuple[tuple[str | None, str], ...]  # (colour or None, object)
    action: str | None = None
    environment: str | None = None


def request(prompt: str | Scene) -> Request:
    """Read the world's words out of a prompt; colours belong to the next object.

    Raises:
        InterplayError: the prompt names none of the world's objects.
    """
    if isinstance(prompt, Scene):
        return Request(tuple((t.colour, t.object) for t in prompt.things), prompt.action, prompt.environment)
    things, colour, action, environment = [], None, None, None
    for word in re.findall(r"[a-z]+", prompt.lower()):
        if word in COLOURS:
            colour = word
        elif word in OBJECTS:
            things.append((colour, word))
            colour = None
        elif word in ACTIONS:
            action = word
        elif word in ENVIRONMENTS:
            environment = word
    if not things:
        raise InterplayError(f"The prompt {prompt!r} names no PixelWorld object; use one of {', '.join(OBJECTS)}.")
    return Request(tuple(things), action, environment)


def _prompts(two: bool, n: int, seed: int) -> Iterator[str]:
    rng, done = Random(f"pixelworld prompts {two} {seed}"), set[str]()
    while len(done) < n:
        text = caption(sample_scene(rng, two=two))
        if text not in done:
            done.add(text)
            yield text


def one_object_prompts(n: int = 100, seed: int = 0) -> list[str]:
    """``n`` different prompts such as "a red robot in the forest", seen combinations only."""
    return list(_prompts(False, n, seed))


def two_object_prompts(n: int = 100, seed: int = 0) -> list[str]:
    """``n`` different prompts such as "a red robot carrying a blue box in the forest", seen combinations only."""
    return list(_prompts(True, n, seed))


def _hold_out(scene: Scene, rng: Random) -> Scene:
    """Put a held-out colour-object pair, or a held-out triple, into a two-object scene."""
    if rng.random() < 0.5 or scene.target is None:
        colour, kind = rng.choice(sorted(held_out().pairs))
        return replace(scene, subject=Thing(kind, colour))
    subject, action, target = rng.choice(sorted(held_out().triples))
    colours = scene.subject.colour, scene.target.colour
    return replace(scene, subject=Thing(subject, colours[0]), action=action, target=Thing(target, colours[1]))


def held_out_prompts(n: int = 100, seed: int = 0) -> list[str]:
    """``n`` different two-object prompts, each with a combination that training never showed."""
    rng, texts = Random(f"pixelworld held out {seed}"), dict[str, None]()
    while len(texts) < n:
        scene = _hold_out(sample_scene(rng, two=True), rng)
        first, second = scene.things
        if first.object != second.object and first.colour != second.colour:
            texts[caption(scene)] = None
    return list(texts)
