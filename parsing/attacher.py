"""From tagged words to a dependency tree with CLEAR labels (those of spaCy's English pipelines).

Works through the sentence once, from left to right: base noun phrases are built first (``phrases``), then nouns
(``attach_nouns``), prepositions (``attach_preps``), verbs (``attach_verbs``) and the small words are attached one by
one to what is still open. Noun semantics (who can act, what is worn, what is a place) and verb frames decide where
syntax leaves a choice.
"""

from __future__ import annotations

from .attach_verbs import Verbs
from .phrases import Item, Tree
from .preprocess import Word

PENN = {"AG": "VBG", "AN": "VBN", "QT": "NNP", "SUB": "IN"}


def attach(words: list[Word], tags: list[str]) -> Tree:
    """Build the tree of one tagged sentence."""
    return _Attacher(words, tags).run()


def chunks(words: list[Word], tags: list[str]) -> list[Item]:
    """Base noun phrases and the words between them."""
    attacher = _Attacher(words, tags)
    attacher.chunk()
    return attacher.items


class _Attacher(Verbs):
    """The walk over the sentence, and the small words."""

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
    "N": "noun", "V": "verb", "P": "prep", "CC": "joiner", ",": "joiner", "WDT": "relative", "SUB": "sub",
    "RB": "adverb", "RP": "particle", "A": "adjective",
}  # fmt: skip
