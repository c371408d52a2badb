"""What clauses are built like: the cost of reading a word as a verb (see ``grammar``)."""

from __future__ import annotations

from typing import Any

from . import lexicon as lex
from . import words as w
from .grammar import FINITE, NOUNS, VERBS, State, close, following, starts_noun_phrase
from .preprocess import Word


def _waits_for(low: str, tag: str) -> str:
    """What a verb form waits for."""
    if low in w.BE:
        return "B"
    if low in w.HAVE:
        return "H"
    if tag == "MD" or low in w.DO:
        return "M"
    lemma = lex.verb_lemma(low)
    if lemma in (
        "look",
        "seem",
        "appear",
        "become",
        "feel",
        "get",
        "stay",
        "remain",
        "turn",
        "lie",
        "sit",
        "stand",
        "keep",
        "smell",
        "taste",
        "go",
        "come",
        "grow",
    ):
        return "L"
    if tag == "VBN":
        return "I"
    transitive, intransitive = lex.verb_can(low, "transitive"), lex.verb_can(low, "intransitive")
    if lemma in w.CAUSATIVES:
        return "c"
    if lex.verb_can(low, "ditransitive") and lemma in w.DITRANSITIVES:
        return "d"
    if transitive and not intransitive:
        return "T"
    if not transitive:
        return "I"
    return "O"


def verb(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low, after = sentence[i].low, following(sentence, i)
    cost = close(state)
    if state.np == 3:
        cost += 0.6
    if (state.slot in ("M",) and state.prev in (*VERBS, "MD", "RB", "PRP", *NOUNS)) or state.prev == "TO":
        return _infinitive(state, tag, cost, low)
    if tag in ("VBG", "VBN"):
        cost += _participle(state, tag, sentence, i)
        clause = state.clause if state.clause in ("F", "R") else "P"
        if state.prev in VERBS and state.slot in ("B", "H"):
            clause = "F" if state.clause == "F" else state.clause
    else:
        more, clause = _finite(state, tag, sentence, i)
        cost += more
    slot = _waits_for(low, tag)
    if slot == "T" and (not after or after in (",", "and")):
        cost += 0.5
    if slot in ("T", "d") and after in w.PREPOSITIONS and after not in w.PARTICLES and tag != "VBN":
        cost += 1.0 if after == "of" else 0.2
    if tag == "VBG" and after == "of":
        cost += 1.5
    changes: dict[str, Any] = {
        "np": 0,
        "det": "",
        "head": "",
        "pobj": False,
        "clause": clause,
        "slot": slot,
        "prev": tag,
        "fresh": False,
        "verb": tag,
    }
    return cost, state._replace(**changes)


def _infinitive(state: State, tag: str, cost: float, low: str) -> tuple[float, State]:
    cost += -0.6 if tag == "VB" else 3.0
    clause = "F" if state.slot == "M" else state.clause if state.clause in ("F", "R") else "P"
    return cost, state._replace(
        np=0, det="", head="", pobj=False, clause=clause, slot=_waits_for(low, tag), prev=tag, fresh=False, verb=tag
    )


def _participle(state: State, tag: str, sentence: list[Word], i: int) -> float:
    low, after, prev = sentence[i].low, following(sentence, i), state.prev
    cost = 0.0
    if prev in VERBS and state.slot == "B":
        return -0.6
    if prev in ("RB", "CC", "PRP") and state.slot == "B":
        return -0.4
    if prev in VERBS and state.slot == "H" and tag == "VBN":
        return -0.4
    if state.np == 2 or prev == "RP":
        cost = 0.2
        if prev in NOUNS and tag == "VBG":
            before = sentence[i - 2].low if i > 1 else ""
            cost += -0.4 if lex.is_animate(sentence[i - 1].low, "" if i < 2 else before) else 0.3
            if low in w.PURPOSE_NOUNS and after in w.PURPOSE_HEADS:
                cost += 0.8
        if state.clause == "o":
            cost += 0.5
    elif prev in (",", "CC"):
        cost = 0.3
    elif prev == "^":
        cost = 0.9
        if low in w.PURPOSE_NOUNS and after in w.PURPOSE_HEADS:
            cost += 1.0
    elif prev == "SUB":
        cost = 0.0
    elif prev == "IN":
        cost = 1.2 if tag == "VBG" else 3.0
    elif prev in VERBS:
        cost = 0.0 if lex.verb_lemma(sentence[i - 1].low) in w.CATENATIVES else 2.0
    elif prev in ("RB",):
        cost = 0.3
    elif prev == "WDT":
        cost = 2.0
    if tag == "VBN":
        cost += _passive(state, low, after)
    return cost


def _passive(state: State, low: str, after: str) -> float:
    """Cost of reading a past participle behind a noun as a passive."""
    cost = 0.3
    if not lex.verb_can(low, "transitive"):
        cost += 2.0
    elif not lex.verb_can(low, "transitive", first=True):
        cost += 0.6
    if after == "by":
        return cost - 0.8
    if (
        after
        and after not in w.PREPOSITIONS
        and after not in (",", "and", "to", "while")
        and after not in w.ADVERBS
        and after not in w.PARTICLES
    ):
        cost += 1.6
    return cost


def _finite(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, str]:
    low, after, cost = sentence[i].low, following(sentence, i), 0.0
    clause = state.clause
    if state.prev == "WDT":
        new = "R" if clause == "R" else "F"
        return (0.0 if tag != "VBP" else 0.3), new
    opens = clause == "R" and state.fresh  # the verb of the relative clause itself
    if clause == "o":
        cost += 2.2
    elif clause == "F" and tag in ("VB", "VBP") and state.verb in ("VB", "VBP") and low not in w.BE and state.np == 2:
        return 1.2, "F"
    elif clause == "F" and state.prev == "," and tag == "VBZ" == state.verb:
        cost += 0.3  # "jumps, spins and lands"
    elif clause == "F":
        cost += (
            0.0 if (state.prev == "CC" and state.verb in FINITE) or state.prev == "CC" else 0.4 if state.fresh else 2.5
        )
        if state.prev == "CC" and state.verb in FINITE and state.verb != tag and "VBD" not in (state.verb, tag):
            cost += 0.4
    elif clause == "P":
        cost += 0.5
        if state.prev == "CC" and state.verb == "VBG":
            cost += 0.8
    elif clause == "R":
        cost += 0.2
    if clause in ("S", "P", "R") or state.fresh:
        agrees = state.subject
        if tag == "VBZ" and agrees == "p":
            cost += 2.2
        elif tag == "VBZ" and agrees == "x" and state.fresh:
            cost += 0.3
        elif tag == "VBP" and low not in w.BE and agrees == "s" and not (state.fresh and clause == "S"):
            cost += 2.0
    if tag == "VB":
        if state.slot == "C" and state.np == 2:
            return 0.2, state.clause
        cost += 2.0
    if state.prev == "IN":
        cost += 3.0
    if tag in ("VB", "VBP") and state.np == 2 and state.pobj and state.head == "s":
        cost += 1.0
    if state.prev in VERBS and state.slot not in ("B", "H", "M") and clause != "R":
        cost += 2.5
    if tag in ("VB", "VBP") and state.prev == "NN" and after in ("", ",") and low not in w.BE:
        cost += 1.0
    if tag == "VBD" and low not in w.BE and low not in w.HAVE:
        cost += 0.5
        if after == "by":
            cost += 2.0
        if (
            not starts_noun_phrase(after)
            and lex.verb_can(low, "transitive", first=True)
            and not lex.verb_can(low, "intransitive")
        ):
            cost += 0.8
    return cost, "R" if opens else "F"
