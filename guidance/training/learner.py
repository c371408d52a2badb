"""What the trainers need of a diffusion model, whatever host it lives in and whatever it predicts.

Everything is said of the clean latent: x = signal * x0 + noise * eps, the model's answer is its estimate of x0, and the
error of a prediction is weight * mean((estimate - x0)^2). Which weight makes of it the error of the noise, of v or of
the velocity is the level's business, so one loop trains them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...errors import InterplayError

SPACES = ("native", "eps")


@dataclass(frozen=True)
class Levels:
    """A noise level for each row of a batch. name: what the host calls it, (B,); signal, noise: shares of picture and
    noise in x, (B, 1, 1, 1); native: factor from an error of x0 to one of what the model predicts, (B,).
    """

    name: Tensor
    signal: Tensor
    noise: Tensor
    native: Tensor

    def weight(self, space: str = "native") -> Tensor:
        """(B,): what the mean square of (estimate - x0) is multiplied by."""
        if space not in SPACES:
            raise InterplayError(f"The space of the error is one of {', '.join(SPACES)}, not '{space}'.")
        return self.native.square() if space == "native" else (self.signal / self.noise).flatten().square()

    def rows(self, index: Tensor) -> Levels:
        """Some of the rows."""
        return Levels(self.name[index], self.signal[index], self.noise[index], self.native[index])

    def repeat(self, times: int) -> Levels:
        """The batch several times over."""
        return self.rows(torch.arange(len(self.name), device=self.name.device).repeat(times))

    @classmethod
    def of(cls, kind: str, name: Tensor, signal: Tensor, noise: Tensor) -> Levels:
        """From (B,) shares; kind: "eps", "v" or "flow", what the model predicts."""
        data = (signal.square() + noise.square()).sqrt()  # 1 where variance is preserved; sigma models have signal 1
        native = {"eps": signal / noise, "v": data / noise, "flow": 1.0 / noise}
        if kind not in native:
            raise InterplayError(f"A model that predicts '{kind}' is not known here; it has to be eps, v or flow.")
        shape = (-1, 1, 1, 1)
        return cls(name, signal.view(shape), noise.view(shape), native[kind])


class Learner(Protocol):
    """A latent diffusion model with a LoRA in it. Latents are those that the network sees, (B, C, h, w), fp32."""

    shape: tuple[int, ...]  # of one latent, (C, h, w)

    def levels(self, u: Tensor) -> Levels:
        """Noise levels at shares ``u`` (B,) of the noise axis: 0 is clean, 1 pure noise."""

    def condition(self, texts: Sequence[str]) -> Any:
        """The texts as the network takes them, one row each, never mixed; without a gradient."""

    def denoise(self, x: Tensor, levels: Levels, condition: Any) -> Tensor:
        """The estimate of x0 (B, C, h, w), with a gradient to the LoRA where gradients are on."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [0, 1]."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""

    def adapter_off(self) -> AbstractContextManager[None]:
        """While open the model is the one it was before."""

    def heavy(self) -> Iterable[nn.Module]:
        """Networks whose blocks may be run twice to save memory."""

    def device(self) -> torch.device:
        """Where latents live."""


def errors(estimate: Tensor, truth: Tensor, levels: Levels, space: str = "native") -> Tensor:
    """(B,): the mean squared error of each row, in fp32."""
    return (estimate.float() - truth).square().flatten(1).mean(1) * levels.weight(space)
