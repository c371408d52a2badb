"""From tagged words to a dependency tree with CLEAR labels (those of spaCy's English pipelines).

Works through the sentence once, from left to right: base noun phrases are built first, then nouns, verbs, prepositions and
conjunctions are attached one by one to what is still open. Noun semantics (who can act, what is worn, what is a place) and
verb frames decide where syntax leaves a choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import lexicon as lex
from . import words as w
from .preprocess import Word
from .tagger import CATENATIVE, CAUSATIVES, DITRANSITIVES

NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS", "QT", "PRP", "EX"})
MODIFIERS = frozenset({"JJ", "CD", "AG", "AN"})
VERBS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBN", "VBG", "MD"})
PENN = {"AG": "VBG", "AN": "VBN", "QT": "NNP", "SUB": "IN", "PRED": "JJ"}


PERSON_TAG = re.compile(r"\d\+?(girl|boy|other)s?$")
SITUATED = frozenset(
    ["seated", "placed", "parked", "located", "situated", "positioned", "moored", "docked", "perched", "stationed", "stacked", "kept"]
)


@dataclass
class Item:
    """A step of the sentence: noun phrase N, verb V, preposition P, predicate adjective A, or a function word by its tag."""

    kind: str
    at: int
    first: int = -1  # first word of a noun phrase
    last: int = -1


@dataclass
class Verb:
    """A verb that was attached, and what it still can take."""

    at: int
    finite: bool
    passive: bool = False
    subject: int = -1  # noun that does it (or suffers it, when passive)
    objects: list[int] = field(default_factory=list)
    preps: int = 0
    label: str = "ROOT"
    noun: int = -1  # the noun it modifies
    tag: str = ""


@dataclass
class Tree:
    """Heads (indices) and labels of the words of one sentence."""

    words: list[Word]
    tags: list[str]
    heads: list[int]
    deps: list[str]


def attach(words: list[Word], tags: list[str]) -> Tree:
    """Build the tree of one tagged sentence."""
    return _Attacher(words, tags).run()


def chunks(words: list[Word], tags: list[str]) -> list[Item]:
    """Base noun phrases and the words between them."""
    attacher = _Attacher(words, tags)
    attacher.chunk()
    return attacher.items


class _Attacher:
    def __init__(self, words: list[Word], tags: list[str]) -> None:
        self.words, self.tags = words, list(tags)
        n = len(words)
        self.heads, self.deps = list(range(n)), ["ROOT"] * n
        self.items: list[Item] = []
        self.nouns: list[int] = []  # attached nouns in order
        self.via: dict[int, str] = {}  # noun -> how it was attached
        self.gov: dict[int, int] = {}  # pobj -> what its preposition hangs on
        self.verbs: list[Verb] = []
        self.subject = -1  # noun that may become the subject of the clause
        self.main: Verb | None = None  # finite verb of the clause
        self.first_main: Verb | None = None
        self.prep = -1
        self.joiner = ""  # CC or , that waits for its second half
        self.joiner_at = -1
        self.relative = -1
        self.relative_noun = -1
        self.sub = -1
        self.last = ""  # kind of the last item
        self.ahead_of_prep = ""  # kind of the item in front of the open preposition
        self.after_to = False  # an auxiliary stands between "to" and its verb
        self.joiner_clause = False  # a noun behind a conjunction opened a clause of its own
        self.is_owner = False  # the noun phrase just read owns the next one
        self.marked: dict[int, bool] = {}  # noun -> it has a determiner or number
        self.loose: list[int] = []  # prepositions that wait for a verb
        self.clause_start = 0
        self.actor = -1  # noun that subjectless participles of later segments belong to

    # ------------------------------------------------------------------------------------------------ helpers

    def low(self, i: int) -> str:
        return self.words[i].low

    def arc(self, child: int, head: int, label: str) -> None:
        if child != head:
            self.heads[child], self.deps[child] = head, label

    def before(self, i: int) -> str:
        """The word in front of a noun, when it is part of its name."""
        return self.low(i - 1) if i > 0 and self.tags[i - 1] in ("NN", "NNP", "JJ", "AG") else ""

    def animate(self, i: int) -> bool:
        if self.tags[i] == "PRP" or lex.is_animate(self.low(i), self.before(i)):
            return True
        somewhere = self.via.get(i) == "pobj" and self.low(self.heads[i]) in ("in", "at", "near", "through")
        return self.tags[i] == "NNP" and not somewhere and not lex.is_place(self.low(i))

    def place(self, i: int) -> bool:
        return self.tags[i] not in ("QT", "PRP") and lex.is_place(self.low(i), self.before(i))

    def worn(self, i: int) -> bool:
        return lex.is_clothing(self.low(i), self.before(i)) and not self.animate(i)

    def body(self, i: int) -> bool:
        return lex.is_body(self.low(i)) and not self.animate(i)

    # ------------------------------------------------------------------------------------------------ noun phrases

    def chunk(self) -> None:
        i, n = 0, len(self.words)
        while i < n:
            tag = self.tags[i]
            end = self._noun_phrase_end(i)
            if end > i:
                self._build_noun_phrase(i, end)
                i = end
            elif tag in MODIFIERS or tag in ("DT", "PRP$"):
                i = self._bare_modifier(i)
            else:
                kind = "V" if tag in VERBS else "P" if tag == "IN" else tag
                self.items.append(Item(kind, i, i, i))
                i += 1

    def _noun_phrase_end(self, start: int) -> int:
        """One past the last noun of the base noun phrase that begins at ``start``; ``start`` when there is none."""
        tags, n = self.tags, len(self.tags)
        if tags[start] in ("PRP", "EX"):
            return start + 1
        if tags[start] == "QT":
            return start + 1
        i, modifiers = start, False
        while i < n:
            tag = tags[i]
            if (tag in ("DT", "PRP$") and i == start) or (tag == "DT" and i > start and tags[i - 1] == "DT"):
                i += 1
            elif tag in MODIFIERS:
                modifiers = True
                i += 1
            elif tag == "RB" and (i > start or self._adverb_opens(i)):
                i += 1
            elif tag in ("CC", ",") and modifiers and i + 1 < n and tags[i - 1] in (*MODIFIERS, ",", "CC"):
                if not self._modifiers_to_noun(i + 1):
                    return start
                i += 1
            else:
                break
        if i >= n or tags[i] not in NOUNS or tags[i] in ("PRP", "EX"):
            return start
        while i < n and tags[i] in NOUNS and tags[i] not in ("PRP", "EX", "QT"):
            if self._new_phrase(start, i):
                break
            i += 1
        return (
            max(i, start + 1)
            if any(t in NOUNS for t in tags[start:i])
            else (i + 1 if i < n and tags[i] == "QT" else start)
        )

    def _new_phrase(self, start: int, i: int) -> bool:
        """Whether a noun behind a noun opens a phrase of its own: 'giving dogs bones'."""
        if start == 0 or self.tags[i - 1] not in ("NN", "NNP") or not self.animate(i - 1) or self.animate(i):
            return False
        verb = lex.verb_lemma(self.low(start - 1)) if self.tags[start - 1] in VERBS else ""
        if verb not in DITRANSITIVES or lex.entry(f"{self.low(i - 1)} {lex.noun_lemma(self.low(i))}").noun >= 0:
            return False
        return i == len(self.tags) - 1 or (self.tags[i + 1] not in NOUNS and self.low(i + 1) not in ("to", "for"))

    def _adverb_opens(self, i: int) -> bool:
        after = self.tags[i + 1] if i + 1 < len(self.tags) else ""
        return after in MODIFIERS and self.low(i) not in (
            "together",
            "away",
            "back",
            "apart",
            "alone",
            "there",
            "here",
            "up",
            "down",
        )

    def _modifiers_to_noun(self, i: int) -> bool:
        """Whether only modifiers stand between ``i`` and a noun."""
        seen = False
        while i < len(self.tags) and self.tags[i] in (*MODIFIERS, "RB", "CC", ","):
            seen = seen or self.tags[i] in MODIFIERS
            i += 1
        return seen and i < len(self.tags) and self.tags[i] in ("NN", "NNS", "NNP")

    def _build_noun_phrase(self, start: int, end: int) -> None:
        head = end - 1
        previous = -1
        for i in range(start, head):
            tag = self.tags[i]
            label = {"DT": "det", "PRP$": "poss", "CD": "nummod", "JJ": "amod", "AG": "amod", "AN": "amod", "RB": "advmod", "CC": "cc", ",": "punct"}.get(tag, "compound")  # fmt: skip
            target = head
            if tag == "RB":
                target = next((j for j in range(i + 1, head) if self.tags[j] in MODIFIERS), head)
            elif tag == "CC" and previous >= 0:
                target = previous
            elif tag in MODIFIERS:
                if previous >= 0 and self.tags[i - 1] in ("CC",):
                    target, label = previous, "conj"
                previous = i
            self.arc(i, target, label)
        self.items.append(Item("N", head, start, head))

    def _bare_modifier(self, i: int) -> int:
        """Modifiers without a noun: a predicate, or a noun phrase whose noun is left out."""
        n = len(self.tags)
        if self.tags[i] in ("DT", "PRP$"):
            j = i + 1
            while j < n and self.tags[j] in (*MODIFIERS, "RB"):
                j += 1
            if j - 1 > i and self.tags[j - 1] in MODIFIERS:
                self.tags[j - 1] = "NN"
                self._build_noun_phrase(i, j)
                return j
            nxt = self.tags[i + 1] if i + 1 < n else ""
            if nxt == "IN" or nxt in VERBS or not nxt:
                self.tags[i] = "PRP"
                self.items.append(Item("N", i, i, i))
            elif i + 1 < n:
                self.arc(i, i + 1, "det")
            return i + 1
        if self.tags[i] == "CD":
            self.tags[i] = "PRP" if self.low(i) == "one" else "NN"
            self.items.append(Item("N", i, i, i))
            return i + 1
        self.items.append(Item("A", i, i, i))
        return i + 1

    # ------------------------------------------------------------------------------------------------ the walk

    def run(self) -> Tree:
        self.chunk()
        for n, item in enumerate(self.items):
            self.n = n
            handler = getattr(self, f"on_{_HANDLERS.get(item.kind, 'other')}")
            handler(item)
            if item.kind not in ("RB", "RP", "POS") and not self.is_owner:
                self.last = item.kind
            self.is_owner = False
        self._finish()
        return Tree(self.words, [PENN.get(t, t) for t in self.tags], self.heads, self.deps)

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

    def is_finite(self, i: int) -> bool:
        return self.tags[i] in ("VBZ", "VBP", "VBD", "MD", "VB")

    # nouns ------------------------------------------------------------------------------------------

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
            self._prep_object(i, item)
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
        if self.last == "," and self.nouns and self.tags[i] != "PRP" and self.main is None and self._is_apposition(i):
            pass
        self.via[i] = "root"
        if (self.last == "," and self.main is not None) or self.last == ",":
            self.main = None
        self.subject = i
        self.clause_start = i
        if self.actor < 0 or (not self.animate(self.actor) and self.animate(i)):
            self.actor = i

    def _is_apposition(self, i: int) -> bool:
        return False

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
        if self.last == "V" or (self.last == "A" and False):
            if low in w.BE:
                self.arc(i, verb.at, "attr")
                self.via[i] = "attr"
                return True
            if verb.finite and verb.subject < 0 and self.deps[verb.at] == "aux":
                return False
            self._add_object(verb, i)
            return True
        if (
            self.last == "N"
            and self.nouns
            and verb.objects
            and verb.objects[-1] == self.nouns[-1]
            and len(verb.objects) == 1
        ):
            if lex.verb_lemma(low) in DITRANSITIVES or lex.verb_can(low, "ditransitive"):
                self.arc(verb.objects[0], verb.at, "dative")
                self._add_object(verb, i)
                return True
        return False

    def _add_object(self, verb: Verb, i: int) -> None:
        self.arc(i, verb.at, "dobj")
        self.via[i] = "dobj"
        verb.objects.append(i)

    # prepositions -----------------------------------------------------------------------------------

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

    def _prep_object(self, i: int, item: Item) -> None:
        p, self.prep = self.prep, -1
        self.arc(i, p, "pobj")
        self.via[i] = "pobj"
        if self.joiner and self.joiner == "CC":
            pass
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
        return not (self.low(governor) in SITUATED and not self.animate(i))

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
            own = self.tags[i - 1] == "PRP$" or (i > 1 and self.tags[i - 2] == "PRP$")
            follower = self.peek()
            if (
                follower is not None
                and follower.kind == "P"
                and self.n + 2 < len(self.items)
                and self.tags[self.items[self.n + 2].at] == "PRP"
            ):
                return nearest  # 'a cake with candles on it'
            if self.worn(i) or self.body(i):
                wearers = [x for x in after if self.animate(x)]
                if wearers and not (self.body(i) and own):
                    return wearers[-1]
                if self.body(i) or not self.animate(verb.subject) if verb.subject >= 0 else True:
                    return verb.at if verb.objects else nearest
                return verb.at if verb.objects and self.body(i) else (verb.subject if verb.subject >= 0 else nearest)
            if self.animate(i):
                return verb.at if not verb.preps or verb.objects else nearest
            if verb.objects and lex.is_tool(self.low(i)):
                return verb.at
            if verb.objects and not verb.preps:
                return self._with_thing(verb, nearest, i)
            return nearest if not self.place(nearest) else nearest
        if low in ("in", "wearing") and self.worn(i) and not self.place(i):
            wearers = [x for x in after if self.animate(x)]
            return wearers[-1] if wearers else (verb.subject if verb.subject >= 0 else nearest)
        if low == "full of" or low == "such as":
            return nearest
        return verb.at

    def _with_thing(self, verb: Verb, nearest: int, i: int) -> int:
        """'eating pasta with a fork' or 'holding a plate with food'."""
        low = self.low(nearest)
        if lex.verb_lemma(self.low(verb.at)) in (
            "hold",
            "carry",
            "wear",
            "have",
            "see",
            "own",
            "show",
            "paint",
            "draw",
            "watch",
            "bring",
            "ride",
            "drive",
            "build",
        ):
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

    # verbs ------------------------------------------------------------------------------------------

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

    def on_verb(self, item: Item) -> None:
        i = item.at
        main = self._main_verb_after(item)
        if main is not None:
            passive = (
                (self.low(i) in w.BE
                and self.tags[main.at] in ("VBN", "VBD"))
                or (getattr(self, "pending_passive", False)
                and False)
            )
            self.arc(i, main.at, "auxpass" if passive else "aux")
            if not hasattr(self, "aux") or self.aux is None:
                self.aux: str | None = self.tags[i]
            self.passive_next = passive
            if passive and self.tags[main.at] == "VBD":
                self.tags[main.at] = "VBN"
            self.after_to = self.after_to or self.last == "TO"
            return
        aux, self.aux = getattr(self, "aux", None), None
        passive = getattr(self, "passive_next", False)
        self.passive_next = False
        finite = self.is_finite(i) if aux is None else aux in ("VBZ", "VBP", "VBD", "MD", "VB")
        if aux in ("VBG", "VBN"):
            finite = False
        if self.last == "TO" or self.after_to:
            self.after_to = False
            self._infinitive(i, passive)
            return
        if aux is None and self.tags[i] == "VBD":
            self._past_or_passive(item)
            finite = self.tags[i] == "VBD"
        verb = Verb(
            i,
            finite,
            passive or (self.tags[i] == "VBN" and aux not in ("VBZ", "VBP", "VBD", "MD", "VB")),
            tag=self.tags[i],
        )
        if aux in ("VBZ", "VBP", "VBD", "MD", "VB") and not passive:
            verb.passive = False
        (self._finite if finite else self._participle)(verb)
        self.verbs.append(verb)
        self._settle_loose(verb)
        self.joiner = ""

    def _past_or_passive(self, item: Item) -> None:
        """'the cactus contrasted with' is active, 'a ball kicked by' passive: decide by what follows and by transitivity."""
        i, low = item.at, self.low(item.at)
        nxt = self.peek()
        k = 1
        while nxt is not None and nxt.kind in ("RB", "RP"):
            k += 1
            nxt = self.peek(k)
        if low in w.BE or low in w.HAVE or low in w.DO:
            return
        if nxt is not None and nxt.kind == "P" and self.low(nxt.at) == "by" and lex.verb_can(low, "transitive"):
            self.tags[i] = "VBN"

    def _finite(self, verb: Verb) -> None:
        i = verb.at
        label = "nsubjpass" if verb.passive else "nsubj"
        if self.relative >= 0:
            self._relative_clause(verb, label)
            return
        if self._serves_object(verb):
            return
        if self.joiner and self.last in ("CC", ",") and self.verbs and (self.last == "CC" or self.main is not None):
            partner = self._coordinated_verb(True)
            self.arc(i, partner.at, "conj")
            verb.label, verb.subject = "conj", partner.subject
            self.main = verb
            return
        subject = self.subject if self.subject >= 0 and self.main is None else -1
        if subject < 0 and self.last == "N" and self.nouns and self.sub < 0:
            if self._serial(verb):
                return
            if self.via.get(self.nouns[-1]) in ("dobj", "pobj", "root", "conj"):
                subject = self.nouns[-1]
        if subject >= 0 and self.via.get(subject) in ("root",):
            self.arc(subject, i, label)
            self.via[subject] = "nsubj"
            verb.subject = subject
        elif subject >= 0:
            verb.subject = subject
        if self.sub >= 0:
            self.arc(self.sub, i, "mark")
            self.sub = -1
            target = self.first_main.at if self.first_main is not None else self.verbs[0].at if self.verbs else -1
            if target >= 0 and target != i:
                self.arc(i, target, "advcl")
                verb.label = "advcl"
        elif self.joiner_clause:
            self.joiner_clause = False
            partner = self.verbs[-1]
            if self.deps[partner.at] == "ROOT":
                self.arc(i, partner.at, "conj")
                verb.label = "conj"
        elif subject >= 0 and self.via.get(subject) in ("dobj",):
            self.arc(subject, i, label)
            self.arc(i, self.verbs[-1].at if self.verbs else i, "ccomp")
        self.main = verb
        if self.first_main is None:
            self.first_main = verb

    def _serves_object(self, verb: Verb) -> bool:
        """'helping a man walk': the bare infinitive belongs to the object."""
        governor = self.verbs[-1] if self.verbs else None
        if governor is None or self.last != "N" or self.tags[verb.at] != "VB" or not self.nouns:
            return False
        noun = self.nouns[-1]
        if lex.verb_lemma(self.low(governor.at)) not in CAUSATIVES or self.via.get(noun) != "dobj":
            return False
        self.arc(verb.at, governor.at, "ccomp")
        self.arc(noun, verb.at, "nsubj")
        self.via[noun] = "nsubj"
        verb.subject, verb.label = noun, "ccomp"
        return True

    def _serial(self, verb: Verb) -> bool:
        """'person wear shirt stand on sand': a second verb of the same subject; or 'making it move', one of the object."""
        governor = self.verbs[-1] if self.verbs else None
        if governor is None:
            return False
        noun = self.nouns[-1]
        if self.via.get(noun) not in ("dobj", "pobj"):
            return False
        if self.main is not None and self.main.subject >= 0 and not self.animate(noun):
            self.arc(verb.at, self.main.at, "conj")
            verb.subject, verb.label = self.main.subject, "conj"
            self.main = verb
            return True
        return False

    def _relative_clause(self, verb: Verb, label: str) -> None:
        wh, self.relative = self.relative, -1
        antecedent = self.antecedent
        if self.relative_noun >= 0:
            self.arc(self.relative_noun, verb.at, label)
            self.via[self.relative_noun] = "nsubj"
            if self.low(wh) == "whose":
                self.arc(wh, self.relative_noun, "poss")
            else:
                self.arc(wh, verb.at, "dobj" if self.low(wh) != "where" else "advmod")
                verb.objects.append(antecedent)
            verb.subject = self.relative_noun
            self.relative_noun = -1
        else:
            self.arc(wh, verb.at, label if self.low(wh) != "where" else "advmod")
            verb.subject = antecedent
        if antecedent >= 0:
            self.arc(verb.at, antecedent, "relcl")
        verb.label, verb.noun = "relcl", antecedent

    def _coordinated_verb(self, finite: bool) -> Verb:
        """The verb that a verb behind 'and' is joined with."""
        same = [v for v in self.verbs if v.finite == finite and v.at >= self.clause_start - 1]
        if self.main is not None and finite:
            return self.main if self.main in self.verbs else self.verbs[-1]
        return same[-1] if same else self.verbs[-1]

    def _participle(self, verb: Verb) -> None:
        i, tag = verb.at, self.tags[verb.at]
        if self.relative >= 0:
            self._relative_clause(verb, "nsubjpass" if verb.passive else "nsubj")
            return
        if self.joiner == "CC" and self.last == "CC" and self.verbs and not self._noun_since_verb_with_own():
            partner = next((v for v in reversed(self.verbs) if v.tag == tag), self.verbs[-1])
            self.arc(i, partner.at, "conj")
            verb.label, verb.subject, verb.noun = "conj", partner.subject, partner.noun
            return
        if self.sub >= 0 or self.last == "V":
            mark, self.sub = self.sub, -1
            if mark >= 0:
                self.arc(mark, i, "mark")
            if self.verbs:
                partner = self.verbs[-1] if mark < 0 or self.first_main is None else self.first_main
                merge = mark < 0 and lex.verb_lemma(self.low(partner.at)) in CATENATIVE - {
                    "sit",
                    "stand",
                    "lie",
                    "go",
                    "come",
                    "practice",
                }
                self.arc(i, partner.at, "xcomp" if merge else "advcl")
                verb.label, verb.subject = "advcl", partner.subject
                return
        noun = self._participle_noun(verb)
        if noun >= 0:
            self.arc(i, noun, "acl")
            verb.label, verb.noun, verb.subject = "acl", noun, noun

    def _noun_since_verb_with_own(self) -> bool:
        return False

    def _participle_noun(self, verb: Verb) -> int:
        """The noun that a participle belongs to: the nearest that can act (or, for a passive, that is not a garment or place)."""
        if self.last == ",":
            if self.main is not None and self.main.subject >= 0:
                return self.main.subject
            roots = [x for x in self.nouns if self.via.get(x) in ("root", "nsubj")]
            alive = [x for x in roots if self.animate(x)]
            fit = alive or [x for x in roots if not (self.worn(x) or self.body(x) or self.place(x))] or roots
            if not fit:
                return -1
            chosen = fit[-1] if fit[-1] in self._segment_nouns() else fit[0]
            tagged = [x for x in self.nouns if PERSON_TAG.match(self.low(x))]
            return tagged[-1] if chosen in tagged else chosen
        nouns = [x for x in self._frontier() if x >= 0]
        if not nouns:
            return -1
        nearest = nouns[-1]
        plain = [
            x for x in nouns if not (self.worn(x) or self.body(x) or (self.place(x) and self.via.get(x) == "pobj"))
        ]
        plain = [x for x in plain if not self.of_object(x)] or plain
        if verb.tag == "VBG":
            alive = [x for x in nouns if self.animate(x)]
            if self.animate(nearest):
                return nearest
            if alive:
                if plain and plain[-1] > alive[-1] and self.via.get(plain[-1]) in ("conj",):
                    return plain[-1]
                return alive[-1]
        elif not self.animate(nearest) and (
            self.worn(nearest) or self.body(nearest) or self.place(nearest) or self.via.get(nearest) == "pobj"
        ):
            alive = [x for x in nouns if self.animate(x)]
            if alive and self.low(verb.at) not in (
                "filled",
                "covered",
                "made",
                "decorated",
                "lined",
                "topped",
                "attached",
                "called",
                "named",
                "labeled",
            ):
                return alive[-1]
        return plain[-1] if plain else nearest

    def _segment_nouns(self) -> list[int]:
        """Nouns of the comma segment before this one."""
        commas = [x.at for x in self.items[: self.n] if x.kind == ","]
        start = commas[-2] if len(commas) > 1 else -1
        return [x for x in self.nouns if x > start]

    def _infinitive(self, i: int, passive: bool) -> None:
        to = max((k for k in range(self.n) if self.items[k].kind == "TO"), default=0)
        self.arc(self.items[to].at, i, "aux")
        verb = Verb(i, False, passive, tag=self.tags[i])
        if self.verbs:
            governor = self.verbs[-1]
            bare = self.items[max(to - 1, 0)].kind in ("V", "RB", "RP", "P", "A")
            if bare:
                self.arc(i, governor.at, "xcomp")
                verb.label, verb.subject = "xcomp", governor.subject
            else:
                receives = lex.verb_lemma(self.low(governor.at)) in (
                    "ask",
                    "tell",
                    "teach",
                    "help",
                    "force",
                    "allow",
                    "invite",
                    "order",
                    "want",
                    "train",
                    "lead",
                    "encourage",
                    "let",
                    "make",
                    "watch",
                    "see",
                )
                if receives and governor.objects:
                    verb.subject = governor.objects[-1]
                    self.arc(i, governor.at, "ccomp")
                    self.arc(verb.subject, i, "nsubj")
                else:
                    self.arc(i, governor.at, "advcl")
                    verb.label, verb.subject = "advcl", governor.subject
        elif self.nouns:
            self.arc(i, self.nouns[-1], "acl")
            verb.label, verb.noun, verb.subject = "acl", self.nouns[-1], self.nouns[-1]
        self.verbs.append(verb)
        self.joiner = ""

    def _settle_loose(self, verb: Verb) -> None:
        for p in self.loose:
            self.arc(p, verb.at, "prep")
            verb.preps += 1
        self.loose = []

    # small words ------------------------------------------------------------------------------------

    def on_joiner(self, item: Item) -> None:
        self.prep = -1
        if item.kind == "," and self.joiner == "CC":
            return
        self.joiner, self.joiner_at = item.kind, item.at
        target = self.verbs[-1].at if self.verbs else self.nouns[-1] if self.nouns else item.at
        self.arc(item.at, target, "cc" if item.kind == "CC" else "punct")

    def on_relative(self, item: Item) -> None:
        if self.prep >= 0:
            self.arc(self.prep, self.nouns[-1] if self.nouns else item.at, "prep")
            self.prep = -1
        self.relative, self.relative_noun = item.at, -1
        nouns = [x for x in self._frontier() if self.tags[x] != "PRP"] if self.nouns else []
        if self.low(item.at) == "who" and any(self.animate(x) for x in nouns):
            nouns = [x for x in nouns if self.animate(x)]
        self.antecedent = nouns[-1] if nouns else -1
        if self.nouns:
            self.arc(item.at, self.nouns[-1], "dep")

    def on_sub(self, item: Item) -> None:
        self.sub = item.at
        self.joiner = ""
        self.subject, self.main = -1, None
        self.clause_start = item.at

    def on_adverb(self, item: Item) -> None:
        i, low = item.at, self.low(item.at)
        label = "neg" if low in ("not", "n't", "n’t", "never") else "advmod"
        nxt = self.peek()
        if nxt is not None and nxt.kind in ("V", "A"):
            self.arc(i, nxt.at, label)
        elif self.verbs:
            self.arc(i, self.verbs[-1].at, label)
        elif self.nouns:
            self.arc(i, self.nouns[-1], label)
        elif nxt is not None:
            self.arc(i, nxt.at, label)

    def on_particle(self, item: Item) -> None:
        if self.verbs:
            self.arc(item.at, self.verbs[-1].at, "prt")
        elif self.nouns:
            self.arc(item.at, self.nouns[-1], "advmod")

    def on_adjective(self, item: Item) -> None:
        i = item.at
        if self.joiner == "CC" and self.items[self.n - 2].kind == "A" and self.n >= 2:
            self.arc(i, self.items[self.n - 2].at, "conj")
            self.joiner = ""
        elif self.last == "V" and self.verbs:
            self.arc(i, self.verbs[-1].at, "acomp")
        elif self.last in ("A",):
            self.arc(i, self.items[self.n - 1].at, "conj")
        elif self.nouns and (self.last in ("N", ",", "CC")):
            self.arc(i, self.nouns[-1], "amod")
        self.prep = -1

    def on_other(self, item: Item) -> None:
        i = item.at
        if item.kind in ("TO", "POS"):
            return
        if self.nouns:
            self.arc(i, self.nouns[-1], "dep")

    def _finish(self) -> None:
        if self.loose:
            target = next((x for x in self.nouns if self.via.get(x) == "root"), -1)
            for p in self.loose:
                if target >= 0 and target != p:
                    self.arc(p, target, "prep")


_HANDLERS = {
    "N": "noun", "V": "verb", "P": "prep", "CC": "joiner", ",": "joiner", "WDT": "relative", "SUB": "sub", "RB": "adverb",
    "RP": "particle", "A": "adjective",
}  # fmt: skip
