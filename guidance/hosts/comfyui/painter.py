"""PixelWorld pictures through ComfyUI's own sampling."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.utils
import numpy as np
import torch
from PIL import Image

from ...painting import Painting, Progress, Task
from .conditioning import encode, find_graph
from .guidance import sample
from .maps import attention_maps
from .pixelworld import load_pixelworld

LATENT = (1, 4, 16, 16)


class PixelWorldPainter:
    """Draws with ComfyUI's Euler sampler and its normal scheduler."""

    def __init__(self) -> None:
        version = getattr(importlib.import_module("comfyui_version"), "__version__", "")
        self.name = f"ComfyUI {version}".rstrip()
        with torch.inference_mode():  # as ComfyUI's executor does
            self.model, self.clip, self.vae = load_pixelworld()

    def paint(self, task: Task, progress: Progress) -> Painting:
        """Draw one picture."""
        with torch.inference_mode(), _progress_to(progress):
            start = time.perf_counter()
            positive = encode(self.clip, task.graph.prompt, task.graph)
            negative = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(""))
            latent, report = sample(
                self.model,
                task.seed,
                task.steps,
                task.cfg,
                "euler",
                "normal",
                positive,
                negative,
                {"samples": torch.zeros(LATENT)},
                1.0,
                task.config,
            )
            image = _picture(self.vae.decode(latent["samples"]))
            seconds = time.perf_counter() - start
            graph, maps = find_graph(positive)[0].token_graph(), np.zeros((0, *LATENT[-2:]), np.float32)
            if graph.words:
                maps = attention_maps(self.model, positive, latent, seed=task.seed).maps[0].numpy()
        return Painting(image, maps, graph, report.to_dict(), report.summary(), seconds)


def _picture(pixels: torch.Tensor) -> Image.Image:
    """IMAGE (1, H, W, 3) in [0, 1] -> a picture."""
    return Image.fromarray((pixels[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


@contextmanager
def _progress_to(progress: Progress) -> Iterator[None]:
    """Steps go to ``progress`` instead of ComfyUI's own bar."""

    def hook(value: int, total: int, *rest: Any, **more: Any) -> None:
        progress(value, total)

    before, shown = comfy.utils.PROGRESS_BAR_HOOK, comfy.utils.PROGRESS_BAR_ENABLED
    comfy.utils.set_progress_bar_global_hook(hook)
    comfy.utils.set_progress_bar_enabled(False)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.utils.set_progress_bar_enabled(shown)
