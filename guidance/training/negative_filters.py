"""Whether a caption is a negative of another: same words, another meaning, still English.

Rules and language models alike go through here: both make captions that mean the same, and those teach errors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...parsing import lexicon, parse
from ...parsing.hypergraph import Hyperedge, Hypergraph
from ..rewards.questions import _mutual
from ..rewards.wording import gerund, with_article

SWAPS = ("swap_attr", "swap_role", "swap_rel", "swap_count", "swap_verb")
REPLACES = ("replace_attr", "replace_obj", "replace_rel")
OPS = (*SWAPS, *REPLACES)

_SYMMETRIC_WORDS = "and or with next beside near by alongside along together against like around between"
_SYMMETRIC = frozenset(_SYMMETRIC_WORDS.split())
_STOP_WORDS = (
    "a an the some and or of in on at to is are was be being been "
    "with by for from it its his her their there that this which who while as into onto"
)
_STOP = frozenset(_STOP_WORDS.split())
_GROUPS = "couple row group pair bunch lot set piece slice stack pile line amount number"
_HOLDERS = "cup glass mug bottle bowl plate basket box bag jar can pot bucket tray"
_POSITIONS = "top side front back middle"
_COMPOUNDS = (
    "fire hydrant, teddy bear, traffic light, stop sign, parking meter, hot dog, tennis racket, tennis ball, "
    "baseball bat, "
    "baseball glove, wine glass, dining table, cell phone, hair drier, remote control, living room, polar bear, "
    "ice cream, "
    "street sign, train station, coffee table, bus stop, sky scraper, potted plant, surf board, snow board"
)
COMPOUNDS = tuple(_COMPOUNDS.split(", "))
_SYNONYMS = (
    "street road avenue roadway, sofa couch settee, car automobile auto, bike bicycle cycle, motorbike motorcycle, "
    "photo picture image photograph, big large huge, small little tiny, man guy gentleman, woman lady, kid child, "
    "plane airplane aeroplane, tv television, phone telephone cellphone, ship boat, stone rock, gray grey, cup mug, "
    "rug carpet, path trail, home house, sidewalk pavement, purse handbag, puppy dog, kitten cat, near by beside, "
    "holding carrying, looking watching, sitting seated, hat cap, jacket coat, trousers pants, bathtub tub, "
    "forest wood woods, "
    "hill mountain, ocean sea, shop store, over above, under below beneath underneath, on atop upon, several many, "
    "taxi cab, "
    "purple violet, tan beige, quick fast, meal food, toddler baby infant"
)
SYNONYMS = tuple(frozenset(group.split()) for group in _SYNONYMS.split(", "))


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


def _bag(text: str) -> Counter[str]:
    """Words of a caption; "an" counts as "a", plural as singular, since repairs may change these."""
    return Counter("a" if w == "an" else lexicon.noun_lemma(w) for w in words(text))


@dataclass(frozen=True)
class Said:
    """What a caption says, independent of the order in which it says it."""

    heads: Counter[str]
    properties: Counter[tuple[str, str]]
    counts: Counter[tuple[str, int]]
    edges: Counter[tuple[str, ...]]


def said(graph: Hypergraph) -> Said:
    """Things, properties, numbers and who does what to whom; parties of mutual actions and relations in no order."""
    heads = {v.id: lexicon.noun_lemma(v.head.lower()) for v in graph.vertices}
    properties = Counter((heads[v.id], m.text.lower()) for v in graph.vertices for m in v.modifiers)
    counts = Counter((heads[v.id], v.count) for v in graph.vertices if v.count is not None)
    edges: Counter[tuple[str, ...]] = Counter()
    for edge in graph.hyperedges:
        edges[_arc(edge, heads)] += 1
    return Said(Counter(heads.values()), properties, counts, edges)


def _arc(edge: Hyperedge, heads: dict[str, str]) -> tuple[str, ...]:
    verb, *rest = edge.action.lower().split()
    # "chased by" says of the goat what "chases" says of the sheep
    passive = edge.kind == "action" and rest[-1:] == ["by"] and not verb.endswith("ing")
    name = lexicon.verb_lemma(verb) if edge.kind == "action" else verb
    parties = [f"{'object' if p.role != 'subject' else 'subject'} {heads[p.vertex]}" for p in edge.participants]
    if passive:
        turn = {"subject": "object", "object": "subject"}
        parties = [f"{turn[p.split()[0]]} {p.split(maxsplit=1)[1]}" for p in parties]
        rest = rest[:-1]
    if symmetric(edge):
        parties = [p.split(maxsplit=1)[1] for p in parties]
    return (" ".join((name, *rest)), *sorted(parties))


def symmetric(edge: Hyperedge) -> bool:
    """Whether who is named first makes no difference."""
    found = edge.action.lower().split()
    if edge.kind == "relation":
        return bool(_SYMMETRIC.intersection(found))
    return _mutual(gerund(found[0]), found[1:])


def reason_against(caption: str, text: str, op: str) -> str:
    """Why ``text``, made by ``op`` (one of OPS), is no negative of the caption; "" where it is one.

    In this order: "empty", "same" (the caption itself), "compound" (broke the name of a thing, or "a couple of"),
    "article" (a/an), "words" (a swap that adds or drops words, a replacement of more than two), "synonym", "meaning"
    (says the same: mutual relations, "X and Y"), "broken" (no longer says what the same words should say).
    """
    if not text.strip():
        return "empty"
    if words(text) == words(caption):
        return "same"
    if _broken_names(caption, text, op):
        return "compound"
    if not articles_right(text, caption):
        return "article"
    wrong = _words_changed(caption, text, op)
    if wrong:
        return wrong
    before, after = said(parse(caption)), said(parse(text))
    if before == after:
        return "meaning"
    if op in SWAPS and not _same_parts(before, after, op):
        return "broken"
    if op in REPLACES and sum(before.heads.values()) != sum(after.heads.values()):
        return "broken"
    return ""


def _broken_names(caption: str, text: str, op: str) -> bool:
    """Whether a name of several words came apart, or "a couple of" and "on top of" hold other words than before."""
    low, new = " ".join(words(caption)), " ".join(words(text))
    if any(name in low and name not in new for name in COMPOUNDS):
        return True
    held = _GROUPS if op == "replace_rel" else f"{_GROUPS} {_POSITIONS}"
    group = re.compile(rf"(\w+) ({'|'.join(held.split())}) of\b")
    before, after = (Counter(("a" if a == "an" else a, b) for a, b in group.findall(t)) for t in (low, new))
    holder = re.compile(rf"\b(?:{'|'.join(_HOLDERS.split())})s? of\b")  # "a cup of coffee", not "a book of coffee"
    return before != after or (op != "replace_obj" and Counter(holder.findall(low)) != Counter(holder.findall(new)))


def articles_right(text: str, like: str = "") -> bool:
    """Whether every "a" and "an" fits its word; those that were wrong in ``like`` already don't count."""
    wrong = [pair for pair in _articles(text) if not _fits(*pair)]
    return len(wrong) <= len([pair for pair in _articles(like) if not _fits(*pair)])


def _articles(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\b(an?)\s+([\w'-]+)", text.lower())


def _fits(article: str, word: str) -> bool:
    return with_article(word, "thing").split()[0] == article


def repaired(text: str) -> str:
    """The text with "a" and "an" set right and a capital where the sentence begins with one elsewhere."""

    def fix(match: re.Match[str]) -> str:
        right = with_article(match[2], "thing").split()[0]
        return (
            (right.capitalize() if match[1][0].isupper() else right)
            + match[0][len(match[1]) : -len(match[2])]
            + match[2]
        )

    return re.sub(r"\b([Aa]n?)\s+([\w'-]+)", fix, text)


def _words_changed(caption: str, text: str, op: str) -> str:
    old, new = _bag(caption), _bag(text)
    gone, come = list((old - new).elements()), list((new - old).elements())
    if op in SWAPS:
        return "words" if gone or come else ""
    content = [w for w in (*gone, *come) if w not in _STOP]
    if len([w for w in gone if w not in _STOP]) > 2 or len([w for w in come if w not in _STOP]) > 2 or not content:
        return "words"
    counts = [sum(w not in _STOP for w in side) for side in (gone, come)]
    if op != "replace_rel" and (counts[0] != counts[1] or len(words(caption)) != len(words(text))):
        return "words"
    if abs(len(words(caption)) - len(words(text))) > 3:
        return "words"
    if any(synonymous(a, b) for a in gone for b in come):
        return "synonym"
    return ""


def synonymous(a: str, b: str) -> bool:
    """Whether one word can stand for the other in a caption."""
    one, two = lexicon.noun_lemma(a.lower()), lexicon.noun_lemma(b.lower())
    return one == two or any(one in group and two in group for group in SYNONYMS)


def _same_parts(before: Said, after: Said, op: str) -> bool:
    """Whether the parse found the same things, properties and actions again, bound otherwise."""
    if before.heads != after.heads:
        return False
    bound = Counter(p for _, p in before.properties.elements()) == Counter(p for _, p in after.properties.elements())
    acts = Counter(e[0] for e in before.edges.elements()) == Counter(e[0] for e in after.edges.elements())
    numbers = Counter(n for _, n in before.counts.elements()) == Counter(n for _, n in after.counts.elements())
    return bound and acts and numbers


Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]


def far_enough(caption: str, texts: Sequence[str], embed: Embed, tau: float) -> list[str]:
    """Those whose embedding (of unit length or not) lies further than tau from the caption's, as 1 - cosine."""
    if not texts:
        return []
    own, *others = embed([caption, *texts])

    def cosine(a: Sequence[float], b: Sequence[float]) -> float:
        size = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        return sum(x * y for x, y in zip(a, b, strict=True)) / max(size, 1e-12)

    return [text for text, other in zip(texts, others, strict=True) if 1 - cosine(own, other) > tau]
