"""What captions are built like: the cost of every next word around noun phrases and small words.

Each function takes the state, a tag and the place of the word, and returns the cost of going on with that tag and the
state behind it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import lexicon as lex
from . import words as w
from .preprocess import Word

NOUNS = ("NN", "NNS", "NNP", "QT")
VERBS = ("VB", "VBP", "VBZ", "VBD", "VBN", "VBG")
FINITE = ("VBP", "VBZ", "VBD", "MD")
MODIFIERS = ("JJ", "CD", "AG", "AN")


class State(NamedTuple):
    """What the grammar remembers between two words."""

    np: int = 0  # 0 outside, 1 needs a noun, 2 has one, 3 adjectives that may also end as a predicate
    det: str = ""  # number that the determiner asks for: s, p or nothing
    head: str = ""  # number of the last noun
    pobj: bool = False  # the noun phrase hangs on a preposition
    clause: str = (
        "o"  # o no subject yet, S subject, P participle, F finite verb, R relative clause before the main verb
    )
    subject: str = ""  # number of the subject
    slot: str = ""  # what the last verb waits for: T object, O perhaps one, I none, d two, D the second, c and C its
    # object that acts, B predicate, L perhaps one, M infinitive, H participle
    prev: str = "^"  # the last tag
    fresh: bool = False  # a noun phrase began after a conjunction or comma, so a new clause may begin
    verb: str = ""  # form of the last verb, for coordination


def following(sentence: list[Word], i: int, n: int = 1) -> str:
    return sentence[i + n].low if i + n < len(sentence) else ""


def starts_noun_phrase(low: str) -> bool:
    if not low or low == ",":
        return False
    return low in w.DETERMINERS or low in w.POSSESSIVES or low in w.NUMBERS or low in w.PRONOUNS


def close(state: State) -> float:
    """Cost of ending the noun phrase that is open."""
    if state.np == 1:
        return 5.0
    if state.np == 2 and state.prev != "PRP":
        if state.det == "s" and state.head == "p":
            return 4.0
        if state.det == "p" and state.head == "s":
            return 1.2
    return 0.0


def _begin(state: State, cost: float) -> tuple[float, dict[str, Any]]:
    """A noun phrase begins: what it is to the last verb or preposition."""
    pobj = state.prev == "IN"
    changes: dict[str, Any] = {"pobj": pobj, "fresh": state.fresh or state.prev in ("CC", ",")}
    if pobj:
        return cost, changes
    if state.prev in VERBS or (state.prev in ("RP", "RB") and state.slot):
        cost += {"I": 1.2, "M": 2.0, "H": 1.0}.get(state.slot, 0.0)
        changes["slot"] = {"d": "D", "c": "C"}.get(state.slot, "")
        return cost, changes
    if state.np in (2,) and state.slot == "D":
        changes["slot"] = ""
        return cost + 0.2, changes
    if state.prev == "TO":
        return cost + 4.0, changes
    if state.prev in ("CC", ",", "^", "SUB", "WDT", "PRED", "RB", "UH", "DT", "CD", "JJ", "EX"):
        if state.clause == "o" or state.prev in ("SUB",):
            changes["clause"] = "S"
        return cost, changes
    return cost, changes


def noun(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low = sentence[i].low
    number = "p" if tag == "NNS" else "x" if tag in ("NNP", "QT") else "s"
    cost = 0.0
    changes: dict[str, Any] = {}
    if state.np == 2:
        if state.prev == "PRP":
            cost += 0.3 if state.slot == "D" else 4.0
            cost, changes = _begin(state, cost)
            changes["det"] = ""
        elif tag == "QT" or state.prev == "QT":
            cost += 0.2
        elif state.prev == "POS":
            cost += 0.0
        elif state.prev == "NNP" and tag == "NNP":
            cost += 0.05
        elif state.head == "p":
            cost += 2.2
        elif state.prev == "NN" and tag == "NNP":
            cost += 0.3 if lex.is_animate(sentence[i - 1].low) else 0.8
        else:
            cost += 0.45
        if low.endswith("ing") and lex.verb_lemma(low) != low:
            cost += 1.2 if following(sentence, i) in w.PREPOSITIONS - {"of"} else 0.6
    elif state.np == 0:
        cost, changes = _begin(state, 0.0)
        changes["det"] = ""
    elif state.np == 3 and "pobj" not in changes:
        cost += 0.1
    if state.prev == "TO":
        cost += 4.0
    changes.update(np=2, head=number, prev=tag)
    if changes.get("clause", state.clause) in ("S", "o") and not changes.get("pobj", state.pobj):
        if changes.get("fresh", state.fresh) and state.clause == "S":
            changes["subject"] = (
                "x" if state.prev != "," and state.subject and state.np != 2 else state.subject or number
            )
        elif not changes.get("pobj", state.pobj):
            changes["subject"] = number
        if state.clause == "o" and "clause" not in changes and not changes.get("pobj", state.pobj):
            changes["clause"] = "S"
    elif changes.get("fresh", state.fresh) and not changes.get("pobj", state.pobj):
        changes["subject"] = number
    if low in w.ADJECTIVES and tag == "NN":
        cost += 0.3
    after = following(sentence, i)
    if (
        low.endswith("ing")
        and state.prev in (",", "^")
        and after
        and after != ","
        and after != "of"
        and lex.verb_lemma(low) != low
    ):
        cost += 0.8
    return cost, state._replace(**changes)


def modifier(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low = sentence[i].low
    cost = 0.0
    changes: dict[str, Any] = {}
    predicate = state.slot in ("B", "L") and state.prev in (*VERBS, "RB", "CC", "JJ", "MD", ",")
    after = following(sentence, i)
    if state.np == 2 and state.prev != "POS":
        return _after_noun(state, tag, low, after)
    if state.np == 0:
        cost, changes = _begin(state, 0.0)
        changes["det"] = ""
        if predicate:
            changes["slot"] = state.slot
    if predicate and after == "by":
        cost += 2.0
    if low == "one":
        changes["det"] = "s"
    elif tag == "CD":
        changes["det"] = "p" if low not in ("1",) else "s"
    if tag in ("AG", "AN"):
        purpose = low in w.PURPOSE_NOUNS and after in w.PURPOSE_HEADS
        if tag == "AG":
            cost += -0.6 if purpose else 0.0
            if state.np == 0 and not purpose:
                cost += 1.5 if state.prev == "," else 0.9
        if state.np == 0 and tag == "AN":
            cost += 0.5
        if predicate and state.np == 0:
            cost += 1.5
        if not after or after == "," or after in w.PREPOSITIONS or after in w.DETERMINERS:
            cost += 2.0
    changes.update(np=3 if predicate and state.np in (0, 3) else 1 if state.np != 3 else 3, prev=tag)
    if (
        changes["np"] == 1
        and state.np == 0
        and tag == "JJ"
        and (not after or after in (",", "and"))
        and state.prev in ("^", ",", "CC")
    ):
        changes["np"] = 3
        cost += 0.2
    if state.prev == "TO":
        cost += 4.0
    return cost, state._replace(**changes)


def _after_noun(state: State, tag: str, low: str, after: str) -> tuple[float, State]:
    """An adjective behind its noun: 'a net full of fish', 'a cat asleep'."""
    cost = close(state)
    if tag in ("AG", "AN"):
        return cost + 3.0, state._replace(np=1, prev=tag, head="")
    if tag == "CD":
        return cost + 1.2, state._replace(np=2, prev="CD")
    cost += 0.5 if low in w.POSTPOSITIVE else 3.0
    if after and after not in w.PREPOSITIONS and after not in (",", "and", "in", "with"):
        cost += 1.0
    return cost, state._replace(np=3, prev=tag, fresh=False, slot="")


def determiner(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low = sentence[i].low
    cost = 0.0
    if state.np == 2 and state.prev != "POS":
        cost = close(state) + (0.1 if state.slot == "D" else 1.0 if state.prev == "PRP" else 3.5)
    elif state.np == 1 and state.prev == "DT":
        cost = 0.1
    elif state.np in (1, 3):
        cost = 0.4 if state.np == 3 else 3.5
    more, changes = _begin(state, cost)
    if state.prev == "TO":
        more += 4.0
    if tag in ("PRP", "EX"):
        changes.update(np=2, det="", head="x", prev="PRP")
        if changes.get("clause", state.clause) in ("o", "S") and not changes["pobj"]:
            changes.update(clause="S", subject="x")
        elif changes["fresh"]:
            changes["subject"] = "x"
        return more, state._replace(**changes)
    number = (
        "s"
        if low in w.SINGULAR_DETERMINERS
        else "p"
        if low in w.PLURAL_DETERMINERS
        else state.det
        if state.np == 1
        else ""
    )
    changes.update(np=1, det=number, prev="DT", head="")
    return more, state._replace(**changes)


def function(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    after = following(sentence, i)
    if tag == "POS":
        cost = 0.0 if state.np == 2 and state.prev in NOUNS else 4.0
        return cost, state._replace(np=1, det="", prev="POS", head="")
    if tag == "RB":
        if state.np in (1, 3):
            return 0.0, state._replace(prev="RB") if state.np == 1 else state
        return close(state), state._replace(np=0, prev="RB", head="", det="")
    if tag == "CC" or tag == ",":
        return _coordination(state, tag, after)
    if tag == "RP":
        return _particle(state, sentence, i)
    cost = close(state)
    if tag == "IN":
        if state.prev == "IN":
            cost += 1.5
        if not after or after in (",", "and"):
            cost += 2.0
        slot = state.slot if state.slot in ("D",) else ""
        if state.slot == "T":
            cost += 0.3
        return cost, state._replace(np=0, prev="IN", slot=slot, head="", det="", pobj=True)
    if tag == "TO":
        return cost, state._replace(np=0, prev="TO", slot="", head="", det="")
    if tag == "WDT":
        cost += 0.0 if state.np == 2 or state.prev == "IN" or state.prev == "," else 1.5
        clause = "R" if state.clause in ("S",) else state.clause
        return cost, state._replace(np=0, prev="WDT", clause=clause, fresh=True, head="", det="", slot="")
    if tag == "SUB":
        return cost, state._replace(np=0, prev="SUB", clause="o", subject="", slot="", head="", det="", fresh=False)
    return cost + 1.0, state._replace(np=0, prev=tag, head="", det="")


def _coordination(state: State, tag: str, after: str) -> tuple[float, State]:
    if state.np == 1 and state.prev in ("JJ", "AN", "AG", "NN", "CD", "RB"):
        return 0.1 if tag == "CC" else 0.3, state._replace(prev=tag)
    if state.np == 3:
        return 0.0, state._replace(prev=tag)
    cost = close(state) + (1.0 if not after else 0.0)
    return cost, state._replace(np=0, prev=tag, head="", det="", pobj=False, fresh=False)


def _particle(state: State, sentence: list[Word], i: int) -> tuple[float, State]:
    low, after = sentence[i].low, following(sentence, i)
    cost = close(state)
    if state.prev in VERBS:
        ends = not after or after == "," or after in w.PREPOSITIONS or after in w.COORDINATORS
        known = lex.is_phrasal(sentence[i - 1].low, low, takes_object=not ends)
        cost += 0.0 if known else 0.9
        if (
            known
            and low not in ("by", "in", "over", "through", "along", "around")
            and not (low == "on" and state.slot in ("I", "L"))
        ):
            cost -= 0.5
        if not after or after == "," or after in w.PREPOSITIONS or after in w.COORDINATORS:
            cost -= 0.8
        return cost, state._replace(np=0, prev="RP", head="", det="")
    if state.np == 2 and state.prev in (*NOUNS, "PRP") and state.slot == "":
        cost += 0.6 if not after or after in w.PREPOSITIONS or after == "," else 2.5
        return cost, state._replace(np=0, prev="RP", head="", det="")
    return cost + 3.0, state._replace(np=0, prev="RP", head="", det="")
