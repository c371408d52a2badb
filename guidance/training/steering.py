"""Guidance on the way: walks of the trainers that go where SHY, or another preset, would have gone.

A LoRA that is to work under guidance learns most from pictures that were drawn under it: they show what guidance leaves
wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..engine import Capture, Guide
from ..presets import preset

if TYPE_CHECKING:
    from .refl_model import Rung


class Readable(Protocol):
    """A model whose attention maps can be read; see ``refl_model.Trainee``."""

    def reading(self, prompt: str, count: int, rung: Rung) -> tuple[Capture, float]:
        """What reads the maps of ``count`` network latents of a prompt, and the network's latent in units of x."""


class Steering:
    """Moves the latents of one walk: a ``Guide`` for every run of neighbours with the same prompt.

    prompts: of the rows; guide: name of a preset; steps: of the walk.
    """

    def __init__(self, model: Readable, prompts: Sequence[str], guide: str, steps: int) -> None:
        self.model, self.steps, config = model, steps, preset(guide)
        self.runs = [
            (prompt, len(list(rows)), Guide(config, steps=steps)) for prompt, rows in itertools.groupby(prompts)
        ]

    def __call__(self, x: Tensor, rung: Rung, step: int) -> Tensor:
        """x (B, C, h, w) at step ``step``, moved; its gradient is that of x, as if the move were a constant."""
        parts = list(x.detach().split([count for _, count, _ in self.runs]))
        for i, (prompt, count, guide) in enumerate(self.runs):
            if guide.active(step / self.steps):
                capture, scale = self.model.reading(prompt, count, rung)
                z = parts[i].float() * scale
                parts[i] = parts[i] + ((guide.step(z, step / self.steps, capture) - z) / scale).to(x)
        return x + (torch.cat(parts) - x.detach())
