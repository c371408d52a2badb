"""The tags that a word of a sentence can have, each with a cost; 0 is the usual reading.

Tags are Penn's; ``AG`` and ``AN`` stand for a present and a past participle that modifies the following noun, ``QT``
for a quote, ``SUB`` for a conjunction that opens a clause.
"""

from __future__ import annotations

import math
from functools import lru_cache

from . import lexicon as lex
from . import words as w
from .preprocess import IDIOMS, Word

LAST_PARTS = (
    "ed", "en", "ing", "haired", "eyed", "faced", "colored", "coloured", "shaped", "headed", "legged", "like",
    "looking", "free",
)  # fmt: skip
BE_TAGS = {
    "is": "VBZ", "'s": "VBZ", "are": "VBP", "'re": "VBP", "am": "VBP", "was": "VBD", "were": "VBD", "be": "VB",
    "been": "VBN", "being": "VBG",
}  # fmt: skip


def options(sentence: list[Word], i: int, flat: bool) -> list[tuple[str, float]]:
    """Tags and costs of word ``i``; ``flat``: capitals mean nothing in this sentence."""
    word = sentence[i]
    low = word.low
    if word.quote:
        return [("QT", 0.0)]
    if low in w.LONE_PLACES and _alone(sentence, i):
        return [("NN", 0.0)]
    if low == ",":
        return [(",", 0.0)]
    closed = _closed(sentence, i)
    if closed is not None:
        return closed
    found = dict(candidates(low))
    if _alone(sentence, i):
        found = {name: cost + (0.0 if name in ("NN", "NNS", "VBG", "NNP") else 1.5) for name, cost in found.items()}
    if not flat and word.text[0].isupper():
        found = _capital(sentence, i, found)
    return sorted(found.items())


def _alone(sentence: list[Word], i: int) -> bool:
    """Whether a word is a comma segment of its own."""
    left = i == 0 or sentence[i - 1].text == ","
    return left and (i + 1 == len(sentence) or sentence[i + 1].text == ",")


def _closed(sentence: list[Word], i: int) -> list[tuple[str, float]] | None:
    """Tags of the closed classes; None for an open-class word."""
    word, low = sentence[i], sentence[i].low
    if low in ("each other", "one another"):
        return [("PRP", 0.0)]
    if len(word.parts) > 1:
        return [("RB", 0.0)] if low in IDIOMS else [("IN", 0.0)]
    if low in ("'s", "’s", "'", "’"):
        return [("POS", 0.0), ("VBZ", 1.5)] if len(low) > 1 else [("POS", 0.0)]
    if low in w.BE:
        return [(BE_TAGS.get(low, "VBZ"), 0.0)]
    if low in w.MODALS:
        return [("MD", 0.0), ("NN", 2.0)] if low in ("can", "will", "might", "must") else [("MD", 0.0)]
    if low in w.HAVE or low in w.DO:
        return [({"has": "VBZ", "does": "VBZ", "had": "VBD", "did": "VBD", "having": "VBG"}.get(low, "VBP"), 0.0)]
    if low == "to":
        return [("TO", 0.0), ("IN", 0.0)]
    if low == "that":
        return [("DT", 0.3), ("WDT", 0.0)]
    if low in ("who", "which", "whom", "whose", "where"):
        return [("WDT", 0.0)]
    if low in w.POSSESSIVES:
        return [("PRP$", 0.0), ("PRP", 0.4)] if low == "her" else [("PRP$", 0.0)]
    if low == "no":
        return [("DT", 0.0)]
    if low in w.NUMBERS or low.isdigit():
        return [("CD", 0.0), ("PRP", 3.0)] if low == "one" else [("CD", 0.0)]
    if low in w.DETERMINERS:
        return [("DT", 0.0)]
    if low in ("left", "right"):
        return [("JJ", 0.0), ("NN", 0.8), ("RB", 0.5)] + ([("VBD", 0.7), ("VBN", 0.7)] if low == "left" else [])
    if low == "other":
        return [("JJ", 0.0)]
    if low in w.PRONOUNS:
        return [("PRP", 0.0)]
    if low == "there":
        return [("EX", 0.2), ("RB", 0.2)]
    if low in w.COORDINATORS:
        return [("CC", 0.0)]
    if low in ("not", "n't", "n’t", "never"):
        return [("RB", 0.0)]
    return _open_closed(low)


def _open_closed(low: str) -> list[tuple[str, float]] | None:
    """Words that are prepositions, particles, conjunctions or adverbs, some of them also open-class words."""
    found: dict[str, float] = {}
    if low in w.SUBORDINATORS:
        found["SUB"] = {"as": 0.6, "before": 0.6, "after": 0.6, "since": 0.5, "until": 0.5, "once": 0.8, "so": 0.8}.get(
            low, 0.0
        )
    if low in w.PREPOSITIONS or low == "as":
        found["IN"] = 0.0
    if low in w.PARTICLES:
        found["RP"] = 0.4
    if found:
        if low in (
            "like",
            "near",
            "past",
            "opposite",
            "round",
            "inside",
            "outside",
            "off",
            "down",
            "up",
            "over",
            "in",
            "around",
            "behind",
            "above",
            "below",
        ):
            found.setdefault("RB", 1.2)
        if low in ("like", "near"):
            found["VBP"] = 2.0
            found["VB"] = 1.0 if low == "like" else 2.0
        if low in ("opposite", "inside", "outside", "past"):
            found["JJ"] = 1.0
            found["NN"] = 2.0
        if low == "round":
            found["JJ"] = 0.0
            found["IN"] = 1.0
        if low in ("together", "away", "apart", "aside", "forward", "along", "back"):
            found.setdefault("RB", 0.6)
        if low in ("back", "top"):
            found["NN"] = 0.3
            found["JJ"] = 1.0
        return sorted(found.items())
    if low == "together" or low == "away" or low == "back":
        return [("NN", 0.3), ("RP", 0.3), ("RB", 0.5)] if low == "back" else [("RP", 0.2), ("RB", 0.2)]
    if low in w.ADVERBS:
        extra = {tag: cost + 0.3 for tag, cost in candidates(low) if tag in ("JJ", "NN")}
        if low in w.ADJECTIVES or low in ("together", "alone"):
            return sorted({**extra, "RB": 0.4}.items())
        return sorted({**extra, "RB": 0.0}.items())
    return None


def _capital(sentence: list[Word], i: int, found: dict[str, float]) -> dict[str, float]:
    """A capital inside a sentence is a name; at its start only when the word is unknown or another name follows."""
    low = sentence[i].low
    known = lex.is_known(lex.noun_lemma(low))
    first = i == 0 or sentence[i - 1].text == ","
    if not first:
        return {"NNP": 0.0, **{tag: cost + 1.5 for tag, cost in found.items() if tag not in ("AG", "AN")}}
    if not known and not low.endswith(("ing", "ed")):
        return {"NNP": 0.0, **{tag: cost + 0.8 for tag, cost in found.items()}}
    nextword = sentence[i + 1].text if i + 1 < len(sentence) else ""
    if nextword[:1].isupper() and nextword[1:].islower() and i + 1 < len(sentence):
        return {**found, "NNP": 0.5}
    return found


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
    if word in w.MEDIA and "NN" in costs:
        costs["NN"] = min(costs["NN"], 0.5)
    if word in w.PLACES and "NN" in costs:
        costs["NN"] = min(costs["NN"], 0.2)
    most = (
        0.7
        if lex.is_animate(word)
        else 1.5
        if lex.noun_is(word, "food", "clothing", "furniture", "vehicle", "plant")
        else 2.2
    )
    for tag in ("NN", "NNS"):
        if tag in costs:
            costs[tag] = min(costs[tag], min(costs.values()) + most)
    least = min(costs.values())
    return tuple((tag, cost - least) for tag, cost in sorted(costs.items()))


def _open_costs(word: str) -> dict[str, float]:
    forms = lex.lemmas(word)
    prior = lex.usual_tags().get(word, "")
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
    if set(costs) == {"VBZ"} and lex.entry(lex.verb_lemma(word)).noun >= 0:
        costs["NNS"] = 1.0
    return _with_participles(word, costs)


def _counts(word: str, forms: dict[str, tuple[str, ...]]) -> dict[str, int]:
    counts = {}
    for kind, name in (("NOUN", "noun"), ("VERB", "verb"), ("ADJ", "adjective"), ("ADV", "adverb")):
        found = [getattr(lex.entry(lemma), name) for lemma in forms.get(kind, ())]
        if kind in forms:
            counts[kind] = max(0, *found) if len(found) > 1 else max(0, found[0])
            if all(f < 0 for f in found):
                counts[kind] = -1
    own = lex.entry(word)
    for kind, name in (("NOUN", "noun"), ("ADJ", "adjective"), ("ADV", "adverb")):
        if getattr(own, name) >= 0 and kind not in counts:
            counts[kind] = getattr(own, name)
    return counts


def _forms(word: str, kind: str, forms: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if kind == "NOUN":
        return (
            ("NNS",)
            if lex.is_plural(word) and word not in w.BARE_PLURALS
            else (("NN", "NNS") if word in w.BARE_PLURALS else ("NN",))
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
        and ("VBG" in costs or (lex.verb_lemma(word) != word and lex.entry(lex.verb_lemma(word)).verb >= 0))
    ):
        costs.setdefault("VBG", 1.2)
        costs["AG"] = min(costs.get("JJ", 9.0), 0.3 if word in w.PARTICIPLE_ADJECTIVES else 0.9)
    participle = "VBN" in costs or (
        word.endswith("ed") and len(word) > 4 and lex.entry(lex.verb_lemma(word)).verb >= 0 and "NN" not in costs
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
        if last.endswith(LAST_PARTS) or last in w.IRREGULAR_PARTICIPLES or last in w.COLORS:
            return {"JJ": 0.0, "NN": 2.0}
        tags = dict(candidates(last)) if last.isalpha() else {}
        if "JJ" in tags and tags["JJ"] < 0.4:
            return {"JJ": 0.0, "NN": 1.0}
        return {"NNS" if lex.is_plural(last) else "NN": 0.2, "JJ": 0.4}
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
