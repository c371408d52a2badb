"""What DiffusionITM found: errors draw by draw, and the comparisons that follow from them, with honest uncertainty."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """A paired difference over the draws that both sides have: its mean, standard error, draws, and the probability
    that it is above 0 (Student's t). The error counts the spread between noise levels as noise, and is on the safe
    side: the true one is smaller. Draws with an antithetic partner count once.
    """

    mean: float
    error: float
    draws: int

    @property
    def p(self) -> float:
        """Probability that the difference is above 0; 0.5 where nothing is known."""
        return student(self.mean, self.error, self.draws)


@dataclass(frozen=True)
class Scores:
    """errors: (N, K, n) of N pictures under K texts in n draws, NaN where not measured (pruned, or stopped before).
    empty: (N, n) under the empty text. normalised: whether it is subtracted. timesteps: of the draws. heat: (N, h, w),
    squared error without the first text minus that with it: positive where the text helps.
    """

    errors: Tensor
    empty: Tensor | None
    normalised: bool
    timesteps: tuple[float, ...]
    heat: Tensor | None = None

    def gains(self) -> Tensor:
        """(N, K, n): the score draw by draw, higher is better."""
        if self.normalised and self.empty is not None:
            return self.empty[:, None] - self.errors
        return -self.errors

    def values(self) -> Tensor:
        """(N, K): the scores, means over the draws each pair has."""
        return self.gains().nanmean(-1)

    def comparable(self) -> Tensor:
        """(N, K): scores that can be compared although some pairs were dropped on the way, and so saw other noise
        levels: the best picture's (of one picture: the first text's) plus the difference to it over the draws that
        both have. The same as ``values`` where nothing was dropped.
        """
        gains = self.gains()
        reference = gains[self.ranking()[:1]] if len(gains) > 1 else gains[:, :1]
        return (gains - reference).nanmean(-1) + reference.nanmean(-1)

    def standard_errors(self) -> Tensor:
        """(N, K): of the scores; NaN with one draw."""
        gains = self.gains()
        count = torch.isfinite(gains).sum(-1)
        spread = (gains - gains.nanmean(-1, keepdim=True)).square().nansum(-1) / (count - 1).clamp(min=1)
        return torch.where(count > 1, (spread / count.clamp(min=1)).sqrt(), math.nan)

    def draws(self) -> Tensor:
        """(N, K): how many draws each pair has."""
        return torch.isfinite(self.errors).sum(-1)

    def ranking(self) -> list[int]:
        """Pictures, best first by the first text: those that were followed longest come before those dropped."""
        values, draws = self.values()[:, 0].tolist(), self.draws()[:, 0].tolist()
        return sorted(range(len(values)), key=lambda i: (-draws[i], -values[i], i))

    def text_ranking(self, picture: int = 0) -> list[int]:
        """Texts, best first, for one picture."""
        values, draws = self.values()[picture].tolist(), self.draws()[picture].tolist()
        return sorted(range(len(values)), key=lambda i: (-draws[i], -values[i], i))

    def between_pictures(self, first: int, second: int, text: int = 0) -> Difference:
        """By how much the first picture matches a text better than the second does."""
        gains = self.gains()[:, text]
        return _difference(gains[first] - gains[second])

    def between_texts(self, first: int, second: int, picture: int = 0) -> Difference:
        """By how much a picture matches the first text better than the second."""
        gains = self.gains()[picture]
        return _difference(gains[first] - gains[second])

    def over_empty(self, picture: int, text: int = 0) -> Difference | None:
        """By how much the text helps to denoise the picture; None without the empty text."""
        return None if self.empty is None else _difference(self.empty[picture] - self.errors[picture, text])

    def margin(self, picture: int) -> Difference | None:
        """The first text against the one of the others that fits best; None when there are no others."""
        others = range(1, self.errors.shape[1])
        found = [self.between_texts(0, k, picture) for k in others]
        return min(found, key=lambda d: d.mean, default=None)

    def match(self, picture: int) -> float:
        """Probability that the first text is better than every other one, or than the empty one where there are none:
        the least of the single probabilities. 0.5 when nothing was compared.
        """
        others = range(1, self.errors.shape[1])
        found = [self.between_texts(0, k, picture).p for k in others]
        if not found:
            gain = self.over_empty(picture)
            return 0.5 if gain is None else gain.p
        return min(found)

    def deciding(self) -> list[Difference]:
        """The comparisons on which the outcome hangs: best picture against second, or text 0 against each other."""
        if len(self.errors) > 1:
            first, second = self.ranking()[:2]
            return [self.between_pictures(first, second)]
        if self.errors.shape[1] > 1:
            return [self.between_texts(0, k) for k in range(1, self.errors.shape[1])]
        gain = self.over_empty(0)
        return [] if gain is None else [gain]

    def report(self, texts: list[str] | None = None) -> dict[str, Any]:
        """Everything for JSON; figures are rounded to six digits, absent ones are null."""
        ranking = self.ranking()
        out: dict[str, Any] = {
            "scores": _rounded(self.values()),
            "comparable": _rounded(self.comparable()),
            "standard_errors": _rounded(self.standard_errors()),
            "draws": self.draws().tolist(),
            "normalised": self.normalised,
            "ranking": ranking,
            "p_match": [round(self.match(i), 6) for i in range(len(ranking))],
            "margins": [None if m is None else _entry(m) for m in map(self.margin, range(len(ranking)))],
            "timesteps": [round(t, 3) for t in self.timesteps],
        }
        if texts is not None:
            out["texts"] = texts
        if len(ranking) > 1:
            out["best_over_second"] = _entry(self.between_pictures(*ranking[:2]))
        return out

    def to_json(self, texts: list[str] | None = None) -> str:
        """``report`` as text."""
        return json.dumps(self.report(texts), ensure_ascii=False, indent=1)


def _difference(values: Tensor) -> Difference:
    known = values[torch.isfinite(values)]
    count = len(known)
    if not count:
        return Difference(math.nan, math.nan, 0)
    error = float(known.std() / math.sqrt(count)) if count > 1 else math.nan
    return Difference(float(known.mean()), error, count)


def student(mean: float, error: float, draws: int) -> float:
    """P(true mean > 0) from Student's t with ``draws`` - 1 degrees of freedom, flat prior; 0.5 with under two draws."""
    if draws < 2 or math.isnan(mean) or math.isnan(error):
        return 0.5
    if error == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0)
    freedom, t = draws - 1, abs(mean / error)
    # with t = sqrt(freedom) tan(a) the density becomes cos(a)^(freedom - 1), smooth on a finite interval
    log_constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    angle = torch.linspace(0.0, math.atan(t / math.sqrt(freedom)), 2001, dtype=torch.float64)
    inside = float(torch.trapezoid(angle.cos() ** (freedom - 1), angle)) * math.exp(log_constant)
    above = min(1.0, 0.5 + inside)
    return above if mean > 0 else 1.0 - above


def _rounded(values: Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(v) else round(v, 6) for v in row] for row in values.tolist()]


def _entry(difference: Difference) -> dict[str, Any]:
    known = not math.isnan(difference.error)
    error = round(difference.error, 6) if known else None
    return {"difference": round(difference.mean, 6), "standard_error": error, "p": round(difference.p, 6)}
