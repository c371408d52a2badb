"""Which model of transformers is opened by what, by ``model_type`` of its configuration.

An opened detector has ``find(image, things, device, threshold)``, an opened segmenter ``masks(image, boxes, device)``;
both have ``model``, a module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .detectors_dino import GroundingDino
from .detectors_florence import Florence2
from .detectors_sam3 import Sam3
from .segment import Sam


def _mm_dino(folder: Path, dtype: torch.dtype) -> GroundingDino:
    return GroundingDino.open(folder, dtype, "MMGroundingDinoForObjectDetection")


DETECTORS: dict[str, Callable[[Path, torch.dtype], Any]] = {
    "grounding-dino": GroundingDino.open,
    "mm-grounding-dino": _mm_dino,
    "sam3": Sam3.open,
    "sam3_video": Sam3.open,
    "florence2": Florence2.open,
}
SEGMENTERS: dict[str, Callable[[Path, torch.dtype], Any]] = {
    "sam": Sam.open,
    "sam2": Sam.open_two,
    "sam2_video": Sam.open_two,
    "florence2": Florence2.open,
}
