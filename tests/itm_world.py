"""A world whose denoisers and likelihoods are known in closed form: ordered pairs of objects plus Gaussian noise."""

from __future__ import annotations

from itertools import permutations

import torch
from interplay.guidance.rewards.itm_settings import Level, eps_level, flow_level, v_level
from torch import Tensor

OBJECTS, SIZE, SPREAD = 6, 8, 0.5
PAIRS = list(permutations(range(OBJECTS), 2))


class ExactWorld:
    """Pictures are [left object, right object] + SPREAD * Gaussian, as (n, 2 * SIZE, h, w), by cell. Texts are the 30
    ordered pairs, in the order of PAIRS; text 30 is the empty one. parametrisation: eps, v or flow.
    """

    empty = len(PAIRS)

    def __init__(self, parametrisation: str = "eps", seed: int = 0, wrong: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        things = torch.randn(OBJECTS, SIZE, generator=generator, dtype=torch.float64)
        self.means = torch.stack([torch.cat([things[a], things[b]]) for a, b in PAIRS])
        self.parametrisation, self.wrong = parametrisation, wrong
        self.seen: list[tuple[float, int]] = []

    def picture(self, pair: tuple[int, int], seed: int = 0) -> Tensor:
        noise = torch.randn(2 * SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (self.means[PAIRS.index(pair)] + SPREAD * noise).view(1, -1, 1, 1).float()

    def log_ratio(self, picture: Tensor, text: int) -> float:
        """log p(picture | text) - log p(picture), from the densities themselves."""
        gaps = -(picture.double().flatten() - self.means).square().sum(1) / (2 * SPREAD**2)
        return float(gaps[text] - (torch.logsumexp(gaps, 0) - torch.log(torch.tensor(len(PAIRS)).double())))

    def level(self, timestep: float) -> Level:
        log_snr = torch.tensor(14.0 - 28.0 * timestep / 999.0).double()
        signal, noise = float(torch.sigmoid(log_snr).sqrt()), float(torch.sigmoid(-log_snr).sqrt())
        if self.parametrisation == "flow":
            return flow_level(timestep, noise / (signal + noise))
        return (eps_level if self.parametrisation == "eps" else v_level)(timestep, signal, noise)

    def denoise(self, noised: Tensor, level: Level, texts) -> list[Tensor]:
        self.seen += [(level.timestep, len(noised))]
        return [self._clean(noised, level, text) for text in texts]

    def _clean(self, noised: Tensor, level: Level, text: int) -> Tensor:
        """E[clean | noised, text] by Bayes."""
        cells = noised.movedim(1, -1)  # every cell of a larger picture is a picture of its own
        x, a = cells.reshape(-1, 2 * SIZE).double(), level.signal
        variance = (a * SPREAD) ** 2 + level.noise**2
        if text == self.empty:
            squares = x.square().sum(1, keepdim=True) - 2 * a * x @ self.means.T + a**2 * self.means.square().sum(1)
            mean = torch.softmax(-squares / (2 * variance), -1) @ self.means
        else:
            mean = self.means[text]
        found = mean + a * SPREAD**2 / variance * (x - a * mean)
        return found.view(cells.shape).movedim(-1, 1) + self.wrong
