"""Contrastive LoRAs on PixelWorld: every objective, seed by seed, against the weights as they are.

``python benchmarks/training.py --out DIR`` trains what is missing in DIR, measures what was not measured, and prints
the table of docs/training.md. It goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from interplay.cli import main as interplay
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.hosts.diffusers.training import PipelineLearner
from interplay.guidance.training.lora import load
from interplay.guidance.training.objectives import OBJECTIVES
from interplay.guidance.training.pixelworld import drawn_right, told_apart

COLUMNS = ("text", "image", "group", "actions held out", "two objects held out", "quality")


def train(objective: str, seed: int, args: argparse.Namespace) -> int:
    """One run; nothing to do where its LoRA lies there already."""
    out = args.out / f"{objective}_{seed}"
    if (out / "lora.safetensors").is_file():
        return 0
    command = ["train", "negatives-lora", "--out", str(out), "--objective", objective, "--seed", str(seed)]
    command += ["--steps", str(args.steps), "--batch", str(args.batch), *args.more]
    return interplay([*command, *(["--resume"] if (out / "settings.json").is_file() else [])])


def measure(lora: Path | None, args: argparse.Namespace) -> dict[str, Any]:
    """Winoground-style scores of pairs, and right pictures of prompts, of held-out combinations."""
    file = (lora.parent if lora else args.out) / f"figures_{args.n}.json"
    if file.is_file():
        return json.loads(file.read_text())
    model = PipelineLearner(load_pixelworld())
    if lora is not None:
        model.lora.take(load(lora))
    found = told_apart(model, args.n)
    drawn = drawn_right(model.pipeline, n=args.n, steps=args.draw_steps)
    figures = {name: found[name]["value"] for name in ("text", "image", "group")}
    figures |= {name: row["all_right"]["value"] for name, row in drawn.items()}
    figures["quality"] = statistics.mean(row["quality"]["value"] for row in drawn.values())
    file.write_text(json.dumps(figures))
    return figures


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--n", type=int, default=64, help="pairs, and prompts of each set (64)")
    parser.add_argument("--draw-steps", type=int, default=15)
    parser.add_argument("more", nargs="*", help="after --: further options of the command")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for objective in args.objectives:
        for seed in args.seeds:
            print(f"{objective} {seed}: exit status {train(objective, seed, args)}", flush=True)
            rows.setdefault(objective, []).append(measure(args.out / f"{objective}_{seed}" / "lora.safetensors", args))
    rows = {"weights as they are": [measure(None, args)], **rows}
    print("| objective | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|", sep="\n")
    for name, found in rows.items():
        cells = [_cell([row[column] for row in found]) for column in COLUMNS]
        print(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")


def _cell(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
