"""Look, re-weight, draw again: the fine stage of RealignDiff as a loop over pictures, whatever draws and judges them.

After RealignDiff (arXiv 2305.19599), section III-C. There one pass refines a picture, from its own noise; here passes
follow as long as something is wrong, every picture of a batch by itself, the better picture is kept, and what
re-weighting cannot mend may be drawn from another noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...errors import InterplayError
from .objects import PictureObjects

Picture = TypeVar("Picture")
NOISES = ("same", "as needed")
BETTER = 1e-6  # a drawing must score higher by more than this to replace the one before


@dataclass(frozen=True)
class Look:
    """One picture looked at. score: how right it is, higher is better; wrong: what is wrong in words, empty = nothing;
    objects: with masks, for the next pass; tags: what was seen in it; mendable: re-weighting can mend what is wrong
    (``regions.mendable``); judge: who judged the tags (``verdicts.STATUSES``); raw: what a language model wrote.
    """

    score: float
    wrong: tuple[str, ...]
    objects: PictureObjects
    tags: tuple[str, ...] = ()
    mendable: bool = True
    judge: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Order:
    """A picture to draw again. row: its place in the batch; objects: to re-weight by, and what is missing; strength:
    factor on the re-weighting, 0 for none; noise: 0 that of the first drawing, else another one, by number.
    """

    row: int
    objects: PictureObjects
    strength: float = 1.0
    noise: int = 0


@dataclass(frozen=True)
class Try:
    """A picture of one pass. number: 0 is the first drawing; strength, noise: of its ``Order``."""

    number: int
    look: Look
    strength: float = 0.0
    noise: int = 0


@dataclass(frozen=True)
class History(Generic[Picture]):
    """What became of one picture: all tries, and the best with its picture."""

    tries: tuple[Try, ...]
    best: Try
    picture: Picture

    @property
    def before(self) -> Look:
        """The first drawing."""
        return self.tries[0].look


@dataclass
class Loop(Generic[Picture]):
    """The loop. look: pictures to looks. draw: orders to pictures.

    rounds: passes after the first drawing at most, 0 only looks. growth: factor of the strength from pass to pass, so
    that a pass after one that did not help is another one. noise: all passes have the first one's ("same"), or a
    picture gets another one, and no re-weighting, when re-weighting cannot mend it or just did not ("as needed").
    stopped: how the host says that the user wants to stop; what is done is kept then.
    """

    look: Callable[[Sequence[Picture]], list[Look]]
    draw: Callable[[Sequence[Order]], list[Picture]]
    rounds: int = 1
    growth: float = 1.5
    noise: str = "same"
    stopped: tuple[type[BaseException], ...] = ()
    interrupted: bool = field(default=False, init=False)

    def run(self, first: Sequence[Picture]) -> list[History[Picture]]:
        """Refine the pictures of a batch. InterplayError for impossible settings."""
        if self.rounds < 0 or self.growth <= 0:
            raise InterplayError(f"{self.rounds} rounds with growth {self.growth:g} cannot be run; give more.")
        if self.noise not in NOISES:
            raise InterplayError(f"The noise of further passes can be {' or '.join(NOISES)}, not '{self.noise}'.")
        looks = self.look(first)
        found = [History((Try(0, look),), Try(0, look), picture) for look, picture in zip(looks, first, strict=True)]
        try:
            for number in range(1, self.rounds + 1):
                todo = [i for i, item in enumerate(found) if item.best.look.wrong and self._can_help(item.best.look)]
                if not todo:
                    break
                self._pass(found, [self._order(i, found[i], number) for i in todo], number)
        except self.stopped:
            self.interrupted = True
        return found

    def _order(self, row: int, item: History[Picture], number: int) -> Order:
        best = item.best
        later = [one for one in item.tries if one.number > best.number and one.noise == best.noise and one.strength > 0]
        if self.noise == "as needed" and (later or not best.look.mendable):
            return Order(row, PictureObjects(missing=best.look.objects.missing), 0.0, number)
        weighted = [one for one in item.tries if one.noise == best.noise and one.strength > 0]
        return Order(row, best.look.objects, self.growth ** len(weighted), best.noise)

    def _can_help(self, look: Look) -> bool:
        """Whether there is something to re-weight by, or to ask for, or another noise to be had."""
        return bool(look.objects.objects or look.objects.missing) or self.noise == "as needed"

    def _pass(self, found: list[History[Picture]], orders: Sequence[Order], number: int) -> None:
        pictures = self.draw(orders)
        looks = self.look(pictures)
        for order, picture, look in zip(orders, pictures, looks, strict=True):
            now, before = Try(number, look, order.strength, order.noise), found[order.row]
            better = look.score > before.best.look.score + BETTER
            kept = (now, picture) if better else (before.best, before.picture)
            found[order.row] = History((*before.tries, now), *kept)


def report(found: Sequence[History[Any]], interrupted: bool = False) -> str:
    """Everything as JSON, a picture each: scores before and after, and every try with what was wrong in it."""
    pictures = []
    for item in found:
        tries = [_told(one) for one in item.tries]
        scores = {"before": round(item.before.score, 4), "after": round(item.best.look.score, 4)}
        pictures.append({**scores, "kept": item.best.number, "tries": tries})
    return json.dumps({"pictures": pictures, "interrupted": interrupted}, indent=1, ensure_ascii=False)


def _told(one: Try) -> dict[str, Any]:
    look = one.look
    objects = [o.phrase or o.label for o in look.objects.objects]
    told = {"try": one.number, "strength": round(one.strength, 4), "noise": one.noise, "score": round(look.score, 4)}
    seen = {"wrong": list(look.wrong), "tags": list(look.tags), "objects": objects}
    return {**told, **seen, "missing": list(look.objects.missing), "judge": look.judge}


def judged(found: Sequence[History[Any]]) -> tuple[str, str]:
    """Who judged the tags in each look, and what language models wrote, for people: a line or a part for each."""
    looks = [(i, one.number, one.look) for i, item in enumerate(found) for one in item.tries]
    said = [f"picture {i}, drawing {n}: {look.judge}" for i, n, look in looks if look.judge]
    raw = [f"--- picture {i}, drawing {n} ---\n{look.raw}" for i, n, look in looks if look.raw]
    return "\n".join(said), "\n".join(raw)


def summary(found: Sequence[History[Any]], interrupted: bool = False) -> str:
    """A line for each picture."""
    lines = []
    for i, item in enumerate(found):
        after, left = item.best.look, "; ".join(item.best.look.wrong) or "nothing"
        lines.append(
            f"picture {i}: score {item.before.score:.3f} -> {after.score:.3f}, drawn {len(item.tries)} times, kept "
            f"{item.best.number}; still wrong: {left}"
        )
    return "\n".join([*lines, *["interrupted: what was done is kept"] * interrupted])
