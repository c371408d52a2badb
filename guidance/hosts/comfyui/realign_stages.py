"""Taggers and judges by name, for the loop in one node."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ....errors import InterplayError
from ...grounding import detectors_pixelworld
from . import perception_tags, verdicts
from .perception import PIXELWORLD
from .realign import FROM_PROMPT, Judge, Tagger
from .scores import register_folder

NOBODY = "nobody"
WISH = perception_tags.Wish(keep="things", caption=False)


def taggers() -> list[str]:
    """What a node offers to name things with."""
    models = [name for name in perception_tags.taggers() if name != perception_tags.PIXELWORLD]
    return [FROM_PROMPT, PIXELWORLD, *models]


def judges() -> list[str]:
    """What a node offers to judge tags with."""
    register_folder()
    rules, *models = verdicts.judges()
    return [rules, NOBODY, *models]


def tagger_by(name: str) -> Tagger | None:
    """A tagger; None when only the prompt's things are to be looked for. InterplayError for an unknown or missing
    one.
    """
    if name == FROM_PROMPT:
        return None
    if name == PIXELWORLD:
        return _pixelworld
    if name not in taggers():
        raise InterplayError(f"There is no tagger called '{name}'; choose one of {', '.join(taggers())}.")
    perception_tags.check(name)
    return partial(_tagged, name=name)


def judge_by(name: str, pasted: str = "", strict: bool = False) -> Judge | None:
    """A judge; None for none. pasted: a reply that then is the judge; strict: an error where a language model fails.

    Raises:
        InterplayError: there is no such judge.
    """
    if name not in judges():
        raise InterplayError(f"There is no judge called '{name}'; choose one of {', '.join(judges())}.")
    if name == NOBODY and not pasted.strip():
        return None
    return verdicts.judge_of(verdicts.Judge(name, pasted, strict=strict))


def _pixelworld(images: Tensor) -> list[tuple[str, ...]]:
    with torch.no_grad():
        return [tuple(detectors_pixelworld.tags(image.cpu())) for image in images]


def _tagged(images: Tensor, name: str) -> list[tuple[str, ...]]:
    return [tuple(tag.name for tag in picture.tags) for picture in perception_tags.tag(images, name, WISH)]
