"""PixelWorld as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...pixelworld import weights_dir

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def load_pixelworld(torch_dtype: torch.dtype = torch.float32, folder: Path | None = None) -> StableDiffusionPipeline:
    """The stock Stable Diffusion pipeline on PixelWorld's weights, on the CPU, drawing 128x128 by default.

    Args:
        torch_dtype: dtype of all three models.
        folder: other weights of the same layout; by default the ones that come with the pack.

    Raises:
        InterplayError: weights are missing or damaged.
    """
    from diffusers import StableDiffusionPipeline

    path = weights_dir(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(str(path), torch_dtype=torch_dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
