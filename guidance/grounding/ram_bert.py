"""The BERT halves of RAM and Tag2Text (post-norm layers with cross-attention), under their checkpoints' key names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


@dataclass(frozen=True)
class TextShape:
    """Of Tag2Text's encoder of tags and decoder of captions; words: of the vocabulary with two marks of its own."""

    width: int = 768
    heads: int = 12
    layers: int = 12
    words: int = 30524
    places: int = 512


class Attention(nn.Module):
    """Attention, output layer, and the norm over the sum; key names as in BERT."""

    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.Module()
        self.self.query = nn.Linear(width, width)
        self.self.key = nn.Linear(seen, width)
        self.self.value = nn.Linear(seen, width)
        self.output = nn.Module()
        self.output.dense = nn.Linear(width, width)
        self.output.LayerNorm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, N, width); seen: (B, M, C); mask: bool, broadcast to (B, heads, N, M), False = not looked at."""
        own: Any = self.self
        out: Any = self.output
        q, k, v = (self._split(layer(y)) for layer, y in ((own.query, x), (own.key, seen), (own.value, seen)))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return out.LayerNorm(out.dense(found) + x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Base of the layers: ``intermediate`` and ``output`` of BERT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, 4 * width)
        self.output = nn.Module()
        self.output.dense = nn.Linear(4 * width, width)
        self.output.LayerNorm = nn.LayerNorm(width, eps=EPS)

    def feed(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        middle: Any = self.intermediate
        out: Any = self.output
        return out.LayerNorm(out.dense(F.gelu(middle.dense(x))) + x)


class CrossLayer(FeedForward):
    """A layer of the tagging head: cross-attention only."""

    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__(width)
        self.crossattention = Attention(width, heads, seen)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x: (B, N, width); seen: (B, M, C)."""
        return self.feed(self.crossattention(x, seen))


class TextLayer(FeedForward):
    """A layer of the encoder or decoder: self-attention, then cross-attention."""

    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__(width)
        self.attention = Attention(width, heads, width)
        self.crossattention = Attention(width, heads, seen)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """x: (B, N, width); seen: (B, M, C); mask of the self-attention, broadcast to (B, heads, N, N)."""
        return self.feed(self.crossattention(self.attention(x, x, mask), seen))


class Embeddings(nn.Module):
    """Words and places."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.words, shape.width)
        self.position_embeddings = nn.Embedding(shape.places, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, eps=EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, N, width)."""
        return self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]])


class TagEncoder(nn.Module):
    """Tags that have looked at the picture."""

    def __init__(self, shape: TextShape, seen: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(TextLayer(shape.width, shape.heads, seen) for _ in range(shape.layers))

    def forward(self, ids: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, N); seen: (B, M, C); mask: True for each id of (B, N), True = to be read."""
        x, layers = self.embeddings(ids), self.encoder
        for layer in layers.layer:  # type: ignore[union-attr]
            x = layer(x, seen, mask[:, None, None])
        return x


class Decoder(nn.Module):
    """Word after word of the caption; ``bert`` and ``cls`` as in BERT."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.bert = TagEncoder(shape, shape.width)
        self.cls = nn.Module()
        self.cls.predictions = nn.Module()
        self.cls.predictions.bias = nn.Parameter(torch.zeros(shape.words))
        self.cls.predictions.transform = nn.Module()
        self.cls.predictions.transform.dense = nn.Linear(shape.width, shape.width)
        self.cls.predictions.transform.LayerNorm = nn.LayerNorm(shape.width, eps=EPS)
        self.cls.predictions.decoder = nn.Linear(shape.width, shape.words, bias=False)

    def forward(self, ids: Tensor, told: Tensor) -> Tensor:
        """ids: (B, N); told: (B, M, width), all of it read -> logits of the word after each, (B, N, words)."""
        bert: Any = self.bert
        head: Any = self.cls.predictions
        x, earlier = bert.embeddings(ids), torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device)
        for layer in bert.encoder.layer:
            x = layer(x, told, earlier.tril()[None, None])
        x = head.transform.LayerNorm(F.gelu(head.transform.dense(x)))
        return head.decoder(x) + head.bias
