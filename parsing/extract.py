"""The one extractor: a spaCy ``Doc`` with CLEAR labels, from whatever parser, becomes vertices and hyperedges.

Rules (after SHYI, section 2, with the open points settled as the gold corpus settles them): nouns are vertices,
adjectives and compounds their modifiers; a verb is an action whose parties are its subjects and objects; a preposition
on a verb brings a party (its word joins the action) or, for a place, the environment; a preposition on a noun is a
relation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import lexicon as lex
from . import words as w
from .doc_reader import NOUN_TAGS, SUBJECTS, VERB_TAGS, DocReader, Edge
from .hypergraph import Hyperedge, Modifier, Participant, Span, Vertex

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token


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


class _Extractor(DocReader):
    """Fills ``edges`` by going through verbs, prepositions and possessives, and then writes the graph."""

    def is_action(self, t: Token) -> bool:
        if t.tag_ not in VERB_TAGS or t.dep_ in ("aux", "auxpass", "amod", "compound", "det", "prep", "case"):
            return False
        return bool(self.parts[t.i])

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
        if lex.verb_lemma(verb.lower_) in w.WRAPPING and not objects and not agents:
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
            for i in objects or subjects:
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
            made = passive and not direct and not joined and verb in w.WRAPPING
            wrapped = made and low in ("in", "with", "by", "of", "from", "out of")
            aimed = low == "at" and verb in w.AIMING
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
        if locative and filled and low not in w.DIRECTIONAL and not (low in w.CARRYING and self.animate(noun)):
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
            if noun.dep_ == "conj" and objects and self.spreads(prep, objects[0]) and not self.placed(noun.head):
                subjects = self.antecedents(noun)
            self.relation(prep, subjects)

    def placed(self, noun: Token) -> bool:
        """Whether an earlier conjunct says where it is itself: 'a bird on a branch and a cat on a roof'."""
        steps = 0
        while steps < 60:
            if any(c.dep_ == "prep" and c.lower_ not in ("of", "with") for c in noun.children):
                return True
            if noun.dep_ != "conj":
                return False
            noun, steps = noun.head, steps + 1
        return False

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

    def add(self, kind: str, words: list[int], parties: list[tuple[str, int]]) -> None:
        words = [i for i in dict.fromkeys(words) if self.parts[i]]
        seen: set[int] = set()
        kept = []
        for role, i in parties:
            if i not in seen:
                seen.add(i)
                kept.append((role, i))
        if words and (kept or kind == "action"):
            self.edges.append(Edge(kind, words, kept))

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
        return alone and t.lower_ in w.SCENES

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
