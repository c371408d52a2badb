"""A layout as a picture: subjects, objects and the box between them."""

from __future__ import annotations

from PIL import Image, ImageDraw

from ..figures import font, shortened
from .layout import Box, Layout

Color = tuple[int, int, int]
GROUND: Color = (24, 27, 34)
SUBJECT: Color = (96, 165, 250)
OBJECT: Color = (251, 191, 36)
ACTION: Color = (248, 113, 113)


def draw_layout(layout: Layout, size: tuple[int, int], ground: Image.Image | None = None) -> Image.Image:
    """The layout over ``ground`` (or a dark page) of ``size`` pixels. Things that act are blue, others yellow, the
    place of an action red; a thing without a box is left out.
    """
    page = Image.new("RGB", size, GROUND) if ground is None else ground.convert("RGB").resize(size)
    draw = ImageDraw.Draw(page, "RGBA")
    acting = {interaction.subject for interaction in layout.interactions}
    for index, thing in enumerate(layout.things):
        if thing.box is not None:
            _frame(draw, thing.box, size, thing.name, SUBJECT if index in acting else OBJECT, 0.0)
    for interaction in layout.interactions:
        things = (layout.things[interaction.subject], layout.things[interaction.object])
        if all(thing.box is not None for thing in things):
            _frame(draw, layout.boxes(interaction)[2], size, interaction.action, ACTION, 1.0)
    return page


def _frame(draw: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], label: str, color: Color, low: float) -> None:
    """A box with its label at its upper (``low`` 0) or lower (1) edge."""
    width, height = size
    pixels = (box[0] * width, box[1] * height, box[2] * width - 1, box[3] * height - 1)
    corners = (pixels[0], pixels[1], max(pixels[0], pixels[2]), max(pixels[1], pixels[3]))
    draw.rectangle(corners, fill=(*color, 48), outline=(*color, 255), width=max(2, width // 200))
    points = max(11, min(22, height // 26))
    text = shortened(label, points, max(40, width - round(corners[0]) - 8))
    top = corners[1] + 4 if low == 0.0 else corners[3] - points - 6
    place = (corners[0] + 6, min(max(2.0, top), height - points - 4))
    draw.text(place, text, font=font(points), fill=(*color, 255), stroke_width=2, stroke_fill=(0, 0, 0, 200))
