"""RAM (arXiv 2306.03514), RAM++ (arXiv 2310.15200) and Tag2Text (arXiv 2303.05657): their tagging halves.

A Swin Transformer looks at the picture; every tag asks, as a query of its own, two cross-attention layers whether it is
there. Modules bear the names of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ram_bert import CrossLayer, Decoder, TagEncoder, TextShape
from .swin import SWIN_B, SWIN_L, Swin, SwinShape
from .tags import TagList, tag_list

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CHUNK = 512  # classes of RAM++ whose descriptions are weighed at once
DESCRIPTIONS = 51
EMBEDDING = 512  # CLIP's text embeddings, as which RAM's labels come


@dataclass(frozen=True)
class RamShape:
    """kind: "ram", "ram_plus" or "tag2text"; classes: of the tag list; descriptions: of each class, RAM++ only;
    text: of Tag2Text's caption half.
    """

    kind: str
    swin: SwinShape
    classes: int
    descriptions: int = 1
    width: int = 768
    heads: int = 4
    embedding: int = EMBEDDING
    text: TextShape | None = None

    @property
    def tags(self) -> TagList:
        """Names and thresholds of its classes."""
        return tag_list("tag2text" if self.kind == "tag2text" else "ram")


RAM = RamShape("ram", SWIN_L, 4585)
RAM_PLUS = RamShape("ram_plus", SWIN_L, 4585, DESCRIPTIONS)
TAG2TEXT = RamShape("tag2text", SWIN_B, 3429, text=TextShape())
SHAPES = {shape.kind: shape for shape in (RAM, RAM_PLUS, TAG2TEXT)}
# What Tag2Text leaves out because it disturbs captions: quarter, back, two, three, four, five, one.
TAG2TEXT_WITHOUT = (127, 2961, 3351, 3265, 3338, 3355, 3359)


def prepare(pictures: Sequence[Any], size: int = 384) -> Tensor:
    """Pillow pictures -> (B, 3, size, size) float32, as the models were published: squeezed to a square whatever their
    shape (bilinear, antialiased), 0..1, less ImageNet's mean, by its deviation.
    """
    from PIL import Image

    arrays = [
        np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
        for picture in pictures
    ]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255.0
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class TaggingHead(nn.Module):
    """Two cross-attention layers; no tag sees another."""

    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(CrossLayer(width, heads, seen) for _ in range(2))

    def forward(self, queries: Tensor, seen: Tensor) -> Tensor:
        """queries: (B, classes, width); seen: (B, tokens, C) -> (B, classes, width)."""
        layers: Any = self.encoder.layer
        for layer in layers:
            queries = layer(queries, seen)
        return queries


class ClassLinear(nn.Module):
    """Tag2Text's last layer, with weights of its own for each class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(1, classes, width))
        self.b = nn.Parameter(torch.zeros(1, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes, width) -> (B, classes)."""
        return (self.W * x).sum(-1) + self.b


class Ram(nn.Module):
    """RAM and RAM++. ``label_embed`` are CLIP text embeddings of the tags, for RAM++ of 51 descriptions of each."""

    def __init__(self, shape: RamShape) -> None:
        super().__init__()
        self.shape = shape
        self.visual_encoder = Swin(shape.swin)
        self.image_proj = nn.Linear(shape.swin.features, shape.embedding)
        self.label_embed = nn.Parameter(torch.zeros(shape.classes * shape.descriptions, shape.embedding))
        self.wordvec_proj = nn.Linear(shape.embedding, shape.width)
        self.tagging_head = TaggingHead(shape.width, shape.heads, shape.embedding)
        self.fc = nn.Linear(shape.width, 1)
        if shape.kind == "ram_plus":
            self.reweight_scale = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        seen = self.image_proj(self.visual_encoder(pixels))
        labels = self._labels(seen[:, 0])
        queries = F.relu(self.wordvec_proj(labels)).expand(len(pixels), -1, -1)
        return self.fc(self.tagging_head(queries, seen))[..., 0]

    def _labels(self, whole: Tensor) -> Tensor:
        """(1 or B, classes, embedding): for RAM++ each class's descriptions, weighted by how well they fit."""
        if self.shape.kind == "ram":
            return self.label_embed[None]
        about = self.label_embed.view(self.shape.classes, self.shape.descriptions, -1)
        asked = self.reweight_scale.exp() * F.normalize(whole, dim=-1)
        parts = []
        for part in about.split(CHUNK):
            weights = torch.einsum("be,cde->bcd", asked, part).softmax(-1)
            parts.append(torch.einsum("bcd,cde->bce", weights, part))
        return torch.cat(parts, 1)


class Tag2Text(nn.Module):
    """Tag2Text: tags, and a caption from picture and tags."""

    def __init__(self, shape: RamShape) -> None:
        super().__init__()
        assert shape.text is not None
        self.shape = shape
        self.visual_encoder = Swin(shape.swin)
        self.label_embed = nn.Embedding(shape.classes, shape.width)
        self.tagging_head = TaggingHead(shape.width, shape.heads, shape.swin.features)
        self.fc = ClassLinear(shape.classes, shape.width)
        self.tag_encoder = TagEncoder(shape.text, shape.swin.features)
        self.text_decoder = Decoder(shape.text)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, classes)."""
        return self.logits(self.visual_encoder(pixels))

    def logits(self, seen: Tensor) -> Tensor:
        """Logits (B, classes) of pictures already seen, (B, tokens, features)."""
        queries = self.label_embed.weight[None].expand(len(seen), -1, -1)
        return self.fc(self.tagging_head(queries, seen))


def build(shape: RamShape) -> Ram | Tag2Text:
    """The network of a kind, without weights worth having."""
    return Tag2Text(shape) if shape.kind == "tag2text" else Ram(shape)


@dataclass(frozen=True)
class Seen:
    """scores: (B, classes) in 0..1; features: of the pictures, for a caption, where the model has one."""

    scores: Tensor
    features: Tensor | None = field(default=None)


@torch.no_grad()
def look(model: Ram | Tag2Text, pictures: Sequence[Any]) -> Seen:
    """The scores of all classes for Pillow pictures."""
    place = next(model.parameters())
    pixels = prepare(pictures, model.shape.swin.size).to(place.device, place.dtype)
    if isinstance(model, Tag2Text):
        features = model.visual_encoder(pixels)
        return Seen(model.logits(features).float().sigmoid().cpu(), features)
    return Seen(model(pixels).float().sigmoid().cpu())
