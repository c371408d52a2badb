"""English small enough to be made by rule: articles, number, participles, and the names of things."""

from __future__ import annotations

from ...parsing import lexicon
from ...parsing.hypergraph import Hypergraph, Vertex
from ...parsing.words import BARE_PLURALS

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "pink", "gray")
COLOUR_WORDS = frozenset((*COLOURS, "grey", "violet", "turquoise", "beige", "silver", "ginger", "khaki"))
_PLURALS = "glasses sunglasses scissors pants trousers jeans shorts clothes people"
ALWAYS_PLURAL = frozenset(_PLURALS.split())
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_SAID_U = ("uni", "use", "eu", "one", "ufo", "uku")
_SILENT_H = ("hour", "honest", "heir", "honour", "honor")


def is_plural(noun: str) -> bool:
    """Whether one says "are there"."""
    return noun.lower() in ALWAYS_PLURAL or (lexicon.is_plural(noun) and noun.lower() not in BARE_PLURALS)


def be(noun: str) -> str:
    """``Is`` or ``Are``."""
    return "Are" if is_plural(noun) else "Is"


def with_article(name: str, noun: str) -> str:
    """ "a robot", "an orange box", "robots"; noun: the head of the name."""
    if is_plural(noun):
        return name
    low = name.lower()
    vowel = low.startswith(_SILENT_H) or (low[:1] in "aeiou" and not low.startswith(_SAID_U))
    return f"{'an' if vowel else 'a'} {name}"


def gerund(verb: str) -> str:
    """The -ing form of any form of a verb."""
    import lemminflect

    low = verb.lower()
    if low.endswith("ing") and len(low) > 4 and lexicon.verb_lemma(low) != low:
        return low
    lemma = lexicon.verb_lemma(low)
    found = lemminflect.getInflection(lemma, tag="VBG")
    return str(found[0]) if found else f"{lemma.removesuffix('e')}ing"


def is_compound(word: str) -> bool:
    """Whether a modifier is part of the name ("traffic" of "traffic light") and no property one can ask for."""
    low = word.lower()
    if low in COLOUR_WORDS or low in MATERIALS:
        return False
    return lexicon.usual_tags().get(low, "").startswith(("NN", "VB")) and not low.endswith(("ed", "ing", "y"))


_STUFF = (
    "wood metal glass stone marble steel iron brick paper plastic leather silk wool cotton ice clay bronze copper gold "
    "silver porcelain rubber concrete straw"
)
MATERIALS = frozenset(_STUFF.split())


def name_of(vertex: Vertex) -> str:
    """The thing's own name: "traffic light", "robot"."""
    words = [m.text for m in vertex.modifiers if m.span < vertex.span and is_compound(m.text)]
    return " ".join(_lower(word) for word in (*words, vertex.head))


def properties(vertex: Vertex) -> list[str]:
    """The modifiers that one can ask for: no numbers, no parts of its name, none that a reader may leave out."""
    words = [_lower(m.text) for m in vertex.modifiers if not m.optional and not is_compound(m.text)]
    return [word for word in words if word not in NUMBERS and not word.isdigit()]


def definite(vertex: Vertex, graph: Hypergraph) -> str:
    """ "the robot"; with its properties when the prompt has another thing of that name: "the white dog"."""
    name = name_of(vertex)
    rivals = [v for v in graph.vertices if v.id != vertex.id and name_of(v) == name]
    words = properties(vertex) if rivals else []
    return " ".join(("the", *words, name))


def _lower(word: str) -> str:
    """Lower case, but for words such as TV."""
    return word if word.isupper() and len(word) > 1 else word.lower()
