"""What to look for in a picture, what a detector gives back, and from that the objects with masks.

A *detector* is a function from a picture (H, W, 3) in 0..1 and wanted things to finds; a *segmenter* one from a picture
and boxes to masks. Whatever a model calls its finds, a find names its wanted thing by number: labels cannot merge.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InterplayError
from ...parsing.hypergraph import Hypergraph, Vertex
from ...parsing.lexicon import noun_lemma
from .objects import Box, PictureObject, PictureObjects, mask_box

SAME = 0.5  # overlap from which two boxes of one thing are one find
DOUBLE = 0.9  # overlap from which boxes of different things are one find, the surer one's
INSTANCES = ("joined", "separate")


@dataclass(frozen=True)
class Wanted:
    """Something to look for. label, phrase, verdict: as in ``PictureObject``; named: the prompt asks for it, so that it
    is missing where it is not found; query: the words to give to a detector.
    """

    label: str
    phrase: str = ""
    verdict: float | None = None
    named: bool = True
    query: str = ""

    @property
    def words(self) -> str:
        """What to ask a detector for."""
        return self.query or self.label


@dataclass(frozen=True)
class Found:
    """A find: number of the wanted thing, box and score in 0..1, and a mask (H, W) where the detector makes one."""

    wanted: int
    box: Box
    score: float
    mask: Tensor | None = None


Detector = Callable[[Tensor, Sequence[Wanted]], list[Found]]
Segmenter = Callable[[Tensor, Sequence[Box]], Tensor]


def phrase_of(vertex: Vertex, prompt: str) -> str:
    """A noun group in the prompt's words ("red robot"), "" where other words stand between ("robot that is red")."""
    spans = sorted({vertex.span, *(m.span for m in vertex.modifiers)})
    start, end = spans[0][0], max(b for _, b in spans)
    between = "".join(prompt[a:b] for (_, a), (b, _) in itertools.pairwise(spans))
    return prompt[start:end] if re.fullmatch(r"[\s,-]*", between) else ""


def wanted_things(
    graph: Hypergraph | None, tags: Sequence[str] = (), verdicts: Mapping[str, tuple[float | None, str]] | None = None
) -> tuple[Wanted, ...]:
    """The things of a prompt, then tags that it does not name. Places ("in the forest") are not looked for.

    verdicts: score and phrase by tag, lower case. Several things of one name ("a red cat and a blue cat") are asked for
    by their phrases, others by their names, because the point is to find them where they look wrong. A tag that was
    judged to be one of the prompt's things under another name ("puppy", phrase "black dog") is not looked for again.
    """
    judged = {name.lower(): value for name, value in (verdicts or {}).items()}
    out = list[Wanted]()
    vertices = [v for v in graph.vertices if not v.environment] if graph else []
    heads = [noun_lemma(v.head.lower()) for v in vertices]
    for vertex, head in zip(vertices, heads, strict=True):
        assert graph is not None
        phrase = phrase_of(vertex, graph.prompt)
        score, said = judged.get(vertex.head.lower(), judged.get(head, (2.0, "")))
        query = phrase if heads.count(head) > 1 else ""
        out.append(Wanted(vertex.head, phrase or said, score, True, query))
    known, phrases = set(heads), {thing.phrase.lower() for thing in out if thing.phrase}
    for tag in dict.fromkeys(t.strip() for t in tags if t.strip()):
        score, said = judged.get(tag.lower(), (None, ""))
        if noun_lemma(tag.lower()) not in known and not (said and said.lower() in phrases):
            out.append(Wanted(tag, said, score, False))
            known.add(noun_lemma(tag.lower()))
    return tuple(out)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b))
    return common / (areas - common) if areas > common else 0.0


def distinct(found: Sequence[Found], same: float = SAME, double: float = DOUBLE) -> list[Found]:
    """The finds by falling score without those that show the same again: boxes of one wanted thing that overlap by more
    than ``same``, of different ones by more than ``double``.
    """
    kept = list[Found]()
    for item in sorted(found, key=lambda f: -f.score):
        limits = [(double if item.wanted != other.wanted else same, other) for other in kept]
        if all(overlap(item.box, other.box) <= limit for limit, other in limits):
            kept.append(item)
    return kept


def clipped(box: Sequence[float]) -> Box | None:
    """A box inside the picture, None for one without area."""
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(value))) for value in box)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """(H, W) ones inside a box, at least one pixel."""
    mask = torch.zeros(height, width)
    x0, y0 = min(width - 1, round(box[0] * width)), min(height - 1, round(box[1] * height))
    mask[y0 : max(y0 + 1, round(box[3] * height)), x0 : max(x0 + 1, round(box[2] * width))] = 1.0
    return mask


def ground(
    image: Tensor,
    things: Sequence[Wanted],
    detector: Detector,
    segmenter: Segmenter | None = None,
    instances: str = "joined",
    most: int = 64,
) -> PictureObjects:
    """Look for ``things`` in a picture (H, W, 3).

    instances: all finds of a thing are one object ("joined"), or each is one ("separate"). segmenter: makes masks of
    boxes where the detector made none; without it a mask is its box. most: finds that are looked at, the surest first.
    """
    return collect(image, things, detector(image, things) if things else [], segmenter, instances, most)


def collect(
    image: Tensor,
    things: Sequence[Wanted],
    found: Sequence[Found],
    segmenter: Segmenter | None = None,
    instances: str = "joined",
    most: int = 64,
) -> PictureObjects:
    """Objects with masks from finds; what the prompt names and nobody found is missing. Arguments as ``ground``."""
    if instances not in INSTANCES:
        raise InterplayError(f"Instances can be {' or '.join(INSTANCES)}, not '{instances}'.")
    height, width = image.shape[:2]
    kept = distinct(found)[:most]
    masks = _masks(image, kept, segmenter)
    objects, planes = list[PictureObject](), list[Tensor]()
    for number, thing in enumerate(things):
        own = [i for i, item in enumerate(kept) if item.wanted == number]
        groups = [own] if instances == "joined" and own else [[i] for i in own]
        for group in groups:
            mask = torch.stack([masks[i] for i in group]).amax(0)
            box = mask_box(mask) or kept[group[0]].box
            score = max(kept[i].score for i in group)
            objects.append(PictureObject(thing.label, thing.phrase, score, box, thing.verdict))
            planes.append(mask)
    seen = {item.wanted for item in kept}
    missing = tuple(t.phrase or t.label for n, t in enumerate(things) if t.named and n not in seen)
    stack = torch.stack(planes).to(torch.float32).cpu() if planes else None
    assert stack is None or stack.shape[1:] == (height, width)
    return PictureObjects(tuple(objects), stack, missing)


def _masks(image: Tensor, found: Sequence[Found], segmenter: Segmenter | None) -> list[Tensor]:
    height, width = image.shape[:2]
    masks = [item.mask for item in found]
    without = [i for i, mask in enumerate(masks) if mask is None]
    if without and segmenter is not None:
        made = segmenter(image, [found[i].box for i in without])
        for i, mask in zip(without, made, strict=True):
            masks[i] = mask if bool(mask.any()) else None
    return [box_mask(f.box, height, width) if m is None else m.float().cpu() for m, f in zip(masks, found, strict=True)]
