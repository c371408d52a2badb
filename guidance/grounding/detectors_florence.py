"""Florence-2 through transformers: boxes of one thing at a time, and masks of boxes, read off its generated places.

Florence-2 answers with places on a grid of 1000 x 1000 and gives no confidence: the mean probability of the place
tokens stands in for it. It always answers, so "missing" is only as good as that figure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from .detectors import Found, Wanted, clipped
from .detectors_loading import open_model, open_part, tensor, to_pillow
from .objects import Box

BINS = 1000
DETECT = "<OPEN_VOCABULARY_DETECTION>"
OUTLINE = "<REGION_TO_SEGMENTATION>"
LONGEST = 512  # tokens of an answer
_PLACE = re.compile(r"<loc_(\d+)>")


def places(text: str) -> list[float]:
    """The places of an answer, each the middle of its bin, in 0..1."""
    return [(min(BINS - 1, int(number)) + 0.5) / BINS for number in _PLACE.findall(text)]


def boxes_of(text: str) -> list[Box]:
    """The boxes of an answer: every four places; what is left over, and boxes without area, are dropped."""
    values = places(text)
    found = [clipped(values[i : i + 4]) for i in range(0, len(values) - 3, 4)]
    return [box for box in found if box is not None]


def polygons_of(text: str) -> list[list[tuple[float, float]]]:
    """The polygons of an answer, of at least three corners each."""
    parts = re.split(r"<sep>|</?poly>|<and>", text)
    values = [places(part) for part in parts]
    shapes = [list(zip(v[0::2], v[1::2], strict=False)) for v in values]
    return [shape for shape in shapes if len(shape) >= 3]


def polygon_mask(shapes: Sequence[Sequence[tuple[float, float]]], height: int, width: int) -> Tensor:
    """(H, W): 1 inside any of the polygons, given in 0..1."""
    page = Image.new("1", (width, height))
    for shape in shapes:
        ImageDraw.Draw(page).polygon([(x * width, y * height) for x, y in shape], fill=1)
    return torch.from_numpy(np.asarray(page, dtype=np.float32).copy())


def box_text(box: Box) -> str:
    """A box as the model reads it."""
    return "".join(f"<loc_{min(BINS - 1, int(value * BINS))}>" for value in box)


@dataclass
class Florence2:
    """The model with its processor."""

    model: nn.Module
    processor: Any

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Florence2:
        """From a folder in the layout of florence-community."""
        model = open_model("Florence2ForConditionalGeneration", folder, dtype)
        return cls(model, open_part("AutoProcessor", folder))

    @torch.no_grad()
    def find(self, image: Tensor, things: Sequence[Wanted], device: Any, threshold: float) -> list[Found]:
        """Finds of ``things`` in a picture (H, W, 3)."""
        picture, found = to_pillow(image), list[Found]()
        for number, thing in enumerate(things):
            text, score = self._answer(picture, DETECT + thing.words.lower(), device)
            if score > threshold:
                found += [Found(number, box, score) for box in boxes_of(text)]
        return found

    @torch.no_grad()
    def masks(self, image: Tensor, boxes: Sequence[Box], device: Any) -> Tensor:
        """(n, H, W) masks of boxes, empty where it draws none."""
        height, width, picture = image.shape[0], image.shape[1], to_pillow(image)
        answers = [self._answer(picture, OUTLINE + box_text(box), device)[0] for box in boxes]
        return torch.stack([polygon_mask(polygons_of(text), height, width) for text in answers])

    def _answer(self, picture: Image.Image, prompt: str, device: Any) -> tuple[str, float]:
        """The answer with its special tokens, and the mean probability of its places."""
        told = self.processor(text=prompt, images=picture, return_tensors="pt")
        dtype = next(self.model.parameters()).dtype
        inputs = {name: told[name].to(device) for name in ("input_ids", "attention_mask") if name in told}
        inputs["pixel_values"] = tensor(told["pixel_values"]).to(device, dtype)
        out = self.model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=LONGEST, num_beams=1, do_sample=False, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        ids = out.sequences[0, -len(out.scores) :]
        tokenizer = self.processor.tokenizer
        sure = [
            float(step[0].float().softmax(-1)[token])
            for step, token in zip(out.scores, ids, strict=True)
            if _PLACE.fullmatch(str(tokenizer.convert_ids_to_tokens(int(token))))
        ]
        text = str(tokenizer.decode(ids, skip_special_tokens=False))
        return text, sum(sure) / len(sure) if sure else 0.0
