"""Swin Transformer (Liu et al., arXiv 2103.14030) as RAM and Tag2Text use it, with their checkpoints' key names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SwinShape:
    """size: pixels of the square picture; window: tokens of a window's side; width: channels after the first layer."""

    size: int = 384
    width: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (6, 12, 24, 48)
    window: int = 12
    patch: int = 4

    @property
    def features(self) -> int:
        """Channels of its output."""
        return self.width << (len(self.depths) - 1)


SWIN_L = SwinShape()
SWIN_B = SwinShape(width=128, heads=(4, 8, 16, 32))


@cache
def relative_index(window: int) -> Tensor:
    """(window^2, window^2): which row of the bias table belongs to query and key, by how far apart they lie."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


@cache
def seam_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, window^2, window^2) bool: which tokens of a shifted window were neighbours before the shift."""
    line = torch.arange(side)
    band = (line >= side - window).long() + (line >= side - shift).long()
    regions = (3 * band[:, None] + band[None])[None, ..., None]
    flat = to_windows(regions, window)[..., 0]
    return flat[:, None, :] == flat[:, :, None]


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, S, S, C) -> (B * windows, window^2, C)."""
    b, side, _, channels = x.shape
    n = side // window
    x = x.view(b, n, window, n, window, channels).transpose(2, 3)
    return x.reshape(b * n * n, window * window, channels)


def from_windows(x: Tensor, window: int, side: int) -> Tensor:
    """(B * windows, window^2, C) -> (B, S, S, C)."""
    n = side // window
    x = x.view(-1, n, n, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, side, side, x.shape[-1])


class WindowAttention(nn.Module):
    """Attention within a window, with a learned bias for how far apart two tokens lie."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))

    def forward(self, x: Tensor, near: Tensor | None) -> Tensor:
        """x: (B * windows, window^2, C); near: see ``seam_mask``."""
        n, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        index = relative_index(self.window).to(x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]
        if near is not None:
            far = torch.zeros(near.shape, dtype=bias.dtype, device=x.device).masked_fill(~near.to(x.device), -100.0)
            bias = (bias + far[:, None]).repeat(n // len(near), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(n, -1, -1, -1))
        return self.proj(out.transpose(1, 2).reshape(n, tokens, channels))


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention, shifted by half a window in every second block, and an MLP."""

    def __init__(self, width: int, heads: int, window: int, side: int, odd: bool) -> None:
        super().__init__()
        self.side, self.window = side, min(window, side)
        self.shift = window // 2 if odd and side > window else 0
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, self.window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, S, C) -> the same."""
        y = self.norm1(x)
        near = None
        if self.shift:
            y, near = y.roll((-self.shift, -self.shift), (1, 2)), seam_mask(self.side, self.window, self.shift)
        y = from_windows(self.attn(to_windows(y, self.window), near), self.window, self.side)
        x = x + (y.roll((self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Four neighbouring tokens become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, S, C) -> (B, S / 2, S / 2, 2 C)."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """Blocks at one resolution, then merging; none after the last stage."""

    def __init__(self, width: int, heads: int, window: int, side: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, window, side, bool(i % 2)) for i in range(depth))
        self.downsample = None if last else Merging(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, S, C) -> (B, S / 2, S / 2, 2 C), or the same after the last stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / patch, W / patch, width)."""
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """The picture's tokens, their mean in front."""

    def __init__(self, shape: SwinShape) -> None:
        super().__init__()
        side, last = shape.size // shape.patch, len(shape.depths) - 1
        self.patch_embed = PatchEmbed(shape.patch, shape.width)
        self.layers = nn.ModuleList(
            Stage(shape.width << i, heads, shape.window, side >> i, depth, i == last)
            for i, (depth, heads) in enumerate(zip(shape.depths, shape.heads, strict=True))
        )
        self.norm = nn.LayerNorm(shape.features)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S), normalised -> (B, 1 + tokens, features)."""
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x.flatten(1, 2))
        return torch.cat([x.mean(1, keepdim=True), x], 1)
