"""Tag the words of a sentence: a beam search over a small hand-weighted grammar of captions.

Every word offers the tags that the lexicon knows for it; the search follows how a caption is built (noun phrase, verb,
object, prepositional phrase) and charges what English does not do: "a dogs", a noun phrase without a noun, a second finite
verb in one clause, a caption without any verb. The cheapest path wins, so one rare reading of one word cannot spoil the
rest. Besides Penn's tags there are ``AG`` and ``AN`` (participles that modify the next noun), ``QT`` (a quote), ``SUB`` (a
conjunction that opens a clause) and ``PRED`` never leaves this module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import lexicon as lex
from . import words as w
from .preprocess import IDIOMS, Word

BEAM = 20
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
    slot: str = ""  # what the last verb waits for: T object, O perhaps, I none, D second object, B predicate, M infinitive, H participle
    prev: str = "^"  # the last tag
    fresh: bool = False  # a noun phrase began after a conjunction or comma, so a new clause may begin
    verb: str = ""  # form of the last verb, for coordination


def tag(sentence: list[Word], shouting: bool = False, titled: bool = False) -> list[str]:
    """Tags of the words of one sentence, in order."""
    options = [_options(sentence, i, shouting or titled) for i in range(len(sentence))]
    beam: dict[State, tuple[float, tuple]] = {State(): (0.0, ())}
    for i, choices in enumerate(options):
        following: dict[State, tuple[float, tuple]] = {}
        for state, (cost, path) in beam.items():
            for name, own in choices:
                extra, new = _step(state, name, sentence, i)
                total = cost + own + extra
                if new not in following or total < following[new][0]:
                    following[new] = (total, (path, name))
        ranked = sorted(following.items(), key=lambda item: item[1][0])
        beam = dict(ranked[:BEAM])
    best = min(beam.items(), key=lambda item: item[1][0] + _end(item[0], sentence))
    tags: list[str] = []
    path = best[1][1]
    while path:
        path, name = path
        tags.append(name)
    return tags[::-1]


# ---------------------------------------------------------------------------------------------------- what a word can be


def _options(sentence: list[Word], i: int, flat: bool) -> list[tuple[str, float]]:
    word = sentence[i]
    low = word.low
    if word.quote:
        return [("QT", 0.0)]
    if low in SCENERY and _alone(sentence, i):
        return [("NN", 0.0)]
    if low == ",":
        return [(",", 0.0)]
    closed = _closed(sentence, i)
    if closed is not None:
        return closed
    found = dict(lex.candidates(low))
    if _alone(sentence, i):
        found = {name: cost + (0.0 if name in ("NN", "NNS", "VBG", "NNP") else 1.5) for name, cost in found.items()}
    if not flat and word.text[0].isupper():
        found = _capital(sentence, i, found)
    return sorted(found.items())


SCENERY = frozenset(["outdoors", "indoors", "outside", "inside", "underwater", "solo"])


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
        return [({"is": "VBZ", "'s": "VBZ", "are": "VBP", "'re": "VBP", "am": "VBP", "was": "VBD", "were": "VBD", "be": "VB", "been": "VBN", "being": "VBG"}.get(low, "VBZ"), 0.0)]  # fmt: skip
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
        extra = {tag: cost + 0.3 for tag, cost in lex.candidates(low) if tag in ("JJ", "NN")}
        if low in w.ADJECTIVES or low in ("together", "alone"):
            return sorted({**extra, "RB": 0.4}.items())
        return sorted({**extra, "RB": 0.0}.items())
    return None


def _capital(sentence: list[Word], i: int, found: dict[str, float]) -> dict[str, float]:
    """A capital inside a sentence is a name; at its start only when the word is unknown or another name follows."""
    low = sentence[i].low
    known = lex.noun_lemma(low) in lex._entries() or low in lex._tags()
    first = i == 0 or sentence[i - 1].text == ","
    if not first:
        return {"NNP": 0.0, **{tag: cost + 1.5 for tag, cost in found.items() if tag not in ("AG", "AN")}}
    if not known and not low.endswith(("ing", "ed")):
        return {"NNP": 0.0, **{tag: cost + 0.8 for tag, cost in found.items()}}
    nextword = sentence[i + 1].text if i + 1 < len(sentence) else ""
    if nextword[:1].isupper() and nextword[1:].islower() and i + 1 < len(sentence):
        return {**found, "NNP": 0.5}
    return found


# ---------------------------------------------------------------------------------------------------------- the grammar


def _next(sentence: list[Word], i: int, n: int = 1) -> str:
    return sentence[i + n].low if i + n < len(sentence) else ""


def _starts_noun_phrase(low: str) -> bool:
    if not low or low == ",":
        return False
    return low in w.DETERMINERS or low in w.POSSESSIVES or low in w.NUMBERS or low in w.PRONOUNS


def _close(state: State) -> float:
    """Cost of ending the noun phrase that is open."""
    if state.np == 1:
        return 5.0
    if state.np == 2 and not (state.prev == "PRP"):
        if state.det == "s" and state.head == "p":
            return 4.0
        if state.det == "p" and state.head == "s":
            return 1.2
    return 0.0


def _step(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    if tag in NOUNS:
        return _noun(state, tag, sentence, i)
    if tag in MODIFIERS:
        return _modifier(state, tag, sentence, i)
    if tag in ("DT", "PRP$", "PRP", "EX"):
        return _determiner(state, tag, sentence, i)
    if tag in VERBS or tag == "MD":
        return _verb(state, tag, sentence, i)
    return _function(state, tag, sentence, i)


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


def _noun(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
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
            cost += 0.6
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
    after = _next(sentence, i)
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


def _modifier(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low = sentence[i].low
    cost = 0.0
    changes: dict[str, Any] = {}
    predicate = state.slot in ("B", "L") and state.prev in (*VERBS, "RB", "CC", "JJ", "MD", ",")
    after = _next(sentence, i)
    if state.np == 2 and state.prev != "POS":
        return _after_noun(state, tag, low, after)
    if state.np == 0:
        cost, changes = _begin(state, 0.0)
        changes["det"] = ""
        if predicate:
            changes["slot"] = state.slot
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
    cost = _close(state)
    if tag in ("AG", "AN"):
        return cost + 3.0, state._replace(np=1, prev=tag, head="")
    if tag == "CD":
        return cost + 1.2, state._replace(np=2, prev="CD")
    cost += 0.5 if low in w.POSTPOSITIVE else 2.4
    if after and after not in w.PREPOSITIONS and after not in (",", "and", "in", "with"):
        cost += 1.0
    return cost, state._replace(np=3, prev=tag, fresh=False, slot="")


def _determiner(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low = sentence[i].low
    cost = 0.0
    if state.np == 2 and state.prev != "POS":
        cost = _close(state) + (0.1 if state.slot == "D" else 1.0 if state.prev == "PRP" else 3.5)
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
    if lemma in CAUSATIVES:
        return "c"
    if lex.verb_can(low, "ditransitive") and lemma in DITRANSITIVES:
        return "d"
    if transitive and not intransitive:
        return "T"
    if not transitive:
        return "I"
    return "O"


CAUSATIVES = frozenset(["make", "let", "help", "watch", "see", "hear", "have"])
DITRANSITIVES = frozenset(
    ["give", "hand", "show", "offer", "send", "bring", "pass", "throw", "toss", "feed", "teach", "tell", "buy", "serve", "lend", "sell", "pay", "read", "write", "make", "cook", "get", "award", "grant", "lend", "pour", "fetch", "build"]
)


def _verb(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low, after = sentence[i].low, _next(sentence, i)
    cost = _close(state)
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
    low, after, prev = sentence[i].low, _next(sentence, i), state.prev
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
        cost = 0.0 if lex.verb_lemma(sentence[i - 1].low) in CATENATIVE else 1.0
    elif prev in ("RB",):
        cost = 0.3
    elif prev == "WDT":
        cost = 2.0
    if tag == "VBN":
        cost += _passive(state, low, after)
    return cost


CATENATIVE = frozenset(
    ["start", "begin", "keep", "stop", "try", "enjoy", "like", "love", "continue", "finish", "go", "practice", "sit", "stand", "lie", "come", "get", "prefer", "hate"]
)


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
    low, after, cost = sentence[i].low, _next(sentence, i), 0.0
    clause = state.clause
    if state.prev == "WDT":
        new = "R" if clause == "R" else "F"
        return (0.0 if tag != "VBP" else 0.3), new
    opens = clause == "R" and state.fresh  # the verb of the relative clause itself
    if clause == "o":
        cost += 2.2
    elif clause == "F" and tag in ("VB", "VBP") and state.verb in ("VB", "VBP") and low not in w.BE and state.np == 2:
        return 1.2, "F"
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
    if state.prev in VERBS and state.slot not in ("B", "H", "M") and clause != "R":
        cost += 2.5
    if tag in ("VB", "VBP") and state.prev == "NN" and after in ("", ",") and low not in w.BE:
        cost += 1.0
    if tag == "VBD" and low not in w.BE and low not in w.HAVE:
        cost += 0.5
        if after == "by":
            cost += 2.0
        if (
            not _starts_noun_phrase(after)
            and lex.verb_can(low, "transitive", first=True)
            and not lex.verb_can(low, "intransitive")
        ):
            cost += 0.8
    return cost, "R" if opens else "F"


def _function(state: State, tag: str, sentence: list[Word], i: int) -> tuple[float, State]:
    low, after = sentence[i].low, _next(sentence, i)
    if tag == "POS":
        cost = 0.0 if state.np == 2 and state.prev in NOUNS else 4.0
        return cost, state._replace(np=1, det="", prev="POS", head="")
    if tag == "RB":
        if state.np in (1, 3):
            return 0.0, state._replace(prev="RB") if state.np == 1 else state
        return _close(state), state._replace(np=0, prev="RB", head="", det="")
    if tag == "CC" or tag == ",":
        return _coordination(state, tag, after)
    if tag == "RP":
        return _particle(state, sentence, i)
    cost = _close(state)
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
    cost = _close(state) + (1.0 if not after else 0.0)
    return cost, state._replace(np=0, prev=tag, head="", det="", pobj=False, fresh=False)


def _particle(state: State, sentence: list[Word], i: int) -> tuple[float, State]:
    low, after = sentence[i].low, _next(sentence, i)
    cost = _close(state)
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


def _end(state: State, sentence: list[Word]) -> float:
    cost = _close(state)
    if state.clause == "S" and not state.np == 3:
        cost += 0.6 if len(sentence) > 3 else 0.2
    if state.slot in ("T", "d"):
        cost += 0.6
    if state.prev in ("IN", "TO", "CC", "WDT", "SUB"):
        cost += 1.5
    return cost
