"""Measure PixelWorld's weights: ``python -m interplay.guidance.pixelworld.evaluate --n 100 --seed 0`` prints JSON.

Shares come with Wilson's 95 % interval, means with a normal one. Pictures are drawn by the stock diffusers pipeline
(DDIM); every figure is of the weights as they are on disk.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from ...errors import InterplayError
from . import data, network, weights_dir, world
from .detect import Verdict, judge
from .render import enlarge, render

Figure = dict[str, Any]


def share(hits: Sequence[bool]) -> Figure:
    """A share with Wilson's 95 % interval."""
    n, z = len(hits), 1.96
    p = sum(map(bool, hits)) / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"value": round(p, 4), "low": round(low, 4), "high": round(high, 4), "n": n}


def mean(values: Sequence[float]) -> Figure:
    """A mean of values in [0, 1] with its normal 95 % interval."""
    array = np.asarray(values, float)
    half = 1.96 * array.std(ddof=1) / math.sqrt(len(array))
    return {
        "value": round(float(array.mean()), 4),
        "low": round(max(0.0, float(array.mean() - half)), 4),
        "high": round(min(1.0, float(array.mean() + half)), 4),
        "n": len(array),
    }


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of ``scores`` against the boolean ``truth``; ties count half."""
    scores, truth = scores.ravel(), truth.ravel()
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    positive = int(truth.sum())
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * (truth.size - positive)))


def draw(pipeline: Any, prompts: Sequence[str], seed: int, steps: int = 25, cfg: float = 5.0) -> Iterator[np.ndarray]:
    """Plain samples, (128, 128, 3) float in [0, 1]; picture ``i`` starts from the noise of ``seed + i``."""
    for start in range(0, len(prompts), 10):
        part = list(prompts[start : start + 10])
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        options = {"num_inference_steps": steps, "guidance_scale": cfg, "output_type": "np"}
        yield from pipeline(part, generator=noise, **options).images


def autoencoder_right(vae: Any, n: int, seed: int) -> Figure:
    """Share of true pictures that read right, nothing added, after encoding and decoding at 128x128."""
    rng, hits = Random(f"autoencoder {seed}"), []
    for _ in range(n):
        scene = world.sample_scene(rng, seen=False)
        image = torch.from_numpy(enlarge(render(scene)[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            restored = vae.decode(vae.encode(image).latent_dist.mean).sample
        verdict = judge(scene, ((restored[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy())
        hits.append(verdict.all_right and not verdict.extra and not verdict.mixture)
    return share(hits)


def attention(pipeline: Any, n: int, seed: int, step: int = 500) -> Figure:
    """How well a word's map, averaged over heads and 16x16 layers at mid noise, finds its true region: mean AUC."""
    rng, values = Random(f"attention {seed}"), dict[str, list[float]](nouns=[], colours=[], adjectives=[], actions=[])
    before, scale = pipeline.unet.attn_processors, pipeline.vae.config.scaling_factor
    watched, alpha = network.Watched(pipeline.unet), network.alphas()[step]
    noise = torch.Generator().manual_seed(seed)
    adjectives = (*world.SIZES, *world.PATTERNS)
    kinds = {"nouns": world.OBJECTS, "colours": world.COLOURS, "adjectives": adjectives, "actions": world.ACTIONS}
    for _ in range(n):
        scene = world.sample_scene(rng)
        text = world.caption(scene)
        ids = pipeline.tokenizer(text, padding="max_length", max_length=data.LENGTH, return_tensors="pt").input_ids
        image = torch.from_numpy(enlarge(render(scene)[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            z = pipeline.vae.encode(image).latent_dist.mean * scale
            noisy = alpha.sqrt() * z + (1 - alpha).sqrt() * torch.randn(z.shape, generator=noise)
            maps = watched(noisy, torch.tensor([step]), pipeline.text_encoder(ids).last_hidden_state)[1]
        masks, regions = data.cell_masks(scene), data.word_regions(text, scene)
        for position, word in enumerate(data.words(text), start=1):
            for kind, words in kinds.items():
                if word in words:
                    values[kind].append(auc(maps[0, :, position].numpy(), masks[regions[position]]))
    pipeline.unet.set_attn_processor(before)
    return {kind: mean(found) for kind, found in values.items()}


def summary(verdicts: Sequence[Verdict]) -> Figure:
    """The figures of one prompt set."""
    result = {
        "objects_right": share([v.objects_right for v in verdicts]),
        "objects_right_and_nothing_else": share([v.objects_right and not v.extra for v in verdicts]),
        "all_right": share([v.all_right for v in verdicts]),
        "presence": mean([v.presence for v in verdicts]),
        "environment_right": share([bool(v.environment_right) for v in verdicts]),
        "mixture": share([v.mixture for v in verdicts]),
        "palette_distance": mean([v.palette_distance for v in verdicts]),
        "quality": mean([v.quality for v in verdicts]),
    }
    for name in ("action_right", "attributes_right", "bystander_right"):
        asked = [getattr(v, name) for v in verdicts if getattr(v, name) is not None]
        result |= {name: share(asked)} if asked else {}
    return result


PARTS = ("autoencoder", "attention_auc", *world.PROMPT_SETS)


def evaluate(
    n: int,
    seed: int,
    folder: Path | None = None,
    steps: int = 25,
    cfg: float = 5.0,
    parts: Sequence[str] = PARTS,
    sheet: Path | None = None,
) -> Figure:
    """The figures of a weights folder; ``sheet`` is where a PNG with the first samples of each prompt set goes."""
    from ..hosts.diffusers.pixelworld import load_pixelworld

    path = weights_dir(folder)
    pipeline: Any = load_pixelworld(folder=folder)
    figures: Figure = {
        "megabytes": round(sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6, 2),
        "sampling": {"sampler": "DDIM", "steps": steps, "cfg": cfg},
    }
    rows = []
    for part in parts:
        if part == "autoencoder":
            figures[part] = autoencoder_right(pipeline.vae, n, seed)
        elif part == "attention_auc":
            figures[part] = attention(pipeline, n, seed)
        else:
            prompts = world.PROMPT_SETS[part](n, seed)
            images = list(draw(pipeline, prompts, seed, steps, cfg))
            figures[part] = summary([judge(prompt, image) for prompt, image in zip(prompts, images, strict=True)])
            rows.append(images[:8])
    if sheet is not None and rows:
        _write_sheet(sheet, rows)
    return figures


def _write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Pictures in rows with thin borders, as a PNG."""
    from PIL import Image

    lines = [np.concatenate([np.pad(i, ((2, 2), (2, 2), (0, 0))) for i in row], 1) for row in rows]
    Image.fromarray((np.concatenate(lines) * 255).round().astype(np.uint8)).save(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m interplay.guidance.pixelworld.evaluate", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="prompts of each set, scenes of each measurement (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--weights", type=Path, help="another weights folder")
    parser.add_argument("--sheet", type=Path, help="write a PNG of samples there")
    args = parser.parse_args(argv)
    try:
        if args.n < 2:
            raise InterplayError(f"--n is {args.n}; it has to be at least 2 for an interval.")
        figures = evaluate(args.n, args.seed, args.weights, args.steps, args.cfg, args.parts, args.sheet)
    except InterplayError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
