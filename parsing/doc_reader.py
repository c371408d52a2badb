"""What a parsed ``Doc`` says about single tokens: which are vertices, who does what, what is a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import lexicon as lex
from . import words as w
from .hypergraph import Span
from .preprocess import is_latin

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
NOT_HEADS = frozenset(
    ["compound", "amod", "nummod", "nmod", "quantmod", "advmod", "det", "predet", "case", "punct", "cc", "mark", "prt"]
)
VERB_TAGS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBN", "VBG"})
SUBJECTS = ("nsubj", "csubj")
PASSIVE_SUBJECTS = ("nsubjpass",)


@dataclass
class Edge:
    """A hyperedge in the making: token indices of its words, roles and token indices of its parties."""

    kind: str
    words: list[int]
    parties: list[tuple[str, int]]  # (role, token index of the head)


class DocReader:
    """A ``Doc``, the prompt, and for each token its spans in the prompt; later steps add what they find out."""

    def __init__(self, doc: Doc, prompt: str, parts: Sequence[Sequence[Span]]) -> None:
        self.doc, self.prompt, self.parts = doc, prompt, parts
        self.environment: set[int] = set()
        self.edges: list[Edge] = []
        self.merged: dict[int, int] = {}  # xcomp verb -> verb it joins
        self.extra: dict[int, list[int]] = {}  # predicate adjectives of a noun
        self.dropped: set[int] = set()
        self.denied: list[str] = []  # actions that do not take place
        self.subject_memo: dict[int, list[int]] = {}
        self.negated: list[tuple[int, int]] = []  # first and last token of what the prompt says is absent

    def is_vertex(self, t: Token) -> bool:
        if t.tag_ not in NOUN_TAGS or t.dep_ in NOT_HEADS or t.i in self.dropped or not self.parts[t.i]:
            return False
        return any(c.isalnum() for c in t.text) and is_latin(t.text)

    def heads_of(self, t: Token) -> list[int]:
        """The vertices a noun stands for: itself, or what a quantifier counts, and what is coordinated with it."""
        out: list[int] = []
        stack = [t]
        while stack:
            token = stack.pop(0)
            counted = self.counted(token)
            if counted is not None:
                stack = [counted, *stack]
                stack += [c for c in token.children if c.dep_ == "conj" and c.tag_ in NOUN_TAGS]
                continue
            if self.is_vertex(token) and token.i not in out:
                out.append(token.i)
            stack += [c for c in token.children if c.dep_ == "conj" and c.tag_ in (*NOUN_TAGS, "PRP")]
        return out

    def counted(self, t: Token) -> Token | None:
        """X of 'a group of X'."""
        collective = t.lower_ in w.COLLECTIVES
        if (
            not collective
            and t.lower_ not in w.QUANTIFIERS
            and not (t.lower_ in w.NUMBERS or t.tag_ in ("CD", "DT", "PRP"))
        ):
            return None
        if t.tag_ not in (*NOUN_TAGS, "CD", "DT", "PRP"):
            return None
        for prep in t.children:
            if prep.dep_ == "prep" and prep.lower_ == "of":
                for obj in prep.children:
                    if obj.dep_ == "pobj" and obj.tag_ in NOUN_TAGS and (not collective or self.animate(obj)):
                        return obj
        return None

    def subjects(self, verb: Token, depth: int = 0) -> list[int]:
        """Vertices that do the action (or undergo a passive one); inherited where the clause has none of its own."""
        if verb.i in self.subject_memo:
            return self.subject_memo[verb.i]
        self.subject_memo[verb.i] = []
        found = self._subjects(verb, depth)
        self.subject_memo[verb.i] = found
        return found

    def _subjects(self, verb: Token, depth: int) -> list[int]:
        own = [c for c in verb.children if c.dep_ in (*SUBJECTS, *PASSIVE_SUBJECTS)]
        if own:
            out: list[int] = []
            for child in own:
                if child.tag_ in ("WDT", "WP") or (child.lower_ in ("that", "which", "who") and verb.dep_ == "relcl"):
                    out += self.antecedents(verb.head)
                elif child.tag_ == "EX" or child.lower_ == "there":
                    out += [i for c in verb.children if c.dep_ in ("attr", "dobj") for i in self.heads_of(c)]
                else:
                    out += self.heads_of(child)
            return list(dict.fromkeys(out))
        if verb.dep_ in ("acl", "relcl") and verb.head.tag_ in (*NOUN_TAGS, "CD", "DT", "PRP"):
            return self.antecedents(verb.head)
        expletive = [c for c in verb.children if c.dep_ == "expl"]
        if expletive:
            return [i for c in verb.children if c.dep_ in ("attr", "dobj") for i in self.heads_of(c)]
        if (
            verb.dep_ in ("conj", "advcl", "xcomp", "ccomp", "pcomp", "dep", "prep")
            and verb.head.i != verb.i
            and depth < 40
        ):
            head = verb.head
            while head.tag_ == "IN" and head.head.i != head.i:
                head = head.head
            if head.tag_ in VERB_TAGS:
                return self.subjects(head, depth + 1)
            if head.tag_ in NOUN_TAGS:
                return self.antecedents(head)
        return []

    def antecedents(self, noun: Token) -> list[int]:
        """The nouns that a clause behind ``noun`` is about: with bare coordination, all conjuncts."""
        own = self.heads_of(noun) if self.counted(noun) is not None else ([noun.i] if self.is_vertex(noun) else [])
        if noun.dep_ != "conj":
            return own
        chain = [noun]
        while chain[0].dep_ == "conj" and chain[0].head.i != chain[0].i and chain[0].head.tag_ in (*NOUN_TAGS, "PRP"):
            chain.insert(0, chain[0].head)
        first = chain[0]
        siblings = [
            first,
            *[
                c
                for c in first.subtree
                if c.dep_ == "conj" and c.tag_ in NOUN_TAGS and self._root_of_chain(c) == first.i
            ],
        ]
        siblings = sorted(set(siblings), key=lambda t: t.i)
        if siblings[-1].i != noun.i or first.dep_ in ("dobj", "pobj"):
            return own
        if any(c.dep_ in ("acl", "relcl") for s in siblings[:-1] for c in s.children):
            return own
        return list(
            dict.fromkeys(
                i
                for s in siblings
                for i in ([s.i] if self.counted(s) is None else self.heads_of(s))
                if self.is_vertex(self.doc[i])
            )
        )

    def _root_of_chain(self, t: Token) -> int:
        steps = 0
        while t.dep_ == "conj" and t.head.i != t.i and steps < 60:
            t = t.head
            steps += 1
        return t.i

    def passive(self, verb: Token) -> bool:
        """Whether the grammatical subject undergoes the action."""
        if verb.tag_ not in ("VBN", "VBD"):
            return False
        children = [c.dep_ for c in verb.children]
        if "auxpass" in children or "nsubjpass" in children:
            return True
        if "aux" in children:
            return False
        if verb.dep_ == "acl":
            return (
                verb.tag_ == "VBN"
                and ("agent" in children or "dobj" not in children)
                and lex.verb_can(verb.lower_, "transitive")
            )
        if verb.dep_ == "conj" and verb.head.tag_ in VERB_TAGS and not any(d in SUBJECTS for d in children):
            return self.passive(verb.head) and verb.tag_ == "VBN"
        return "agent" in children

    def agents(self, verb: Token) -> list[int]:
        return [
            i
            for c in verb.children
            if c.dep_ == "agent"
            for o in c.children
            if o.dep_ == "pobj"
            for i in self.heads_of(o)
        ]

    def before(self, t: Token) -> str:
        left = [c for c in t.children if c.dep_ in ("compound", "amod") and c.i == t.i - 1]
        return left[0].lower_ if left else ""

    def place(self, t: Token) -> bool:
        if self.quoted(t):
            return False
        named = t.tag_ in ("NNP", "NNPS") and t.dep_ == "pobj" and t.head.lower_ in ("in", "at", "near", "through")
        return (
            lex.is_place(t.lower_, self.before(t))
            or (named and not lex.is_animate(t.lower_))
            or t.i in self.environment
        )

    def quoted(self, t: Token) -> bool:
        spans = self.parts[t.i]
        return bool(spans) and spans[0][0] > 0 and self.prompt[spans[0][0] - 1] in "\"'“‘«„"

    def animate(self, t: Token) -> bool:
        return lex.is_animate(t.lower_, self.before(t))
