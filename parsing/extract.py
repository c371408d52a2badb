"""The one extractor: a spaCy ``Doc`` with CLEAR labels, from whatever parser, becomes vertices and hyperedges.

Rules (after SHYI, section 2, with the open points settled as the gold corpus settles them): nouns are vertices, adjectives
and compounds their modifiers; a verb is an action whose parties are its subjects and objects; a preposition on a verb
brings a party (its word joins the action) or, for a place, the environment; a preposition on a noun is a relation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import lexicon as lex
from . import words as w
from .hypergraph import Hyperedge, Modifier, Participant, Span, Vertex
from .preprocess import is_latin

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
NOT_HEADS = frozenset(
    {
        "compound",
        "amod",
        "nummod",
        "nmod",
        "quantmod",
        "advmod",
        "npadvmod_",
        "det",
        "predet",
        "case",
        "punct",
        "cc",
        "mark",
        "prt",
    }
)
VERB_TAGS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBN", "VBG"})
SUBJECTS = ("nsubj", "csubj")
PASSIVE_SUBJECTS = ("nsubjpass",)
DIRECTIONAL = frozenset(
    {
        "to",
        "into",
        "onto",
        "at",
        "from",
        "against",
        "toward",
        "towards",
        "after",
        "out of",
        "away from",
        "off",
        "through_",
    }
)
SCENERY = frozenset(
    ["outdoors", "indoors", "outside", "inside", "underwater", "night", "day", "sunset", "sunrise", "dusk", "dawn", "rain", "snow", "beach", "forest", "sky", "city", "street", "background", "classroom", "park", "kitchen", "bedroom", "bathroom", "office", "garden", "cityscape", "landscape", "scenery", "space", "ocean", "sea", "library", "desert", "meadow", "field", "mountains", "woods", "jungle", "room", "cafe", "restaurant", "school", "stage", "rooftop", "alley"]
)
AIMING = frozenset(
    ["look", "howl", "stare", "bark", "point", "gaze", "shout", "aim", "glance", "glare", "peer", "yell", "wave", "smile", "laugh", "growl", "throw", "shoot", "fire"]
)
WRAPPING = frozenset(["cover", "fill", "dress", "coat", "make", "wrap", "bury", "bathe", "drench", "clothe", "adorn", "decorate", "engulf", "shroud"])
ON_ANIMATE = frozenset({"on", "over", "around", "upon", "onto", "on top of"})


@dataclass
class _Edge:
    kind: str
    words: list[int]
    parties: list[tuple[str, int]]  # (role, token index of the head)


@dataclass
class Extraction:
    """What a ``Doc`` says, with token indices resolved to spans of the prompt."""

    vertices: list[Vertex] = field(default_factory=list)
    edges: list[Hyperedge] = field(default_factory=list)
    not_content: list[tuple[Span, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def extract(doc: Doc, prompt: str, parts: Sequence[Sequence[Span]]) -> Extraction:
    """Read the hypergraph off a parsed ``Doc``.

    Args:
        doc: tokens with ``tag_`` (Penn), ``dep_`` (CLEAR) and heads.
        prompt: the raw prompt.
        parts: for each token the spans of its words in the prompt; empty for a token that the prompt does not hold.
    """
    return _Extractor(doc, prompt, parts).run()


class _Extractor:
    def __init__(self, doc: Doc, prompt: str, parts: Sequence[Sequence[Span]]) -> None:
        self.doc, self.prompt, self.parts = doc, prompt, parts
        self.environment: set[int] = set()
        self.edges: list[_Edge] = []
        self.merged: dict[int, int] = {}  # xcomp verb -> verb it joins
        self.extra: dict[int, list[int]] = {}  # predicate adjectives of a noun
        self.dropped: set[int] = set()
        self.denied: list[str] = []  # actions that do not take place
        self.subject_memo: dict[int, list[int]] = {}
        self.negated: list[tuple[int, int]] = []  # first and last token of what the prompt says is absent

    # ------------------------------------------------------------------------------------------------ vertices

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

    # ------------------------------------------------------------------------------------------------ verbs

    def is_action(self, t: Token) -> bool:
        if t.tag_ not in VERB_TAGS or t.dep_ in ("aux", "auxpass", "amod", "compound", "det", "prep", "case"):
            return False
        return bool(self.parts[t.i])

    def subjects(self, verb: Token, depth: int = 0) -> list[int]:
        """Vertices that do the action (for a passive: that undergo it), inherited where the clause has none of its own."""
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
                inherited = self.subjects(head, depth + 1)
                if self.passive(head) and not self.passive(verb):
                    agents = self.agents(head)
                    return inherited if not agents else inherited
                return inherited
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

    def action_words(self, verb: Token) -> list[int]:
        return [verb.i, *[c.i for c in verb.children if c.dep_ == "prt"]]

    def chain(self, verb: Token) -> tuple[list[int], Token]:
        """Words of 'trying to catch' and the verb that carries the objects."""
        words, last = self.action_words(verb), verb
        while True:
            nxt = next(
                (c for c in last.children if c.dep_ == "xcomp" and c.tag_ in VERB_TAGS and self.parts[c.i]), None
            )
            if (
                nxt is None
                or any(c.dep_ == "dobj" for c in last.children)
                or any(c.dep_ == "nsubj" for c in nxt.children)
            ):
                return words, last
            words += [c.i for c in nxt.children if c.dep_ in ("aux", "auxpass") and c.i > last.i]
            words += self.action_words(nxt)
            self.merged[nxt.i] = verb.i
            last = nxt

    def action(self, verb: Token) -> None:
        if verb.lemma_ == "be" or verb.lower_ in w.BE:
            self.copula(verb)
            return
        words, last = self.chain(verb)
        if any(c.dep_ == "neg" for c in verb.children):
            self.denied.append(" ".join(self.doc[i].text for i in words))
            return
        subjects = self.subjects(verb)
        parties: list[tuple[str, int]] = []
        passive = self.passive(verb)
        agents = self.agents(last)
        if passive:
            parties += [("subject", i) for i in agents] + [("object", i) for i in subjects]
            if not agents:
                parties = [("subject" if self.states(last) else "object", i) for i in subjects]
        else:
            parties += [("subject", i) for i in subjects]
        if verb.dep_ == "relcl":
            parties += self.relative_objects(verb)
        objects = self.objects(last)
        parties += [("object", i) for i in objects]
        filled = bool(objects) or bool(passive and agents) or (any(r == "object" for r, _ in parties) and not passive)
        preps = [p for v in dict.fromkeys((verb, last)) for p in self.preps(v)]
        if lex.verb_lemma(verb.lower_) in WRAPPING and not objects and not agents:
            filled = False
        joined, more = self.prep_parties(
            preps, filled, bool(objects) or bool(agents), [i for _, i in parties], lex.verb_lemma(last.lower_), passive
        )
        words += joined
        parties += more
        if verb.dep_ == "relcl" and any(c.lower_ == "where" for c in verb.children):
            places = self.antecedents(verb.head)
            self.environment.update(places)
            parties += [("location", i) for i in places]
        for adjective in (c for c in last.children if c.dep_ in ("acomp", "oprd") and c.tag_.startswith("JJ")):
            for i in subjects if not objects else objects:
                self.describe(i, adjective)
        self.add("action", words, parties)

    def states(self, verb: Token) -> bool:
        """'made of glass' says what the subject is; its subject stays the subject."""
        return any(c.dep_ == "prep" for c in verb.children)

    def relative_objects(self, verb: Token) -> list[tuple[str, int]]:
        for child in verb.children:
            if child.dep_ in ("dobj", "pobj") and child.tag_ in ("WDT", "WP"):
                return [("object", i) for i in self.antecedents(verb.head)]
        if any(g.lower_ == "whose" for c in verb.children for g in c.children):
            return []
        own = any(
            c.dep_ in SUBJECTS and c.tag_ not in ("WDT", "WP") and c.lower_ not in ("that", "which", "who")
            for c in verb.children
        )
        if (
            own
            and not any(c.dep_ == "dobj" for c in verb.children)
            and not any(c.tag_ == "WRB" or c.lower_ == "where" for c in verb.children)
        ):
            return [("object", i) for i in self.antecedents(verb.head)]
        return []

    def objects(self, verb: Token) -> list[int]:
        out: list[int] = []
        for label in ("dative", "iobj", "dobj", "obj", "oprd"):
            for child in verb.children:
                if child.dep_ == label and child.tag_ in (*NOUN_TAGS, "CD", "DT", "PRP"):
                    out += self.heads_of(child)
                elif child.dep_ == "dative" and child.tag_ in ("IN", "TO"):
                    out += [i for o in child.children if o.dep_ == "pobj" for i in self.heads_of(o)]
        for clause in verb.children:  # "helping an old man walk": the man is helped
            if clause.dep_ == "ccomp" and clause.tag_ == "VB" and not any(c.dep_ == "mark" for c in clause.children):
                out += [i for c in clause.children if c.dep_ == "nsubj" for i in self.heads_of(c)]
        if verb.lower_ == "be":
            out += [i for c in verb.children if c.dep_ == "attr" and c.tag_ in NOUN_TAGS for i in self.heads_of(c)]
        return list(dict.fromkeys(out))

    def preps(self, verb: Token) -> list[Token]:
        return [c for c in verb.children if c.dep_ == "prep" and self.parts[c.i]]

    def prep_parties(
        self, preps: list[Token], filled: bool, direct: bool, known: list[int], verb: str, passive: bool
    ) -> tuple[list[int], list[tuple[str, int]]]:
        """Words that join the action and participants, of the prepositional phrases on a verb."""
        joined: list[int] = []
        parties: list[tuple[str, int]] = []
        for prep in sorted(preps, key=lambda p: p.i):
            low = prep.lower_
            nouns = [i for o in prep.children if o.dep_ == "pobj" for i in self.heads_of(o)]
            nouns = [i for i in nouns if i not in known]
            if not nouns:
                continue
            first = self.doc[nouns[0]]
            wrapped = verb in WRAPPING and passive and not direct and low in ("in", "with", "by", "of") and not joined
            aimed = low == "at" and verb in AIMING
            role = "object" if wrapped or aimed else self.prep_role(low, first, filled, direct)
            if role == "location":
                self.environment.update(nouns)
            elif not direct and not joined and role in ("object", "instrument"):
                role = "object"
                joined.append(prep.i)
                filled = True
            parties += [(role, i) for i in nouns]
        return joined, parties

    def prep_role(self, low: str, noun: Token, filled: bool, direct: bool) -> str:
        if self.place(noun) and low not in ("with", "of", "about", "for", "as", "like"):
            return "location"
        locative = low in w.LOCATIVE or low in w.COMPOUND_LOCATIVE
        if locative and filled and low not in DIRECTIONAL and not (low in ON_ANIMATE and self.animate(noun)):
            return "location"
        if low in ("with", "w/", "using", "by means of", "with the help of") and direct and not self.animate(noun):
            return "instrument"
        return "object"

    def copula(self, verb: Token) -> None:
        subjects = self.subjects(verb)
        for child in verb.children:
            if child.dep_ in ("acomp", "attr", "oprd") and child.tag_ in ("JJ", "JJR", "JJS", "VBN", "VBG"):
                for i in subjects:
                    self.describe(i, child)
            elif child.dep_ == "attr" and child.tag_ in NOUN_TAGS:
                objects = [i for i in self.heads_of(child) if i not in subjects]
                if subjects and objects:
                    self.add(
                        "relation", [verb.i], [("subject", i) for i in subjects] + [("object", i) for i in objects]
                    )
        for prep in self.preps(verb):
            self.relation(prep, subjects)
        for child in verb.children:
            if child.dep_ in ("acomp", "attr", "oprd", "advmod"):
                for prep in child.children:
                    if prep.dep_ == "prep" and child.tag_ not in NOUN_TAGS:
                        self.relation(prep, subjects)

    def describe(self, noun: int, adjective: Token) -> None:
        found = [
            adjective,
            *[c for c in adjective.children if c.dep_ == "conj" and c.tag_ in ("JJ", "JJR", "JJS", "VBN", "VBG")],
        ]
        self.extra.setdefault(noun, []).extend(t.i for t in found)

    # ------------------------------------------------------------------------------------------------ relations

    def relation(self, prep: Token, subjects: list[int]) -> None:
        objects = [i for o in prep.children if o.dep_ == "pobj" for i in self.heads_of(o)]
        objects = [i for i in objects if i not in subjects]
        if not objects:
            return
        place = self.place(self.doc[objects[0]]) and prep.lower_ not in ("of", "with", "for", "like", "about", "as")
        if place:
            self.environment.update(objects)
        parties = [("subject", i) for i in subjects] + [("location" if place else "object", i) for i in objects]
        self.add("relation", [prep.i], parties)

    def noun_preps(self, noun: Token) -> None:
        for prep in noun.children:
            if prep.dep_ not in ("prep", "agent") or not self.parts[prep.i]:
                continue
            if self.counted(noun) is not None and prep.lower_ == "of":
                continue
            subjects = (
                self.heads_of(noun) if self.counted(noun) is not None else [noun.i] if self.is_vertex(noun) else []
            )
            objects = [o for o in prep.children if o.dep_ == "pobj"]
            if noun.dep_ == "conj" and objects and self.spreads(prep, objects[0]):
                subjects = self.antecedents(noun)
            self.relation(prep, subjects)

    def spreads(self, prep: Token, noun: Token) -> bool:
        """'a cat and a dog on a sofa': both are there; 'a man and a woman with a hat': only she has it."""
        low = prep.lower_
        if low in ("of", "with", "w/", "without", "like"):
            return False
        return (low in w.LOCATIVE or low in w.COMPOUND_LOCATIVE) and not lex.is_clothing(noun.lower_)

    def possessives(self, noun: Token) -> None:
        for owner in noun.children:
            if owner.dep_ == "poss" and self.is_vertex(owner):
                case = next((c for c in owner.children if c.dep_ == "case"), None)
                if case is not None and self.parts[case.i]:
                    self.add("relation", [case.i], [("subject", owner.i), ("object", noun.i)])

    # ------------------------------------------------------------------------------------------------ classes

    def before(self, t: Token) -> str:
        left = [c for c in t.children if c.dep_ in ("compound", "amod") and c.i == t.i - 1]
        return left[0].lower_ if left else ""

    def place(self, t: Token) -> bool:
        if self.quoted(t):
            return False
        named = t.tag_ in ("NNP", "NNPS") and t.dep_ == "pobj" and t.head.lower_ in ("in", "at", "near", "through")
        return (
            lex.is_place(t.lower_, self.before(t)) or (named and not lex.is_animate(t.lower_)) or t.i in self.environment
        )

    def quoted(self, t: Token) -> bool:
        spans = self.parts[t.i]
        return bool(spans) and spans[0][0] > 0 and self.prompt[spans[0][0] - 1] in "\"'“‘«„"

    def animate(self, t: Token) -> bool:
        return lex.is_animate(t.lower_, self.before(t))

    # ------------------------------------------------------------------------------------------------ assembly

    def add(self, kind: str, words: list[int], parties: list[tuple[str, int]]) -> None:
        words = [i for i in dict.fromkeys(words) if self.parts[i]]
        seen: set[int] = set()
        kept = []
        for role, i in parties:
            if i not in seen:
                seen.add(i)
                kept.append((role, i))
        if words and (kept or kind == "action"):
            self.edges.append(_Edge(kind, words, kept))

    def run(self) -> Extraction:
        for token in self.doc:
            if self.counted(token) is not None:
                self.dropped.add(token.i)
        self.negate()
        verbs = [t for t in self.doc if self.is_action(t)]
        for verb in verbs:
            if verb.dep_ == "xcomp" and verb.head.tag_ in VERB_TAGS:
                self.chain(verb.head)
        for verb in verbs:
            if verb.i not in self.merged:
                self.action(verb)
        for token in self.doc:
            if token.tag_ in (*NOUN_TAGS, "CD", "DT", "PRP"):
                self.noun_preps(token)
                self.possessives(token)
        return self.build()

    def negate(self) -> None:
        """Leave out what the prompt says is not there: 'without a collar', 'no windows'."""
        for token in self.doc:
            if token.lower_ in ("without", "w/o", "minus") and token.dep_ == "prep" and self.parts[token.i]:
                nouns = [i for o in token.children if o.dep_ == "pobj" for i in self.heads_of(o)]
                self._negate(token.i, nouns)
            elif token.lower_ == "no" and token.dep_ == "det" and self.is_vertex(token.head):
                self._negate(token.i, [token.head.i])

    def _negate(self, first: int, nouns: list[int]) -> None:
        if nouns:
            self.dropped.update(nouns)
            self.negated.append((first, max(nouns)))

    def build(self) -> Extraction:
        out = Extraction()
        for first, last in self.negated:
            span = (self.parts[first][0][0], self.parts[last][-1][1])
            out.not_content.append((span, self.prompt[slice(*span)]))
            out.warnings.append(f"'{self.prompt[slice(*span)]}' says what is absent and is left out of the graph.")
        out.warnings += [f"The action '{text}' is negated and left out of the graph." for text in self.denied]
        ids: dict[int, str] = {}
        tokens = [t for t in self.doc if self.is_vertex(t)]
        tokens.sort(key=lambda t: self.parts[t.i][0])
        for t in tokens:
            ids[t.i] = f"v{len(ids)}"
            span = (self.parts[t.i][0][0], self.parts[t.i][-1][1])
            modifiers = self.modifiers(t)
            environment = t.i in self.environment or self.scenery(t)
            out.vertices.append(
                Vertex(ids[t.i], self.prompt[slice(*span)], span, modifiers, environment, self.count(t))
            )
        edges = [(sorted(s for i in e.words for s in self.parts[i])[0], e) for e in self.edges]
        for _, edge in sorted(edges, key=lambda pair: pair[0]):
            spans = tuple(s for i in edge.words for s in self.parts[i])
            action = " ".join(self.prompt[a:b] for a, b in spans)
            parties = tuple(Participant(role, ids[i]) for role, i in edge.parties if i in ids)
            if parties or edge.kind == "action":
                out.edges.append(Hyperedge(f"e{len(out.edges)}", edge.kind, action, spans, parties))
        return out

    def scenery(self, t: Token) -> bool:
        """A lone word such as 'outdoors' or 'night' among tags."""
        alone = t.dep_ == "ROOT" and not any(c.dep_ in ("prep", "acl", "relcl", "conj") for c in t.children)
        return alone and t.lower_ in SCENERY

    def modifiers(self, t: Token) -> tuple[Modifier, ...]:
        found: list[int] = []
        stack = [c for c in t.children if c.dep_ in ("amod", "compound", "nummod", "nmod")]
        while stack:
            token = stack.pop(0)
            found.append(token.i)
            stack += [
                c for c in token.children if c.dep_ in ("conj", "compound", "amod", "nummod") and c.tag_ not in ("CC",)
            ]
        found += self.extra.get(t.i, [])
        spans = sorted({s for i in found for s in self.parts[i]})
        return tuple(Modifier(self.prompt[a:b], (a, b)) for a, b in spans)

    def count(self, t: Token) -> int | None:
        digits = "".join(c for c in t.text[:2] if c.isdigit())
        if digits and t.lower_.rstrip("s").endswith(("girl", "boy", "other")):
            return int(digits)
        prep = t.head if t.dep_ == "pobj" else None
        if prep is not None and prep.lower_ == "of" and prep.head.lower_ in w.QUANTIFIER_COUNTS:
            return w.QUANTIFIER_COUNTS[prep.head.lower_]
        holders = [t] + ([prep.head] if prep is not None and prep.head.lower_ in w.NUMBERS else [])
        numbers = [c.lower_ for c in holders[0].children if c.dep_ == "nummod"] + [h.lower_ for h in holders[1:]]
        values = [w.NUMBERS.get(n, int(n) if n.isdecimal() and len(n) < 6 else None) for n in numbers]
        return next((v for v in values if v is not None), None)
