"""Attach verbs: main clauses, participles, relative clauses, infinitives."""

from __future__ import annotations

from . import lexicon as lex
from . import words as w
from .attach_nouns import PERSON_TAG
from .attach_preps import Prepositions
from .phrases import Item, Verb


class Verbs(Prepositions):
    """Whose action a verb is, and how clauses hang together."""

    def on_verb(self, item: Item) -> None:
        i = item.at
        main = self._main_verb_after(item)
        if main is not None:
            passive = (self.low(i) in w.BE and self.tags[main.at] in ("VBN", "VBD")) or (
                getattr(self, "pending_passive", False) and False
            )
            self.arc(i, main.at, "auxpass" if passive else "aux")
            self.aux = self.aux or self.tags[i]
            self.passive_next = passive
            if passive and self.tags[main.at] == "VBD":
                self.tags[main.at] = "VBN"
            self.after_to = self.after_to or self.last == "TO"
            return
        aux, self.aux = self.aux, ""
        passive, self.passive_next = self.passive_next, False
        finite = self.is_finite(i) if not aux else aux in ("VBZ", "VBP", "VBD", "MD", "VB")
        if aux in ("VBG", "VBN"):
            finite = False
        if self.last == "TO" or self.after_to:
            self.after_to = False
            self._infinitive(i, passive)
            return
        if not aux and self.tags[i] == "VBD":
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
        """'the cactus contrasted with' is active, 'a ball kicked by' passive: decide by what follows."""
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
        if lex.verb_lemma(self.low(governor.at)) not in w.CAUSATIVES or self.via.get(noun) != "dobj":
            return False
        self.arc(verb.at, governor.at, "ccomp")
        self.arc(noun, verb.at, "nsubj")
        self.via[noun] = "nsubj"
        verb.subject, verb.label = noun, "ccomp"
        return True

    def _serial(self, verb: Verb) -> bool:
        """'person wear shirt stand on sand': a second verb of the same subject."""
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
        if self.joiner == "CC" and self.last == "CC" and self.verbs:
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
                merge = mark < 0 and lex.verb_lemma(self.low(partner.at)) in w.CATENATIVES - {
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

    def _participle_noun(self, verb: Verb) -> int:
        """The noun that a participle belongs to: the nearest that can act; for a passive, no garment or place."""
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
        nouns = [x for x in nouns if not self._compared(x)] or nouns
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
            moving = [x for x in plain if lex.noun_is(self.low(x), "vehicle")]
            if moving and not lex.noun_is(self.low(nearest), "tool"):
                return moving[-1]
        elif not self.animate(nearest) and (
            self.worn(nearest) or self.body(nearest) or self.place(nearest) or self.via.get(nearest) == "pobj"
        ):
            alive = [x for x in nouns if self.animate(x)]
            if alive and self.low(verb.at) not in w.STATES_OF_THINGS:
                return alive[-1]
        if verb.tag == "VBN":  # "a truck with a red door parked on a street"
            plain = [
                x for x in plain if self.via.get(x) != "pobj" or self.low(self.heads[x]) not in ("with", "w/")
            ] or plain
        return plain[-1] if plain else nearest

    def _compared(self, i: int) -> bool:
        """Whether a noun only says what something is like: 'dressed as a pirate'."""
        return self.via.get(i) == "pobj" and self.low(self.heads[i]) in ("as", "like")

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
