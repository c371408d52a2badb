"""InteractDiffusion's two parts, as plain trainable modules: the tokenizer of interactions and the gated fusers.

After Hoe et al. 2024, "InteractDiffusion: Interaction Control in Text-to-Image Diffusion Models", section 3, with the
parameter names of the published weights. Every layer is made by ``layers`` (torch.nn, or a host's own layers that cast
their weights), so that the same classes train and run inside hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 8
BOX_WIDTH = FREQUENCIES * 2 * 4  # numbers in a box's embedding
CELL_WIDTH = FREQUENCIES * 2 * 2  # numbers in the embedding of a cell's centre
SLOTS = 30  # interactions of the published weights
HEADS = 8  # attention heads of a fuser in SD1.x
SD1_WIDTHS = (320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320)
SUBJECT, OBJECT, ACTION = 0, 1, 2  # rows of the position embedding; the output's order is another


def between_boxes(subject: Tensor, object: Tensor) -> Tensor:
    """The region where an interaction happens: the middle two of the four x and of the four y.

    subject, object: (..., 4) as x1, y1, x2, y2 in 0..1. Returns (..., 4): the overlap of boxes that overlap, the gap
    between boxes that do not.
    """
    corners = torch.stack([subject[..., :2], subject[..., 2:], object[..., :2], object[..., 2:]], -2).sort(-2).values
    return torch.cat([corners[..., 1, :], corners[..., 2, :]], -1)


def box_embedding(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 64): sine and cosine of the coordinates at 100^(k/8), k outermost, then sine before cosine.

    As many coordinates as come in: (..., 2) -> (..., 32).
    """
    bands = 100.0 ** (torch.arange(FREQUENCIES, device=boxes.device, dtype=boxes.dtype) / FREQUENCIES)
    angles = boxes[..., None, :] * bands[:, None]  # (..., 8, 4)
    return torch.stack([angles.sin(), angles.cos()], -2).flatten(-3)


def grid(cells: int, latent: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of a block's cells in a picture whose latents have ``latent`` rows and columns; None = square.

    Each of a U-Net's levels halves both and rounds up. ValueError when no level has so many cells.
    """
    height, width = latent or (round(cells**0.5),) * 2
    while height * width > cells:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != cells:
        raise ValueError(f"{cells} cells are no level of latents of {latent}")
    return height, width


def cell_embedding(height: int, width: int, like: Tensor) -> Tensor:
    """(height * width, 32): the centres of cells, row by row, as ``box_embedding`` writes coordinates in 0..1."""
    y, x = ((torch.arange(n, device=like.device, dtype=torch.float32) + 0.5) / n for n in (height, width))
    centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return box_embedding(centres.flatten(0, 1)).to(like.dtype)


class _Names(nn.Module):
    """An embedding table under the published name ``emb``."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(count, width)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, second, third = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
    return nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)


@dataclass(frozen=True)
class Grounding:
    """A batch of interactions. subject, action, object: (B, N, D) phrase features; subject_boxes, object_boxes:
    (B, N, 4) in 0..1; mask: (B, N), 1 where there is an interaction and 0 where the slot is empty.
    """

    subject: Tensor
    action: Tensor
    object: Tensor
    subject_boxes: Tensor
    object_boxes: Tensor
    mask: Tensor


class PositionNet(nn.Module):
    """Interactions to tokens: phrases and boxes of subject, action and object through small MLPs.

    width: of the phrase features and of the tokens; slots: how many interactions fit; hidden: of the MLPs; rows: how
    many interactions have an embedding, where that is more than fit.
    """

    def __init__(self, width: int = 768, slots: int = SLOTS, hidden: int = 512, rows: int | None = None) -> None:
        super().__init__()
        self.width, self.slots = width, slots
        self.linears = _mlp(width + BOX_WIDTH, hidden, width)
        self.linear_action = _mlp(width + BOX_WIDTH, hidden, width)
        self.null_positive_feature = nn.Parameter(torch.zeros(width))
        self.null_action_feature = nn.Parameter(torch.zeros(width))
        self.null_position_feature = nn.Parameter(torch.zeros(BOX_WIDTH))
        self.interaction_embedding = _Names(rows or slots, width)
        self.position_embedding = _Names(3, width)

    def forward(self, given: Grounding) -> Tensor:
        """(B, 3N, D) tokens: all subjects, then all actions, then all objects. N must be ``slots``."""
        mask = given.mask.unsqueeze(-1).to(given.subject.dtype)
        action_boxes = between_boxes(given.subject_boxes, given.object_boxes)
        null, null_action = self.null_positive_feature, self.null_action_feature
        subject = self._features(self.linears, given.subject, given.subject_boxes, mask, null)
        action = self._features(self.linear_action, given.action, action_boxes, mask, null_action)
        object = self._features(self.linears, given.object, given.object_boxes, mask, null)
        number, role = self.interaction_embedding.emb.weight[: self.slots], self.position_embedding.emb.weight
        parts = [subject + number + role[SUBJECT], action + number + role[ACTION], object + number + role[OBJECT]]
        return torch.cat(parts, 1)

    def _features(self, mlp: nn.Module, phrase: Tensor, boxes: Tensor, mask: Tensor, null: Tensor) -> Tensor:
        phrase = mask * phrase + (1 - mask) * null
        place = mask * box_embedding(boxes) + (1 - mask) * self.null_position_feature
        return mlp(torch.cat([phrase, place], -1))

    def null(self, batch: int = 1) -> Grounding:
        """Interactions of which none is there: what the unconditional branch sees."""
        like = self.null_positive_feature
        phrase, boxes = like.new_zeros(batch, self.slots, self.width), like.new_zeros(batch, self.slots, 4)
        return Grounding(phrase, phrase, phrase, boxes, boxes, like.new_zeros(batch, self.slots))

    def null_tokens(self, batch: int = 1) -> Tensor:
        """(B, 3N, D): the tokens of ``null``."""
        return self(self.null(batch))


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, layers: Any, **where: Any) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = layers.Linear(width, width, bias=False, **where)
        self.to_k = layers.Linear(width, width, bias=False, **where)
        self.to_v = layers.Linear(width, width, bias=False, **where)
        self.to_out = nn.ModuleList([layers.Linear(width, width, **where)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Gate(nn.Module):
    def __init__(self, width: int, layers: Any, **where: Any) -> None:
        super().__init__()
        self.proj = layers.Linear(width, 8 * width, **where)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width: int, layers: Any, **where: Any) -> None:
        super().__init__()
        gate, out = _Gate(width, layers, **where), layers.Linear(4 * width, width, **where)
        self.net = nn.ModuleList([gate, nn.Identity(), out])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class Fuser(nn.Module):
    """Gated self-attention over a block's cells and the interaction tokens; as made, the gates are shut.

    width: of the U-Net's block; tokens: width of a token; heads: of the attention. placed: the fuser is told where
    each cell is, which the published ones are not: Stable Diffusion's U-Net knows it by itself, a small one may not.
    """

    def __init__(
        self,
        width: int,
        tokens: int = 768,
        heads: int = HEADS,
        layers: Any = nn,
        placed: bool = False,
        **where: Any,
    ) -> None:
        super().__init__()
        self.place = layers.Linear(CELL_WIDTH, width, bias=False, **where) if placed else None
        self.linear = layers.Linear(tokens, width, **where)
        self.attn = _SelfAttention(width, heads, layers, **where)
        self.ff = _FeedForward(width, layers, **where)
        self.norm1 = layers.LayerNorm(width, **where)
        self.norm2 = layers.LayerNorm(width, **where)
        self.alpha_attn = nn.Parameter(torch.zeros((), **where))
        self.alpha_dense = nn.Parameter(torch.zeros((), **where))

    def forward(self, x: Tensor, tokens: Tensor, scale: float = 1.0, latent: tuple[int, int] | None = None) -> Tensor:
        """(B, cells, width) -> the same, having seen (B, M, D) tokens. scale 0 is the identity, 1 as trained.

        latent: rows and columns of the picture's latents, for fusers that are told places; None = square.
        """
        if scale == 0.0:
            return x
        where = 0.0 if self.place is None else self.place(cell_embedding(*grid(x.shape[1], latent), x))
        seen = torch.cat([x + where, self.linear(tokens).to(x.dtype)], 1)
        attended = self.attn(self.norm1(seen))[:, : x.shape[1]]
        x = x + scale * torch.tanh(self.alpha_attn).to(x.dtype) * attended
        return x + scale * torch.tanh(self.alpha_dense).to(x.dtype) * self.ff(self.norm2(x + where))


class InteractionNet(nn.Module):
    """A tokenizer and the fusers of one U-Net, in the order in which its transformer blocks run.

    widths: of those blocks (``SD1_WIDTHS``; PixelWorld's are 64, 128, 128, 128, 128, 64, 64). placed: see ``Fuser``.
    head_width: of one attention head, in place of ``heads`` (SDXL: 64); rows: see ``PositionNet``.
    """

    def __init__(
        self,
        widths: Sequence[int] = SD1_WIDTHS,
        tokens: int = 768,
        heads: int = HEADS,
        slots: int = SLOTS,
        hidden: int = 512,
        layers: Any = nn,
        placed: bool = False,
        head_width: int = 0,
        rows: int | None = None,
        **where: Any,
    ) -> None:
        super().__init__()
        self.widths, self.heads = tuple(widths), heads
        self.position_net = PositionNet(tokens, slots, hidden, rows)
        counts = [width // head_width if head_width else heads for width in widths]
        pairs = zip(widths, counts, strict=True)
        self.fusers = nn.ModuleList([Fuser(width, tokens, n, layers, placed, **where) for width, n in pairs])


@dataclass(frozen=True)
class Schedule:
    """When the fusers act: fully for the first ``beta`` of the steps, falling evenly to nothing over the next
    ``decay``, off for the rest; ``strength`` multiplies the gates. All but strength are shares, 0 to 1.
    """

    beta: float = 1.0
    decay: float = 0.0
    strength: float = 1.0

    def scale(self, progress: float) -> float:
        """The factor at ``progress``: 0 at the start of the noise schedule, 1 at its end."""
        if progress < self.beta or self.beta >= 1.0:
            return self.strength
        if progress >= self.beta + self.decay:
            return 0.0
        return self.strength * (1.0 - (progress - self.beta) / self.decay)
