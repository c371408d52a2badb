"""A latent diffusion model of a few numbers that the reward trainers can train, and rewards on its pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from interplay.guidance.training.refl_model import Rung
from torch import Tensor, nn

SHAPE = (2, 4, 4)
WORDS = ("", "red", "blue", "green")


class ResBlock(nn.Module):
    """Named as the hosts name theirs, so that it counts as heavy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.conv(x))


class TinyTrainee:
    """An eps model: one block, one matrix for the text, and a low-rank change of it as its LoRA."""

    name = "tiny"
    shape = SHAPE

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(seed)
        self.block = ResBlock(2).to(dtype).requires_grad_(False)
        self.words = torch.randn(len(WORDS), 3, dtype=dtype)
        self.text = torch.randn(3, 2, dtype=dtype)
        self.out = nn.Conv2d(2, 2, 3, padding=1).to(dtype).requires_grad_(False)
        self.picture = 0.4 * torch.randn(3, 2, dtype=dtype)
        self.down = nn.Parameter(0.5 * torch.randn(3, 2, dtype=dtype))
        self.up = nn.Parameter(torch.zeros(2, 2, dtype=dtype))
        self.on, self.dtype = True, dtype
        self.calls: list[tuple[float, bool]] = []

    def rung(self, t: int) -> Rung:
        alpha = float(torch.cos(torch.tensor(t / 1000 * 1.5, dtype=torch.float64)) ** 2)
        return Rung(float(t), alpha**0.5, (1 - alpha) ** 0.5)

    def ladder(self, count: int) -> list[Rung]:
        return [self.rung(1 + i * (1000 // count)) for i in reversed(range(count))]

    def random_rung(self, u: float) -> Rung:
        return self.rung(1 + int(u * 990))

    def condition(self, prompts: Sequence[str]) -> Tensor:
        return self.words[[WORDS.index(p) for p in prompts]]

    def eps(self, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        matrix = self.text + (self.down @ self.up if self.on else 0.0)
        level = torch.as_tensor(t, dtype=self.dtype).reshape(-1, 1, 1, 1) / 1000
        said = (condition @ matrix)[..., None, None]
        return self.out(self.block(x.to(self.dtype)) * (1 + level) + said)

    def denoise(self, x: Tensor, rung: Rung, condition: Tensor) -> Tensor:
        if not isinstance(rung.name, Tensor):
            self.calls.append((rung.name, torch.is_grad_enabled()))
        return (x - rung.noise * self.eps(x, rung.name, condition)) / rung.signal

    def decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(torch.einsum("pc,bchw->bphw", self.picture, latents))

    def parameters(self) -> list[nn.Parameter]:
        return [self.down, self.up]

    @contextlib.contextmanager
    def adapter_off(self) -> Iterator[None]:
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def heavy(self) -> Iterable[nn.Module]:
        return (self.block,)

    def device(self) -> torch.device:
        return self.words.device


class Wanted:
    """Likes pictures whose mean colour is the prompt's; values in (0, 1)."""

    name = "wanted"
    margin = 1.0

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        self.asked += 1
        channel = torch.tensor([{"red": 0, "green": 1, "blue": 2}.get(p, 0) for p in prompts])
        means = pictures.mean((2, 3))
        return means.gather(1, channel[:, None])[:, 0] - 0.3 * means.sum(1) + 0.5
