"""Small things to look at while training: sampled pictures, and curves of the run's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .learner import Learner
from .refl_model import seed_of

COLOURS = ("#1f77b4", "#d62728", "#7f7f7f", "#2ca02c", "#9467bd", "#8c564b")


@torch.no_grad()
def draw(model: Learner, texts: Sequence[str], seed: int = 0, steps: int = 20, cfg: float = 5.0) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of texts; see ``draw_latents``."""
    return model.decode(draw_latents(model, texts, seed, steps, cfg)).clamp(0, 1)


@torch.no_grad()
def draw_latents(model: Learner, texts: Sequence[str], seed: int = 0, steps: int = 20, cfg: float = 5.0) -> Tensor:
    """Clean latents (B, C, h, w) by DDIM (Song et al. 2020) with classifier-free guidance."""
    noise = [torch.randn(model.shape, generator=torch.Generator().manual_seed(seed_of("sample", seed, i)))
             for i in range(len(texts))]  # fmt: skip
    said, empty = model.condition(texts), model.condition([""] * len(texts))
    shares = torch.linspace(0.999, 0.001, steps, device=model.device())
    at = model.levels(shares[:1].expand(len(texts)))
    x = torch.stack(noise).to(model.device()) * at.noise
    clean = x
    for i in range(steps):
        with_text, without = model.denoise(x, at, said), model.denoise(x, at, empty)
        clean = without + cfg * (with_text - without)
        if i + 1 < steps:
            eps = (x - at.signal * clean) / at.noise
            at = model.levels(shares[i + 1].expand(len(texts)))
            x = at.signal * clean + at.noise * eps
    return clean


@torch.no_grad()
def drawn_apart(
    model: Learner,
    captions: Sequence[str],
    negatives: Sequence[Sequence[str]],
    seed: int = 0,
    low: float = 0.3,
    high: float = 0.9,
    levels: int = 4,
) -> float:
    """Share of captions whose picture, drawn with the LoRA, the model without it explains better by the caption than by
    any of its negatives: the check of generation for models that have no judge (DiffusionITM on the model's own
    pictures, Krojer et al. 2023). The noise is the same for all texts of a picture.
    """
    latents, right = draw_latents(model, captions, seed), 0
    for i, (caption, others) in enumerate(zip(captions, negatives, strict=True)):
        texts = [caption, *dict.fromkeys(others)]
        at = model.levels(torch.linspace(low, high, levels, device=model.device()))
        noise = torch.randn(model.shape, generator=torch.Generator().manual_seed(seed_of("apart", seed, i)))
        clean = latents[i : i + 1].expand(levels, *latents.shape[1:])
        x = at.signal * clean + at.noise * noise.to(clean.device)
        with model.adapter_off():
            found = [
                (model.denoise(x, at, model.condition([text] * levels)) - clean).square().flatten(1).mean(1) * at.native
                for text in texts
            ]
        errors = [float(each.mean()) for each in found]
        right += len(errors) == 1 or errors[0] < min(errors[1:])
    return right / max(1, len(captions))


def save_strip(pictures: Tensor, path: Path) -> Path:
    """Pictures (B, 3, H, W) side by side as a PNG."""
    from PIL import Image

    row = torch.cat(list(pictures.cpu()), 2).permute(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((row * 255).round().byte().numpy()).save(path)
    return path


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; half a line at the end, of a run that was killed, is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def plot(
    file: Path, picture: Path, names: Sequence[str] = ("L_c", "L_n", "L_u"), size: tuple[int, int] = (720, 360)
) -> Path:
    """Curves of a run's figures over its steps, smoothed, as a PNG; validations are dots."""
    from PIL import Image, ImageDraw

    rows = [r for r in read_metrics(file) if not r.get("validation")]
    curves = {n: _smooth([(r["step"], float(r[n])) for r in rows if n in r]) for n in names}
    values = [v for curve in curves.values() for _, v in curve]
    image = Image.new("RGB", size, "white")
    pen, (width, height), edge = ImageDraw.Draw(image), size, 48
    pen.rectangle((edge, 12, width - 12, height - edge), outline="#cccccc")
    if values:
        low, high = min(values), max(values)
        last = max(step for curve in curves.values() for step, _ in curve)
        span = (high - low) or 1.0
        for i, (name, curve) in enumerate(curves.items()):
            line = [
                (edge + (width - 12 - edge) * s / max(last, 1), height - edge - (height - edge - 12) * (v - low) / span)
                for s, v in curve
            ]
            if len(line) > 1:
                pen.line(line, fill=COLOURS[i % len(COLOURS)], width=2)
            pen.text((edge + 8 + 90 * i, height - 24), name, fill=COLOURS[i % len(COLOURS)])
        pen.text((4, 12), f"{high:.3g}", fill="#444444")
        pen.text((4, height - edge - 12), f"{low:.3g}", fill="#444444")
        pen.text((width - 80, height - 24), f"step {last}", fill="#444444")
    image.save(picture)
    return picture


def _smooth(curve: Sequence[tuple[int, float]], decay: float = 0.9) -> list[tuple[int, float]]:
    out: list[tuple[int, float]] = []
    mean, weight = 0.0, 0.0
    for step, value in curve:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        out.append((step, mean / weight))
    return out
