"""Captions that a picture does not match, made from its own caption, and filters that keep only those that hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...parsing import parse
from ..rewards.swaps import swapped_captions

OPS = ("swap_attr", "swap_role")
_FROM = {"roles": "swap_role", "properties": "swap_attr", "contrary": "replace_rel"}


@dataclass(frozen=True)
class Negative:
    """A caption, how it was made (one of OPS) and the two stretches that changed places."""

    text: str
    op: str
    changed: tuple[str, str]


def negatives(caption: str, ops: Sequence[str] = OPS, limit: int = 8) -> list[Negative]:
    """Captions that a picture of ``caption`` does not match."""
    found = [Negative(s.text, _FROM[s.operation], s.changed) for s in swapped_captions(parse(caption), limit)]
    return [n for n in found if n.op in ops]
