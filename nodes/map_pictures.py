"""Heat-maps of words and actions over a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import InterplayError
from ..guidance.figures import font, heatmap, shortened
from ..guidance.graph import TokenGraph
from .pictures import to_pillow

LABEL = 24  # height in pixels of the line with the word
SMALLEST = 256  # pixels of the shorter side of a drawing; small pictures are enlarged without blur


def map_pictures(maps: Tensor, graph: TokenGraph, image: Tensor | None) -> list[Image.Image]:
    """One labelled picture for each word, then one for each action (mean over its words), for the first of the batch.

    maps: (B, J, H, W) word maps; image: IMAGE (B, H, W, 3) of the same picture, or None for grey ground.
    InterplayError when there is no word.
    """
    if not graph.words:
        raise InterplayError(
            "The prompt names no thing and no action, so there is no map to draw: write one that does."
        )
    first = maps[0].detach().float().cpu()
    ground = _ground(image, first.shape[-2:])
    named = [(word.text, first[j]) for j, word in enumerate(graph.words)]
    named += [(f"action: {edge.label}", first[list(edge.words)].mean(0)) for edge in graph.edges if edge.words]
    return [_labelled(heatmap(values, ground), name) for name, values in named]


def pair_pictures(maps: Tensor, labels: Sequence[str], image: Tensor | None) -> list[Image.Image]:
    """One labelled picture for each object: its heat before beside its heat after, in one scale.

    maps: (2, J, H, W); image: IMAGE of the picture, or None for grey ground.
    """
    values = maps.detach().float().cpu()
    ground = _ground(image, values.shape[-2:])
    double = Image.new("RGB", (2 * ground.width, ground.height))
    for side in (0, 1):
        double.paste(ground, (side * ground.width, 0))
    pages = [heatmap(torch.cat([values[0, j], values[1, j]], 1), double) for j in range(len(labels))]
    return [_labelled(page, f"{label}: before, after") for page, label in zip(pages, labels, strict=True)]


def _ground(image: Tensor | None, shape: torch.Size) -> Image.Image:
    """The picture to draw over, at least SMALLEST pixels on its shorter side."""
    grey = Image.new("RGB", (shape[1] * 32, shape[0] * 32), (96, 96, 96))
    picture = grey if image is None else to_pillow(image[:1])[0]
    scale = -(-SMALLEST // min(picture.size))
    if scale <= 1:
        return picture
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _labelled(picture: Image.Image, label: str) -> Image.Image:
    """The picture with a line of text under it."""
    page = Image.new("RGB", (picture.width, picture.height + LABEL), (16, 18, 24))
    page.paste(picture, (0, 0))
    text = shortened(label, 15, picture.width - 12)
    ImageDraw.Draw(page).text((6, picture.height + LABEL // 2), text, font=font(15), fill=(240, 240, 240), anchor="lm")
    return page
