"""Grounding DINO through transformers, with labels by our own token spans.

The library's post-processing reads a label off the tokens that a box scores highest on, and so joins words of several
labels ("cat dog") or gives parts of one ("##van"): GroundingDINO issues 63, 85, 421. Here the prompt is put together of
the wanted words, each word's tokens are known by their character offsets, and a box belongs to the words whose tokens
score best on the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detectors import Found, Wanted, clipped
from .detectors_loading import corners, open_model, open_part, tensor, to_pillow

PER_PASS = 40  # words of one prompt at most; the text encoder takes 256 tokens
Span = tuple[int, int]


@dataclass(frozen=True)
class Query:
    """One prompt for the model: "red robot. box." with the characters of each word group; ids: which wanted things."""

    text: str
    spans: tuple[Span, ...]
    ids: tuple[int, ...]


def cleaned(words: str) -> str:
    """Words as the model was trained on them: lower case, without the full stop that separates labels."""
    return " ".join(words.lower().replace(".", " ").replace("?", " ").split())


def queries(things: Sequence[Wanted], tokenizer: Any, limit: int, per_pass: int = PER_PASS) -> list[Query]:
    """The prompts that ask for all things, each within ``limit`` tokens."""
    out, part = list[Query](), list[int]()
    for number, thing in enumerate(things):
        if not cleaned(thing.words):
            continue
        longer = [*part, number]
        if part and (len(longer) > per_pass or _tokens(_query(things, longer).text, tokenizer) > limit):
            out.append(_query(things, part))
            longer = [number]
        part = longer
    return [*out, _query(things, part)] if part else out


def _query(things: Sequence[Wanted], ids: Sequence[int]) -> Query:
    text, spans = "", list[Span]()
    for number in ids:
        words = cleaned(things[number].words)
        text += " " * bool(text)
        spans.append((len(text), len(text) + len(words)))
        text += words + "."
    return Query(text, tuple(spans), tuple(ids))


def _tokens(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text)["input_ids"])


def label_tokens(spans: Sequence[Span], offsets: Sequence[Span]) -> list[list[int]]:
    """The tokens of each span of characters; special tokens have empty offsets and belong to none."""
    return [
        [i for i, (start, end) in enumerate(offsets) if end > start and start < span[1] and end > span[0]]
        for span in spans
    ]


def label_scores(logits: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """(queries, labels) in 0..1 from logits (queries, tokens): the mean over a label's tokens of the sigmoid."""
    shares = logits.float().sigmoid()
    columns = [shares[:, list(t)].mean(1) if t else shares.new_zeros(len(shares)) for t in tokens]
    return torch.stack(columns, 1)


def finds(
    logits: Tensor, boxes: Tensor, tokens: Sequence[Sequence[int]], ids: Sequence[int], least: float
) -> list[Found]:
    """Each box (cx, cy, w, h in 0..1) as a find of the label that scores best on it, if by more than ``least``."""
    scores, labels = label_scores(logits, tokens).max(1)
    out = list[Found]()
    for score, label, box in zip(scores.tolist(), labels.tolist(), corners(boxes.float()).tolist(), strict=True):
        inside = clipped(box) if score > least else None
        if inside is not None:
            out.append(Found(ids[label], inside, score))
    return out


@dataclass
class GroundingDino:
    """The model with what prepares its input."""

    model: nn.Module
    images: Any
    tokenizer: Any

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, name: str = "GroundingDinoForObjectDetection") -> GroundingDino:
        """From a folder; always in fp32, which its deformable attention needs."""
        model = open_model(name, folder, torch.float32)
        return cls(model, open_part("AutoImageProcessor", folder), open_part("AutoTokenizer", folder))

    @torch.no_grad()
    def find(self, image: Tensor, things: Sequence[Wanted], device: Any, threshold: float) -> list[Found]:
        """Finds of ``things`` in a picture (H, W, 3)."""
        prepared = self.images(images=to_pillow(image), return_tensors="pt")
        pixels = {k: tensor(prepared[k]).to(device) for k in ("pixel_values", "pixel_mask") if k in prepared}
        found = list[Found]()
        limit = int(getattr(self.model.config, "max_text_len", 256))
        for query in queries(things, self.tokenizer, limit):
            told = self.tokenizer(
                query.text, return_tensors="pt", return_offsets_mapping=True, truncation=True, max_length=limit
            )
            offsets = [(int(a), int(b)) for a, b in told.pop("offset_mapping")[0].tolist()]
            names = ("input_ids", "attention_mask", "token_type_ids")
            out = self.model(**pixels, **{name: told[name].to(device) for name in names if name in told})
            tokens = label_tokens(query.spans, offsets)
            found += finds(out.logits[0].cpu(), out.pred_boxes[0].cpu(), tokens, query.ids, threshold)
        return found
