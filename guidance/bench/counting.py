"""What a picture costs: the U-Net's rows as they are run, and floating point operations.

The U-Net's forward is watched. One that does not come to its end (the guidance pass stops after the last wanted
cross-attention) and a backward count as their share of the operations of one whole row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..hosts.diffusers.capture import LastLayerReached, Reader, frozen, guided_layers
from ..hosts.diffusers.guidance import pipeline_graph

SAMPLE_PROMPT = "a red robot carrying a blue box in the forest"


@dataclass(frozen=True)
class Prices:
    """flops: operations (2 for a multiply-add) of one row of the U-Net; forward, backward: of a guidance pass, as
    shares of it.
    """

    flops: float
    forward: float
    backward: float


def measure_prices(pipeline: Any) -> Prices:
    """Count the operations of one row of the U-Net, of one that stops after the guided layers, and of its backward."""
    unet = pipeline.unet
    size = unet.config.sample_size
    graph = pipeline_graph(pipeline, SAMPLE_PROMPT)
    z = torch.zeros(1, unet.config.in_channels, size, size, dtype=unet.dtype, device=unet.device)
    text = torch.zeros(1, graph.length, unet.config.cross_attention_dim, dtype=unet.dtype, device=unet.device)
    time = torch.tensor(500, device=unet.device)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        unet(z, time, text)
    leaf = z.requires_grad_()
    reader = Reader(guided_layers(unet, size, size), graph, stop=True)
    with frozen(unet):
        with FlopCounterMode(display=False) as forward, reader.reading(), suppress(LastLayerReached):
            unet(leaf, time, text)
        maps = reader.maps()
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(maps, leaf, torch.ones_like(maps))
    total = float(whole.get_total_flops())
    return Prices(total, forward.get_total_flops() / total, backward.get_total_flops() / total)


class Counter:
    """Counts the U-Net's work inside ``counting``, and puts it to the pictures it was done for.

    A row belongs to the picture whose prompt embedding it is given; rows of other embeddings (the empty prompt) are
    shared by all pictures of the batch. Different prompts are needed for that, as different pictures have.
    """

    def __init__(self, pipeline: Any, prompts: Sequence[str], prices: Prices) -> None:
        self.pipeline, self.prices = pipeline, prices
        self.passes = [0.0] * len(prompts)
        self.forwards = [0.0] * len(prompts)  # guidance passes, for tests and reports
        self._texts = self._encode(prompts)

    @property
    def flops(self) -> list[float]:
        """Operations of the U-Net for each picture."""
        return [count * self.prices.flops for count in self.passes]

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            text, _ = self.pipeline.encode_prompt(list(prompts), self.pipeline.unet.device, 1, False)
        return text

    @contextmanager
    def counting(self) -> Iterator[Counter]:
        """The U-Net is watched inside. Not by its hooks: guidance runs the U-Net from within one of them."""
        unet = self.pipeline.unet
        forward, own = unet.forward, unet.__dict__.get("forward")
        signature = inspect.signature(forward)

        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(*args, **kwargs).arguments
            rows = self._rows(call["encoder_hidden_states"], call["sample"].shape[0])
            if call["sample"].requires_grad:
                call["sample"].register_hook(lambda gradient: self._add(rows, self.prices.backward))
            try:
                out = forward(*args, **kwargs)
            except LastLayerReached:
                self._add(rows, self.prices.forward)
                self.forwards = [a + b for a, b in zip(self.forwards, rows, strict=True)]
                raise
            self._add(rows, 1.0)
            return out

        unet.forward = counted
        try:
            yield self
        finally:
            if own is None:
                del unet.forward
            else:
                unet.forward = own

    def _add(self, rows: Sequence[float], price: float) -> None:
        self.passes = [a + price * b for a, b in zip(self.passes, rows, strict=True)]

    def _rows(self, text: Tensor, count: int) -> list[float]:
        """How many rows of a call belong to each picture."""
        same = (text.detach()[:, None] == self._texts.to(text.dtype)[None]).flatten(2).all(2)  # (rows, pictures)
        owners = same.float()
        owners = torch.where(same.any(1, keepdim=True), owners, torch.ones_like(owners))
        shares = (owners / owners.sum(1, keepdim=True)).sum(0) * (count / text.shape[0])
        return [float(share) for share in shares]
