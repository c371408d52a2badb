"""Contrastive LoRAs on PixelWorld: every objective, seed by seed, against the weights as they are.

``python benchmarks/training.py --out DIR`` trains what is missing in DIR, measures what was not measured, and prints
the tables of docs/training.md. It goes on where it was ended. Each seed has pairs, prompts and noises of its own, the
same for all objectives, and all are of combinations that are held out. Intervals are bootstraps over seeds and, within
each, over pairs or prompts (10,000 draws).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from interplay.cli import main as interplay
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.hosts.diffusers.training import PipelineLearner
from interplay.guidance.pixelworld.world import PROMPT_SETS
from interplay.guidance.training.lora import applied, load
from interplay.guidance.training.objectives import OBJECTIVES
from interplay.guidance.training.pixelworld import HELD_OUT, told_pairs, verdicts

COLUMNS = ("text", "image", "group", *HELD_OUT, "both sets", "quality")
BASE, GHOSTS = "weights as they are", "_ghosts"
Rows = list[dict[str, list[float]]]


def train(objective: str, seed: int, args: argparse.Namespace) -> int:
    """One run; nothing to do where its LoRA lies there already. The objectives are held against each other without
    ghosts; a name that ends in GHOSTS has the preset's.
    """
    out = args.out / f"{objective}_{seed}"
    if (out / "lora.safetensors").is_file():
        return 0
    name = objective.removesuffix(GHOSTS)
    command = ["train", "negatives-lora", "--out", str(out), "--objective", name, "--seed", str(seed)]
    command += ["--ghosts", "0"] if name == objective else []
    command += ["--steps", str(args.steps)] if args.steps else []
    command += [option for option in args.more if option != "--"]
    return interplay([*command, *(["--resume"] if (out / "settings.json").is_file() else [])])


def measure(lora: Path | None, seed: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Right or wrong, pair by pair and prompt by prompt; each part is kept as soon as it is known."""
    file = (lora.parent if lora else args.out) / f"figures_{seed}_{args.pairs}_{args.n}_{args.draw_steps}.json"
    figures: dict[str, list[float]] = json.loads(file.read_text()) if file.is_file() else {}
    if len(figures) == len(COLUMNS):
        return figures
    model = PipelineLearner(load_pixelworld())
    with applied(model.pipeline.unet, load(lora)) if lora else nullcontext():
        return completed(model, seed, args, file, figures)


def completed(
    model: PipelineLearner, seed: int, args: argparse.Namespace, file: Path, figures: dict[str, list[float]]
) -> dict[str, list[float]]:
    """What is not among the figures of the model yet."""
    if "text" not in figures:
        told = told_pairs(model, args.pairs, seed)
        figures |= {name: [float(hit) for hit in hits] for name, hits in told.items()}
        file.write_text(json.dumps(figures))
    for name in HELD_OUT:
        if name not in figures:
            said = verdicts(model.pipeline, PROMPT_SETS[name](args.n, seed), 1000 * seed, args.draw_steps)
            figures[name] = [float(v.all_right) for v in said]
            figures["quality"] = figures.get("quality", []) + [float(v.quality) for v in said]
            file.write_text(json.dumps(figures))
    figures["both sets"] = [value for name in HELD_OUT for value in figures[name]]
    file.write_text(json.dumps(figures))
    return figures


def interval(rows: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """Mean and 95 % interval of (seeds, pairs) values, by drawing seeds, and pairs of each, again."""
    rng = np.random.default_rng(0)
    seeds, pairs = rows.shape
    means = np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(seeds, size=seeds)[:, None]
        means[i] = rows[chosen, rng.integers(pairs, size=(seeds, pairs))].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(rows.mean()), float(low), float(high)


def cell(rows: Rows, column: str, other: Rows | None = None) -> str:
    """Mean and interval in per cent, or of the difference from other rows: seed by seed where these have as many."""
    values = np.array([row[column] for row in rows])
    if other is not None:
        values = values - np.array([row[column] for row in other])
    scale, digits = (1.0, 4) if column == "quality" else (100.0, 1)
    mean, low, high = (f"{scale * v:{'+' if other else ''}.{digits}f}" for v in interval(values))
    return f"{mean} ({low} to {high})"


def table(title: str, rows: Sequence[tuple[str, int, list[str]]]) -> None:
    """Print one."""
    print(f"\n| {title} | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|", sep="\n")
    for name, seeds, cells in rows:
        print(f"| {name} | {seeds} | " + " | ".join(cells) + " |")


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objectives", nargs="*", default=[*OBJECTIVES, f"contrast_hinge{GHOSTS}"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each run (the preset's)")
    parser.add_argument("--pairs", type=int, default=48, help="of each seed (48)")
    parser.add_argument("--n", type=int, default=32, help="prompts of each of the two sets, for each seed (32)")
    parser.add_argument("--draw-steps", type=int, default=15)
    parser.add_argument("more", nargs=argparse.REMAINDER, help="after --: further options of the command")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found: dict[str, Rows] = {BASE: [measure(None, seed, args) for seed in args.seeds]}
    for objective in args.objectives:
        for seed in args.seeds:
            print(f"{objective} {seed}: exit status {train(objective, seed, args)}", flush=True)
            lora = args.out / f"{objective}_{seed}" / "lora.safetensors"
            found.setdefault(objective, []).append(measure(lora, seed, args))
    table("", [(name, len(rows), [cell(rows, c) for c in COLUMNS]) for name, rows in found.items()])
    differences: list[tuple[str, int, list[str]]] = []
    for name, rows in found.items():
        for other in (BASE, "noneg"):
            against = found.get(other, [])
            if name not in (BASE, other) and against:
                differences.append((f"{name} − {other}", len(rows), [cell(rows, c, against) for c in COLUMNS]))
    table("difference, points", differences)


if __name__ == "__main__":
    main()
