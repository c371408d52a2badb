"""Word maps from the model's cross-attention, by hooks on ``attn2.to_q`` and ``attn2.to_k``.

The block calls both projections whatever another node put in place of the attention itself, and whatever kernel the
host uses; the softmax over the tokens is our own. Hooks live only inside ``captured``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from comfy.ldm.modules.attention import CrossAttention, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor, nn

from ....errors import InterplayError
from ...graph import TokenGraph
from ...maps import MapStore, attention_columns, wanted_layers, word_maps

Grid = tuple[int, int]


class PassComplete(BaseException):
    """The last wanted layer has given its maps; the rest of the network is not needed. Never leaves the wrapper."""


@dataclass(frozen=True)
class CrossLayer:
    """One cross-attention, the transformer around it (its input has the map's rows and columns) and the map's grid."""

    attention: CrossAttention
    transformer: SpatialTransformer
    grid: Grid


def cross_layers(unet: UNetModel, height: int, width: int) -> tuple[CrossLayer, ...]:
    """All cross-attentions in the order in which they run, with their grids for a latent of height x width."""
    layers: list[CrossLayer] = []
    skips: list[Grid] = []
    size = (height, width)
    for block in unet.input_blocks:
        size = _walk(block, size, None, layers)
        skips.append(size)
    if unet.middle_block is not None:
        size = _walk(unet.middle_block, size, None, layers)
    for block in unet.output_blocks:
        skips.pop()
        size = _walk(block, size, skips[-1] if skips else None, layers)
    return tuple(layers)


def _walk(block: nn.Module, size: Grid, output: Grid | None, layers: list[CrossLayer]) -> Grid:
    for layer in block.children():
        if isinstance(layer, Downsample):
            half = 1 if layer.use_conv else 0  # a padded convolution rounds up, pooling down
            size = ((size[0] + half) // 2, (size[1] + half) // 2)
        elif isinstance(layer, Upsample):
            size = output or (size[0] * 2, size[1] * 2)
        elif isinstance(layer, SpatialTransformer):
            layers.extend(CrossLayer(b.attn2, layer, size) for b in layer.transformer_blocks if b.attn2 is not None)
    return size


def guided_layers(unet: UNetModel, height: int, width: int) -> tuple[CrossLayer, ...]:
    """The cross-attentions whose maps are guided, in running order. InterplayError when a latent is too small."""
    layers = cross_layers(unet, height, width)
    chosen = tuple(layers[i] for i in wanted_layers((height, width), [layer.grid for layer in layers]))
    if not chosen or min(chosen[0].grid) < 2:
        raise InterplayError(
            f"A latent of {width} x {height} cells is too small to guide, because its attention maps have no room: "
            "make the picture larger."
        )
    return chosen


class MapCapture:
    """Collects the maps of ``layers`` while its hooks are in place. rows: images of the batch."""

    def __init__(self, layers: Sequence[CrossLayer], graph: TokenGraph, rows: int) -> None:
        self.layers, self.graph, self.rows = tuple(layers), graph, rows
        self._store = MapStore()
        self._grids: dict[SpatialTransformer, Grid] = {}
        self._queries: dict[CrossAttention, Tensor] = {}

    @contextlib.contextmanager
    def hooked(self, stop: bool = True) -> Iterator[None]:
        """Hooks in place. With ``stop``, PassComplete is raised as soon as the last layer has given its maps."""
        handles: list[Any] = []
        try:
            for transformer in dict.fromkeys(layer.transformer for layer in self.layers):
                handles.append(transformer.register_forward_pre_hook(self._on_transformer))
            for layer in self.layers:
                handles.append(layer.attention.to_q.register_forward_hook(self._on_query(layer)))
                handles.append(layer.attention.to_k.register_forward_hook(self._on_key(layer, stop)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._queries.clear()

    def maps(self) -> Tensor:
        """(B, J, H, W) word maps, mean over heads and layers."""
        if self._store.count < len(self.layers):
            raise InterplayError(
                f"Only {self._store.count} of {len(self.layers)} cross-attention layers ran as usual, so there are no "
                "attention maps to guide: leave out the node that skips or caches parts of the model."
            )
        return word_maps(self._store.mean(), self.graph, *self.layers[-1].grid)

    def _on_transformer(self, module: Any, args: Any) -> None:
        self._grids[module] = (args[0].shape[-2], args[0].shape[-1])

    def _on_query(self, layer: CrossLayer) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            self._queries[layer.attention] = output

        return hook

    def _on_key(self, layer: CrossLayer, stop: bool) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            self._take(layer, self._queries.pop(layer.attention), output)
            if stop and layer is self.layers[-1]:
                raise PassComplete

        return hook

    def _take(self, layer: CrossLayer, q: Tensor, k: Tensor) -> None:
        height, width = self._grids[layer.transformer]
        self._check(q, k, height * width)
        columns = attention_columns(q, k, layer.attention.heads, self.graph.positions, length=self.graph.length)
        if (height, width) != layer.grid:  # another node shrinks the picture inside the network
            maps = columns.reshape(*columns.shape[:2], height, width)
            columns = F.interpolate(maps, size=layer.grid, mode="bilinear").flatten(2)
        self._store.add(columns)

    def _check(self, q: Tensor, k: Tensor, cells: int) -> None:
        if q.shape[0] != self.rows or k.shape[0] != self.rows:
            raise InterplayError(
                f"Another node gives the cross-attention {max(q.shape[0], k.shape[0])} rows for {self.rows} image(s) "
                "(regional prompting does), and guidance cannot tell them apart: use one of the two."
            )
        if q.shape[1] != cells:
            raise InterplayError(
                f"Another node changes the number of attention queries from {cells} to {q.shape[1]} (token merging "
                "does), which leaves no map to guide: leave that node out."
            )
        if k.shape[1] % self.graph.length:
            raise InterplayError(
                f"The cross-attention sees {k.shape[1]} tokens but the hypergraph's prompt has {self.graph.length}: "
                "make the conditioning with 'Prompt to Hypergraph' and do not join other prompts to it."
            )
