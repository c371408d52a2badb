"""PixelWorld's interactions: where its scenes put who acts and who is acted upon, and the fusers that see it."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import InterplayError
from ...parsing.lexicon import verb_lemma
from ..interaction.layout import Box, Interaction, Layout, Thing
from ..interaction.prototypes import Rules
from . import file_digest, sprites
from .world import ACTIONS, SIZES, Request, Scene, Wanted, layout, phrase, request

WIDTHS = (64, 128, 128, 128, 128, 64, 64)
TOKENS, HEADS, SLOTS, HIDDEN = 64, 4, 4, 128
FILE = "pixelworld_interactions.safetensors"


CONFIG = "config.json"
PATH = Path(__file__).parent / "weights" / "fusers" / FILE


def fusers_file() -> Path:
    """The fusers that come with the pack.

    Raises:
        InterplayError: they are missing, or not what ``CONFIG`` beside them says.
    """
    if not PATH.is_file() or not (PATH.parent / CONFIG).is_file():
        raise InterplayError(f"PixelWorld's fusers are not in {PATH.parent}; reinstall Interplay to restore them.")
    if json.loads((PATH.parent / CONFIG).read_text(encoding="utf-8")).get("sha256") != file_digest(PATH):
        raise InterplayError(f"PixelWorld's fusers in {PATH.parent} are damaged; reinstall Interplay to restore them.")
    return PATH


def scene_layout(scene: Scene) -> Layout | None:
    """A scene's action with the exact boxes of both parties; None where nobody acts."""
    if scene.action is None or scene.target is None:
        return None
    boxes = [_box(place, thing.cells) for place, thing in zip(scene.positions, scene.things, strict=True)]
    things = [Thing(phrase(thing), box, thing.object) for thing, box in zip(scene.things[:2], boxes[:2], strict=True)]
    return Layout(tuple(things), (Interaction(scene.action, 0, 1),), "scene")


def world_layout(wanted: str | Request, shift: float = 0.5) -> Layout:
    """Where the world itself would put the parties of a prompt's action.

    wanted: a prompt in the world's words. shift: where in the room that is left to both sides the pair stands, 0..1.

    Raises:
        InterplayError: the prompt has no action between two things.
    """
    asked = request(wanted) if isinstance(wanted, str) else wanted
    if asked.action is None or len(asked.things) < 2:
        raise InterplayError(
            f"'{wanted}' has no action between two PixelWorld objects; write one like 'a red cat chasing a blue ball'."
        )
    subject, target = asked.things[:2]
    plan = layout(asked.action, subject.size, target.size)
    x = round(shift * (sprites.CELLS - plan.width))
    places = [(x + place[0], place[1]) for place in (plan.subject, plan.target)]
    things = [
        Thing(_phrase(thing), _box(place, sprites.SIDES[thing.size] // 2), thing.object)
        for thing, place in zip((subject, target), places, strict=True)
    ]
    return Layout(tuple(things), (Interaction(asked.action, 0, 1),), "world")


def _phrase(thing: Wanted) -> str:
    return " ".join(word for word in (thing.size, thing.pattern, thing.colour, thing.object) if word)


def _box(place: tuple[int, int], cells: int) -> Box:
    x, y = (value / sprites.CELLS for value in place)
    side = cells / sprites.CELLS
    return (x, y, x + side, y + side)


def world_rules() -> Rules:
    """The world's own layouts as rules by verb, so that layouts by rule fit what PixelWorld was trained on."""
    offsets = {}
    for action in ACTIONS:
        plan, side = layout(action), sprites.SIDES[None] // 2
        (sx, sy), (tx, ty) = plan.subject, plan.target
        offsets[verb_lemma(action)] = ((tx - sx) / side, (ty - sy) / side)
    medium = sprites.SIDES[None]
    factors = tuple((size, sprites.SIDES[size] / medium) for size in SIZES)
    width = medium / 2 / sprites.CELLS
    return Rules(offsets, {}, (width, width), factors, sprites.GROUND / sprites.CELLS, 0.0, sprites.CELLS)
