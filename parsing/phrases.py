"""Base noun phrases: the first step of attaching, and what the attacher asks about nouns."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import lexicon as lex
from . import words as w
from .preprocess import Word

NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS", "QT", "PRP", "EX"})
MODIFIERS = frozenset({"JJ", "CD", "AG", "AN"})
VERBS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBN", "VBG", "MD"})
LABELS = {
    "DT": "det", "PRP$": "poss", "CD": "nummod", "JJ": "amod", "AG": "amod", "AN": "amod", "RB": "advmod", "CC": "cc",
    ",": "punct",
}  # fmt: skip


@dataclass
class Item:
    """A step of the sentence: N noun phrase, V verb, P preposition, A predicate adjective, else a tag."""

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


class Phrases:
    """A tagged sentence whose base noun phrases can be built, and the state that attaching keeps."""

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
        self.n = 0  # the item at hand
        self.aux = ""  # tag of the auxiliary that waits for its verb
        self.passive_next = False  # that auxiliary makes a passive
        self.antecedent = -1  # noun that the open relative clause is about
        self.after_to = False  # an auxiliary stands between "to" and its verb
        self.joiner_clause = False  # a noun behind a conjunction opened a clause of its own
        self.is_owner = False  # the noun phrase just read owns the next one
        self.marked: dict[int, bool] = {}  # noun -> it has a determiner or number
        self.loose: list[int] = []  # prepositions that wait for a verb
        self.clause_start = 0

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
        if verb not in w.DITRANSITIVES or lex.entry(f"{self.low(i - 1)} {lex.noun_lemma(self.low(i))}").noun >= 0:
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
            label = LABELS.get(tag, "compound")
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
