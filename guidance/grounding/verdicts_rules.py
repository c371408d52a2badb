"""Verdicts by rule: the pack's parser reads the prompt, and every tag is held against its nouns.

A tag is certain when it is a noun of the prompt, another name for one, a kind of one or what one is a kind of; possible
when it goes with what the prompt names, or may be in any picture; else unlikely, as are tags that name no object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...parsing import lexicon as lex
from ...parsing import parse
from ...parsing.hypergraph import Hypergraph, Vertex
from . import verdicts_words as w
from .verdicts import CERTAIN, POSSIBLE, UNLIKELY, TagVerdict, Verdicts
from .verdicts_nouns import is_kind, is_same, known, lemma, senses, tells, too_wide
from .verdicts_text import plain_prompt

_FILL = r"(?:[\s,\-()\[\]{}]|:\s*[\d.]+\s*(?=[)\]]))"  # what may stand between a noun and its modifiers
_GAP = re.compile(rf"{_FILL}*(?:and{_FILL}+)?")
_WORD = re.compile(r"[^\W\d_][\w'-]*")


@dataclass(frozen=True)
class Thing:
    """A noun of the prompt. names: its lemmas, the most exact first ("teddy bear", "bear"); several: more than one."""

    vertex: Vertex
    names: tuple[str, ...]
    phrase: str
    modifiers: frozenset[str]
    several: bool

    @property
    def head(self) -> str:
        """The name that stands for it."""
        return self.names[0]

    @cached_property
    def person(self) -> bool:
        """Whether it is somebody."""
        return self.head in w.NEUTRAL or is_kind(self.head, "person")


def judge(prompt: str, tags: Sequence[str], graph: Hypergraph | None = None) -> Verdicts:
    """See ``verdicts.judge_offline``."""
    graph = graph or parse(prompt)
    reading = _Reading(graph)
    items = tuple(reading.verdict(tag) for tag in tags)
    met = {phrase for item in items for phrase in (item.phrase, *item.others)}
    missing = (t.phrase for t in reading.things if not t.vertex.environment and known(t.head) and t.phrase not in met)
    return Verdicts(items, "rules", "", tuple(dict.fromkeys(missing)))


def phrase_of(graph: Hypergraph, vertex: Vertex) -> str:
    """The noun with the modifiers right before it, in the prompt's words without weights: "red book"."""
    start = vertex.span[0]
    for modifier in sorted(vertex.modifiers, key=lambda m: -m.span[0]):
        if modifier.span[1] <= start and _GAP.fullmatch(graph.prompt[modifier.span[1] : start]):
            start = modifier.span[0]
    return plain_prompt(graph.prompt[start : vertex.span[1]])


class _Reading:
    """A prompt's things, and the other words that tags are held against."""

    def __init__(self, graph: Hypergraph) -> None:
        self.graph = graph
        self.things = [_thing(graph, v) for v in graph.vertices]
        denied = " ".join(text for text in graph.not_content if re.match(r"(?i)(without|w/o|minus|no)\b", text))
        self.denied = {lemma(word) for word in _WORD.findall(denied)}
        self.verbs = [word for edge in graph.hyperedges if edge.kind == "action" for word in _verbs(edge.action)]
        self.loose = _loose(graph)
        self.placed = any(t.vertex.environment for t in self.things) or any(
            lex.is_place(t.vertex.head) and not t.person for t in self.things
        )

    def verdict(self, tag: str) -> TagVerdict:
        """What the rules say of a tag: the first that has something to say."""
        name = lemma(tag.strip().strip("."))
        for rule in self._rules():
            found = rule(name)
            if found is not None:
                score, reason, things = found
                phrases = tuple(dict.fromkeys(t.phrase for t in things))
                return TagVerdict(tag, score, phrases[0] if phrases else "", reason, phrases[1:])
        return TagVerdict(tag, UNLIKELY, "", "nothing in the prompt asks for it")

    def _rules(self) -> tuple[Callable[[str], _Finding | None], ...]:
        return (
            self._named, self._absent, self._no_object, self._kind, self._breed, self._doer, self._several,
            self._spoken, self._may_be, self._part, self._company, self._anywhere,
        )  # fmt: skip

    # --- certain ------------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> _Finding | None:
        exact = [t for t in self.things if name in t.names or is_same(name, t.head)]
        if exact:
            return CERTAIN, "the prompt names it", exact
        words = name.split()
        if len(words) > 1 and not any(is_same(name, t.head) for t in self.things):
            # "red car" for a car: the thing is right, whatever its colour; the best match in colour first
            same = [t for t in self.things if words[-1] in t.names or is_same(words[-1], t.head)]
            same = [t for t in same if not self._another(name, t)]
            if same:
                same.sort(key=lambda t: -len(t.modifiers & set(words[:-1])))
                return CERTAIN, f"the prompt names a {words[-1]}", same
        return None

    def _another(self, name: str, thing: Thing) -> bool:
        """ "hot dog" for a dog: the table knows the whole name as something else."""
        return bool(senses(name)) and not tells(thing.head, name)

    def _absent(self, name: str) -> _Finding | None:
        if name in self.denied or (name.split()[-1:] and name.split()[-1] in self.denied):
            return UNLIKELY, "the prompt says that it is absent", ()
        return None

    def _no_object(self, name: str) -> _Finding | None:
        if not name:
            return UNLIKELY, "it is empty", ()
        if name in w.STUFF or any(name in t.modifiers for t in self.things if lex.noun_is(name, "substance", "tool")):
            return None
        if name in w.PICTURE or name.split()[-1] in ("photo", "painting", "drawing", "illustration", "photography"):
            return UNLIKELY, "it names the picture, not a thing in it", ()
        if _is_quality(name):
            return UNLIKELY, "it names a quality", ()
        if _is_action(name):
            return UNLIKELY, "it names an action", ()
        return None

    def _kind(self, name: str) -> _Finding | None:
        things = [t for t in self.things if not too_wide(t.head) and _kin(name, t)]
        if things and not too_wide(name):
            return CERTAIN, f"a {things[0].head} is one, or it is one", things
        if things:
            return POSSIBLE, f"a wide name that a {things[0].head} may go by", things
        return None

    def _breed(self, name: str) -> _Finding | None:
        """ "golden retriever" of a golden retriever puppy: both are animals, so it is the same one."""
        words = frozenset(name.split())
        things = [t for t in self.things if len(words) > 1 and words <= t.modifiers and is_kind(t.head, "animal")]
        if things and (is_kind(name, "animal") or is_kind(name, "dog")):
            return CERTAIN, f"the prompt's {things[0].head} is one", things
        return None

    def _doer(self, name: str) -> _Finding | None:
        """ "surfer" for a man who surfs."""
        if not is_kind(name, "person"):
            return None
        stem = re.sub(r"(?:er|or|ist|ant)$", "", name.split()[-1])
        for edge in self.graph.hyperedges:
            if edge.kind == "action" and any(_stem(verb) == _stem(stem) for verb in _verbs(edge.action)):
                parties = {p.vertex for p in edge.participants if p.role == "subject"}
                things = [t for t in self.things if t.vertex.id in parties and t.person]
                if things:
                    return CERTAIN, f"the prompt's {things[0].head} does that", things
        return None

    def _spoken(self, name: str) -> _Finding | None:
        """A word that the parser took for something else: "autumn leaves" without a comma behind."""
        if name in self.loose and known(name):
            return CERTAIN, "the prompt says it", [self.loose[name]]
        return None

    # --- possible -----------------------------------------------------------------------------------------------------

    def _several(self, name: str) -> _Finding | None:
        if name not in w.SEVERAL:
            return None
        persons = [t for t in self.things if t.person]
        if not persons:
            return None
        plural = len(persons) > 1 or persons[0].several
        if plural and name in ("people", "couple", "group", "friend", "group of people", "pair"):
            return CERTAIN, "the prompt names several", persons
        return POSSIBLE, "the prompt names somebody", persons if plural else ()

    def _may_be(self, name: str) -> _Finding | None:
        """ "man" for an astronaut: man or woman is left open."""
        if name not in w.ADULTS and name not in w.YOUNG:
            return None
        things = [t for t in self.things if t.person and _open(t, name)]
        return (POSSIBLE, f"the {things[0].head} may be one", things) if things else None

    def _part(self, name: str) -> _Finding | None:
        forms = {name, f"{name}y", f"{name}{name[-1]}y", f"{name[:-1]}y", f"{name}en"}  # snow of a snowy forest
        things = [t for t in self.things if forms & t.modifiers]
        if things:
            return POSSIBLE, f"a word for the prompt's {things[0].head}", things
        return None

    def _company(self, name: str) -> _Finding | None:
        for kind, kinds in w.WITH_CLASS.items():
            owner = next((t for t in self.things if _of_class(t, kind)), None)
            if owner is not None and _listed(name, kinds):
                return POSSIBLE, f"it may be there with the {owner.head}", ()
        for word, company in w.WITH_WORD.items():
            if self._speaks_of(word) and _listed(name, company):
                return POSSIBLE, f"it goes with {word}", ()
        return None

    def _speaks_of(self, word: str) -> bool:
        if any(word in t.names or word in t.modifiers or is_same(word, t.head) for t in self.things):
            return True
        if any(word in (verb, lex.verb_lemma(verb)) for verb in self.verbs):
            return True
        return any(senses(word) and is_kind(t.head, word) for t in self.things)

    def _anywhere(self, name: str) -> _Finding | None:
        if _listed(name, w.STUFF):
            return POSSIBLE, "it may be in nearly any picture", ()
        if not self.placed and _listed(name, w.SETTINGS):
            return POSSIBLE, "the prompt names no place", ()
        return None


_Finding = tuple[float, str, Iterable[Thing]]
"""Score, reason, and the things of the prompt that the tag answers to."""


def _thing(graph: Hypergraph, vertex: Vertex) -> Thing:
    head = lemma(vertex.head)
    before = [m for m in vertex.modifiers if m.span[1] <= vertex.span[0]]
    names = [head]
    for count in (1, 2):
        compound = lemma(" ".join([*(m.text for m in before[-count:]), vertex.head]))
        if len(before) < count or not known(compound):
            continue
        coloured = before[-count].text.lower() in w.QUALITIES  # "green dragon" is a plant in WordNet
        if not tells(head, compound):
            names = [compound]
        elif is_kind(compound, head) or not coloured:
            names = [compound, *names]
    several = (vertex.count is None and lex.is_plural(vertex.head)) or (vertex.count or 0) > 1
    words = frozenset(lemma(m.text) for m in vertex.modifiers) | frozenset(m.text.lower() for m in vertex.modifiers)
    return Thing(vertex, tuple(dict.fromkeys(names)), phrase_of(graph, vertex), words, several or head in w.SEVERAL)


def _loose(graph: Hypergraph) -> dict[str, Thing]:
    """Words that are neither nouns of the graph nor part of a style or of an action between things, by their lemma."""
    taken = [v.span for v in graph.vertices] + [m.span for v in graph.vertices for m in v.modifiers]
    taken += [span for e in graph.hyperedges if len(e.parties) > 1 or e.kind == "relation" for span in e.spans]
    for text in graph.not_content:
        taken += [(at, at + len(text)) for at in _places(graph.prompt, text)]
    out = {}
    for match in _WORD.finditer(graph.prompt):
        if not any(a < match.end() and match.start() < b for a, b in taken):
            vertex = Vertex("loose", match[0], match.span())
            out[lemma(match[0])] = Thing(vertex, (lemma(match[0]),), match[0], frozenset(), False)
    return out


def _places(prompt: str, text: str) -> list[int]:
    return [m.start() for m in re.finditer(re.escape(text), prompt)]


def _kin(name: str, thing: Thing) -> bool:
    """Whether the tag is a kind of the thing, or the thing a kind of the tag."""
    if thing.head in w.NEUTRAL and is_kind(name, "person"):
        return True
    if name in w.NEUTRAL and name != "people" and thing.person:
        return True
    if thing.head in w.SEVERAL and (name in w.ADULTS or name in w.NEUTRAL):
        return True
    return any(is_kind(name, own) or is_kind(own, name) for own in thing.names) and name not in w.SEVERAL


def _open(thing: Thing, name: str) -> bool:
    """Whether the prompt leaves it open that this person is a man, a girl."""
    if any(is_kind(thing.head, g) for g in ("man", "woman", "male", "female", "boy", "girl")):
        return False
    return name in w.YOUNG if thing.head in w.CHILDREN else True


def _of_class(thing: Thing, kind: str) -> bool:
    if kind == "person":
        return thing.person
    if thing.person and kind != "clothing":
        return False
    if kind == "place":
        return is_kind(thing.head, "building") or is_kind(thing.head, "house")
    if kind == "plant":
        return any(is_kind(thing.head, one) for one in ("plant", "flower", "tree"))
    if kind == "animal" and is_kind(thing.head, "animal"):
        return True
    return lex.noun_is(thing.head.split()[-1], kind)


def _listed(name: str, names: Iterable[str]) -> bool:
    """Whether a tag is in a list, by itself or by its last word: "leather boot" as "boot"."""
    return name in names or (name.split()[-1] in names and not senses(name))


def _verbs(action: str) -> list[str]:
    return [word.lower() for word in action.split() if word.lower() not in ("on", "in", "at", "to", "with", "a", "the")]


def _stem(word: str) -> str:
    """ "running" and "runner" as "run"."""
    found = lex.verb_lemma(word)
    return re.sub(r"(.)\1$", r"\1", re.sub(r"e$", "", found))


def _is_quality(name: str) -> bool:
    words = name.split()
    if all(word in w.QUALITIES for word in words):
        return True
    entry = lex.entry(name)
    adjective = lex.usual_tags().get(name, "").startswith("JJ") or entry.adjective > max(entry.noun, 0)
    return len(words) == 1 and adjective and entry.noun < entry.adjective


def _is_action(name: str) -> bool:
    first, last = name.split()[0], name.split()[-1]
    if name in w.NO_ACTIONS:
        return False
    if name in w.ACTIONS:
        return True
    entry, tag = lex.entry(name), lex.usual_tags().get(name, "")
    if first == last:
        verbal = tag.startswith("VB") and entry.verb > 2 * max(entry.noun, 0)
        return verbal or (tag == "VBG" and not senses(name))
    return (first in w.ACTIONS and first not in w.NO_ACTIONS and not senses(name)) or (
        last.endswith("ing") and lex.usual_tags().get(last, "") == "VBG" and not senses(name)
    )
