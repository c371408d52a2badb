"""Objects found in pictures (or painted by hand): names, what the prompt says of them, boxes and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InterplayError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PictureObject:
    """One object of a picture.

    label: the word of the prompt or tag; phrase: what it should look like in the prompt's own words ("red robot"), ""
    if the prompt does not say; score: the detector's confidence, 0..1; box: x0, y0, x1, y1 in 0..1; verdict: 2 the
    prompt wants it, 0.5 it may be there, 0 it should not, None unjudged; weight: of the modulation, None = verdict;
    cleared: all words are to be pushed out of its region, for it is not wanted.
    """

    label: str
    phrase: str = ""
    score: float = 1.0
    box: Box | None = None
    verdict: float | None = None
    weight: float | None = None
    cleared: bool = False


@dataclass(frozen=True)
class PictureObjects:
    """The objects of one picture.

    masks: (len(objects), H, W) float in 0..1, None when there are no objects; missing: labels or phrases of the prompt
    that the picture does not show; acts: who was seen to do what to whom, (subject, action, object) with places in
    ``objects``; None when whoever looked cannot tell.
    """

    objects: tuple[PictureObject, ...] = ()
    masks: Tensor | None = None
    missing: tuple[str, ...] = ()
    acts: tuple[tuple[int, str, int], ...] | None = None

    def __post_init__(self) -> None:
        count = 0 if self.masks is None else len(self.masks)
        if count != len(self.objects) or (self.masks is not None and self.masks.dim() != 3):
            raise InterplayError(f"{len(self.objects)} objects have {count} masks; give one (H, W) mask for each.")

    def mask(self, index: int) -> Tensor:
        """(H, W) mask of an object."""
        assert self.masks is not None
        return self.masks[index]


@dataclass(frozen=True)
class ObjectsBatch:
    """The objects of a batch of pictures, all of ``height`` x ``width`` pixels, and the prompt they were drawn from."""

    pictures: tuple[PictureObjects, ...]
    height: int
    width: int
    prompt: str = ""

    def __post_init__(self) -> None:
        for picture in self.pictures:
            if picture.masks is not None and tuple(picture.masks.shape[1:]) != (self.height, self.width):
                size = f"{self.height} x {self.width}"
                raise InterplayError(f"Masks of {tuple(picture.masks.shape[1:])} do not fit pictures of {size}.")

    def stacked(self) -> Tensor:
        """(n, H, W) masks of all objects, picture by picture; one empty mask when there are none."""
        found = [picture.masks for picture in self.pictures if picture.masks is not None and len(picture.masks)]
        return torch.cat(found) if found else torch.zeros(1, self.height, self.width)

    def missing(self) -> list[str]:
        """What one picture or another lacks, each named once."""
        return list(dict.fromkeys(name for picture in self.pictures for name in picture.missing))

    def to_json(self) -> str:
        """Everything but the masks, as JSON."""
        return json.dumps({"prompt": self.prompt, "pictures": [_plain(p) for p in self.pictures]}, indent=1)


def _plain(picture: PictureObjects) -> dict[str, Any]:
    objects = []
    for index, item in enumerate(picture.objects):
        share = round(float(picture.mask(index).mean()), 4)
        box = [round(v, 4) for v in item.box] if item.box else None
        facts = {"label": item.label, "phrase": item.phrase, "score": round(item.score, 4), "box": box, "area": share}
        objects.append({**facts, "verdict": item.verdict, "weight": item.weight})
    return {"objects": objects, "missing": list(picture.missing)}


def mask_box(mask: Tensor) -> Box | None:
    """The box of a mask's pixels from 0.5 on, in 0..1; None for an empty one."""
    ys, xs = torch.nonzero(mask >= 0.5, as_tuple=True)
    if not len(ys):
        return None
    height, width = mask.shape
    x0, x1, y0, y1 = int(xs.min()), int(xs.max()) + 1, int(ys.min()), int(ys.max()) + 1
    return (x0 / width, y0 / height, x1 / width, y1 / height)


def with_verdicts(picture: PictureObjects, verdicts: dict[str, tuple[float, str]]) -> PictureObjects:
    """The picture with each object's verdict and phrase by its label (lower case); others keep theirs."""
    objects = []
    for item in picture.objects:
        score, phrase = verdicts.get(item.label.lower(), (item.verdict, item.phrase))
        objects.append(replace(item, verdict=score, phrase=phrase or item.phrase))
    return replace(picture, objects=tuple(objects))


def joined(parts: Sequence[ObjectsBatch]) -> ObjectsBatch:
    """Objects of the same pictures from several sources, one after the other."""
    first = parts[0]
    if len({(len(p.pictures), p.height, p.width) for p in parts}) > 1:
        raise InterplayError("Only objects of the same pictures can be put together; connect the same IMAGE to both.")
    pictures = []
    for same in zip(*(p.pictures for p in parts), strict=True):
        masks = [p.masks for p in same if p.masks is not None]
        names = tuple(dict.fromkeys(n for p in same for n in p.missing))
        pictures.append(
            PictureObjects(tuple(o for p in same for o in p.objects), torch.cat(masks) if masks else None, names)
        )
    return ObjectsBatch(tuple(pictures), first.height, first.width, first.prompt or parts[-1].prompt)
