"""Word maps of a picture while a diffusers pipeline samples it: no extra forward, no gradient."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from .capture import LastLayerReached, Reader, guided_layers
from .guidance import Graph, pipeline_graph
from .schedule import position


class Watch:
    """Sums the maps of the watched steps; ``maps`` is their mean."""

    def __init__(self) -> None:
        self.steps = 0
        self._sum: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Take in the maps (B, J, H, W) of one step."""
        self._sum = maps if self._sum is None else self._sum + maps
        self.steps += 1

    @property
    def maps(self) -> Tensor:
        """(B, J, H, W), fp32 probabilities, the mean over the watched steps.

        Raises:
            InterplayError: no step was watched.
        """
        if self._sum is None:
            raise InterplayError("No step was watched; sample a picture inside watched() first.")
        return self._sum / self.steps


@contextmanager
def watched(pipeline: Any, graph: Graph, window: tuple[float, float] = (0.0, 1.0)) -> Iterator[Watch]:
    """Read the conditional rows' word maps of every ordinary U-Net call whose place in the schedule, a fraction, lies
    in ``window``. Works inside ``guided`` too and then sees the guided picture's own steps, not the guidance passes."""
    aligned, watch, unet = pipeline_graph(pipeline, graph), Watch(), pipeline.unet
    forward = unet.forward

    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():  # a guided pass
            return forward(*args, **kwargs)
        call = inspect.signature(type(unet).forward).bind(unet, *args, **kwargs).arguments
        index, count = position(pipeline.scheduler, call["timestep"])
        if not window[0] <= index / max(1, count) <= window[1]:
            return forward(*args, **kwargs)
        batch = call["sample"].shape[0]
        rows = slice(batch // 2, batch) if pipeline.do_classifier_free_guidance else slice(0, batch)
        reader = Reader(guided_layers(unet, *call["sample"].shape[-2:]), aligned, rows)
        with reader.reading():
            out = forward(*args, **kwargs)
        watch.add(reader.maps())
        return out

    own = unet.__dict__.get("forward")
    unet.forward = watched_forward
    try:
        yield watch
    finally:
        if own is None:
            del unet.forward
        else:
            unet.forward = own


@torch.no_grad()
def attention_maps(
    pipeline: Any, graph: Graph, prompt: str, latents: Tensor, percent: float = 0.5, seed: int = 0
) -> Tensor:
    """Where the model looks for each word of a finished picture: its latents are noised to a point of the noise
    schedule and the U-Net is asked once, without gradient.

    latents: (B, C, h, w), as a pipeline gives them with ``output_type="latent"``. percent: 0 = all noise, 1 = the clean
    picture. seed: of the noise added. Returns (B, J, H, W), fp32 on the CPU. Not for SDXL, whose U-Net needs its added
    conditions: use ``watched`` there.
    """
    if not 0.0 <= percent <= 1.0:
        raise InterplayError(f"The point to look at is {percent:g} of the schedule; give a number from 0 to 1.")
    aligned, unet = pipeline_graph(pipeline, graph), pipeline.unet
    steps = pipeline.scheduler.config.num_train_timesteps
    t = min(steps - 1, round((1.0 - percent) * (steps - 1)))
    alpha = pipeline.scheduler.alphas_cumprod[t].to(torch.float32)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    z = alpha.sqrt() * latents.float() + (1.0 - alpha).sqrt() * noise
    text = pipeline.encode_prompt(prompt, latents.device, 1, False)[0].expand(latents.shape[0], -1, -1)
    reader = Reader(guided_layers(unet, *latents.shape[-2:]), aligned, stop=True)
    with reader.reading(), suppress(LastLayerReached):
        unet(z.to(unet.dtype), torch.tensor(t, device=latents.device), encoder_hidden_states=text.to(unet.dtype))
    return reader.maps().cpu()
