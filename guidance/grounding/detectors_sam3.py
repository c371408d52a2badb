"""SAM 3 through transformers: asked for one thing after the other, so that labels cannot merge; masks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detectors import Found, Wanted, clipped
from .detectors_loading import open_model, open_part, resized, tensor, to_pillow

WORDS = 32  # tokens of a phrase that its text encoder takes


def finds(
    logits: Tensor,
    presence: Tensor | None,
    boxes: Tensor,
    masks: Tensor,
    wanted: int,
    least: float,
    size: tuple[int, int],
) -> list[Found]:
    """Finds of one thing. logits (n,) and presence (1,): a score is the product of their sigmoids; boxes (n, 4) corners
    in 0..1; masks (n, h, w) logits, of which the positive part is the mask, at ``size``.
    """
    scores = logits.float().sigmoid() * (1.0 if presence is None else presence.float().sigmoid())
    kept = (scores > least).nonzero().flatten().tolist()
    if not kept:
        return []
    planes = resized(masks[kept].float().sigmoid(), *size) > 0.5
    out = list[Found]()
    for plane, i in zip(planes, kept, strict=True):
        box = clipped(boxes[i].float().tolist())
        if box is not None:
            out.append(Found(wanted, box, float(scores[i]), plane.float() if bool(plane.any()) else None))
    return out


@dataclass
class Sam3:
    """The model with what prepares its input."""

    model: nn.Module
    images: Any
    tokenizer: Any

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Sam3:
        """From a folder."""
        model = open_model("Sam3Model", folder, dtype)
        return cls(model, open_part("AutoImageProcessor", folder), open_part("AutoTokenizer", folder))

    @torch.no_grad()
    def find(self, image: Tensor, things: Sequence[Wanted], device: Any, threshold: float) -> list[Found]:
        """Finds of ``things`` in a picture (H, W, 3), which is encoded once."""
        pixels = tensor(self.images(images=to_pillow(image), return_tensors="pt")["pixel_values"])
        dtype = next(self.model.parameters()).dtype
        seen = self.model.get_vision_features(pixel_values=pixels.to(device, dtype))  # type: ignore[operator]
        found = list[Found]()
        for number, thing in enumerate(things):
            told = self.tokenizer(
                thing.words, return_tensors="pt", padding="max_length", truncation=True, max_length=WORDS
            )
            text = {name: told[name].to(device) for name in ("input_ids", "attention_mask")}
            out = self.model(vision_embeds=seen, **text)
            presence = None if out.presence_logits is None else out.presence_logits[0].cpu()
            parts = (out.pred_boxes[0].cpu(), out.pred_masks[0].cpu())
            size = (int(image.shape[0]), int(image.shape[1]))
            found += finds(out.pred_logits[0].cpu(), presence, *parts, number, threshold, size)
        return found
