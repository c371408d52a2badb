"""Captions that a picture does not match, and captions that say the same in other words, made from its own caption.

After NegCLIP (Yuksekgonul et al. 2022, arXiv 2210.01936), with the hypergraph in place of word classes: what changes
places is bound to something, and every result is parsed again (see ``negative_filters``). Swaps of parties, properties
and contraries come from ``rewards.swaps``, which the scores use, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random

from ...errors import InterplayError
from ...parsing import lexicon, parse
from ...parsing.hypergraph import Hyperedge, Hypergraph, Modifier, Span, Vertex
from ..rewards.swaps import Swap, _exchange, _phrase, swapped_captions
from ..rewards.wording import COLOURS, NUMBERS, is_plural
from .negative_filters import OPS, Said, reason_against, repaired, said, symmetric

__all__ = ["OPS", "Negative", "candidates", "hard_positives", "negatives"]

ANTONYMS = {
    a: b
    for pair in (
        "left right", "above below", "over under", "on under", "inside outside", "in outside", "front behind",
        "top bottom", "into beside", "atop beneath",
    )
    for a, b in (pair.split(), pair.split()[::-1])
}  # fmt: skip
_PLACES = {"in front of": "behind", "behind": "in front of", "on top of": "under", "to the left of": "to the right of",
           "to the right of": "to the left of"}  # fmt: skip
_SIZES = {"big": "small", "small": "big", "large": "small", "tall": "short", "short": "tall", "long": "short",
          "little": "big", "huge": "tiny", "tiny": "huge", "old": "young", "young": "old", "open": "closed",
          "empty": "full", "full": "empty", "wet": "dry", "dry": "wet", "clean": "dirty", "dirty": "clean"}  # fmt: skip
UNCHANGED = ("sheep", "fish")
MATERIALS = ["wooden", "metal", "plastic", "glass", "brick", "stone", "leather"]
CLASSES = tuple(
    line.split()
    for line in (
        "cat dog horse cow sheep goat elephant bear zebra giraffe rabbit bird lion monkey pig duck fish",
        "man woman",  # a boy may pass for a man
        "boy girl",
        "car bus truck train bicycle motorcycle boat airplane",
        "chair table bench sofa bed desk",
        "apple banana orange pizza sandwich cake carrot donut",
        "cup bowl plate bottle fork knife spoon box vase book",
        "ball kite frisbee skateboard surfboard umbrella",
        "robot ghost crown star",
        "forest kitchen park field desert",  # in
        "beach street road",  # on
        "shirt dress hat jacket",
    )
)
_NEAR = tuple(
    frozenset(pair.split())
    for pair in (
        "red orange", "orange yellow", "pink purple", "pink red", "blue purple", "white gray", "black gray",
        "brown tan", "brown orange", "brown black", "tan yellow", "gold yellow", "gold orange", "silver gray",
        "silver white", "beige white", "beige yellow", "beige brown", "tan white", "gold brown",
    )
)  # fmt: skip
"""Colours that one person calls this and another that."""


@dataclass(frozen=True)
class Negative:
    """A caption, how it was made (one of OPS), the two stretches that changed places or gave way, and what is expected
    to be different in a picture of it. span: of the first of them in the text; reason: why it was turned down, or "".
    """

    text: str
    op: str
    changed: tuple[str, str]
    span: Span = (0, 0)
    expected: str = ""
    reason: str = ""


def negatives(
    caption: str, ops: Sequence[str] = OPS, limit: int = 8, mixed: bool = False, seed: int = 0
) -> list[Negative]:
    """Up to ``limit`` captions that a picture of ``caption`` does not match, swaps first.

    mixed: parties of an action may change places although one is alive and the other is not ("a box carries a man"),
    which pictures show in PixelWorld only. seed: of the words that replacements take.

    Raises:
        InterplayError: an operation is unknown.
    """
    found = candidates(caption, ops, mixed, seed)
    return [n for n in found if not n.reason][:limit]


def candidates(caption: str, ops: Sequence[str] = OPS, mixed: bool = False, seed: int = 0) -> list[Negative]:
    """All that the rules make, with the reason against those that do not hold; each text once."""
    unknown = [op for op in ops if op not in OPS]
    if unknown:
        raise InterplayError(f"There is no operation '{unknown[0]}' for negatives; choose of {', '.join(OPS)}.")
    graph, out = parse(caption), dict[str, Negative]()
    for made in _all(graph, mixed, seed):
        if made.op not in ops:
            continue
        text = repaired(made.text)
        reason = made.reason or reason_against(caption, text, made.op)
        span = _place(text, made.changed[1])
        expected = f"'{made.changed[0]}' and '{made.changed[1]}' have changed places"
        if made.op.startswith("replace"):
            expected = f"'{made.changed[1]}' in place of '{made.changed[0]}'"
        known = out.get(text.lower())
        if known is None or (known.reason and not reason):
            out[text.lower()] = Negative(text, made.op, made.changed, span, expected, reason)
    order = {op: i for i, op in enumerate(OPS)}
    return sorted(out.values(), key=lambda n: order[n.op])


def _place(text: str, part: str) -> Span:
    start = text.lower().find(part.lower())
    return (start, start + len(part)) if start >= 0 and part else (0, 0)


def _all(graph: Hypergraph, mixed: bool, seed: int) -> Iterator[Negative]:
    for swap in swapped_captions(graph, limit=64):
        yield _from_swap(swap, graph, mixed)
    yield from _counts(graph)
    yield from _verbs(graph)
    yield from _relations(graph)
    yield from _replaced_properties(graph, seed)
    yield from _replaced_things(graph, seed)


def _from_swap(swap: Swap, graph: Hypergraph, mixed: bool) -> Negative:
    if swap.operation == "properties":
        return Negative(swap.text, "swap_attr", swap.changed)
    if swap.operation == "contrary":
        worn = any(e.kind == "relation" and _worn(e, graph) for e in graph.hyperedges if swap.changed[0] == e.action)
        return Negative(swap.text, "replace_rel", swap.changed, reason="implausible" if worn else "")
    edge = next((e for e in graph.hyperedges if _links(e, graph, swap.changed)), None)
    if edge is not None and edge.kind == "relation":
        inside = edge.action.lower() in ("in", "inside")
        alive = [lexicon.is_animate(head) for head in swap.changed]
        reason = "implausible" if inside and alive[0] != alive[1] and not mixed else ""  # "a dress in a woman"
        return Negative(swap.text, "swap_rel", swap.changed, reason=reason)
    alive = [lexicon.is_animate(head) or lexicon.noun_lemma(head) in CLASSES[0] for head in swap.changed]
    reason = "implausible" if alive[0] != alive[1] and not mixed else ""
    return Negative(swap.text, "swap_role", swap.changed, reason=reason)


def _links(edge: Hyperedge, graph: Hypergraph, heads: tuple[str, str]) -> bool:
    return set(heads) <= {graph.vertex(p.vertex).head for p in edge.participants}


def _worn(edge: Hyperedge, graph: Hypergraph) -> bool:
    return any(lexicon.is_clothing(graph.vertex(p.vertex).head) for p in edge.participants)


# --- swaps that the scores do not need --------------------------------------------------------------------------------


def _number(vertex: Vertex) -> Modifier | None:
    return next((m for m in vertex.modifiers if m.text.lower() in NUMBERS or m.text.isdigit()), None)


def _counted(vertex: Vertex, graph: Hypergraph) -> tuple[str, Span] | None:
    """The number before a vertex: a modifier, or a word of the prompt right before the thing."""
    own = _number(vertex)
    if own is not None:
        return own.text, own.span
    start = min((vertex.span[0], *(m.span[0] for m in vertex.modifiers if m.span < vertex.span)))
    before = re.search(r"(\w+)\s+$", graph.prompt[:start])
    if before and (before[1].lower() in NUMBERS or before[1].isdigit()):
        return before[1], before.span(1)
    return None


def _counts(graph: Hypergraph) -> Iterator[Negative]:
    """ "two cats and three dogs" -> "three cats and two dogs"; "one" would want another form of the noun."""
    found = [(v, _counted(v, graph)) for v in sorted(graph.vertices, key=lambda v: v.span)]
    numbered = [(v, n) for v, n in found if n is not None and is_plural(v.head)]
    for (_, first), (_, second) in combinations(numbered, 2):
        if first[0].lower() != second[0].lower():
            yield Negative(_exchange(graph.prompt, first[1], second[1]), "swap_count", (first[0], second[0]))


def _verbs(graph: Hypergraph) -> Iterator[Negative]:
    """Two actions with a subject each: "the man sits, the dog runs" -> "the man runs, the dog sits"."""
    actions = [e for e in graph.hyperedges if e.kind == "action"]
    for first, second in combinations(sorted(actions, key=lambda e: e.spans[0]), 2):
        subjects = [[p.vertex for p in e.participants if p.role == "subject"] for e in (first, second)]
        objects = [sum(p.role == "object" for p in e.participants) for e in (first, second)]
        if any(len(s) != 1 for s in subjects) or subjects[0] == subjects[1] or objects[0] != objects[1]:
            continue
        heads = [graph.vertex(s[0]).head for s in subjects]
        verbs = [graph.prompt[slice(*e.spans[0])] for e in (first, second)]
        same_form = verbs[0][-3:].lower() == verbs[1][-3:].lower() == "ing" or is_plural(heads[0]) == is_plural(
            heads[1]
        )
        if verbs[0].lower() != verbs[1].lower() and same_form and first.spans[0] < second.spans[0]:
            text = _exchange(graph.prompt, first.spans[0], second.spans[0])
            yield Negative(text, "swap_verb", (verbs[0], verbs[1]))


def _relations(graph: Hypergraph) -> Iterator[Negative]:
    """A place gives way to its contrary: "above" -> "below"."""
    low = graph.prompt.lower()
    for phrase, other in _PLACES.items():
        for match in re.finditer(rf"\b{phrase}\b", low):
            yield Negative(_with(graph.prompt, match.span(), other), "replace_rel", (phrase, other))
    if any(phrase in low for phrase in _PLACES):
        return
    for edge in graph.hyperedges:
        if edge.kind != "relation" or symmetric(edge):
            continue
        word = graph.prompt[slice(*edge.spans[0])].lower()
        places = [p.vertex for p in edge.participants if p.role == "location"]
        wide = any(graph.vertex(v).environment for v in places)
        if word in ANTONYMS and not wide and not _worn(edge, graph) and len(edge.participants) == 2:
            yield Negative(_with(graph.prompt, edge.spans[0], ANTONYMS[word]), "replace_rel", (word, ANTONYMS[word]))


# --- replacements -----------------------------------------------------------------------------------------------------


def _with(prompt: str, span: Span, word: str) -> str:
    old = prompt[slice(*span)]
    word = word.capitalize() if old[:1].isupper() and span[0] == 0 else word
    return prompt[: span[0]] + word + prompt[span[1] :]


def _replaced_properties(graph: Hypergraph, seed: int) -> Iterator[Negative]:
    present = set(re.findall(r"\w+", graph.prompt.lower()))
    for vertex in graph.vertices:
        for m in vertex.modifiers:
            old = m.text.lower()
            group = next((g for g in (COLOURS, MATERIALS) if old in g), ())
            group = COLOURS if old in ("tan", "beige", "silver", "gold") else group
            choices = [w for w in group if w not in present and {w, old} not in _NEAR]
            choices = choices or ([_SIZES[old]] if old in _SIZES else [])
            if choices:
                word = Random(f"{seed} {graph.prompt} {old}").choice(choices)
                yield Negative(_with(graph.prompt, m.span, word), "replace_attr", (m.text, word))


def _replaced_things(graph: Hypergraph, seed: int) -> Iterator[Negative]:
    present = {lexicon.noun_lemma(w) for w in re.findall(r"\w+", graph.prompt.lower())}
    for vertex in graph.vertices:
        head = vertex.head.lower()
        group = next((g for g in CLASSES if lexicon.noun_lemma(head) in g), ())
        choices = [w for w in group if w not in present]
        if not choices or _in_name(vertex, graph):
            continue
        word = Random(f"{seed} {graph.prompt} {head}").choice(choices)
        many = is_plural(head) or several(vertex, graph)  # "two fish", "a group of sheep"
        word = _plural(word) if many and word not in UNCHANGED else word
        yield Negative(_with(graph.prompt, vertex.span, word), "replace_obj", (vertex.head, word))


def several(vertex: Vertex, graph: Hypergraph) -> bool:
    number = _counted(vertex, graph)
    if number is not None:
        return number[0].lower() not in ("one", "1")
    start = min((vertex.span[0], *(m.span[0] for m in vertex.modifiers)))
    return re.search(r"\b(group|couple|row|pair|bunch|herd|flock|lot) of\s+$", graph.prompt[:start].lower()) is not None


def _in_name(vertex: Vertex, graph: Hypergraph) -> bool:
    """Whether the noun is a part of a name ("teddy bear") or of "a couple of"."""
    before = re.search(r"([\w-]+)\s+$", graph.prompt[: vertex.span[0]])
    after = graph.prompt[vertex.span[1] :]
    tagged = before is not None and lexicon.usual_tags().get(before[1].lower(), "").startswith("NN")
    return (tagged and before is not None and before[1].lower() not in (*COLOURS, *MATERIALS)) or after.startswith(
        " of "
    )


def _plural(word: str) -> str:
    import lemminflect

    found = lemminflect.getInflection(word, tag="NNS")
    return str(found[0]) if found else f"{word}s"


# --- the same in other words ------------------------------------------------------------------------------------------


def hard_positives(caption: str) -> list[str]:
    """Captions that say the same in another order: conjuncts exchanged, actions in the passive. Training with negatives
    alone makes a model take every change of order for a change of meaning (Kamath et al. 2024, arXiv 2409.17958).
    """
    graph = parse(caption)
    own = said(graph)
    made = dict.fromkeys((*_conjuncts(graph), *_passives(graph)))
    return [text for text in made if text.lower() != caption.lower() and _says(text, own)]


def _says(text: str, own: Said) -> bool:
    return said(parse(text)) == own


def _conjuncts(graph: Hypergraph) -> Iterator[str]:
    """ "a cat and a dog" -> "a dog and a cat"; only what stands alone around "and"."""
    things = sorted(graph.vertices, key=lambda v: v.span)
    for first, second in pairwise(things):
        spans = _phrase(first, graph), _phrase(second, graph)
        if graph.prompt[spans[0][1] : spans[1][0]].strip().lower() in ("and", "or"):
            yield repaired(_exchange(graph.prompt, *spans))


def _passives(graph: Hypergraph) -> Iterator[str]:
    """ "a sheep chases a goat" -> "a goat is chased by a sheep"; "chasing" -> "chased by"."""
    import lemminflect

    for edge in graph.hyperedges:
        words = edge.action.split()
        subjects = [p.vertex for p in edge.participants if p.role == "subject"]
        objects = [p.vertex for p in edge.participants if p.role == "object"]
        if edge.kind != "action" or len(words) != 1 or len(subjects) != 1 or len(objects) != 1 or symmetric(edge):
            continue
        subject, thing = graph.vertex(subjects[0]), graph.vertex(objects[0])
        first, second = _phrase(subject, graph), _phrase(thing, graph)
        verb = graph.prompt[first[1] : second[0]].strip()
        forms = lemminflect.getInflection(lexicon.verb_lemma(words[0].lower()), tag="VBN")
        if verb.lower() not in (words[0].lower(), f"is {words[0].lower()}") or not forms or first[1] > second[0]:
            continue
        plain = words[0].lower().endswith("ing") and not verb.lower().startswith("is ")
        be = "" if plain else "are " if is_plural(thing.head) else "is being " if " " in verb else "is "
        swapped = _exchange(graph.prompt, first, second)
        start = first[0] + (second[1] - second[0])
        middle = f" {be}{forms[0]} by "
        yield swapped[:start] + middle + swapped[start + (second[0] - first[1]) :]
