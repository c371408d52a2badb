"""Attach nouns: subject, object, conjunct, or the start of something new."""

from __future__ import annotations

import re

from . import lexicon as lex
from . import words as w
from .phrases import Item, Phrases, Verb

PERSON_TAG = re.compile(r"\d\+?(girl|boy|other)s?$")


class Nouns(Phrases):
    """How a noun phrase joins what came before it."""

    def peek(self, ahead: int = 1) -> Item | None:
        return self.items[self.n + ahead] if self.n + ahead < len(self.items) else None

    def verb_after(self, skip_preps: bool = True) -> Item | None:
        """The verb that follows this noun phrase, prepositional phrases and adverbs skipped."""
        i = self.n + 1
        while i < len(self.items):
            kind = self.items[i].kind
            if kind == "V":
                return self.items[i]
            if kind == "P" and skip_preps and i + 1 < len(self.items) and self.items[i + 1].kind == "N":
                i += 2
            elif kind == "RB" or kind == "POS":
                i += 1
            elif kind == "WDT":
                return self._verb_after_relative(i)
            else:
                return None
        return None

    def _verb_after_relative(self, i: int) -> Item | None:
        found = 0
        for item in self.items[i + 1 :]:
            if item.kind in (",", "SUB", "WDT"):
                return None
            if item.kind == "V" and self.is_finite(item.at) and not self._is_aux(item):
                found += 1
                if found == 2:
                    return item
        return None

    def _is_aux(self, item: Item) -> bool:
        return self._main_verb_after(item) is not None

    def _main_verb_after(self, item: Item) -> Item | None:
        """The verb that this one is an auxiliary of."""
        low, k = self.low(item.at), self.items.index(item) + 1
        while k < len(self.items) and self.items[k].kind == "RB":
            k += 1
        if k >= len(self.items) or self.items[k].kind != "V":
            return None
        nxt = self.items[k]
        tag = self.tags[nxt.at]
        if self.tags[item.at] == "MD" or low in w.DO:
            return nxt if tag in ("VB", "VBP") else None
        if low in w.BE:
            return nxt if tag in ("VBG", "VBN") or tag == "VBD" else None
        if low in w.HAVE:
            return nxt if tag in ("VBN", "VBD") else None
        return None

    def is_finite(self, i: int) -> bool:
        return self.tags[i] in ("VBZ", "VBP", "VBD", "MD", "VB")

    def on_noun(self, item: Item) -> None:
        i = item.at
        nxt = self.peek()
        if nxt is not None and nxt.kind == "POS" and self.peek(2) is not None and self.peek(2).kind == "N":  # type: ignore[union-attr]
            self.arc(nxt.at, i, "case")
            owned = self.peek(2)
            assert owned is not None
            self.arc(i, owned.at, "poss")
            self.is_owner = True
            return
        self.marked[i] = self.tags[item.first] in ("DT", "CD", "PRP$")
        if self.prep >= 0:
            self.prep_object(i)
        elif self.relative >= 0 and self.relative_noun < 0 and self._clause_ahead():
            self.relative_noun = i
            self.via[i] = "nsubj"
        elif (self.joiner and self.nouns and self.sub < 0 and self._coordinate(i)) or self._takes_object(i):
            pass
        else:
            self._new_root(i)
        self.joiner = ""
        self.nouns.append(i)

    def _clause_ahead(self) -> bool:
        verb = self.verb_after(False)
        return verb is not None and self.is_finite(verb.at)

    def _new_root(self, i: int) -> None:
        if self.last == "N" and self.nouns and self.tags[i] == "QT":
            self.arc(i, self.nouns[-1], "appos")
            self.via[i] = "appos"
            return
        self.via[i] = "root"
        if self.last == ",":
            self.main = None
        self.subject = i
        self.clause_start = i

    def _coordinate(self, i: int) -> bool:
        """Attach a noun behind 'and' or in a list as a conjunct; False when it opens a clause of its own."""
        verb = self.verb_after()
        finite = verb is not None and self.is_finite(verb.at)
        participle = verb is not None and not finite
        acting = [
            v for v in self.verbs if not v.finite and v.label == "acl" and v.noun >= 0 and v.at > self.clause_start - 1
        ]
        if self.joiner == "," and PERSON_TAG.match(self.low(i)) and PERSON_TAG.match(self.low(self.nouns[-1])):
            self.arc(i, self.nouns[-1], "conj")
            self.via[i] = "conj"
            return True
        if self.joiner == "," and not self._in_list(i):
            return False
        if finite and self.verbs and (self.main is not None or (acting and self.animate(i))):
            self.joiner_clause = True
            return False
        if participle and acting and self._can_act_beside(i, acting[-1].noun):
            target = acting[-1].noun
        elif (
            participle
            and self.main is not None
            and self.main.subject >= 0
            and self.main.objects
            and self.animate(i)
            and not self.animate(self.nouns[-1])
        ):
            target = self.main.subject
        else:
            target = self._conjunct(i)
        self.arc(i, target, "conj")
        if self.joiner_at >= 0:
            self.arc(self.joiner_at, target, "cc" if self.joiner == "CC" else "punct")
        self.via[i] = "conj"
        return True

    def _can_act_beside(self, i: int, actor: int) -> bool:
        """Whether noun ``i`` is one that a participle of its own may follow, as it follows ``actor``."""
        if self.worn(i) or self.body(i):
            return False
        return self.animate(i) or not self.animate(actor)

    def _in_list(self, i: int) -> bool:
        """Whether the noun after a comma is part of a list that ends in 'and': 'a cat, a dog and a bird'."""
        k = self.n
        # the conjunction closes the list: N , N (, N)* (,)? CC N
        while k < len(self.items):
            kind = self.items[k].kind
            if kind == "CC":
                after = next((x for x in self.items[k + 1 :] if x.kind != ","), None)
                return after is not None and after.kind == "N" and self.last_list_ok()
            if kind in ("V", "WDT", "SUB"):
                return False
            if kind == "P" and not (k + 1 < len(self.items) and self.items[k + 1].kind == "N"):
                return False
            k += 1
        return False

    def last_list_ok(self) -> bool:
        return self.items[self.n - 2].kind == "N" if self.n >= 2 else False

    def _conjunct(self, i: int) -> int:
        """The noun that a conjunct belongs to: the nearest one of its own kind, else the nearest."""
        open_nouns = self._frontier()
        nearest = open_nouns[-1]
        parallel = self._parallel(nearest)
        if parallel >= 0:
            return parallel
        for test in (self.worn, self.body):
            if test(i):
                same = [x for x in open_nouns if self.worn(x) or self.body(x)]
                if same:
                    return same[-1]
        if self.animate(i):
            same = [x for x in open_nouns if self.animate(x)]
            if same and (self.worn(nearest) or self.body(nearest) or self.place(nearest)):
                return same[-1]
        if self.of_object(nearest) and self.marked.get(i) and not self.marked.get(nearest):
            marked = [x for x in open_nouns if self.marked.get(x)]
            return marked[-1] if marked else nearest
        return nearest

    def _parallel(self, nearest: int) -> int:
        """The first noun of 'a dog with a hat and a cat with a scarf', both with a phrase of one kind; else -1."""
        follower = self.peek()
        if follower is None or follower.kind != "P" or self.via.get(nearest) != "pobj":
            return -1
        p = self.heads[nearest]
        mine, other = self.low(follower.at), self.low(p)
        same = (mine == other and mine != "of") or (mine[:7] == other[:7] and mine[:7] in ("on the ", "to the "))
        governor = self.heads[p]
        return governor if same and governor in self.nouns else -1

    def of_object(self, i: int) -> bool:
        """Whether a noun is the X of 'a cup of X'."""
        return self.via.get(i) == "pobj" and self.low(self.heads[i]) == "of"

    def _frontier(self) -> list[int]:
        """Nouns that can still take something, oldest first."""
        start = self.clause_start
        found = [x for x in self.nouns if (x >= start or x == self.subject) and self.via.get(x) != "appos"]
        return found or self.nouns[-1:]

    def _takes_object(self, i: int) -> bool:
        if not self.verbs or self.joiner:
            return False
        verb = self.verbs[-1]
        low = self.low(verb.at)
        if self.last == "V":
            if low in w.BE:
                self.arc(i, verb.at, "attr")
                self.via[i] = "attr"
                return True
            if verb.finite and verb.subject < 0 and self.deps[verb.at] == "aux":
                return False
            self._add_object(verb, i)
            return True
        second = self.last == "N" and len(verb.objects) == 1 and verb.objects == self.nouns[-1:]
        if second and (lex.verb_lemma(low) in w.DITRANSITIVES or lex.verb_can(low, "ditransitive")):
            self.arc(verb.objects[0], verb.at, "dative")
            self._add_object(verb, i)
            return True
        return False

    def _add_object(self, verb: Verb, i: int) -> None:
        self.arc(i, verb.at, "dobj")
        self.via[i] = "dobj"
        verb.objects.append(i)

    def prep_object(self, i: int) -> None:
        """Attach a noun behind a preposition (see ``Prepositions``)."""
        raise NotImplementedError
