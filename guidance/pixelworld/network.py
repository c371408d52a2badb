"""PixelWorld's U-Net and text encoder: SD1.x's architectures made small, and the training-time view of their
attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import BOS, EOS, LENGTH

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 4,  # diffusers' SD1.x name for the number of heads
}


def unet(channels: Sequence[int] = (64, 128)) -> dict[str, Any]:
    """The U-Net's configuration with other channels."""
    return {**UNET, "block_out_channels": list(channels)}


TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def alphas() -> Tensor:
    """Cumulative products of SD's scaled-linear schedule, (1000,)."""
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class WatchedAttention:
    """Attention processor that keeps the head-averaged probabilities (B, pixels, tokens) of a cross-attention for the
    losses.
    """

    def __init__(self) -> None:
        self.maps: Tensor | None = None

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if encoder_hidden_states is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            probabilities = (q @ k.transpose(-1, -2) * attn.scale).float().softmax(-1)
            self.maps = probabilities.mean(1)
            out = probabilities.to(v.dtype) @ v
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Watched(nn.Module):
    """A U-Net that also returns its cross-attention maps, averaged over layers: (B, 256, 77) at 16x16 and (B, 64, 77)
    at 8x8.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.processors = [WatchedAttention() for _ in unet.attn_processors]
        unet.set_attn_processor(dict(zip(unet.attn_processors, self.processors, strict=True)))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise = self.unet(x, t, context, return_dict=False)[0]
        maps = [p.maps for p in self.processors if p.maps is not None]
        fine = [m for m in maps if m.shape[1] == 256]
        coarse = [m for m in maps if m.shape[1] == 64]
        return noise, torch.stack(fine).mean(0), torch.stack(coarse).mean(0)


def attention_loss(maps: Tensor, masks: Tensor, regions: Tensor, weight: Tensor) -> Tensor:
    """Minus the log of the share of each word's map that lies in the word's region.

    Args:
        maps: (B, H*W, 77) probabilities.
        masks: (B, R, H*W) in [0, 1], one for each region of ``data.REGIONS``.
        regions: (B, 77) index of the word's region, or -1.
        weight: (B,) factor of each sample.
    """
    columns = maps.float().transpose(1, 2)  # (B, 77, HW)
    inside = torch.gather(masks, 1, regions.clamp(min=0)[..., None].expand(-1, -1, masks.shape[-1]))
    share = (columns * inside).sum(-1) / columns.sum(-1).clamp(min=1e-8)
    counted = (regions >= 0).float() * weight[:, None]
    return (-(share + 1e-4).log() * counted).sum() / counted.gt(0).sum().clamp(min=1)
