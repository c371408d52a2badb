"""RAM, RAM++ and Tag2Text written down a second time, plainly: loops, no modules, float64. Not a test itself.

From the papers' architecture (arXiv 2103.14030, 2306.03514, 2310.15200, 2303.05657), with the checkpoints' key names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, extra: Any = None) -> Tensor:
    """q: (N, C), k, v: (M, C); head after head; extra(head): added to the scores."""
    size, out = q.shape[1] // heads, []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / math.sqrt(size)
        if extra is not None:
            scores = scores + extra(head)
        weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
        out.append(weights / weights.sum(-1, keepdim=True) @ v[:, own])
    return torch.cat(out, 1)


# --- Swin -------------------------------------------------------------------------------------------------------------


def swin(w: Weights, picture: Tensor, shape: Any) -> Tensor:
    """(3, S, S) -> (1 + tokens, features)."""
    x = patches(w, picture, shape.patch)
    for i, depth in enumerate(shape.depths):
        for j in range(depth):
            x = block(w, f"layers.{i}.blocks.{j}", x, shape.heads[i], shape.window, j % 2 == 1)
        if i < len(shape.depths) - 1:
            x = merge(w, f"layers.{i}.downsample", x)
    tokens = norm(w, "norm", x.reshape(-1, x.shape[-1]), 1e-5)
    return torch.cat([tokens.mean(0, keepdim=True), tokens])


def patches(w: Weights, picture: Tensor, patch: int) -> Tensor:
    kernel, n = w["patch_embed.proj.weight"], picture.shape[1] // patch
    rows = []
    for y in range(n):
        cells = [picture[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] for x in range(n)]
        rows.append(torch.stack([(kernel * cell).sum((1, 2, 3)) for cell in cells]))
    return norm(w, "patch_embed.norm", torch.stack(rows) + w["patch_embed.proj.bias"], 1e-5)


def block(w: Weights, name: str, x: Tensor, heads: int, window: int, shifted: bool) -> Tensor:
    """x: (S, S, C). Shifted windows: the picture is walked from (shift, shift) on, around the edge."""
    side = x.shape[0]
    window = min(window, side)
    shift = window // 2 if shifted and side > window else 0
    y, out = norm(w, f"{name}.norm1", x, 1e-5), torch.zeros_like(x)
    for top in range(0, side, window):
        for left in range(0, side, window):
            places = [(top + r + shift, left + c + shift) for r in range(window) for c in range(window)]
            true = [(r % side, c % side) for r, c in places]
            tokens = torch.stack([y[place] for place in true])
            found = window_attention(w, f"{name}.attn", tokens, places, side, window, heads)
            for place, value in zip(true, found, strict=True):
                out[place] = value
    x = x + out
    y = norm(w, f"{name}.norm2", x, 1e-5)
    return x + linear(w, f"{name}.mlp.fc2", gelu(linear(w, f"{name}.mlp.fc1", y)))


def window_attention(
    w: Weights, name: str, tokens: Tensor, places: list[tuple[int, int]], side: int, window: int, heads: int
) -> Tensor:
    table, width = w[f"{name}.relative_position_bias_table"], tokens.shape[1]

    def extra(head: int) -> Tensor:
        added = torch.zeros(len(places), len(places), dtype=tokens.dtype)
        for a, (ra, ca) in enumerate(places):
            for b, (rb, cb) in enumerate(places):
                row = (ra - rb + window - 1) * (2 * window - 1) + ca - cb + window - 1
                around = (ra >= side) != (rb >= side) or (ca >= side) != (cb >= side)  # over the edge of the picture
                added[a, b] = table[row, head] - (100.0 if around else 0.0)
        return added

    qkv = linear(w, f"{name}.qkv", tokens)
    out = attend(qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :], heads, extra)
    return linear(w, f"{name}.proj", out)


def merge(w: Weights, name: str, x: Tensor) -> Tensor:
    n = x.shape[0] // 2
    rows = []
    for r in range(n):
        four = [(x[2 * r, 2 * c], x[2 * r + 1, 2 * c], x[2 * r, 2 * c + 1], x[2 * r + 1, 2 * c + 1]) for c in range(n)]
        rows.append(torch.stack([torch.cat(cells) for cells in four]))
    return linear(w, f"{name}.reduction", norm(w, f"{name}.norm", torch.stack(rows), 1e-5))


# --- tags -------------------------------------------------------------------------------------------------------------


def logits(weights: Weights, picture: Tensor, shape: Any) -> Tensor:
    """(3, S, S) -> (classes,)."""
    w = {key: value.double() for key, value in weights.items()}
    see = {key.removeprefix("visual_encoder."): value for key, value in w.items() if key.startswith("visual_encoder.")}
    seen = swin(see, picture.double(), shape.swin)
    if shape.kind == "tag2text":
        queries = head(w, w["label_embed.weight"], seen, shape.heads)
        return torch.stack([queries[i] @ w["fc.W"][0, i] + w["fc.b"][0, i] for i in range(shape.classes)])
    seen = linear(w, "image_proj", seen)
    labels = w["label_embed"] if shape.kind == "ram" else described(w, seen[0], shape)
    queries = head(w, linear(w, "wordvec_proj", labels).clamp(min=0), seen, shape.heads)
    return linear(w, "fc", queries)[:, 0]


def described(w: Weights, whole: Tensor, shape: Any) -> Tensor:
    """A class's label: its descriptions, weighted by how well they fit the whole picture."""
    whole, labels = whole / whole.norm(), []
    for i in range(shape.classes):
        own = w["label_embed"][i * shape.descriptions : (i + 1) * shape.descriptions]
        fits = torch.exp(w["reweight_scale"]) * (own @ whole)
        weights = torch.exp(fits - fits.max())
        labels.append((weights / weights.sum()) @ own)
    return torch.stack(labels)


def head(w: Weights, queries: Tensor, seen: Tensor, heads: int) -> Tensor:
    for i in range(2):
        name = f"tagging_head.encoder.layer.{i}"
        q = linear(w, f"{name}.crossattention.self.query", queries)
        k = linear(w, f"{name}.crossattention.self.key", seen)
        v = linear(w, f"{name}.crossattention.self.value", seen)
        found = linear(w, f"{name}.crossattention.output.dense", attend(q, k, v, heads))
        queries = norm(w, f"{name}.crossattention.output.LayerNorm", queries + found, 1e-12)
        inner = gelu(linear(w, f"{name}.intermediate.dense", queries))
        queries = norm(w, f"{name}.output.LayerNorm", queries + linear(w, f"{name}.output.dense", inner), 1e-12)
    return queries
