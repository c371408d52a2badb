"""Winoground, ImageCoDe and ARO: right or wrong from a table of scores, with chance levels and intervals. Ties lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InterplayError
from ..bench.stats import wilson
from .scorer import Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

Table = Sequence[Sequence[float]]
"""scores[text][picture]."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Item:
    """Pictures and texts to be told apart. answer: index of the right text, or of the right picture where there are
    several; kind: what it is counted under, too. box: left, top, right, bottom of the part of the pictures to look at.
    """

    pictures: tuple[Path, ...]
    texts: tuple[str, ...]
    answer: int = 0
    kind: str = ""
    box: Box | None = None


@dataclass(frozen=True)
class Result:
    """A share of right answers in ``count`` items, its 95 % interval (Wilson), and the share that guessing gets."""

    metric: str
    kind: str
    share: float
    low: float
    high: float
    chance: float
    count: int

    def line(self) -> str:
        """For people."""
        name = f"{self.metric} ({self.kind})" if self.kind else self.metric
        return (
            f"{name:<28} {100 * self.share:5.1f} %  [{100 * self.low:.1f}, {100 * self.high:.1f}]  "
            f"chance {100 * self.chance:.1f} %  n = {self.count}"
        )


def winoground(scores: Table) -> dict[str, bool]:
    """Two texts, two pictures that belong together in order: text, image and group score of one item (Thrush 2022)."""
    (a, b), (c, d) = scores  # text 0 with pictures 0 and 1, text 1 with them
    text = a > c and d > b
    image = a > b and d > c
    return {"text": text, "image": image, "group": text and image}


def retrieval(scores: Sequence[float], answer: int, depth: int = 1) -> bool:
    """Whether the right one is among the best ``depth``; whatever scores alike, or is no number, stands before it."""
    own = scores[answer]
    if math.isnan(own):
        return False
    return sum(not value < own for i, value in enumerate(scores) if i != answer) < depth


@dataclass(frozen=True)
class Task:
    """How an item of a data set is judged, and what guessing gets, metric by metric."""

    judge: Callable[[Item, Table], dict[str, bool]]
    chance: Callable[[Item], dict[str, float]]


def _pictures(item: Item, scores: Table) -> dict[str, bool]:
    return {f"R@{depth}": retrieval(scores[0], item.answer, depth) for depth in (1, 5)}


def _texts(item: Item, scores: Table) -> dict[str, bool]:
    return {"accuracy": retrieval([row[0] for row in scores], item.answer)}


TASKS = {
    "winoground": Task(lambda _, s: winoground(s), lambda _: {"text": 0.25, "image": 0.25, "group": 1 / 6}),
    "imagecode": Task(_pictures, lambda i: {f"R@{d}": min(1.0, d / len(i.pictures)) for d in (1, 5)}),
    "aro": Task(_texts, lambda i: {"accuracy": 1 / len(i.texts)}),
}


def score_item(scorer: Scorer, item: Item, pictures: Sequence[Image]) -> list[list[float]]:
    """scores[text][picture] of an item; NaN where the scorer has none."""
    texts = [text for text in item.texts for _ in pictures]
    found = scorer.score(list(pictures) * len(item.texts), texts)
    values = [math.nan if reading.value is None else reading.value for reading in found]
    count = len(pictures)
    return [values[i : i + count] for i in range(0, len(values), count)]


def tally(task: str, items: Sequence[Item], tables: Sequence[Table]) -> list[Result]:
    """All figures of a data set, then those of each kind of item.

    Raises:
        InterplayError: there is no item.
    """
    if not items:
        raise InterplayError("The folder holds nothing to evaluate; look at docs/scores.md for its layout.")
    kinds = sorted({item.kind for item in items} - {""})
    out = _results(task, "", items, tables)
    for kind in kinds if len(kinds) > 1 else []:
        chosen = [i for i, item in enumerate(items) if item.kind == kind]
        out += _results(task, kind, [items[i] for i in chosen], [tables[i] for i in chosen])
    return out


def _results(task: str, kind: str, items: Iterable[Item], tables: Iterable[Table]) -> list[Result]:
    hits: dict[str, list[bool]] = {}
    chances: dict[str, list[float]] = {}
    for item, table in zip(items, tables, strict=True):
        for name, hit in TASKS[task].judge(item, table).items():
            hits.setdefault(name, []).append(hit)
            chances.setdefault(name, []).append(TASKS[task].chance(item)[name])
    return [
        Result(name, kind, sum(h) / len(h), *wilson(sum(h), len(h)), sum(chances[name]) / len(h), len(h))
        for name, h in hits.items()
    ]
