"""What the parser knows of single words: what kind of thing a noun names, what a verb can do.

Sources: lemminflect's lemma tables (which forms a word can be), a most-frequent-tag list from the Brill lexicon, and
classes and counts from WordNet 3.0. The tables in ``data/`` are made by ``benchmarks/build_parser_tables.py``.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import words as w

DATA = Path(__file__).parent / "data"
NOUN_BITS = (
    "person", "animal", "place", "clothing", "body", "food", "vehicle", "tool", "plant", "time", "furniture",
    "physical", "game", "color", "substance", "group",
)  # fmt: skip
VERB_BITS = ("transitive", "intransitive", "ditransitive", "linking", "infinitive", "bare")


@dataclass(frozen=True)
class Entry:
    """One lemma of WordNet: counts (-1: not of that class) and class bits."""

    noun: int = -1
    verb: int = -1
    adjective: int = -1
    adverb: int = -1
    lead: int = 0
    common: int = 0
    frames: int = 0
    any_frames: int = 0


NOTHING = Entry()


@lru_cache(maxsize=1)
def _entries() -> dict[str, str]:
    with gzip.open(DATA / "lemmas.tsv.gz", "rt", encoding="utf-8") as file:
        return dict(line.rstrip("\n").partition("\t")[::2] for line in file)


@lru_cache(maxsize=1)
def usual_tags() -> dict[str, str]:
    with gzip.open(DATA / "tags.tsv.gz", "rt", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("\t") for line in file)


@lru_cache(maxsize=8192)
def entry(lemma: str) -> Entry:
    """WordNet's entry of a lemma; an empty one when it is unknown."""
    line = _entries().get(lemma)
    if line is None:
        return NOTHING
    cells = (line.split("\t") + [""] * 8)[:8]
    return Entry(*(int(c) if c else -1 for c in cells[:4]), *(int(c, 16) if c else 0 for c in cells[4:]))


@lru_cache(maxsize=8192)
def lemmas(word: str) -> dict[str, tuple[str, ...]]:
    """lemminflect's candidates: part of speech to lemmas."""
    import lemminflect

    found = lemminflect.getAllLemmas(word)
    return {str(k): tuple(v) for k, v in found.items()}


def is_known(word: str) -> bool:
    """Whether a lower-case word is in any of the tables."""
    return word in usual_tags() or entry(word) is not NOTHING or bool(lemmas(word)) or word in w.PREPOSITIONS


@lru_cache(maxsize=8192)
def noun_lemma(word: str) -> str:
    """The singular of a noun as written, lower case."""
    word = word.lower()
    if word in ("glasses", "people", "clothes"):
        return word
    found = lemmas(word).get("NOUN")
    if found:
        return found[0]
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word


@lru_cache(maxsize=8192)
def verb_lemma(word: str) -> str:
    """The infinitive of a verb as written, lower case; guessed by its ending when unknown."""
    word = word.lower()
    found = lemmas(word).get("VERB")
    if found:
        return max(found, key=lambda one: (entry(one).verb, -len(one)))
    for ending, stems in (
        ("ing", ("", "e")),
        ("ied", ("y",)),
        ("ed", ("", "e")),
        ("ies", ("y",)),
        ("es", ("", "e")),
        ("s", ("",)),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            options = [stem + s for s in stems]
            if len(stem) > 2 and stem[-1] == stem[-2]:
                options.append(stem[:-1])
            if stem.endswith("e"):
                options.append(stem[:-1])
            known = [o for o in options if entry(o).verb >= 0]
            return known[0] if known else options[0]
    return word


def _bits(names: tuple[str, ...], *wanted: str) -> int:
    return sum(1 << names.index(n) for n in wanted)


def noun_is(word: str, *kinds: str, before: str = "", widely: bool = False) -> bool:
    """Whether a noun names one of ``kinds``.

    ``before`` is the word in front of it; ``widely`` takes every common sense and not only the leading one.
    """
    mask = _bits(NOUN_BITS, *kinds)
    lemma = noun_lemma(word)
    for name in (f"{before.lower()} {lemma}" if before else "", lemma):
        found = entry(name)
        if found.noun >= 0:
            return bool((found.common if widely else found.lead) & mask)
    return False


@lru_cache(maxsize=8192)
def is_animate(word: str, before: str = "") -> bool:
    """Whether the noun names someone who can act: a person, an animal, a being, a robot, a team."""
    low = word.lower()
    lemma = noun_lemma(low)
    if low in w.ANIMATE or lemma in w.ANIMATE:
        return True
    if low[0:1].isdigit() and low.endswith(("girl", "girls", "boy", "boys", "person")):
        return True
    if lemma in w.CLOTHING or lemma in w.BODY or lemma in w.PLACES or lemma in w.NOT_PLACES:
        return False
    return noun_is(low, "person", "animal", before=before)


@lru_cache(maxsize=8192)
def is_place(word: str, before: str = "") -> bool:
    """Whether the noun names a place or surrounding when it stands in a locative phrase."""
    low = word.lower()
    lemma = noun_lemma(low)
    if before:
        both = entry(f"{before.lower()} {lemma}")
        if both.noun >= 0 and lemma not in w.PLACES:
            return bool(both.lead & _bits(NOUN_BITS, "place"))
    if low in w.PLACES or lemma in w.PLACES:
        return True
    if low in w.NOT_PLACES or lemma in w.NOT_PLACES or lemma in w.BODY or lemma in w.CLOTHING:
        return False
    if (
        lemma.endswith(("land", "yard", "side", "house", "room", "scape", "field", "town", "ville", "shop", "store"))
        and len(lemma) > 5
    ):
        return not is_animate(low)
    return noun_is(low, "place") and not noun_is(low, "person", "animal")


@lru_cache(maxsize=8192)
def is_clothing(word: str, before: str = "") -> bool:
    """Whether the noun names something that is worn."""
    low = word.lower()
    lemma = noun_lemma(low)
    return low in w.CLOTHING or lemma in w.CLOTHING or noun_is(low, "clothing", before=before)


@lru_cache(maxsize=8192)
def is_body(word: str) -> bool:
    """Whether the noun names a part of a body."""
    low = word.lower()
    return low in w.BODY or noun_lemma(low) in w.BODY or noun_is(low, "body")


def is_tool(word: str) -> bool:
    """Whether the noun names something one acts with."""
    return noun_is(word, "tool", widely=True) and not is_clothing(word)


def is_plural(word: str) -> bool:
    """Whether a noun form is plural (or can be: ``sheep``)."""
    low = word.lower()
    if low in w.IRREGULAR_PLURALS or low in w.BARE_PLURALS:
        return True
    return low.endswith("s") and not low.endswith(("ss", "us", "is")) and noun_lemma(low) != low


@lru_cache(maxsize=16384)
def verb_can(verb: str, kind: str, first: bool = False) -> bool:
    """Whether a verb form can be ``transitive``, ``intransitive``, ``linking`` …; ``first``: in its main sense."""
    lemma = verb_lemma(verb)
    found = entry(lemma)
    if found.verb < 0:
        return kind in ("transitive", "intransitive")
    return bool((found.frames if first else found.any_frames) & _bits(VERB_BITS, kind))


@lru_cache(maxsize=4096)
def is_phrasal(verb: str, particle: str, takes_object: bool = False) -> bool:
    """Whether verb and particle are one verb of WordNet, such as "pick up"; with an object, where that is asked."""
    found = entry(f"{verb_lemma(verb)} {particle.lower()}")
    return found.verb >= 0 and (not takes_object or bool(found.any_frames & _bits(VERB_BITS, "transitive")))
