"""What the parser knows of single words: possible tags with their cost, and what kind of thing a noun or verb names.

Sources: lemminflect's lemma tables (which forms a word can be), a most-frequent-tag list from the Brill lexicon, and
classes and counts from WordNet 3.0. The tables in ``data/`` are made by ``benchmarks/build_parser_tables.py``.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import words as w

DATA = Path(__file__).parent / "data"
NOUN_BITS = (
    "person", "animal", "place", "clothing", "body", "food", "vehicle", "tool", "plant", "time", "furniture", "physical",
    "game", "color", "substance", "group",
)  # fmt: skip
VERB_BITS = ("transitive", "intransitive", "ditransitive", "linking", "infinitive", "bare")
IRREGULAR_PLURALS = frozenset(
    ["men", "women", "children", "people", "feet", "teeth", "geese", "mice", "oxen", "lice", "police", "cattle", "fishermen", "policemen", "firemen", "sheep", "fish", "deer", "salmon", "shrimp", "aircraft", "series", "species", "clothes", "jeans", "pants", "trousers", "shorts", "glasses", "sunglasses", "scissors", "goggles", "pajamas", "binoculars", "headphones"]
)
BARE_PLURALS = frozenset(["sheep", "fish", "deer", "salmon", "shrimp", "aircraft", "series", "species", "dice", "bison", "moose", "squid", "trout"])
PREFIXED_PARTS = (
    "haired",
    "eyed",
    "faced",
    "colored",
    "coloured",
    "shaped",
    "headed",
    "legged",
    "like",
    "looking",
    "free",
)
IRREGULAR_VERBS = frozenset(
    ["made", "worn", "torn", "held", "drawn", "woven", "broken", "frozen", "stolen", "fallen", "hidden", "lit", "built", "caught"]
)


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
def _tags() -> dict[str, str]:
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
    return word in _tags() or entry(word) is not NOTHING or bool(lemmas(word)) or word in w.PREPOSITIONS


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
    """Whether a noun names one of ``kinds``; ``before`` is the word in front of it, ``widely`` takes every common sense."""
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
    if low in IRREGULAR_PLURALS or low in BARE_PLURALS:
        return True
    return low.endswith("s") and not low.endswith(("ss", "us", "is")) and noun_lemma(low) != low


@lru_cache(maxsize=16384)
def verb_can(verb: str, kind: str, first: bool = False) -> bool:
    """Whether a verb form can be ``transitive``, ``intransitive``, ``ditransitive``, ``linking`` …; ``first``: in its main sense."""
    lemma = verb_lemma(verb)
    found = entry(lemma)
    if found.verb < 0:
        return kind in ("transitive", "intransitive")
    return bool((found.frames if first else found.any_frames) & _bits(VERB_BITS, kind))


@lru_cache(maxsize=4096)
def is_phrasal(verb: str, particle: str, takes_object: bool = False) -> bool:
    """Whether verb and particle are one verb of WordNet, such as "pick up" (one with an object, where that is asked)."""
    found = entry(f"{verb_lemma(verb)} {particle.lower()}")
    return found.verb >= 0 and (not takes_object or bool(found.any_frames & _bits(VERB_BITS, "transitive")))


def _cost(count: float, best: float) -> float:
    """Cost of a reading by its share among the counted ones."""
    return min(3.0, math.log((best + 2.0) / (count + 2.0)))


@lru_cache(maxsize=16384)
def candidates(word: str) -> tuple[tuple[str, float], ...]:
    """The tags an open-class word can have, lower-case form, each with a cost (0: the usual one).

    Tags are Penn's; ``AG`` and ``AN`` stand for a present and a past participle that modifies the following noun.
    """
    costs = _open_costs(word)
    if word in w.COLORS or word in w.ADJECTIVES or word in w.MATERIALS:
        costs["JJ"] = 0.0
        for tag in ("NN", "VB", "VBP", "VBN", "VBD", "NNP"):
            if tag in costs:
                costs[tag] = max(costs[tag], 1.0)
        if word in w.MATERIALS:
            costs["NN"] = min(costs.get("NN", 1.0), 0.7)
    if word in w.VERB_FIRST:
        for tag in ("VB", "VBP", "VBZ"):
            if tag in costs:
                costs[tag] = min(costs[tag], 0.3)
    if word in w.PLACES and "NN" in costs:
        costs["NN"] = min(costs["NN"], 0.2)
    most = (
        0.7 if is_animate(word) else 1.5 if noun_is(word, "food", "clothing", "furniture", "vehicle", "plant") else 2.2
    )
    for tag in ("NN", "NNS"):
        if tag in costs:
            costs[tag] = min(costs[tag], min(costs.values()) + most)
    least = min(costs.values())
    return tuple((tag, cost - least) for tag, cost in sorted(costs.items()))


def _open_costs(word: str) -> dict[str, float]:
    forms = lemmas(word)
    prior = _tags().get(word, "")
    costs: dict[str, float] = {}
    counts = _counts(word, forms)
    best = max(counts.values(), default=0)
    for kind, count in counts.items():
        for tag in _forms(word, kind, forms):
            cost = _cost(count, best)
            costs[tag] = min(costs.get(tag, 9.0), cost)
    if prior:
        usual = {"VBP": "VB", "NNPS": "NNS", "JJR": "JJ", "JJS": "JJ", "RBR": "RB", "RBS": "RB"}.get(prior, prior)
        for tag in list(costs):
            if tag not in (usual, prior):
                costs[tag] += 0.7
        if usual in costs:
            costs[usual] = min(costs[usual] * 0.5, 0.6)
        elif usual in ("NN", "NNS", "JJ", "RB", "VBG", "VBN", "VBD", "VBZ", "VB", "UH"):
            costs[usual] = 0.5
    if not costs:
        costs = _guess(word)
    if set(costs) == {"VBZ"} and entry(verb_lemma(word)).noun >= 0:
        costs["NNS"] = 1.0
    return _with_participles(word, costs)


def _counts(word: str, forms: dict[str, tuple[str, ...]]) -> dict[str, int]:
    counts = {}
    for kind, name in (("NOUN", "noun"), ("VERB", "verb"), ("ADJ", "adjective"), ("ADV", "adverb")):
        found = [getattr(entry(lemma), name) for lemma in forms.get(kind, ())]
        if kind in forms:
            counts[kind] = max(0, *found) if len(found) > 1 else max(0, found[0])
            if all(f < 0 for f in found):
                counts[kind] = -1
    own = entry(word)
    for kind, name in (("NOUN", "noun"), ("ADJ", "adjective"), ("ADV", "adverb")):
        if getattr(own, name) >= 0 and kind not in counts:
            counts[kind] = getattr(own, name)
    return counts


def _forms(word: str, kind: str, forms: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if kind == "NOUN":
        return (
            ("NNS",)
            if is_plural(word) and word not in BARE_PLURALS
            else (("NN", "NNS") if word in BARE_PLURALS else ("NN",))
        )
    if kind == "ADJ":
        return ("JJ",)
    if kind == "ADV":
        return ("RB",)
    out: list[str] = []
    for lemma in forms.get("VERB", (word,)):
        if lemma == word:
            out += ["VB", "VBP"]
            if word in (
                "cut",
                "put",
                "set",
                "hit",
                "let",
                "shut",
                "spread",
                "split",
                "cast",
                "hurt",
                "shed",
                "read",
                "bid",
                "cost",
            ):
                out += ["VBD", "VBN"]
        elif word.endswith("ing"):
            out.append("VBG")
        elif word.endswith("s") and len(word) >= len(lemma) and not word.endswith("ss"):
            out.append("VBZ")
        else:
            out += ["VBD", "VBN"] if _past_is_participle(word, lemma) else _past(word, lemma)
    return tuple(out)


def _past_is_participle(word: str, lemma: str) -> bool:
    return word.endswith("ed") or (word in _inflected(lemma, "VBD") and word in _inflected(lemma, "VBN"))


def _past(word: str, lemma: str) -> list[str]:
    if word in _inflected(lemma, "VBD"):
        return ["VBD"]
    if word in _inflected(lemma, "VBN"):
        return ["VBN"]
    return ["VBD", "VBN"]


@lru_cache(maxsize=2048)
def _inflected(lemma: str, tag: str) -> tuple[str, ...]:
    import lemminflect

    return tuple(lemminflect.getInflection(lemma, tag=tag))


def _with_participles(word: str, costs: dict[str, float]) -> dict[str, float]:
    """Give participles their second life as modifiers, and adjectives in -ed and -ing their verb."""
    if (
        word.endswith("ing")
        and len(word) > 4
        and ("VBG" in costs or (verb_lemma(word) != word and entry(verb_lemma(word)).verb >= 0))
    ):
        costs.setdefault("VBG", 1.2)
        costs["AG"] = min(costs.get("JJ", 9.0), 0.3 if word in w.PARTICIPLE_ADJECTIVES else 0.9)
    participle = (
        "VBN" in costs
        or (word.endswith("ed")
        and len(word) > 4
        and entry(verb_lemma(word)).verb >= 0
        and "NN" not in costs)
    )
    if participle:
        costs.setdefault("VBN", 0.8)
        if word.endswith("ed"):
            costs.setdefault("VBD", costs["VBN"] + 0.2)
        costs["AN"] = min(costs.get("JJ", 9.0), 0.5)
    return costs


def _guess(word: str) -> dict[str, float]:
    """Readings of a word that no table holds, by its ending."""
    if word[0].isdigit():
        return {"CD": 0.0, "NN": 0.6} if word.replace(",", "").replace(".", "").isdigit() else {"NN": 0.2, "JJ": 0.6}
    if "-" in word:
        last = word.rsplit("-", 1)[1]
        if last.endswith(("ed", "en", "ing", *PREFIXED_PARTS)) or last in IRREGULAR_VERBS or last in w.COLORS:
            return {"JJ": 0.0, "NN": 2.0}
        tags = dict(candidates(last)) if last.isalpha() else {}
        if "JJ" in tags and tags["JJ"] < 0.4:
            return {"JJ": 0.0, "NN": 1.0}
        return {"NNS" if is_plural(last) else "NN": 0.2, "JJ": 0.4}
    if word.endswith("ing") and len(word) > 5:
        return {"VBG": 0.0, "NN": 1.2}
    if word.endswith("ed") and len(word) > 4:
        return {"VBN": 0.0, "VBD": 0.3, "JJ": 0.6, "NN": 2.5}
    if word.endswith("ly") and len(word) > 4:
        return {"RB": 0.0, "JJ": 0.8, "NN": 1.5}
    if (
        word.endswith(("ful", "less", "ous", "ish", "able", "ible", "ive", "esque", "ian", "like", "ic", "al", "ary"))
        and len(word) > 5
    ):
        return {"JJ": 0.0, "NN": 0.8}
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return {"NNS": 0.0, "VBZ": 1.2, "NN": 0.8, "JJ": 3.0}
    if word.endswith("y") and len(word) > 4:
        return {"NN": 0.0, "JJ": 0.5, "VB": 2.5, "VBP": 2.5}
    return {"NN": 0.0, "JJ": 1.5, "VB": 2.5, "VBP": 2.5}
