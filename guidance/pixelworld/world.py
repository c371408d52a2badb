"""The world of PixelWorld: what can be in a scene, how scenes are drawn at random, and how people caption them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random

from ...errors import InterplayError
from . import sprites

OBJECTS: tuple[str, ...] = tuple(sprites.SPRITES)
COLOURS: tuple[str, ...] = tuple(sprites.COLOURS)
ENVIRONMENTS: tuple[str, ...] = sprites.ENVIRONMENTS

SIZES: tuple[str, ...] = ("big", "small")
PATTERNS: tuple[str, ...] = ("striped",)

_FLOOR = sprites.GROUND  # first cell row below what stands on the ground
_MARGIN = 1  # cells that stay free between objects that have nothing to do with each other

Cell = tuple[int, int]  # x, y


@dataclass(frozen=True)
class Thing:
    """An object in its colour; ``size`` is one of SIZES or None (middling), ``pattern`` one of PATTERNS or None."""

    object: str
    colour: str
    size: str | None = None
    pattern: str | None = None

    @property
    def cells(self) -> int:
        """Cells of its side."""
        return sprites.SIDES[self.size] // 2


@dataclass(frozen=True)
class Layout:
    """Where an action puts its two parties: their top left cells, counted from the pair's left edge, and the
    connector's cells.
    """

    subject: Cell
    target: Cell
    connector: tuple[Cell, ...]
    width: int
    dark: bool = False  # connector in the outline's colour instead of ink


def _beside(s: int, t: int, gap: int, marks: Sequence[Cell]) -> Layout:
    """Both on the ground, ``gap`` cells apart; marks are counted from the subject's right edge."""
    return Layout((0, _FLOOR - s), (s + gap, _FLOOR - t), tuple((s + x, y) for x, y in marks), s + gap + t)


def _carrying(s: int, t: int) -> Layout:
    left, arms, top = max(0, (t - s) // 2), _FLOOR - s - 1, _FLOOR - s - 1 - t  # held up on two arms
    target = left + (s - t) // 2 if t <= s else 0
    return Layout((left, _FLOOR - s), (target, top), ((left, arms), (left + s - 1, arms)), max(s, t), dark=True)


def _riding(s: int, t: int) -> Layout:
    return Layout((max(0, (t - s) // 2), _FLOOR - t - s), (max(0, (s - t) // 2), _FLOOR - t), (), max(s, t))


def _throwing(s: int, t: int) -> Layout:
    dots = ((s, _FLOOR - 6), (s, _FLOOR - 8), (s + 1, _FLOOR - 10))  # an arc of dots, up and away
    return Layout((0, _FLOOR - s), (s + 2, _FLOOR - 6 - t), dots, s + 2 + t)


_F = _FLOOR
_ARRANGE: dict[str, Callable[[int, int], Layout]] = {
    "carrying": _carrying,
    "riding": _riding,  # sits right on top
    "pushing": lambda s, t: _beside(s, t, 0, ()),  # side by side, touching
    "pulling": lambda s, t: _beside(s, t, 3, [(0, _F - 3), (1, _F - 3), (2, _F - 3)]),  # a rope across the gap
    "chasing": lambda s, t: _beside(s, t, 3, [(0, _F - 5), (1, _F - 5), (1, _F - 1), (2, _F - 1)]),  # speed lines
    "throwing": _throwing,
    "kicking": lambda s, t: _beside(  # a spark
        s, t, 3, [(1, _F - 3), (0, _F - 2), (1, _F - 2), (2, _F - 2), (1, _F - 1)]
    ),
    "watching": lambda s, t: _beside(s, t, 5, [(0, _F - 4), (2, _F - 4), (4, _F - 4)]),  # a dotted look, far apart
}
ACTIONS: tuple[str, ...] = tuple(_ARRANGE)


@cache
def layout(action: str, subject_size: str | None = None, target_size: str | None = None) -> Layout:
    """How an action stands two objects of these sizes."""
    return _ARRANGE[action](sprites.SIDES[subject_size] // 2, sprites.SIDES[target_size] // 2)


@dataclass(frozen=True)
class Scene:
    """One picture: a subject, perhaps acting on a target or standing apart from it, perhaps a bystander, in an
    environment.

    ``x``, ``y`` are cells (0..15): the top left of the subject; with an action ``x`` is the left edge of the pair and
    ``y`` is unused, because an action fixes the heights. ``apart`` is the target's place where there is no action,
    ``aside`` the bystander's.
    """

    subject: Thing
    environment: str
    action: str | None = None
    target: Thing | None = None
    x: int = 0
    y: int = _FLOOR - 5
    apart: Cell | None = None
    bystander: Thing | None = None
    aside: Cell | None = None

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects: subject, target, bystander, as far as there."""
        return tuple(t for t in (self.subject, self.target, self.bystander) if t is not None)

    @property
    def layout(self) -> Layout | None:
        """The action's layout."""
        if self.action is None or self.target is None:
            return None
        return layout(self.action, self.subject.size, self.target.size)

    @property
    def connector(self) -> tuple[Cell, ...]:
        """The connector's cells in the picture."""
        return tuple((self.x + x, y) for x, y in self.layout.connector) if self.layout else ()

    @property
    def positions(self) -> tuple[Cell, ...]:
        """Top left cell (x, y) of each of ``things``."""
        pair: tuple[Cell, ...] = ((self.x, self.y),)
        if self.layout:
            pair = tuple((self.x + x, y) for x, y in (self.layout.subject, self.layout.target))
        elif self.apart is not None:
            pair = (*pair, self.apart)
        return pair if self.aside is None else (*pair, self.aside)


@dataclass(frozen=True)
class HeldOut:
    """Combinations that training never shows."""

    pairs: frozenset[tuple[str, str]]  # colour, object
    company: frozenset[frozenset[str]]  # two objects in one picture
    triples: frozenset[tuple[str, str, str]]  # object, action, object

    def hits(self, scene: Scene) -> bool:
        """True if the scene contains a held-out combination."""
        if any((t.colour, t.object) in self.pairs for t in scene.things):
            return True
        if any(frozenset((a.object, b.object)) in self.company for a, b in combinations(scene.things, 2)):
            return True
        return scene.target is not None and (scene.subject.object, scene.action, scene.target.object) in self.triples


@cache
def held_out() -> HeldOut:
    """The list in ``held_out.json``."""
    data = json.loads((Path(__file__).parent / "held_out.json").read_text(encoding="utf-8"))
    pairs, company, triples = (
        frozenset(tuple(line.split()) for line in data[key])
        for key in ("colour object", "object object", "object action object")
    )
    return HeldOut(pairs, frozenset(map(frozenset, company)), triples)  # type: ignore[arg-type]


KINDS = ("one", "two", "action", "bystander")
_ODDS = (0.2, 0.2, 0.4, 0.2)
_ADORNED = 0.3  # share of scenes with sizes and patterns


def _thing(rng: Random, adorned: bool = False) -> Thing:
    thing = Thing(rng.choice(OBJECTS), rng.choice(COLOURS))
    if not adorned:
        return thing
    size, pattern = rng.choice((None, *SIZES)), rng.choice((None, *PATTERNS))
    return replace(thing, size=size, pattern=pattern)


def _free_place(rng: Random, side: int, taken: Sequence[tuple[int, int, int, int]]) -> Cell | None:
    """A random place for a square of ``side`` cells that keeps its margin to the boxes (x, y, width, height)."""
    places = [
        (x, y)
        for x in range(sprites.CELLS - side + 1)
        for y in range(_FLOOR - side + 1)
        if all(
            x + side + _MARGIN <= bx or bx + w + _MARGIN <= x or y + side + _MARGIN <= by or by + h + _MARGIN <= y
            for bx, by, w, h in taken
        )
    ]
    return rng.choice(places) if places else None


def _boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    boxes = [(x, y, t.cells, t.cells) for t, (x, y) in zip(scene.things, scene.positions, strict=False)]
    return [*boxes, *((x, y, 1, 1) for x, y in scene.connector)]


def _compose(rng: Random, kind: str, adorned: bool) -> Scene | None:
    """A scene of this kind with its places, or None where the draw does not fit."""
    things = [_thing(rng, adorned) for _ in range({"one": 1, "bystander": 3}.get(kind, 2))]
    if len({t.object for t in things}) < len(things) or len({t.colour for t in things}) < len(things):
        return None
    return _place(rng, Scene(things[0], rng.choice(ENVIRONMENTS)), kind, things, rng.choice(ACTIONS))


def _place(rng: Random, scene: Scene, kind: str, things: Sequence[Thing], action: str) -> Scene | None:
    """Put ``things`` into the picture as ``kind`` says; None where they find no room."""
    if kind in ("one", "two"):
        place = _free_place(rng, things[0].cells, [])
        assert place is not None
        scene = replace(scene, subject=things[0], x=place[0], y=place[1])
        if kind == "one":
            return scene
        apart = _free_place(rng, things[1].cells, _boxes(scene))
        return replace(scene, target=things[1], apart=apart) if apart else None
    plan = layout(action, things[0].size, things[1].size)
    room = sprites.CELLS - plan.width
    if room < 0 or min(plan.subject[1], plan.target[1]) < 0:
        return None
    scene = replace(scene, subject=things[0], action=action, target=things[1], x=rng.randint(0, room))
    if kind == "action":
        return scene
    aside = _free_place(rng, things[2].cells, _boxes(scene))
    return replace(scene, bystander=things[2], aside=aside) if aside else None


def sample_scene(rng: Random, kind: str | None = None, seen: bool = True, adorned: bool | None = None) -> Scene:
    """Draw a scene.

    ``kind``: "one" object; "two" that stand apart; an "action"; an action with a "bystander"; None draws one of them.
    Objects of a scene always differ in kind and in colour, as prompts that tell them apart do. ``seen`` leaves out the
    held-out combinations. ``adorned``: with sizes and patterns (None: in three of ten scenes).
    """
    kind = kind or rng.choices(KINDS, _ODDS)[0]
    adorned = rng.random() < _ADORNED if adorned is None else adorned
    while True:
        scene = _compose(rng, kind, adorned)
        if scene is not None and not (seen and held_out().hits(scene)):
            return scene


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def phrase(thing: Thing) -> str:
    """ "big striped red robot"."""
    return " ".join(word for word in (thing.size, thing.pattern, thing.colour, thing.object) if word)


def caption(scene: Scene, rng: Random | None = None) -> str:
    """Describe a scene. Without ``rng``: the plain sentence "a red robot carrying a blue box in the forest, a green cat
    nearby". With it: one of the ways people write, sometimes without articles, without the environment, with "is", or
    with "a photo of" in front.
    """
    style = rng.random() if rng else 0.0
    telegraphic = style > 0.85

    def noun(thing: Thing) -> str:
        words = phrase(thing)
        return words if telegraphic else f"{_article(words)} {words}"

    text = noun(scene.subject)
    if scene.target is not None:
        verb = scene.action or "and"
        verb = f"is {verb}" if scene.action and 0.75 < style <= 0.85 else verb
        text = f"{text} {verb} {noun(scene.target)}"
    if rng is None or rng.random() < 0.7:
        text += f" in {scene.environment}" if telegraphic else f" in the {scene.environment}"
    if scene.bystander is not None:
        text += f", {noun(scene.bystander)} nearby"
    if 0.6 < style <= 0.75 and rng is not None:
        text = rng.choice(("a picture of ", "a photo of ", "pixel art of ", "a drawing of ")) + text
    return text


@dataclass(frozen=True)
class Carelessness:
    """Shares of captions in which adjectives, and those in which the parties of an action, have changed places."""

    adjectives: float
    roles: float


CARELESS = Carelessness(0.36, 0.36)  # most of the training
LESS_CARELESS = Carelessness(0.06, 0.33)  # its last part, so that plain sampling gets most colours right


def careless(scene: Scene, rng: Random, how: Carelessness = CARELESS) -> Scene:
    """The scene as a careless captioner puts it down, for training: the right words, often in the wrong order.
    Adjectives change places between two objects; who acts and who is acted upon change places.

    So the model reads a caption in part as a bag of words, which is what CLIP's text encoder is known for, and draws
    what SD draws: the right things with each other's colours, and the right action the wrong way round. Captions never
    name a held-out combination.
    """
    said = scene
    if len(scene.things) > 1 and rng.random() < how.adjectives:
        said = _exchange(scene, *rng.sample(range(len(scene.things)), 2))
    if scene.action and scene.target and rng.random() < how.roles:
        said = replace(said, subject=said.target or said.subject, target=said.subject)
    return scene if held_out().hits(said) else said


def _exchange(scene: Scene, first: int, second: int) -> Scene:
    """Two things of a scene with each other's adjectives."""
    things = list(scene.things)
    a, b = things[first], things[second]
    things[first], things[second] = replace(b, object=a.object), replace(a, object=b.object)
    bystander = things[-1] if scene.bystander else None
    return replace(scene, subject=things[0], target=things[1], bystander=bystander)


@dataclass(frozen=True)
class Wanted:
    """An object that a prompt asks for; None where it leaves the choice."""

    object: str
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: the objects in order (subject, target, bystander), action and environment where named."""

    things: tuple[Wanted, ...]
    action: str | None = None
    environment: str | None = None


def request(prompt: str | Scene) -> Request:
    """Read the world's words out of a prompt; adjectives belong to the next object, an action to the first two.

    Raises:
        InterplayError: the prompt names none of the world's objects.
    """
    if isinstance(prompt, Scene):
        things = tuple(Wanted(t.object, t.colour, t.size, t.pattern) for t in prompt.things)
        return Request(things, prompt.action, prompt.environment)
    wanted, adjectives, action, environment = list[Wanted](), dict[str, str](), None, None
    for word in re.findall(r"[a-z]+", prompt.lower()):
        if word in OBJECTS:
            wanted.append(Wanted(word, **adjectives))
            adjectives = {}
        elif word in ACTIONS:
            action = word
        elif word in ENVIRONMENTS:
            environment = word
        for kind, words in (("colour", COLOURS), ("size", SIZES), ("pattern", PATTERNS)):
            if word in words:
                adjectives[kind] = word
    if not wanted:
        raise InterplayError(f"The prompt {prompt!r} names no PixelWorld object; use one of {', '.join(OBJECTS)}.")
    return Request(tuple(wanted), action, environment)


def _hold_out(rng: Random, scene: Scene) -> Scene:
    """Put a held-out colour-object pair, a held-out company, or (with an action) a held-out triple into a scene."""
    assert scene.target is not None
    first, second = scene.subject, scene.target
    choice = rng.choice(("pair", "company", "triple") if scene.action else ("pair", "company"))
    if choice == "pair":
        colour, kind = rng.choice(sorted(held_out().pairs))
        return replace(scene, subject=replace(first, object=kind, colour=colour))
    if choice == "company":
        kinds = rng.sample(rng.choice(sorted(map(sorted, held_out().company))), 2)
    else:
        subject, action, target = rng.choice(sorted(held_out().triples))
        kinds, scene = [subject, target], replace(scene, action=action)
    return replace(scene, subject=replace(first, object=kinds[0]), target=replace(second, object=kinds[1]))


def _held_out_scene(rng: Random, kind: str) -> Scene | None:
    scene = _hold_out(rng, sample_scene(rng, kind, adorned=False))
    things = scene.things
    apart = len({t.object for t in things}) == len(things) == len({t.colour for t in things})
    return scene if apart and held_out().hits(scene) else None


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind, such as "a red robot carrying a blue box in the forest"; all different, drawn by seed."""

    name: str
    kind: str  # of KINDS
    seen: bool = True
    adorned: bool = False

    def __call__(self, n: int = 100, seed: int = 0) -> list[str]:
        """``n`` different prompts."""
        rng, texts = Random(f"pixelworld {self.name} {seed}"), dict[str, None]()
        while len(texts) < n:
            scene = sample_scene(rng, self.kind, adorned=self.adorned) if self.seen else _held_out_scene(rng, self.kind)
            if scene is not None and (not self.adorned or any(t.size or t.pattern for t in scene.things)):
                texts[caption(scene)] = None
        return list(texts)


PROMPT_SETS: dict[str, PromptSet] = {
    s.name: s
    for s in (
        PromptSet("one object", "one"),
        PromptSet("two objects", "two"),
        PromptSet("two objects held out", "two", seen=False),
        PromptSet("actions", "action"),
        PromptSet("actions held out", "action", seen=False),
        PromptSet("attributes", "action", adorned=True),
        PromptSet("bystander", "bystander"),
    )
}
"""By name. "held out" sets ask for combinations that training never showed, the others only for seen ones."""
