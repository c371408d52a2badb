"""Who stands where: things with boxes and the interactions between them, from a hypergraph, from text or by rule.

A box is (x1, y1, x2, y2) in 0..1, x to the right and y downwards. InteractDiffusion knows pairs only, so an action of m
parties becomes the pairs of one who acts and one who does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from ...errors import InterplayError
from ...parsing.hypergraph import Hyperedge, Hypergraph, Vertex

Box = tuple[float, float, float, float]
SMALLEST_SIDE = 0.02


@dataclass(frozen=True)
class Thing:
    """Something to be placed. ``label`` is its noun, ``name`` the whole phrase."""

    name: str
    box: Box | None = None
    label: str = ""


@dataclass(frozen=True)
class Interaction:
    """``subject`` and ``object`` are indices into ``Layout.things``."""

    action: str
    subject: int
    object: int


@dataclass(frozen=True)
class Layout:
    """Things and what they do to each other. ``source`` says where the boxes came from."""

    things: tuple[Thing, ...]
    interactions: tuple[Interaction, ...]
    source: str = ""

    def __post_init__(self) -> None:
        for thing in self.things:
            if thing.box is not None:
                check_box(thing.box, thing.name)

    def boxes(self, interaction: Interaction) -> tuple[Box, Box, Box]:
        """Subject's, object's and the box between them. InterplayError when one of them has no box."""
        found = []
        for index in (interaction.subject, interaction.object):
            thing = self.things[index]
            if thing.box is None:
                raise InterplayError(
                    f"'{thing.name}' has no box: type one, draw one, or use 'Interaction Layout' to place it."
                )
            found.append(thing.box)
        return found[0], found[1], between(*found)

    def placed(self, boxes: Sequence[Box | None], source: str) -> Layout:
        """The same with other boxes, one for each thing; None leaves a thing as it is."""
        if len(boxes) != len(self.things):
            names = ", ".join(thing.name for thing in self.things)
            raise InterplayError(
                f"There are {len(boxes)} boxes for {len(self.things)} things ({names}): give one for each, in "
                "this order."
            )
        things = (replace(t, box=box or t.box) for t, box in zip(self.things, boxes, strict=True))
        return Layout(tuple(things), self.interactions, source)

    def text(self) -> str:
        """In the form that ``from_text`` reads, a line an interaction."""
        lines = []
        for interaction in self.interactions:
            subject, object = self.things[interaction.subject], self.things[interaction.object]
            line = f"{subject.name} | {interaction.action} | {object.name}"
            if subject.box and object.box:
                line += f" @ {_numbers(subject.box)} ; {_numbers(object.box)}"
            lines.append(line)
        return "\n".join(lines)


def _numbers(box: Box) -> str:
    return ", ".join(f"{value:.3g}" for value in box)


def check_box(box: Sequence[float], name: str) -> None:
    """InterplayError unless a box lies in the picture and is at least ``SMALLEST_SIDE`` wide and high."""
    x1, y1, x2, y2 = box
    inside = min(x1, y1) >= -1e-6 and max(x2, y2) <= 1 + 1e-6
    if not inside or x2 - x1 < SMALLEST_SIDE or y2 - y1 < SMALLEST_SIDE:
        raise InterplayError(
            f"The box of '{name}', {_numbers((x1, y1, x2, y2))}, is no box in the picture: give x1, y1, x2, y2 from 0 "
            "to 1, left before right and top before bottom."
        )


def between(a: Box, b: Box) -> Box:
    """Where an interaction happens: the middle two x and the middle two y of both boxes."""
    xs, ys = sorted((a[0], a[2], b[0], b[2])), sorted((a[1], a[3], b[1], b[3]))
    return (xs[1], ys[1], xs[2], ys[2])


# --- from text and from a hypergraph ---------------------------------------------------------------------------------

GRAMMAR = "subject | action | object @ x1,y1,x2,y2 ; x1,y1,x2,y2"


def from_text(text: str) -> Layout:
    """Read lines of ``GRAMMAR``; boxes may be left out. A name used twice is one thing, its first box counts.

    Raises:
        InterplayError: a line of another form, or a box that is none.
    """
    things: dict[str, Thing] = {}
    interactions = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        words, _, places = line.partition("@")
        parts = [part.strip() for part in words.split("|")]
        boxes = [part for part in places.split(";") if part.strip()]
        if len(parts) != 3 or not all(parts) or len(boxes) not in (0, 2):
            raise InterplayError(f"The line '{line[:80]}' is not of the form '{GRAMMAR}': write it so.")
        for name, place in zip((parts[0], parts[2]), boxes or ("", ""), strict=True):
            known = things.get(name)
            if known is None or known.box is None:
                things[name] = Thing(name, _read_box(place, line) if place else None, name.split()[-1])
        order = list(things)
        interactions.append(Interaction(parts[1], order.index(parts[0]), order.index(parts[2])))
    if not interactions:
        raise InterplayError(f"There is no interaction: write lines of the form '{GRAMMAR}'.")
    return Layout(tuple(things.values()), tuple(interactions), "typed")


def _read_box(text: str, line: str) -> Box:
    numbers = re.findall(r"-?\d*\.?\d+", text)
    if len(numbers) != 4:
        raise InterplayError(
            f"'{text.strip()}' in '{line[:80]}' is no box: write four numbers, x1,y1,x2,y2 from 0 to 1."
        )
    a, b, c, d = (float(number) for number in numbers)
    return (a, b, c, d)


def from_hypergraph(graph: Hypergraph) -> Layout:
    """The pairs of every action (relations between things too), without boxes. Places and surroundings stay out.

    Raises:
        InterplayError: no action has two parties.
    """
    used: dict[str, int] = {}
    interactions = []
    for edge in graph.hyperedges:
        for subject, object in _pairs(edge, graph):
            first, second = (used.setdefault(id, len(used)) for id in (subject, object))
            interactions.append(Interaction(edge.action, first, second))
    if not interactions:
        raise InterplayError(
            "No action in the prompt joins two things, so there is nothing to place: name two and what one does to the "
            "other."
        )
    vertices = [graph.vertex(id) for id in used]
    return Layout(tuple(Thing(_phrase(v, graph.prompt), None, v.head) for v in vertices), tuple(interactions))


def _pairs(edge: Hyperedge, graph: Hypergraph) -> list[tuple[str, str]]:
    parties = [id for id in edge.parties if not graph.vertex(id).environment]
    acting = {p.vertex for p in edge.participants if p.role == "subject"}
    subjects = [id for id in parties if id in acting]
    others = [id for id in parties if id not in acting]
    return list(product(subjects, others)) if subjects and others else list(combinations(parties, 2))


def _phrase(vertex: Vertex, prompt: str) -> str:
    spans = sorted([vertex.span, *(m.span for m in vertex.modifiers)])
    return " ".join(prompt[a:b] for a, b in spans)


# --- from boxes of other nodes ---------------------------------------------------------------------------------------


def normalised(box: Mapping[str, float] | Sequence[float], width: int, height: int) -> Box:
    """A box as other nodes give it, in pixels: {x, y, width, height} or (x1, y1, x2, y2); cut to the picture.

    Numbers that are all at most 1 are taken as shares of the picture.
    """
    if isinstance(box, Mapping):
        names = ("x", "y", "width", "height")
        if any(name not in box for name in names):
            raise InterplayError(f"A box has no {', '.join(n for n in names if n not in box)}: connect another node.")
        x, y, w, h = (float(box[name]) for name in names)
        values = (x, y, x + w, y + h)
    else:
        numbers = [float(value) for value in box]
        if len(numbers) < 4:
            raise InterplayError(f"A box has {len(numbers)} numbers and not four: connect another node.")
        values = (numbers[0], numbers[1], numbers[2], numbers[3])
    if max(values) > 1.0:
        values = (values[0] / width, values[1] / height, values[2] / width, values[3] / height)
    a, b, c, d = (min(1.0, max(0.0, value)) for value in values)
    return (a, b, c, d)


def grown(box: Box, side: float = 0.08) -> Box:
    """The box, at least ``side`` wide and high, moved back into the picture."""
    x1, y1, x2, y2 = box
    w, h = max(side, x2 - x1), max(side, y2 - y1)
    left = min(max(0.0, (x1 + x2 - w) / 2), 1.0 - w)
    top = min(max(0.0, (y1 + y2 - h) / 2), 1.0 - h)
    return (left, top, left + w, top + h)
