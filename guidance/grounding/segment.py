"""SAM and SAM 2 through transformers: masks of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detectors_loading import open_model, open_part, resized, size_of, tensor, to_pillow
from .objects import Box

PART = 64  # boxes at a time


def scaled_boxes(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """(1, n, 4) boxes of 0..1 in pixels of height x width."""
    return torch.tensor([[[x0 * width, y0 * height, x1 * width, y1 * height] for x0, y0, x1, y1 in boxes]])


def full_masks(masks: Tensor, padded: int, inner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(n, h, w) logits of a square that ``padded`` pixels make, of which ``inner`` (height, width) is the picture, at
    the picture's own ``size``: enlarged, cut, enlarged again, and 1 where positive.
    """
    square = resized(masks, padded, padded)[:, : inner[0], : inner[1]]
    return (resized(square, *size) > 0).float()


@dataclass
class Sam:
    """SAM with what prepares its input; two: SAM 2, which stretches pictures to a square instead of padding them."""

    model: nn.Module
    images: Any
    two: bool = False

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Sam:
        """SAM from a folder."""
        return cls(open_model("SamModel", folder, dtype), open_part("AutoImageProcessor", folder))

    @classmethod
    def open_two(cls, folder: Path, dtype: torch.dtype) -> Sam:
        """SAM 2 from a folder."""
        return cls(open_model("Sam2Model", folder, dtype), open_part("AutoImageProcessor", folder), True)

    @torch.no_grad()
    def masks(self, image: Tensor, boxes: Sequence[Box], device: Any) -> Tensor:
        """(n, H, W) masks of boxes in a picture (H, W, 3), which is encoded once."""
        size = (int(image.shape[0]), int(image.shape[1]))
        if not boxes:
            return torch.zeros(0, *size)
        prepared = self.images(images=to_pillow(image), return_tensors="pt")
        pixels = tensor(prepared["pixel_values"])
        padded = int(pixels.shape[-1])
        inner = (padded, padded) if self.two else size_of(prepared["reshaped_input_sizes"])
        dtype = next(self.model.parameters()).dtype
        seen = self.model.get_image_embeddings(pixels.to(device, dtype))  # type: ignore[operator]
        out = list[Tensor]()
        for start in range(0, len(boxes), PART):
            part = scaled_boxes(boxes[start : start + PART], *inner).to(device, dtype)
            told = self.model(image_embeddings=seen, input_boxes=part, multimask_output=False)
            logits = told.pred_masks[0, :, 0].cpu()
            whole = (resized(logits, *size) > 0).float()  # a stretched picture has no padding to cut
            out.append(whole if self.two else full_masks(logits, padded, inner, size))
        return torch.cat(out)
