"""Objects drawn over their picture: masks in colours, boxes, names, and what is missing."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..figures import font, shortened
from .objects import PictureObjects

COLOURS = (
    (230, 60, 60), (60, 130, 240), (60, 190, 90), (240, 180, 30), (170, 80, 220), (30, 200, 200), (240, 120, 40),
    (220, 90, 160),
)  # fmt: skip
OPACITY = 0.45
LINE = 20  # pixels of a line of the legend
SMALLEST = 320


def draw_objects(picture: Image.Image, found: PictureObjects, lines: int = 0) -> Image.Image:
    """The picture, enlarged when small, with every object's mask in a colour, its outline, its box, and a legend below.

    lines: of the legend at least, so that the pictures of a batch come out in one size.
    """
    scale = max(1, -(-SMALLEST // min(picture.size)))
    size = (picture.width * scale, picture.height * scale)
    ground: np.ndarray = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.NEAREST), dtype=np.float32)
    for index in range(len(found.objects)):
        plane = found.mask(index).detach().float().cpu().clamp(0, 1).numpy()
        mask = Image.fromarray((plane * 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        share = np.asarray(mask, dtype=np.float32)[..., None] / 255
        inside = share[..., 0] >= 0.5
        rim = inside & ~_shrunk(inside, max(1, scale // 2))
        colour = np.array(COLOURS[index % len(COLOURS)], np.float32)
        ground = ground * (1 - OPACITY * share) + colour * (OPACITY * share)
        ground[rim] = colour
    count = max(lines, legend_lines(found))
    page = Image.new("RGB", (size[0], size[1] + LINE * count + 6), (16, 18, 24))
    page.paste(Image.fromarray(ground.clip(0, 255).astype(np.uint8)), (0, 0))
    _boxes(ImageDraw.Draw(page), found, size)
    _legend(ImageDraw.Draw(page), found, size)
    return page


def legend_lines(found: PictureObjects) -> int:
    """Lines that the legend needs."""
    return max(1, len(found.objects) + bool(found.missing))


def _shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    out = mask.copy()
    for axis in (0, 1):
        for step in (by, -by):
            out &= np.roll(mask, step, axis)
    return out


def _boxes(draw: ImageDraw.ImageDraw, found: PictureObjects, size: tuple[int, int]) -> None:
    for index, item in enumerate(found.objects):
        if item.box is not None:
            x0, y0, x1, y1 = (value * side for value, side in zip(item.box, (*size, *size), strict=True))
            draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=COLOURS[index % len(COLOURS)])


def _legend(draw: ImageDraw.ImageDraw, found: PictureObjects, size: tuple[int, int]) -> None:
    texts = [(_line(found, i), COLOURS[i % len(COLOURS)]) for i in range(len(found.objects))]
    if found.missing:
        texts.append((f"missing: {', '.join(found.missing)}", (255, 120, 120)))
    for row, (text, colour) in enumerate(texts or [("no objects", (160, 160, 160))]):
        y = size[1] + 3 + LINE * row
        draw.rectangle((6, y + 5, 14, y + 13), fill=colour)
        draw.text(
            (20, y + LINE // 2), shortened(text, 14, size[0] - 26), font=font(14), fill=(240, 240, 240), anchor="lm"
        )


def _line(found: PictureObjects, index: int) -> str:
    item = found.objects[index]
    said = f"{item.label}: {item.phrase}" if item.phrase and item.phrase != item.label else item.label
    judged = "" if item.verdict is None else f", verdict {item.verdict:g}"
    return f"{said} ({item.score:.2f}{judged})"
