"""Taggers and judges by name, for the loop in one node."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....errors import InterplayError
from ...grounding import detectors_pixelworld
from ...grounding.objects_text import Verdicts
from ...grounding.verdicts import judge_offline
from .perception import PIXELWORLD
from .realign import FROM_PROMPT, Judge, Tagger

RULES, NOBODY = "rules", "nobody"
JUDGES = (RULES, NOBODY)


def taggers() -> list[str]:
    """What a node offers to name things with."""
    return [FROM_PROMPT, PIXELWORLD]


def tagger_by(name: str) -> Tagger | None:
    """A tagger; None when only the prompt's things are to be looked for. InterplayError for an unknown one."""
    if name == FROM_PROMPT:
        return None
    if name == PIXELWORLD:
        return _pixelworld
    raise InterplayError(f"There is no tagger called '{name}'; choose one of {', '.join(taggers())}.")


def judge_by(name: str) -> Judge | None:
    """A judge; None for none. InterplayError for an unknown one."""
    if name not in JUDGES:
        raise InterplayError(f"There is no judge called '{name}'; choose one of {', '.join(JUDGES)}.")
    return _rules if name == RULES else None


def _pixelworld(images: Tensor) -> list[tuple[str, ...]]:
    with torch.no_grad():
        return [tuple(detectors_pixelworld.tags(image.cpu())) for image in images]


def _rules(prompt: str, tags: Sequence[str]) -> Verdicts:
    return {**judge_offline(prompt, tags).by_tag()}
