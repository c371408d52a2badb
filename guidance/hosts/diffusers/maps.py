"""Word maps of a picture while a diffusers pipeline samples it: no extra forward, no gradient."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from .capture import Reader, guided_layers
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
