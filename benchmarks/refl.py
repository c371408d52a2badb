"""The reward trainers on PixelWorld: what their rewards choose, and what their LoRAs draw.

``select`` draws several pictures of each training prompt and prints how often the picture that a reward likes best is
all right, by the exact detector, which none of the rewards has. ``proof`` trains a LoRA by ReFL and one on RAFT's
winners with their negatives, with the commands of docs/refl.md, and measures both, alone and under SHY, as rows of
``interplay bench pixelworld`` on prompts that were not trained on. Both go on in DIR where they were ended; arguments
after ``--`` go to ReFL's trainer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interplay.cli import main as interplay
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.hosts.diffusers.refl import PixelWorldTrainee
from interplay.guidance.pixelworld.detect import judge
from interplay.guidance.rewards.pixelworld_caption import caption_reward
from interplay.guidance.training.lora import inject
from interplay.guidance.training.refl_model import draw
from interplay.guidance.training.refl_options import TRAIN_SEED, as_image, pixelworld_prompts
from interplay.guidance.training.refl_rewards import KINDS, pixelworld_reward
from torch import Tensor

SETS = ("actions held out", "two objects held out")
TRAINERS = {"ReFL": "refl", "RAFT": "raft"}
DRAW = "--draw-only --prompt-count 512 --pictures 8 --winners 2 --keep 0.999 --tie itm --draw-steps 12 --draw-batch 32"
LEARN = "--hold-below 0.45"
REFL = "--targets attn2 --prompt-count 1024 --watch-count 96"


def enlarged(picture: Tensor) -> np.ndarray:
    """(3, 32, 32) as the detector takes it, (128, 128, 3)."""
    return np.asarray(as_image(picture)).repeat(4, 0).repeat(4, 1)


@torch.no_grad()
def part(model: Any, prompts: Sequence[str], start: int, args: argparse.Namespace, rewards: dict[str, Any]) -> Any:
    """Rewards and truth of the pictures of a few prompts, (prompts, pictures) each."""
    file = args.out / f"part_{start:05d}.json"
    if file.is_file():
        return json.loads(file.read_text())
    texts = [prompt for prompt in prompts for _ in range(args.pictures)]
    names = [("pool", args.seed, start + i // args.pictures, i % args.pictures) for i in range(len(texts))]
    pictures = model.decode(draw(model, texts, names, args.draw_steps, args.cfg)).clamp(0, 1)
    truth = [judge(text, enlarged(picture)) for text, picture in zip(texts, pictures, strict=True)]
    found = {name: reward(pictures, texts).tolist() for name, reward in rewards.items()}
    found |= {"right": [float(v.all_right) for v in truth], "quality": [float(v.quality) for v in truth]}
    shaped = {name: np.reshape(values, (len(prompts), -1)).tolist() for name, values in found.items()}
    file.write_text(json.dumps(shaped))
    return shaped


def select(args: argparse.Namespace) -> int:
    """Draw, and print a row for each reward."""
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pixelworld()
    model = PixelWorldTrainee(pipeline, inject(pipeline.unet, 1))
    rewards: dict[str, Callable[..., Tensor]] = {"caption": caption_reward}
    rewards |= {kind: pixelworld_reward(kind) for kind in KINDS}
    prompts = pixelworld_prompts(args.prompts, args.seed)
    parts = [part(model, prompts[i : i + 4], i, args, rewards) for i in range(0, len(prompts), 4)]
    table = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    print(chosen(table, list(rewards)))
    return 0


def chosen(table: dict[str, np.ndarray], rewards: Sequence[str]) -> str:
    """Markdown: how often the winner is right, and how often a right picture stands above a wrong one."""
    right = table["right"]
    rows = [f"| any picture | {right.mean():.3f} | | {table['quality'].mean():.4f} |"]
    for name in rewards:
        best = np.argsort(-table[name], 1, kind="stable")[:, :1]
        above = [
            np.sign(v[r == 1][:, None] - v[r == 0]).mean() / 2 + 0.5
            for v, r in zip(table[name], right, strict=True)
            if 0 < r.sum() < len(r)
        ]
        picked, quality = (np.take_along_axis(t, best, 1).mean() for t in (right, table["quality"]))
        rows.append(f"| best by {name} | {picked:.3f} | {np.mean(above):.3f} | {quality:.4f} |")
    head = ["| picture | all right | AUC within prompts | quality |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, f"| best that there is | {right.max(1).mean():.3f} | | |"])


def going(out: Path) -> list[str]:
    """Go on with what was begun."""
    return ["--out", str(out), *(["--resume"] if (out / "settings.json").is_file() else [])]


def refl(out: Path, args: argparse.Namespace) -> int:
    """A LoRA by ReFL on twins."""
    return interplay(["train", "refl", *going(out), *REFL.split(), *(a for a in args.more if a != "--")])


def raft(out: Path, args: argparse.Namespace) -> int:
    """Draw, keep the best, and train on them and on the negatives of their prompts."""
    drawn = out / "drawn"
    if not (drawn / "data" / "captions.jsonl").is_file():
        status = interplay(["train", "raft", "--out", str(drawn), *DRAW.split()])
        if status:
            return status
    return interplay(["train", "negatives-lora", *going(out), "--data", str(drawn / "data"), *LEARN.split()])


def proof(args: argparse.Namespace) -> int:
    """Train what is missing, then draw and measure."""
    args.out.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Any] = {"plain": {"kind": "plain"}, "SHY": {"preset": "SHY"}}
    for name, trainer in TRAINERS.items():
        if trainer not in args.trainers:
            continue
        out = args.out / trainer
        status = 0 if (out / "lora.safetensors").is_file() else (refl if trainer == "refl" else raft)(out, args)
        if status:
            return status
        methods[name] = {"kind": "lora", "file": str(out / "lora.safetensors")}
        methods[f"{name} + SHY"] = {**methods[name], "preset": "SHY"}
    config = args.out / "methods.json"
    config.write_text(json.dumps(methods, indent=1))
    bench = ["bench", "pixelworld", "--out", str(args.out / "bench"), "--config", str(config), "--sets", *SETS]
    return interplay([*bench, "--methods", *methods, "--n", str(args.n), "--processes", str(args.processes)])


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("select")
    one.set_defaults(run=select)
    one.add_argument("--prompts", type=int, default=160)
    one.add_argument("--pictures", type=int, default=8)
    one.add_argument("--draw-steps", type=int, default=12)
    one.add_argument("--cfg", type=float, default=5.0)
    one.add_argument("--seed", type=int, default=TRAIN_SEED)
    two = commands.add_parser("proof")
    two.set_defaults(run=proof)
    two.add_argument("--trainers", nargs="+", default=list(TRAINERS.values()), choices=TRAINERS.values())
    two.add_argument("--n", type=int, default=64, help="prompts of each of the two sets")
    two.add_argument("--processes", type=int, default=1)
    for command in (one, two):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
        command.add_argument("more", nargs="*", metavar="-- OPTIONS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
