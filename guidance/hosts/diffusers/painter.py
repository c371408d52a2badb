"""PixelWorld pictures through diffusers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import torch

from ...painting import Painting, Progress, Task
from .guidance import guided, pipeline_graph
from .maps import attention_maps
from .pixelworld import load_pixelworld

LATENT = (1, 4, 16, 16)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' own bars and advice; what they were set to before is put back."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    levels = [(module, module.get_verbosity()) for module in (ours, theirs)]
    bars = [(module, getattr(module, "is_progress_bar_enabled", lambda: True)()) for module in (ours, theirs)]
    try:
        for module in (ours, theirs):
            module.set_verbosity_error()
            module.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for module, level in levels:
            module.set_verbosity(level)
        for module, shown in bars:
            if shown:
                module.enable_progress_bar()


class PixelWorldPainter:
    """Draws with the stock pipeline and Euler steps. folder: other weights than the pack's own."""

    def __init__(self, folder: Path | None = None) -> None:
        self.name = f"diffusers {diffusers.__version__}"
        with _quiet():
            self.pipeline = cast(Any, load_pixelworld(folder=folder))
        config = self.pipeline.scheduler.config
        self.pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace")
        self.pipeline.set_progress_bar_config(disable=True)

    def paint(self, task: Task, progress: Progress) -> Painting:
        """Draw one picture."""
        pipeline, prompt = self.pipeline, task.graph.prompt

        def step_done(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            progress(step + 1, task.steps)
            return tensors

        start = time.perf_counter()
        noise = torch.randn(LATENT, generator=torch.Generator().manual_seed(task.seed))
        graph = pipeline_graph(pipeline, task.graph)
        with guided(pipeline, task.config, graph, task.seed) as session:
            latents = pipeline(
                prompt,
                latents=noise,
                num_inference_steps=task.steps,
                guidance_scale=task.cfg,
                output_type="latent",
                callback_on_step_end=step_done,
            ).images
        image = self._decoded(latents)
        seconds = time.perf_counter() - start
        maps = np.zeros((0, *LATENT[-2:]), np.float32)
        if graph.words:
            maps = attention_maps(pipeline, graph, prompt, latents, seed=task.seed)[0].numpy()
        report = session.reports[0]
        return Painting(image, maps, graph, report.to_dict(), report.summary(), seconds)

    @torch.no_grad()
    def _decoded(self, latents: torch.Tensor) -> Any:
        vae = self.pipeline.vae
        pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(pixels)[0]
