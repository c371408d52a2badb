"""Look, re-weight, draw again: the fine stage of RealignDiff as a loop over pictures, whatever draws and judges them.

After RealignDiff (arXiv 2305.19599), section III-C. There one pass refines a picture; here passes follow as long as
something is wrong, every picture of a batch by itself, and the better picture is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...errors import InterplayError
from .objects import PictureObjects

Picture = TypeVar("Picture")
BETTER = 1e-6  # a drawing must score higher by more than this to replace the one before


@dataclass(frozen=True)
class Look:
    """One picture looked at. score: how right it is, higher is better; wrong: what is wrong in words, empty = nothing;
    objects: with masks, for the next pass; tags: what was seen in it.
    """

    score: float
    wrong: tuple[str, ...]
    objects: PictureObjects
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Try:
    """A picture of one pass. number: 0 is the first drawing; strength: factor on the re-weighting it was drawn with."""

    number: int
    look: Look
    strength: float = 0.0


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
    """The loop. look: pictures to looks. draw: (indices of the batch, objects to re-weight by, strength) to pictures.

    rounds: passes after the first drawing at most, 0 only looks. growth: factor of the strength from pass to pass, so
    that a pass after one that did not help is another one. stopped: how the host says that the user wants to stop; what
    is done is kept then.
    """

    look: Callable[[Sequence[Picture]], list[Look]]
    draw: Callable[[Sequence[int], Sequence[PictureObjects], float], list[Picture]]
    rounds: int = 1
    growth: float = 1.5
    stopped: tuple[type[BaseException], ...] = ()
    interrupted: bool = field(default=False, init=False)

    def run(self, first: Sequence[Picture]) -> list[History[Picture]]:
        """Refine the pictures of a batch. InterplayError for an impossible count of rounds or growth."""
        if self.rounds < 0 or self.growth <= 0:
            raise InterplayError(f"{self.rounds} rounds with growth {self.growth:g} cannot be run; give more.")
        looks = self.look(first)
        found = [History((Try(0, look),), Try(0, look), picture) for look, picture in zip(looks, first, strict=True)]
        try:
            for number in range(1, self.rounds + 1):
                todo = [i for i, item in enumerate(found) if item.best.look.wrong and _can_help(item.best.look)]
                if not todo:
                    break
                self._pass(found, todo, number, self.growth ** (number - 1))
        except self.stopped:
            self.interrupted = True
        return found

    def _pass(self, found: list[History[Picture]], todo: Sequence[int], number: int, strength: float) -> None:
        pictures = self.draw(todo, [found[i].best.look.objects for i in todo], strength)
        looks = self.look(pictures)
        for i, picture, look in zip(todo, pictures, looks, strict=True):
            now, before = Try(number, look, strength), found[i]
            better = look.score > before.best.look.score + BETTER
            kept = (now, picture) if better else (before.best, before.picture)
            found[i] = History((*before.tries, now), *kept)


def _can_help(look: Look) -> bool:
    """Whether there is something to re-weight by, or to ask for."""
    return bool(look.objects.objects or look.objects.missing)


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
    told = {"try": one.number, "strength": round(one.strength, 4), "score": round(look.score, 4)}
    return {**told, "wrong": list(look.wrong), "tags": list(look.tags), "objects": objects,
            "missing": list(look.objects.missing)}  # fmt: skip


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
