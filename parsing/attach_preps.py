"""Attach prepositional phrases: to the verb, or to which noun."""

from __future__ import annotations

from . import lexicon as lex
from . import words as w
from .attach_nouns import Nouns
from .phrases import Item, Verb


class Prepositions(Nouns):
    """Where a prepositional phrase belongs; noun semantics decide where syntax leaves a choice."""

    def on_prep(self, item: Item) -> None:
        nxt = self.peek()
        i = item.at
        if (
            nxt is not None
            and nxt.kind in ("P",)
            and self.low(i)
            in ("from", "out", "up", "down", "off", "over", "away", "along", "around", "back", "near", "in", "as")
        ):
            self._adverb(i)  # 'from behind', 'down from': the second one governs
            return
        if nxt is not None and nxt.kind in ("V",) and self.tags[nxt.at] == "VBG":
            self.sub = i
            return
        if nxt is None or nxt.kind not in ("N", "WDT", "A", "RB"):
            self._adverb(i)
            return
        self.prep, self.ahead_of_prep = i, self.last

    def _adverb(self, i: int) -> None:
        if self.verbs and self.last in ("V", "RP", "N", "P"):
            verb = self.verbs[-1].at
            if self.last in ("V", "RP") and self.low(i) in w.PARTICLES:
                self.arc(i, verb, "prt" if lex.is_phrasal(self.low(verb), self.low(i)) else "advmod")
            else:
                self.arc(i, verb, "advmod")
        elif self.nouns:
            self.arc(i, self.nouns[-1], "advmod")
        elif i + 1 < len(self.words):
            self.arc(i, i + 1, "advmod")

    def prep_object(self, i: int) -> None:
        p, self.prep = self.prep, -1
        self.arc(i, p, "pobj")
        self.via[i] = "pobj"
        governor = self._governor(p, i)
        if governor < 0:
            self.loose.append(p)
            return
        label = "agent" if self.low(p) == "by" and self._is_agent(governor, i) else "prep"
        self.arc(p, governor, label)
        self.gov[i] = governor
        for verb in self.verbs:
            if verb.at == governor:
                verb.preps += 1

    def _is_agent(self, governor: int, i: int) -> bool:
        """Whether 'by' names who does it; 'seated by a lake' says where."""
        if not any(v.at == governor and v.passive for v in self.verbs):
            return False
        return not (self.low(governor) in w.SITUATED and not self.animate(i))

    def _governor(self, p: int, i: int) -> int:
        """The verb or noun that a prepositional phrase belongs to; -1: none yet."""
        low = self.low(p)
        verb = self._open_verb()
        nouns = [x for x in self._frontier() if self.tags[x] != "PRP"] if self.nouns else []
        if self.ahead_of_prep in ("V",) and verb is not None:
            return verb.at
        if self.ahead_of_prep == "A" and verb is not None and self.low(verb.at) not in w.BE:
            return verb.at
        if self.ahead_of_prep == "A":
            return self.subject if self.subject >= 0 else nouns[-1] if nouns else -1
        if self.ahead_of_prep == ",":
            if verb is not None:
                return verb.at
            return self._noun_for(low, i, nouns) if nouns else (verb.at if verb else -1)
        if not nouns and verb is None:
            return -1
        if low == "of" and self.nouns:
            return self.nouns[-1]
        if verb is None or not any(x > verb.at for x in self.nouns):
            if verb is not None:
                return verb.at
            return self._noun_for(low, i, nouns)
        return self._verb_or_noun(verb, low, p, i, nouns)

    def _open_verb(self) -> Verb | None:
        for verb in reversed(self.verbs):
            if verb.at >= self.clause_start or verb.noun >= self.clause_start or verb is self.main:
                return verb
        return None

    def _verb_or_noun(self, verb: Verb, low: str, p: int, i: int, nouns: list[int]) -> int:
        """Behind verb and object: does the phrase say how and where, or which object?"""
        after = [x for x in nouns if x > verb.at]
        nearest = after[-1] if after else self.nouns[-1]
        if low in ("with", "w/", "without"):
            return self._with(verb, i, after, nearest)
        if low in ("in", "wearing") and self.worn(i) and not self.place(i):
            wearers = [x for x in after if self.animate(x)]
            return wearers[-1] if wearers else (verb.subject if verb.subject >= 0 else nearest)
        if low == "full of" or low == "such as":
            return nearest
        held = self.via.get(nearest) == "pobj" and self.low(self.heads[nearest]) in ("with", "w/")
        if held and self._owned(i) and (self.body(i) or self.worn(i)):
            return nearest  # "with crows on its arms"
        return verb.at

    def _owned(self, i: int) -> bool:
        """Whether a possessive pronoun stands in front of a noun: 'its tail', 'his long beard'."""
        return self.tags[i - 1] == "PRP$" or (i > 1 and self.tags[i - 2] == "PRP$")

    def _with(self, verb: Verb, i: int, after: list[int], nearest: int) -> int:
        """Behind a verb, 'with' may name a tool, a companion, or a part or garment of someone."""
        follower, owner = self.peek(), self.peek(2)
        if follower is not None and follower.kind == "P" and owner is not None and self.tags[owner.at] == "PRP":
            return nearest  # "a cake with candles on it"
        if self.worn(i) or self.body(i):
            wearers = [x for x in after if self.animate(x)]
            if wearers and not (self.body(i) and self._owned(i)):
                return wearers[-1]
            if verb.subject >= 0 and self.animate(verb.subject) and not (verb.objects and self.body(i)):
                return verb.subject
            return verb.at if verb.objects else nearest
        if self.animate(i):
            return verb.at if verb.objects or not verb.preps or self.place(nearest) else nearest
        if verb.objects and (lex.is_tool(self.low(i)) or self._owned(i)):
            return verb.at
        return self._with_thing(verb, nearest, i) if verb.objects and not verb.preps else nearest

    def _with_thing(self, verb: Verb, nearest: int, i: int) -> int:
        """'eating pasta with a fork' or 'holding a plate with food'."""
        low = self.low(nearest)
        if lex.verb_lemma(self.low(verb.at)) in w.HOLDING:
            return nearest
        if lex.noun_is(self.low(i), "food", "plant") or lex.noun_is(low, "furniture"):
            return nearest
        return verb.at

    def _noun_for(self, low: str, i: int, nouns: list[int]) -> int:
        """The noun that a prepositional phrase without a verb belongs to."""
        if not nouns:
            return -1
        if low == "of":
            return nouns[-1]
        if low in ("with", "w/", "in", "without") and (self.worn(i) or (self.body(i) and low != "in")):
            owners = [x for x in nouns if self.animate(x)]
            if owners:
                return owners[-1]
        fit = [x for x in nouns if (not self.place(x) or self.via.get(x) in ("root", "conj")) and not self.of_object(x)]
        if low not in ("with", "w/"):
            fit = [x for x in fit if not (self.worn(x) or self.body(x)) or self.via.get(x) == "root"] or fit
        else:
            fit = [x for x in nouns if not (self.worn(x) or self.body(x)) or self.via.get(x) == "root"] or fit
        return fit[-1] if fit else nouns[-1]
