"""Layouts from objects that a detector found in a draft picture; what it did not find is placed by rule beside them."""

from __future__ import annotations

from ...errors import InterplayError
from ..grounding.objects import PictureObjects, mask_box
from .layout import Box, Layout, Thing, grown
from .prototypes import ORDINARY, Rules, by_rule


def from_objects(layout: Layout, picture: PictureObjects, rules: Rules = ORDINARY) -> Layout:
    """Boxes for all things of a layout, from the objects of one picture.

    A thing takes the object that is called as its whole phrase, else the surest one of its noun; each object serves
    once. A thing that the picture lacks stands where its action puts it, seen from the other party.

    Raises:
        InterplayError: the picture shows nothing of what the layout names.
    """
    free = [(item, item.box or mask_box(picture.mask(i))) for i, item in enumerate(picture.objects)]
    boxes: list[Box | None] = []
    for thing in layout.things:
        best = max(
            (i for i, (item, box) in enumerate(free) if box is not None and _fits(item.label, item.phrase, thing)),
            key=lambda i: (free[i][0].phrase.lower() == thing.name.lower(), free[i][0].score),
            default=None,
        )
        boxes.append(None if best is None else free.pop(best)[1])
    if not any(boxes):
        seen = ", ".join(dict.fromkeys(item.label for item in picture.objects)) or "nothing"
        names = ", ".join(thing.name for thing in layout.things)
        raise InterplayError(f"The picture shows {seen} and none of {names}: choose another draft or place by rule.")
    return layout.placed(_completed(layout, boxes, rules), "from objects")


def _fits(label: str, phrase: str, thing: Thing) -> bool:
    noun = (thing.label or thing.name.split()[-1]).lower()
    return label.lower() in (noun, thing.name.lower()) or phrase.lower() == thing.name.lower()


def _completed(layout: Layout, boxes: list[Box | None], rules: Rules) -> list[Box | None]:
    """The missing ones beside those they interact with, as often as that places another; the rest by rule."""
    found = list(boxes)
    for _ in layout.things:
        for interaction in layout.interactions:
            pair = (interaction.subject, interaction.object)
            for known, new, sign in ((*pair, 1.0), (*pair[::-1], -1.0)):
                there = found[known]
                if there is not None and found[new] is None:
                    found[new] = _beside(there, layout.things[new], rules, rules.offset(interaction.action), sign)
    alone = by_rule(layout, rules).things
    return [box or thing.box for box, thing in zip(found, alone, strict=True)]


def _beside(box: Box, thing: Thing, rules: Rules, offset: tuple[float, float], sign: float) -> Box:
    """A box for ``thing``, by its action's offset from ``box``; on the other side where the picture ends."""
    w, h = rules.size(thing.name)
    dx, dy = offset[0] * (w + box[2] - box[0]) / 2, offset[1] * (h + box[3] - box[1]) / 2
    x, y = (box[0] + box[2]) / 2 + sign * dx, (box[1] + box[3]) / 2 + sign * dy
    if not w / 2 <= x <= 1 - w / 2:
        x = (box[0] + box[2]) / 2 - sign * dx
    x, y = min(max(x, w / 2), 1 - w / 2), min(max(y, h / 2), 1 - h / 2)
    return grown((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
