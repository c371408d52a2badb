"""A layout by rule: where a verb puts its object, and how large things are next to each other.

The numbers are this pack's own judgement of ordinary pictures; they are meant to be readable and to be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...parsing.lexicon import verb_lemma
from ..directions import direction
from .layout import Box, Interaction, Layout, Thing, grown

Offset = tuple[float, float]
"""From the subject's centre to the object's, in sums of their half widths and heights: 1 = they touch, less = they
overlap, more = there is a gap."""

_CLASSES: tuple[tuple[Offset, str], ...] = (
    ((0.35, -0.15), "hold carry bear clutch cradle grip lift raise play read drink eat cut use brandish wield"),
    ((0.0, 0.75), "ride mount straddle sit perch stand lie lean rest climb surf skateboard ski drive operate"),
    ((1.3, 0.0), "chase follow pursue hunt race flee run herd tow drag pull push"),
    ((1.05, 0.0), "feed look face watch greet talk speak admire sniff bark pet touch wash brush"),
    ((0.65, 0.0), "hug embrace kiss cuddle wrestle fight dance bite lick attack"),
    ((1.5, -0.5), "throw toss hurl catch shoot aim juggle fly launch"),
    ((0.95, 0.75), "kick dribble step trample"),
    ((0.0, -0.6), "wear balance don"),
    ((0.0, 1.4), "jump leap hop vault hover"),
)
PROTOTYPES: dict[str, Offset] = {verb: offset for offset, verbs in _CLASSES for verb in verbs.split()}
BESIDE: Offset = (1.1, 0.0)
_NEAR = frozenset({"beside", "near", "next", "alongside"})

_SIZES: tuple[tuple[Offset, str], ...] = (
    ((0.2, 0.2), "ball apple cup mug cake book phone bird mouse frog fish bottle hat flower balloon toy pizza key egg "
     "banana carrot bone camera umbrella frisbee knife fork spoon glass rose butterfly bee gift star sandwich"),
    ((0.3, 0.3), "cat rabbit squirrel fox duck chicken box bag guitar violin kite basket pumpkin monkey penguin owl"),
    ((0.3, 0.62), "man woman person boy girl child kid robot astronaut king queen knight wizard chef soldier player "
     "dancer monk policeman doctor farmer teacher pirate ninja witch people"),
    ((0.55, 0.5), "horse cow elephant bear lion tiger camel zebra dragon donkey rhino hippo dinosaur bull"),
    ((0.6, 0.36), "car truck bus boat ship train bicycle bike motorcycle sofa bed bench table plane airplane"),
)  # fmt: skip
SIZES: dict[str, Offset] = {noun: size for size, nouns in _SIZES for noun in nouns.split()}
MEDIUM: Offset = (0.38, 0.38)
MARGIN = 0.05


@dataclass(frozen=True)
class Rules:
    """What a layout is made by. offsets: by verb, see ``Offset``; sizes: width and height by noun, in shares of the
    picture; medium: of any other noun; factors: of both sides, by adjective; ground: how far down the lowest thing
    stands, or None for a little below the middle; margin: kept free at the picture's sides; grid: cells in which
    things stand, or None for anywhere.
    """

    offsets: Mapping[str, Offset]
    sizes: Mapping[str, Offset]
    medium: Offset = MEDIUM
    factors: tuple[tuple[str, float], ...] = ()
    ground: float | None = None
    margin: float = MARGIN
    grid: int | None = None

    def offset(self, action: str) -> Offset:
        """Where the object of ``action`` stands, seen from its subject."""
        words = action.lower().split()
        if _NEAR.intersection(words):
            return BESIDE
        for word in words:
            if (known := self.offsets.get(verb_lemma(word))) is not None:
                return known
        x, y = direction(action)
        return (0.0, 0.9 * y) if (x, y) != (0.0, 0.0) else BESIDE

    def size(self, name: str) -> Offset:
        """Width and height of a thing, in shares of a square picture."""
        words = name.lower().split()
        word = words[-1] if words else ""
        w, h = self.sizes.get(word) or self.sizes.get(word.removesuffix("s")) or self.medium
        factor = next((f for adjective, f in self.factors if adjective in words), 1.0)
        return (factor * w, factor * h)


ORDINARY = Rules(PROTOTYPES, SIZES)


def by_rule(layout: Layout, rules: Rules = ORDINARY) -> Layout:
    """Boxes for all things of a layout: every group that interacts gets its own part of the picture, left to right."""
    groups = _groups(layout)
    boxes: list[Box | None] = [None] * len(layout.things)
    for index, group in enumerate(groups):
        rough = _arranged(layout, group, rules)
        left, right = index / len(groups), (index + 1) / len(groups)
        for thing, box in _fitted(rough, left, right, rules).items():
            boxes[thing] = box
    return layout.placed(boxes, "by rule")


def _groups(layout: Layout) -> list[list[int]]:
    """Indices of things that are joined by interactions, groups in the order of the prompt."""
    group = list(range(len(layout.things)))
    for interaction in layout.interactions:
        old, new = sorted((group[interaction.subject], group[interaction.object]), reverse=True)
        group = [new if g == old else g for g in group]
    return [[i for i, g in enumerate(group) if g == name] for name in dict.fromkeys(group)]


def _arranged(layout: Layout, group: list[int], rules: Rules) -> dict[int, Box]:
    """Boxes of one group around its first thing, in no particular frame."""
    sizes = {i: rules.size(_name(layout.things[i])) for i in group}
    centres: dict[int, Offset] = {group[0]: (0.0, 0.0)}
    edges = [e for e in layout.interactions if e.subject in group]
    while len(centres) < len(group):
        edge = next(e for e in edges if (e.subject in centres) != (e.object in centres))
        known, new = (edge.subject, edge.object) if edge.subject in centres else (edge.object, edge.subject)
        centres[new] = _free_place(rules.offset(edge.action), edge, known, new, centres, sizes)
    return {
        i: (x - sizes[i][0] / 2, y - sizes[i][1] / 2, x + sizes[i][0] / 2, y + sizes[i][1] / 2)
        for i, (x, y) in centres.items()
    }


def _name(thing: Thing) -> str:
    """The thing's phrase, ending in its noun."""
    return thing.name if not thing.label or thing.name.endswith(thing.label) else f"{thing.name} {thing.label}"


def _free_place(
    place: Offset, edge: Interaction, known: int, new: int, centres: dict[int, Offset], sizes: dict[int, Offset]
) -> Offset:
    """The verb's place for a newcomer, mirrored where somebody else already stands there."""
    sign = 1.0 if known == edge.subject else -1.0
    dx, dy = place
    half = [(sizes[known][axis] + sizes[new][axis]) / 2 for axis in (0, 1)]
    x, y = centres[known]
    places = [(x + sign * side * dx * half[0], y + sign * dy * half[1]) for side in (1.0, -1.0)]
    places += [(x + side * 1.1 * half[0], y + sign * dy * half[1]) for side in (1.0, -1.0)]
    others = [centre for i, centre in centres.items() if i != known]
    free = [p for p in places if all(abs(p[0] - o[0]) + abs(p[1] - o[1]) > 0.1 for o in others)]
    return (free or [(x, y + 2.0 * half[1])])[0]


def _fitted(boxes: dict[int, Box], left: float, right: float, rules: Rules) -> dict[int, Box]:
    """Moved and, where it must be, shrunk into a strip of the picture, onto the ground where there is one."""
    x1, y1 = (min(b[k] for b in boxes.values()) for k in (0, 1))
    x2, y2 = (max(b[k] for b in boxes.values()) for k in (2, 3))
    margin = rules.margin
    scale = min(1.0, (right - left - 2 * margin) / (x2 - x1), (1 - 2 * margin) / (y2 - y1))
    move_x = (left + right) / 2 - scale * (x1 + x2) / 2
    # things stand a little below the middle
    move_y = 0.55 - scale * (y1 + y2) / 2 if rules.ground is None else rules.ground - scale * y2
    move_y = min(max(move_y, margin - scale * y1), 1 - margin - scale * y2)
    placed = {
        i: (scale * b[0] + move_x, scale * b[1] + move_y, scale * b[2] + move_x, scale * b[3] + move_y)
        for i, b in boxes.items()
    }
    return {i: grown(_snapped(box, rules.grid)) for i, box in placed.items()}


def _snapped(box: Box, grid: int | None) -> Box:
    """The box with its top left corner on the grid."""
    if grid is None:
        return box
    x, y = (round(value * grid) / grid for value in box[:2])
    return (x, y, x + box[2] - box[0], y + box[3] - box[1])
