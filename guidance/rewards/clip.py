"""CLIP score (Hessel et al. 2021): how near a picture and its prompt lie in CLIP's space.

Three figures go by that name: the cosine itself (what the papers on guidance print, about 0.3), 2.5·max(cos, 0) of
Hessel et al., and 100·max(cos, 0) of torchmetrics. All are columns, each under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...parsing import parse
from .caption import noted
from .loading import Loaded, Source, batches, load
from .scorer import Reading, Scorer
from .wording import name_of, properties, with_article

EXAMPLE = "openai/clip-vit-large-patch14 (1.7 GB)"
PARTS = ("hessel", "torchmetrics", "least")


def clip_scorer(place: str, device: str = "cpu", download: bool = False) -> Scorer:
    """The scorer "clip" on a CLIPModel.

    Parts: hessel, torchmetrics (see above); least: the smallest cosine over the prompt's noun groups, each on its own
    ("a green balloon"), as Attend-and-Excite's minimum object similarity, but for its many templates.
    """
    return scorer_on(load_clip(place, device, download), Source(place, "", "").name())


def load_clip(place: str, device: str = "cpu", download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A whole CLIP from its folder."""
    return load(Source(place, "the CLIP score", EXAMPLE, download), {"clip": "CLIPModel"}, None, device, dtype=dtype)


def scorer_on(loaded: Loaded, name: str) -> Scorer:
    """The scorer on an open model; name: of its folder."""

    def measure(images: Sequence[Any], prompts: Sequence[str]) -> list[Reading]:
        seen = image_embeddings(loaded, images)
        said = text_embeddings(loaded, prompts)
        cosines = (seen * said).sum(-1).tolist()
        return noted([_reading(loaded, c, seen[i], prompts[i]) for i, c in enumerate(cosines)], loaded, prompts)

    return Scorer("clip", f"CLIPModel of {name}", PARTS, measure)


def _reading(loaded: Loaded, cosine: float, seen: Tensor, prompt: str) -> Reading:
    things = noun_groups(prompt)
    least = float((text_embeddings(loaded, things) @ seen).min()) if things else None
    positive = max(cosine, 0.0)
    return Reading(cosine, {"hessel": 2.5 * positive, "torchmetrics": 100 * positive, "least": least})


def noun_groups(prompt: str) -> list[str]:
    """The prompt's things on their own, places left out: "a green balloon"."""
    things = [v for v in parse(prompt).vertices if not v.environment]
    return [with_article(" ".join((*properties(v), name_of(v))), v.head) for v in things]


@torch.no_grad()
def image_embeddings(loaded: Loaded, images: Sequence[Any]) -> Tensor:
    """(B, D) of unit length, float32."""
    model, parts = loaded.model, []
    for part in batches(len(images)):
        pooled = model.vision_model(pixel_values=loaded.pixels(images[part])).pooler_output
        parts.append(normalize(model.visual_projection(pooled).float(), dim=-1))
    return torch.cat(parts)


@torch.no_grad()
def text_embeddings(loaded: Loaded, texts: Sequence[str]) -> Tensor:
    """(B, D) of unit length, float32; texts are cut at 77 tokens."""
    model, parts = loaded.model, []
    for part in batches(len(texts)):
        pooled = model.text_model(**loaded.tokens(texts[part])).pooler_output
        parts.append(normalize(model.text_projection(pooled).float(), dim=-1))
    return torch.cat(parts)
