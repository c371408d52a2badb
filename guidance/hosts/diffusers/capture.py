"""Cross-attention maps of a diffusers U-Net by forward hooks on ``attn2.to_q`` and ``attn2.to_k``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import InterplayError
from ...engine import GuidedMaps
from ...graph import TokenGraph
from ...maps import MapStore, attention_columns, wanted_layers, word_maps


@dataclass(frozen=True)
class Layer:
    """One cross-attention: its ``Attention`` module and the grid (rows, columns) of its queries."""

    name: str
    attention: Any
    grid: tuple[int, int]


class LastLayerReached(BaseException):
    """Ends a truncated forward. Not an ``Exception``, so that nothing on the way out mistakes it for a failure."""


def cross_attention_layers(unet: Any, height: int, width: int) -> list[Layer]:
    """Every cross-attention of a ``UNet2DConditionModel`` for a latent of height x width, in running order."""
    grids: list[tuple[int, int]] = [(height, width)]
    layers: list[Layer] = []
    for index, block in enumerate(unet.down_blocks):
        layers += _layers_of(f"down_blocks.{index}", block, grids[-1])
        if getattr(block, "downsamplers", None) is not None:
            grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
    if unet.mid_block is not None:
        layers += _layers_of("mid_block", unet.mid_block, grids[-1])
    for index, block in enumerate(unet.up_blocks):
        layers += _layers_of(f"up_blocks.{index}", block, grids[-1])
        if getattr(block, "upsamplers", None) is not None:
            grids.pop()
    return layers


def _layers_of(prefix: str, block: Any, grid: tuple[int, int]) -> list[Layer]:
    found = []
    for i, transformer in enumerate(getattr(block, "attentions", None) or ()):
        for j, inner in enumerate(getattr(transformer, "transformer_blocks", ())):
            if getattr(inner, "attn2", None) is not None:
                found.append(Layer(f"{prefix}.attentions.{i}.transformer_blocks.{j}.attn2", inner.attn2, grid))
    return found


def guided_layers(unet: Any, height: int, width: int) -> list[Layer]:
    """The cross-attentions whose maps are guided (``maps.wanted_layers``), for a latent of height x width.

    Raises:
        InterplayError: the U-Net has no cross-attention that could be read.
    """
    layers = cross_attention_layers(unet, height, width)
    if not layers:
        raise InterplayError(
            f"{type(unet).__name__} has no text cross-attention to guide; use a Stable Diffusion U-Net."
        )
    return [layers[i] for i in wanted_layers((height, width), [layer.grid for layer in layers])]


class Reader:
    """Collects the columns of ``layers`` at the positions of ``graph`` while its hooks are on.

    rows: which rows of the U-Net's batch are read (all by default). stop: raise ``LastLayerReached`` after the last
    layer has been read.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        graph: TokenGraph,
        rows: slice | None = None,
        stop: bool = False,
    ) -> None:
        self.layers, self.graph, self.rows, self.stop = layers, graph, rows or slice(None), stop
        self.store = MapStore()
        self._queries: dict[str, Tensor] = {}

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Hooks on for the body, gone after it."""
        with ExitStack() as stack:
            for layer in self.layers:
                stack.callback(layer.attention.to_q.register_forward_hook(self._on_query(layer)).remove)
                stack.callback(layer.attention.to_k.register_forward_hook(self._on_key(layer)).remove)
            yield self

    def maps(self) -> Tensor:
        """(B, J, H, W): the mean over the layers read so far, one map per word.

        Raises:
            InterplayError: some layer was not read, because its projections were fused or replaced.
        """
        if self.store.count == 0 or self.store.count % len(self.layers):
            raise InterplayError(
                f"Only {self.store.count} of {len(self.layers)} cross-attention layers could be read; "
                "undo fused projections (unfuse_qkv_projections) or foreign attention processors."
            )
        return word_maps(self.store.mean(), self.graph, *self.layers[0].grid)

    def _on_query(self, layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._queries[layer.name] = output

        return hook

    def _on_key(self, layer: Layer) -> Any:
        last = layer is self.layers[-1]
        heads, scale = layer.attention.heads, layer.attention.scale

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if layer.name not in self._queries:
                return
            query = self._queries.pop(layer.name)
            if output.shape[1] != self.graph.length:
                raise InterplayError(
                    f"The prompt was aligned to {self.graph.length} tokens, but the U-Net was given {output.shape[1]}; "
                    "encode the prompt with the pipeline's own tokenizer and no extra tokens."
                )
            positions = self.graph.positions
            self.store.add(attention_columns(query[self.rows], output[self.rows], heads, positions, scale))
            if last and self.stop:
                raise LastLayerReached

        return hook


def capturing(unet: Any, call: Mapping[str, Any], graph: TokenGraph, key: int) -> Callable[[Tensor], list[GuidedMaps]]:
    """The truncated conditional forward: z (B, C, h, w) -> the word maps it gives. call: what the U-Net is called with;
    its sample may have more channels than z, which an inpainting U-Net is given beside it.
    """
    sample, channels = call["sample"], unet.config.out_channels
    layers = guided_layers(unet, *sample.shape[-2:])

    def capture(z: Tensor) -> list[GuidedMaps]:
        x = z.to(sample.dtype)
        if sample.shape[1] > channels:
            x = torch.cat([x, sample[:, channels:]], dim=1)
        reader = Reader(layers, graph, stop=True)
        with reader.reading(), suppress(LastLayerReached):
            unet(**{**call, "sample": x, "return_dict": False})
        return [GuidedMaps(key, graph, reader.maps())]

    return capture


def rows_of(value: Any, rows: slice, count: int) -> Any:
    """Cut ``rows`` out of every tensor whose first dimension is ``count``, through lists, tuples and dicts.

    Inference tensors are cloned, because autograd cannot save them; call outside inference mode.
    """
    if isinstance(value, Tensor):
        cut = value[rows] if value.ndim > 0 and value.shape[0] == count else value
        return cut.clone() if cut.is_inference() else cut
    if isinstance(value, Mapping):
        return {key: rows_of(item, rows, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rows_of(item, rows, count) for item in value)
    return value


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; autograd then keeps nothing for them.

    They are put back by name, because offloading exchanges the parameters of a module while it runs.
    """
    asking = [(m, name) for m in module.modules() for name, p in m.named_parameters(recurse=False) if p.requires_grad]
    for owner, name in asking:
        getattr(owner, name).requires_grad_(False)
    try:
        yield
    finally:
        for owner, name in asking:
            getattr(owner, name).requires_grad_(True)
