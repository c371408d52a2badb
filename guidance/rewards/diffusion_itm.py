"""How well a diffusion model itself matches pictures and texts: it denoises the picture under each text and errs least
under the right one.

After "Are Diffusion Models Vision-And-Language Reasoners?" (Krojer et al. 2023): score = -E[err(text)], for choosing
among pictures -E[err(text) - err(empty)], with err = |eps - eps_hat|. The noise is shared by all pictures and texts, so
that every comparison is a paired one. Nothing here knows a host; see :class:`Matcher`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ...errors import InterplayError
from .itm_scores import Scores
from .itm_settings import ItmSettings, Level

__all__ = ["EpsMatcher", "ItmSettings", "Level", "Matcher", "Scores", "score"]
Progress = Callable[[int, int], None]
EARLIEST = 4  # draws before pruning or stopping are thought of


class Matcher(Protocol):
    """A model bound to its texts, which are known by their index."""

    def level(self, timestep: float) -> Level:
        """The noise level at a timestep, 0 (clean) to 999 (pure noise)."""

    def denoise(self, noised: Tensor, level: Level, texts: Sequence[int]) -> Sequence[Tensor]:
        """The model's clean picture (n, C, h, w) under each text, for noised pictures (n, C, h, w) of one level."""


@dataclass(frozen=True)
class EpsMatcher:
    """A matcher from any function eps_hat(noised, level, text), and the levels by timestep."""

    eps: Callable[[Tensor, Level, int], Tensor]
    levels: Callable[[float], Level]

    def level(self, timestep: float) -> Level:
        """See Matcher."""
        return self.levels(timestep)

    def denoise(self, noised: Tensor, level: Level, texts: Sequence[int]) -> Sequence[Tensor]:
        """See Matcher."""
        return [(noised - level.noise * self.eps(noised, level, text)) / level.signal for text in texts]


def score(
    model: Matcher,
    pictures: Tensor,
    texts: int,
    settings: ItmSettings,
    empty: int | None = None,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score pictures against texts.

    Args:
        model: knows the texts 0 to ``texts`` - 1; the first is the one that pictures are ranked by, the others are what
            it is held against.
        pictures: clean latents (N, C, h, w), in the space that the model denoises.
        empty: index of the empty text in ``model``, for the normalisation; None when there is none.
        mask: (1 or N, 1, h, w), weights in [0, 1] of a region to score.
        progress: called with the draws done and planned.

    Raises:
        InterplayError: the normalisation is asked for and there is no empty text, the mask is empty, or the model's
            answer is not finite.
    """
    run = _Run(model, pictures, texts, settings, empty, mask)
    for done, draw in enumerate(run.draws, 1):
        run.measure(draw)
        if progress is not None:
            progress(done, len(run.draws))
        if run.decided(done):
            break
        run.prune(done)
    return run.result()


@dataclass(frozen=True)
class _Draw:
    index: int
    level: Level
    weight: float


class _Run:
    def __init__(
        self,
        model: Matcher,
        pictures: Tensor,
        texts: int,
        settings: ItmSettings,
        empty: int | None,
        mask: Tensor | None,
    ) -> None:
        if pictures.ndim < 3 or not len(pictures) or texts < 1:
            raise InterplayError("DiffusionITM needs at least one picture and one text; give it both.")
        self.model, self.settings, self.texts = model, settings, texts
        self.pictures = pictures.detach().float()
        self.normalised = settings.normalised(len(pictures), texts, empty is not None)
        self.empty = empty if self.normalised or (settings.heat and texts == 1) else None
        self.mask = None if mask is None else _checked(mask, self.pictures)
        self.draws = tuple(_plan(model, settings))
        count = len(self.draws)
        self.errors = torch.full((len(pictures), texts, count), math.nan, dtype=torch.float64)
        self.blank = torch.full((len(pictures), count), math.nan, dtype=torch.float64)
        self.heat = torch.zeros(len(pictures), *pictures.shape[2:])
        self.alive = torch.ones(len(pictures), texts, dtype=torch.bool)

    def measure(self, draw: _Draw) -> None:
        """One noise at one level, with its mirror image where antithetic: one figure for each pair that is alive."""
        rows = self.alive.any(1).nonzero().flatten().tolist()
        texts = self.alive.any(0).nonzero().flatten().tolist()
        asked = texts + ([] if self.empty is None else [self.empty])
        noise = _noise(self.settings.seed, draw.index, self.pictures)
        signs = (1.0, -1.0) if self.settings.noise == "antithetic" else (1.0,)
        for start in range(0, len(rows), self.settings.batch):
            part = rows[start : start + self.settings.batch]
            clean = self.pictures[part]
            total = torch.zeros(len(asked), len(part), dtype=torch.float64)
            for sign in signs:
                noised = draw.level.signal * clean + draw.level.noise * sign * noise
                residuals = self._residuals(noised, clean, draw.level, asked)
                total += torch.stack([self._length(r, part) for r in residuals]) * draw.weight / len(signs)
                self._warm(residuals, texts, part, len(signs))
            for row, values in zip(part, total.T, strict=True):
                self.errors[row, texts, draw.index] = values[: len(texts)]
                if self.empty is not None:
                    self.blank[row, draw.index] = values[-1]

    def _residuals(self, noised: Tensor, clean: Tensor, level: Level, asked: Sequence[int]) -> list[Tensor]:
        scale = level.scale(self.settings.space)
        found = [(d.float().to(clean.device) - clean) * scale for d in self.model.denoise(noised, level, asked)]
        if not all(bool(torch.isfinite(r).all()) for r in found):
            raise InterplayError(
                f"The model's answer at timestep {level.timestep:.0f} is not finite: load it in a wider number format."
            )
        return found

    def _length(self, residual: Tensor, rows: Sequence[int]) -> Tensor:
        """(n,): the error of each picture by the metric, on the CPU."""
        squares = residual.square()
        size = squares[0].numel() * torch.ones(len(rows), dtype=torch.float64)
        if self.mask is not None:
            squares = squares * self.mask[rows]
            size = self.mask[rows].flatten(1).sum(1).double().cpu() * residual.shape[1]
        total = squares.flatten(1).sum(1).double().cpu()
        return {"norm": total.sqrt(), "mse": total / size, "nats": total}[self.settings.metric]

    def _warm(self, residuals: Sequence[Tensor], texts: Sequence[int], rows: Sequence[int], signs: int) -> None:
        """Add to the heat-map: squared error without the prompt (or, without an empty text, under the others) minus
        that with it.
        """
        if not self.settings.heat or 0 not in texts or len(residuals) < 2:
            return
        squares = [r.square().mean(1).cpu() / signs for r in residuals]
        others = squares[-1] if self.empty is not None else torch.stack(squares[1:]).mean(0)
        self.heat[rows] += others - squares[0]

    def decided(self, done: int) -> bool:
        """True when the deciding comparison is ahead by enough standard errors."""
        if not self.settings.stop or done < EARLIEST or done == len(self.draws):
            return False
        rivals = self.result().deciding()
        return bool(rivals) and min(abs(d.mean) / max(d.error, 1e-12) for d in rivals) >= self.settings.stop

    def prune(self, done: int) -> None:
        """Keep the better half after a quarter and after half of the draws; the first text always stays."""
        total = len(self.draws)
        if not self.settings.prune or done not in {max(EARLIEST, -(-total // 4)), max(EARLIEST, -(-total // 2))}:
            return
        several = len(self.pictures) > 1
        axis = 0 if several else 1
        still = self.alive.any(1 - axis).nonzero().flatten()
        if len(still) < 4:
            return
        values = self.result().values()
        ranked = still[(values[still, 0] if several else values[0, still]).argsort(descending=True)]
        keep = set(ranked[: max(2, -(-len(ranked) // 2))].tolist()) | (set() if several else {0})
        for index in still.tolist():
            if index not in keep:
                self.alive.select(axis, index)[:] = False

    def result(self) -> Scores:
        """What is known so far."""
        counts = torch.isfinite(self.errors[:, 0]).sum(1).clamp(min=1).float()
        heat = None
        if self.settings.heat and (self.empty is not None or self.texts > 1):
            heat = self.heat / counts.view(-1, *[1] * (self.heat.ndim - 1))
        timesteps = tuple(d.level.timestep for d in sorted(self.draws, key=lambda d: d.index))
        return Scores(self.errors, self.blank if self.empty is not None else None, self.normalised, timesteps, heat)


def _plan(model: Matcher, settings: ItmSettings) -> Iterator[_Draw]:
    """The draws, spread so that any first few of them cover the whole range; every level has its own noise."""
    levels = [model.level(t) for t in settings.timesteps()]
    weights = [1.0] * len(levels)
    if settings.metric == "nats":
        weights = [0.5 * width * len(levels) for width in _widths([level.log_snr for level in levels])]
    order = spread(len(levels)) if settings.prune or settings.stop else range(len(levels))
    for repeat in range(settings.repeats):
        for at in order:
            yield _Draw(repeat * len(levels) + at, levels[at], weights[at])


def _widths(values: Sequence[float]) -> list[float]:
    """Trapezoid weights of an integral over ``values``, whatever their direction."""
    if len(values) < 2:
        raise InterplayError("The metric 'nats' integrates over noise levels: ask for at least two.")
    gaps = [abs(b - a) / 2 for a, b in pairwise(values)]
    return [a + b for a, b in zip([0.0, *gaps], [*gaps, 0.0], strict=True)]


def spread(count: int) -> list[int]:
    """0 to ``count`` - 1 in the order of van der Corput's sequence: early members lie far apart."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))


def _noise(seed: int, index: int, like: Tensor) -> Tensor:
    """(1, C, h, w): the same for all pictures, and independent of how many draws there are."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(1, *like.shape[1:], generator=generator).to(like.device)


def _checked(mask: Tensor, pictures: Tensor) -> Tensor:
    mask = mask.to(pictures).clamp(0, 1)
    fits = mask.ndim == pictures.ndim and mask.shape[2:] == pictures.shape[2:] and mask.shape[1] == 1
    if not fits or len(mask) not in (1, len(pictures)):
        raise InterplayError(f"A mask of shape {tuple(mask.shape)} does not fit latents {tuple(pictures.shape)}.")
    if not bool(mask.flatten(1).sum(1).min() > 0):
        raise InterplayError("The mask is empty, so there is nothing to score: paint the region to look at.")
    return mask.expand(len(pictures), *mask.shape[1:])
