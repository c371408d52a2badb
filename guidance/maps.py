"""Cross-attention maps as the losses see them: wanted columns, averaged over heads, layers and pieces, smoothed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .graph import TokenGraph

GUIDED_FACTOR = 4  # SD's maps: 16x16 for a 64x64 latent, as in Attend-and-Excite and CONFORM
SMALLEST_GRID = 128  # cells; a coarser grid cannot hold two things apart, so a finer level is taken


class _Columns(torch.autograd.Function):
    """Softmax over all tokens, wanted columns kept, mean over heads. Saves only q and k for backward: the
    probabilities (heads x queries x tokens for every layer) are made again, which is cheap next to keeping them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, picks: Tensor, scale: float) -> Tensor:
        # q (B, heads, Q, d), k (B, heads, T, d), picks (T, P) zero-one -> (B, P, Q)
        ctx.save_for_backward(q, k, picks)
        ctx.scale = scale
        return _probabilities(q, k, scale).mean(1).matmul(picks).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        q, k, picks = ctx.saved_tensors
        p = _probabilities(q, k, ctx.scale)
        wanted = (grads[0].transpose(1, 2).matmul(picks.t()) / q.shape[1]).unsqueeze(1)  # (B, 1, Q, T)
        d_logits = p * (wanted - (wanted * p).sum(-1, keepdim=True)) * ctx.scale
        need_q, need_k = ctx.needs_input_grad[:2]
        d_q = d_logits.matmul(k.to(p.dtype)).to(q.dtype) if need_q else None
        d_k = d_logits.transpose(-1, -2).matmul(q.to(p.dtype)).to(k.dtype) if need_k else None
        return d_q, d_k, None, None


def _probabilities(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T) in fp32 (float64 stays float64); half precision overflows on SD2."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    return (q.to(dtype).matmul(k.to(dtype).transpose(-1, -2)) * scale).softmax(-1)


@lru_cache(maxsize=32)
def _picks(positions: tuple[int, ...], tokens: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(T, P): 1 where a token is a copy of a wanted one. Copies of a cond (``tokens`` = n * ``length``) add up."""
    with torch.inference_mode(False):  # a cached inference tensor could not be saved for backward later
        place = torch.arange(tokens) % length
        return (place[:, None] == torch.tensor(positions, dtype=torch.long)[None]).to(device=device, dtype=dtype)


def attention_columns(
    q: Tensor,
    k: Tensor,
    heads: int,
    positions: Sequence[int],
    scale: float | None = None,
    length: int | None = None,
) -> Tensor:
    """Attention probabilities of the wanted tokens, mean over heads.

    q: (B, Q, heads*d) and k: (B, T, heads*d), any float dtype, before the split into heads. positions: P places on the
    cross-attention axis, below ``length``. length: the cond's own number of tokens; a host that repeats a cond n times
    to batch it with a longer one passes T = n * length, and the copies' columns are summed. scale: d**-0.5 by default.
    Returns (B, P, Q), fp32 (float64 for float64), differentiable.
    Raises ValueError when shapes and positions do not fit.
    """
    batch, queries, width = q.shape
    tokens = k.shape[1]
    length = tokens if length is None else length
    if width % heads or k.shape[2] != width or tokens % length:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} do not fit {heads} heads and {length} tokens")
    if not positions or min(positions) < 0 or max(positions) >= length:
        raise ValueError(f"positions {tuple(positions)} lie outside the {length} tokens of the cond")
    d = width // heads
    dtype = torch.promote_types(q.dtype, torch.float32)
    picks = _picks(tuple(positions), tokens, length, q.device, dtype)
    split_q = q.reshape(batch, queries, heads, d).transpose(1, 2)
    split_k = k.reshape(k.shape[0], tokens, heads, d).transpose(1, 2)
    return _Columns.apply(split_q, split_k, picks, d**-0.5 if scale is None else scale)


@lru_cache(maxsize=32)
def _piece_means(graph: TokenGraph, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(J, P): row j averages the columns of word j's pieces."""
    with torch.inference_mode(False):
        column = {position: index for index, position in enumerate(graph.positions)}
        means = torch.zeros(len(graph.words), len(column), dtype=torch.float64)
        for row, word in enumerate(graph.words):
            for position in word.positions:
                means[row, column[position]] += 1.0 / len(word.positions)
        return means.to(device=device, dtype=dtype)


def word_maps(columns: Tensor, graph: TokenGraph, height: int, width: int) -> Tensor:
    """(B, P, H*W) columns at ``graph.positions`` -> (B, J, H, W), one map per word: the mean over its pieces."""
    batch, count, cells = columns.shape
    if cells != height * width or count != len(graph.positions):
        places = len(graph.positions)
        raise ValueError(f"columns {tuple(columns.shape)} do not fit {places} positions on {height}x{width}")
    means = _piece_means(graph, columns.device, columns.dtype)
    return means.matmul(columns).reshape(batch, -1, height, width)


class MapStore:
    """Mean of the columns of several layers that share one grid."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, columns: Tensor) -> None:
        """Take in one layer's columns (B, P, Q)."""
        if self._sum is not None and self._sum.shape != columns.shape:
            raise ValueError(f"layer maps of {tuple(columns.shape)} do not fit those before, {tuple(self._sum.shape)}")
        self._sum = columns if self._sum is None else self._sum + columns
        self.count += 1

    def mean(self) -> Tensor:
        """(B, P, Q), the plain mean over the layers taken in."""
        if self._sum is None:
            raise ValueError("no layer gave attention maps")
        return self._sum / self.count


def wanted_layers(latent: tuple[int, int], grids: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Which cross-attention layers carry the maps to guide, as indices into ``grids``.

    latent: (h, w) of the latent; grids: (rows, columns) of each layer's queries, in the order in which the layers run.
    The level four times coarser than the latent is taken (16x16 for SD1/2 at 512, 24x24 at 768, 32x32 for SDXL at
    1024: ceil(H/32) x ceil(W/32) as in diffusers). Where the model has no such level, or where it has fewer than 128
    cells, the next finer level is taken, down to the finest (16x16 of PixelWorld).
    """
    if not grids:
        raise ValueError("the model has no cross-attention layer")
    for factor in (GUIDED_FACTOR, 2, 1):
        grid = (math.ceil(latent[0] / factor), math.ceil(latent[1] / factor))
        if grid in grids and grid[0] * grid[1] >= SMALLEST_GRID:
            return _same(grids, grid)
    return _same(grids, max(grids, key=lambda g: g[0] * g[1]))


def _same(grids: Iterable[tuple[int, int]], grid: tuple[int, int]) -> tuple[int, ...]:
    return tuple(index for index, other in enumerate(grids) if tuple(other) == tuple(grid))


def kernel_weights(kernel: int, sigma: float, literal: bool = False) -> tuple[float, ...]:
    """One-dimensional blur weights, summing to 1.

    kernel: odd number of cells; sigma: in cells. ``literal`` is CONFORM's released kernel exp(-(x / 2 sigma)^2), whose
    true width is sigma * sqrt(2): 0.2119, 0.5761, 0.2119 for 3 cells and sigma 0.5.
    """
    if kernel < 1 or kernel % 2 == 0 or sigma <= 0:
        raise ValueError(f"a blur needs an odd kernel and a positive sigma, not {kernel} and {sigma}")
    spread = 2.0 * sigma if literal else math.sqrt(2.0) * sigma
    raw = [math.exp(-(((x - kernel // 2) / spread) ** 2)) for x in range(kernel)]
    return tuple(value / sum(raw) for value in raw)


@lru_cache(maxsize=32)
def _kernel(kernel: int, sigma: float, literal: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        line = torch.tensor(kernel_weights(kernel, sigma, literal), dtype=torch.float64)
        return torch.outer(line, line)[None, None].to(device=device, dtype=dtype)


def scaled_kernel(kernel: int, sigma: float, height: int, width: int) -> tuple[int, float]:
    """Kernel and sigma given for a 16x16 map, for a map of height x width: the same share of the picture.

    The kernel stays odd and small enough for reflect padding.
    """
    scale = math.sqrt(height * width) / 16.0
    radius = max(1, round((kernel // 2) * scale)) if kernel > 1 else 0
    return 2 * min(radius, min(height, width) - 1) + 1, sigma * scale


def above_mean(maps: Tensor) -> Tensor:
    """What rises above each map's mean, (..., H, W): most of a map is even ground, which makes any two maps alike."""
    return (maps - maps.mean((-2, -1), keepdim=True)).clamp_min(0.0)


def gaussian_blur(maps: Tensor, kernel: int, sigma: float, literal: bool = False) -> Tensor:
    """Gaussian smoothing of (B, J, H, W) maps with reflect padding; kernel and sigma in cells of these maps."""
    batch, words, height, width = maps.shape
    weight = _kernel(kernel, sigma, literal, maps.device, maps.dtype)
    pad = kernel // 2
    flat = F.pad(maps.reshape(batch * words, 1, height, width), (pad, pad, pad, pad), mode="reflect")
    return F.conv2d(flat, weight).reshape(batch, words, height, width)
