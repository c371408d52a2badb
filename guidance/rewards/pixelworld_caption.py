"""Caption reward and matching on PixelWorld pictures by the small model inside the pack: no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InterplayError
from ..pixelworld.caption import CONTENT, CaptionModel, load_caption_model, split
from .caption import compare
from .scorer import Reading, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

NEEDS = "PixelWorld's caption model"
# What a prompt has in common with captions of something else altogether.
DISTRACTORS = (
    "a white cup in the snow",
    "an orange fish and a purple ball in the sea",
    "a pink rabbit watching a yellow star in the cave",
    "a big striped blue car pushing a small green ghost in the city",
)


@cache
def caption_model() -> CaptionModel:
    """The pack's own caption model, on the CPU, loaded once."""
    with torch.inference_mode(False):  # so that a gradient to the picture can go through it
        return load_caption_model()


def captions(pictures: Tensor, model: CaptionModel | None = None) -> list[str]:
    """What pictures (B, 3, H, W) in 0..1 show, a sentence each."""
    return (model or caption_model()).captions(pictures)


def caption_reward(pictures: Tensor, prompts: Sequence[str], model: CaptionModel | None = None) -> Tensor:
    """Eq. 4 of RealignDiff (arXiv 2305.19599): cos(f(caption of the picture), f(prompt)).

    Args:
        pictures: (B, 3, H, W) in 0..1, of any size and device; the model goes there.
        prompts: one for each picture.
        model: another caption model than the pack's own.

    Returns:
        (B,) in -1..1, without a gradient, since a caption is words.

    Raises:
        InterplayError: there are not as many prompts as pictures, or a prompt has no word that the model knows.
    """
    check(pictures, prompts)
    model = _beside(pictures, model)
    with torch.no_grad():
        said = model.embed(model.captions(pictures), pictures.device)
        return (said * model.embed(prompts, pictures.device)).sum(-1)


def match_reward(pictures: Tensor, prompts: Sequence[str], model: CaptionModel | None = None) -> Tensor:
    """(B,) in -1..1: cosine of each picture (B, 3, H, W) in 0..1 with its prompt (ITC); has a gradient to the picture.

    Raises:
        InterplayError: as ``caption_reward``.
    """
    check(pictures, prompts)
    return _beside(pictures, model).match(pictures, prompts)


def check(pictures: Tensor, prompts: Sequence[str]) -> None:
    """InterplayError where prompts and pictures do not go together, or the model cannot read a prompt."""
    if len(pictures) != len(prompts):
        raise InterplayError(
            f"The caption reward was given {len(pictures)} pictures and {len(prompts)} prompts; give one for each."
        )
    for prompt in prompts:
        if not CONTENT.intersection(split(prompt)):
            raise InterplayError(
                f"PixelWorld's caption model knows no word of the prompt {prompt!r}; write one of its scenes, such as "
                "'a red robot carrying a blue box', or choose another captioner."
            )


def _beside(pictures: Tensor, model: CaptionModel | None) -> CaptionModel:
    return (model or caption_model()).to(pictures.device)


def caption_scorer(model: CaptionModel | None = None) -> Scorer:
    """The scorer "caption" (see ``rewards.caption``) without any other model."""

    def measure(images: Sequence[Image], prompts: Sequence[str]) -> list[Reading]:
        used = model or caption_model()
        pictures = stacked(images).to(used.place.device)
        check(pictures, prompts)
        with torch.no_grad():
            return compare(used.captions(pictures), prompts, lambda t: used.embed(t, pictures.device), DISTRACTORS)

    return Scorer("caption", NEEDS, ("above",), measure)


def match_scorer(model: CaptionModel | None = None) -> Scorer:
    """The scorer "itc": cosine of picture and prompt. Parts: likelihood: the mean log-probability of the prompt's words
    where the caption is written.
    """

    def measure(images: Sequence[Image], prompts: Sequence[str]) -> list[Reading]:
        used = model or caption_model()
        pictures = stacked(images).to(used.place.device)
        check(pictures, prompts)
        with torch.no_grad():
            found = used.match(pictures, prompts).tolist()
            likely = used.log_likelihood(pictures, prompts).tolist()
        return [Reading(f, {"likelihood": k}) for f, k in zip(found, likely, strict=True)]

    return Scorer("itc", NEEDS, ("likelihood",), measure)


def stacked(images: Sequence[Any]) -> Tensor:
    """Pillow's pictures as (B, 3, 32, 32) in 0..1, shrunk as the model does."""
    from ..pixelworld.caption import SIDE

    parts = [torch.from_numpy(np.asarray(i.convert("RGB"), np.float32) / 255).permute(2, 0, 1) for i in images]
    shrunk = [torch.nn.functional.interpolate(p[None], (SIDE, SIDE), mode="area") for p in parts]
    return torch.cat(shrunk)
