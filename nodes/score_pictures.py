"""What DiffusionITM's node shows: where the prompt helps, drawn over the picture."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from ..guidance.figures import heatmap
from .pictures import to_pillow

SMALLEST = 256


def help_pictures(heat: Tensor, image: Tensor | None) -> list[Image.Image]:
    """One picture for each of the batch: bright where the prompt lowers the error most, dark where it does not.

    heat: (N, ..., h, w), signed, of which further axes are averaged. All pictures share one scale.
    """
    flat = heat.flatten(1, -3).mean(1) if heat.ndim > 3 else heat
    gains = (flat.clamp(min=0) / flat.max().clamp(min=1e-12)).clamp(max=1).float().cpu()
    return [_drawn(gain, None if image is None else image[i : i + 1]) for i, gain in enumerate(gains)]


def _drawn(gain: Tensor, image: Tensor | None) -> Image.Image:
    height, width = gain.shape
    ground = Image.new("RGB", (width * 8, height * 8), (96, 96, 96)) if image is None else to_pillow(image)[0]
    scale = -(-SMALLEST // min(ground.size))
    if scale > 1:
        ground = ground.resize((ground.width * scale, ground.height * scale), Image.Resampling.NEAREST)
    return heatmap(gain, ground)
