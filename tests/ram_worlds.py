"""Small RAM, RAM++ and Tag2Text with random weights, and files as they were published. Not a test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from interplay.guidance.grounding.ram import Ram, RamShape, Tag2Text, build
from interplay.guidance.grounding.ram_bert import TextShape
from interplay.guidance.grounding.swin import SwinShape
from torch import Tensor

SWIN = SwinShape(size=64, width=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4)
TEXT = TextShape(width=16, heads=4, layers=3, places=64)
SHAPES = {
    "ram": RamShape("ram", SWIN, 23, width=16, embedding=12),
    "ram_plus": RamShape("ram_plus", SWIN, 23, 5, width=16, embedding=12),
    "tag2text": RamShape("tag2text", SWIN, 23, width=16, text=TEXT),
}
# as many classes as published, so that they have names
WHOLE = {
    "ram": RamShape("ram", SWIN, 4585, width=16, embedding=12),
    "ram_plus": RamShape("ram_plus", SWIN, 4585, 2, width=16, embedding=12),
    "tag2text": RamShape("tag2text", SWIN, 3429, width=16, text=TEXT),
}


def model(shape: RamShape, seed: int = 0, scale: float = 0.3) -> Ram | Tag2Text:
    """Random weights that leave no part without effect."""
    torch.manual_seed(seed)
    made = build(shape).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(parameter + scale * torch.randn_like(parameter))
    return made


def published(made: Ram | Tag2Text) -> dict[str, Tensor]:
    """The weights as in a published file: with buffers, the caption half that RAM does not need, and ties."""
    state = {key: value.clone() for key, value in made.state_dict().items()}
    for i, depth in enumerate(made.shape.swin.depths):
        for j in range(depth):
            state[f"visual_encoder.layers.{i}.blocks.{j}.attn.relative_position_index"] = torch.zeros(16, 16).long()
            if j % 2:
                state[f"visual_encoder.layers.{i}.blocks.{j}.attn_mask"] = torch.zeros(4, 16, 16)
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(8)[None]
    if isinstance(made, Tag2Text):
        state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
    else:
        state["tag_encoder.embeddings.LayerNorm.weight"] = torch.ones(16)
        state["text_decoder.cls.predictions.bias"] = torch.ones(16)
    return state


def write(path: Path, state: dict[str, Tensor], **beside: Any) -> Path:
    """A training file: weights, the optimiser's moments, the epoch."""
    moments = {i: {"exp_avg": torch.zeros(3), "step": 1} for i in range(2)}
    torch.save({"model": state, "optimizer": {"state": moments}, "epoch": 14, **beside}, path)
    return path
