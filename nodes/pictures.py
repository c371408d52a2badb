"""Between Pillow's pictures and ComfyUI's IMAGE tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> IMAGE (B, H, W, 3), float32 in [0, 1]."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def to_pillow(images: Tensor) -> list[Image.Image]:
    """IMAGE (B, H, W, C), any range is cut to [0, 1] -> one RGB picture for each of the batch."""
    bytes_ = (images.detach().float().cpu().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    return [Image.fromarray(array[..., :3]) for array in bytes_]
