"""Objects from masks that people draw, with lines of text that say what they are."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...errors import InterplayError
from ...parsing.hypergraph import Hypergraph
from ...parsing.lexicon import noun_lemma
from .detectors import phrase_of
from .objects import ObjectsBatch, PictureObject, PictureObjects, joined, mask_box

BATCHES = ("an object each", "a picture each")


def read_lines(text: str) -> list[PictureObject]:
    """ "robot | red robot | 2" a line: label, phrase, weight; the last two may be left out.

    InterplayError for a line without label, or with a weight that is no number or below 0.
    """
    out = []
    for line in filter(str.strip, text.splitlines()):
        label, phrase, weight = (*(part.strip() for part in line.split("|", 2)), "", "")[:3]
        try:
            value = float(weight) if weight else None
        except ValueError:
            value = -1.0
        if not label or (value is not None and not 0 <= value < float("inf")):
            raise InterplayError(
                f"The line '{line.strip()}' is not 'label | phrase | weight'; write it so, weight >= 0."
            )
        out.append(PictureObject(label, phrase, weight=value))
    return out


def objects_from_masks(
    masks: Tensor, lines: str, batch: str, more: ObjectsBatch | None = None, graph: Hypergraph | None = None
) -> ObjectsBatch:
    """Objects from masks (n, H, W) or (H, W) in 0..1.

    batch: of ``BATCHES``: n objects of one picture, with a line each; or one object in n pictures, with one line, where
    an empty mask says that this picture lacks it. Without a line, things of the prompt are taken in their order. more:
    objects of the same pictures. graph: of the prompt; its things that are in no line are missing.
    InterplayError when lines and masks do not fit.
    """
    if batch not in BATCHES:
        raise InterplayError(f"A batch of masks can be {' or '.join(BATCHES)}, not '{batch}'.")
    planes = masks.detach().float().cpu().clamp(0, 1).reshape(-1, *masks.shape[-2:])
    given = read_lines(lines) or _of_prompt(graph)
    count = len(planes) if batch == BATCHES[0] else 1
    if len(given) < count or (len(given) > count and lines.strip()):
        raise InterplayError(
            f"There are {count} masks of objects but {len(given)} labels; give a line for each object."
        )
    items = [_placed(item, planes[i]) for i, item in enumerate(given[:count])]
    if batch == BATCHES[0]:
        pictures = [_present(items, planes)]
    else:
        pictures = [_present([_placed(given[0], plane)], plane[None]) for plane in planes]
    made = ObjectsBatch(tuple(pictures), planes.shape[1], planes.shape[2], graph.prompt if graph else "")
    made = made if more is None else joined([_for(more, made), _for(made, more)])
    return made if graph is None else _with_missing(made, graph)


def _for(batch: ObjectsBatch, other: ObjectsBatch) -> ObjectsBatch:
    """Objects of one picture stand for those of every picture."""
    count = len(other.pictures)
    return replace(batch, pictures=batch.pictures * count) if len(batch.pictures) == 1 else batch


def _placed(item: PictureObject, mask: Tensor) -> PictureObject:
    return replace(item, box=mask_box(mask))


def _present(items: list[PictureObject], masks: Tensor) -> PictureObjects:
    """Objects whose masks are not empty."""
    kept = [i for i in range(len(items)) if bool((masks[i] > 0).any())]
    missing = tuple(item.phrase or item.label for i, item in enumerate(items) if i not in kept)
    stack = masks[kept] if kept else None
    return PictureObjects(tuple(items[i] for i in kept), stack, missing)


def _of_prompt(graph: Hypergraph | None) -> list[PictureObject]:
    if graph is None:
        return []
    things = [v for v in graph.vertices if not v.environment]
    return [PictureObject(v.head, phrase_of(v, graph.prompt), verdict=2.0) for v in things]


def _with_missing(batch: ObjectsBatch, graph: Hypergraph) -> ObjectsBatch:
    """What of the prompt no object stands for, by head word."""
    pictures = []
    for picture in batch.pictures:
        there = [noun_lemma(o.label.lower().split()[-1]) for o in picture.objects]
        missing = []
        for item in _of_prompt(graph):
            head = noun_lemma(item.label.lower())
            if head in there:
                there.remove(head)
            else:
                missing.append(item.phrase or item.label)
        pictures.append(replace(picture, missing=tuple(missing)))
    return replace(batch, pictures=tuple(pictures), prompt=graph.prompt)
