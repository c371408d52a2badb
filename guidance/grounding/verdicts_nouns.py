"""What nouns have to do with each other: the same thing, a kind of it, or nothing. WordNet's kinds and the pack's own.

The table is made by ``benchmarks/build_noun_table.py``.
"""

from __future__ import annotations

import gzip
import re
from functools import lru_cache
from pathlib import Path

from ...parsing import lexicon as lex
from .verdicts_words import KIND_OF, MISNAMED, SAME, TOO_WIDE

TABLE = Path(__file__).parent / "data" / "nouns.tsv.gz"


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, tuple[int, ...]], list[tuple[int, ...]]]:
    """Names to numbers of things, the leading sense first, and for each number those of what it is a kind of."""
    senses: dict[str, tuple[int, ...]] = {}
    up: list[tuple[int, ...]] = []
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        for line in file:
            number, above, names = line.rstrip("\n").split("\t")
            up.append(tuple(int(n) for n in above.split(",") if n))
            for name in filter(None, names.split(",")):
                senses[name] = (*senses.get(name, ()), int(number))
    return senses, up


@lru_cache(maxsize=4096)
def lemma(name: str) -> str:
    """Lower case, single spaces, the last word in the singular: "Polar  Bears" to "polar bear"."""
    words = name.lower().replace("_", " ").split()
    if not words:
        return ""
    last = re.sub(r"^\d+\+?(?=(?:girl|boy|other)s?$)", "", words[-1])  # 1girl, 2boys
    single = lex.noun_lemma(last)
    return " ".join([*words[:-1], _SINGULAR.get(single, single)])


_SINGULAR = {"leave": "leaf", "men": "man", "women": "woman", "knive": "knife", "clothe": "clothes"}


@lru_cache(maxsize=4096)
def senses(name: str) -> tuple[int, ...]:
    """The things that a lemma names, () when the table has none."""
    return _table()[0].get(name, ())


def known(name: str) -> bool:
    """Whether a lemma names a physical thing."""
    return bool(senses(name)) or name in KIND_OF or name in _SAME


@lru_cache(maxsize=8192)
def _above(number: int) -> frozenset[int]:
    up = _table()[1]
    return frozenset((number,)).union(*(_above(n) for n in up[number]))


@lru_cache(maxsize=8192)
def is_kind(name: str, of: str) -> bool:
    """Whether a lemma names a kind of another: "poodle" of "dog", "dog" of "animal"; also steps of both tables."""
    if name == of:
        return True
    names = {name, *_climbed(name)}
    if of in names:
        return True
    return any(number in _above(own) for n in names for own in senses(n) for number in senses(of)[:1])


def tells(head: str, compound: str) -> bool:
    """Whether a head says what a compound is: "cake" of "birthday cake", but not "dog" of "hot dog"."""
    return compound not in MISNAMED or is_kind(compound, head)


@lru_cache(maxsize=8192)
def _climbed(name: str) -> frozenset[str]:
    """The pack's own kinds above a name, and theirs."""
    found: set[str] = set()
    left = [name]
    while left:
        more = KIND_OF.get(left.pop(), frozenset()) - found - {name}
        found |= more
        left += more
    return frozenset(found)


_SAME: dict[str, frozenset[str]] = {}
for _group in SAME:
    for _name in _group:
        _SAME[_name] = _SAME.get(_name, frozenset()) | _group


@lru_cache(maxsize=8192)
def is_same(one: str, other: str) -> bool:
    """Whether two lemmas are names of the same thing: "sofa" and "couch"."""
    if one == other or other in _SAME.get(one, ()):
        return True
    return bool(set(senses(one)[:1]) & set(senses(other)[:1]))


def too_wide(name: str) -> bool:
    """Whether nearly anything is of this kind: "object", "equipment"."""
    return name in TOO_WIDE
