"""Does guidance help? PixelWorld's detector on the same prompts and seeds, drawn plainly and with each preset.

    python benchmarks/quality.py [--prompts 64] [--variants SHY CONFORM SHY:step=0.03,end=0.4] [--json FILE]

Figures are shares of pictures; "clean" is all as asked and nothing more. "better" and "worse" count the pictures that
became clean or ceased to be, against the plain picture from the same noise; p is the two-sided sign test on these two.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from interplay.guidance.figures import Panel, sheet
from interplay.guidance.hosts.diffusers.guidance import guided
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.pixelworld import detect, world
from interplay.guidance.presets import GuidanceConfig, preset

SHOWN = ("all_right", "objects_right", "presence", "binding", "action_right", "environment_right", "mixture")
SETS = {"two": world.two_object_prompts, "one": world.one_object_prompts, "held-out": world.held_out_prompts}


def variant(text: str) -> GuidanceConfig:
    """ "SHY" or "SHY:step=0.03,end=0.4": a preset with changes."""
    name, _, changes = text.partition(":")
    pairs = (part.split("=", 1) for part in changes.split(",") if part)
    return preset(name, **{key: _value(value) for key, value in pairs})


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def pipeline(folder: Path | None) -> Any:
    """PixelWorld with the demo's Euler steps."""
    pipe: Any = load_pixelworld(folder=folder)
    config = pipe.scheduler.config
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: Any, prompts: Sequence[str], config: GuidanceConfig, args: argparse.Namespace
) -> tuple[list[Any], list[Any]]:
    """Pictures and guidance reports; picture i starts from seed ``args.seed`` + i, whatever the batch."""
    images, reports = [], []
    for start in range(0, len(prompts), args.batch):
        part = list(prompts[start : start + args.batch])
        seeds = range(args.seed + start, args.seed + start + len(part))
        noise = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
        with guided(pipe, config, part, args.seed) as session:
            drawn = pipe(part, latents=noise, num_inference_steps=args.steps, guidance_scale=args.cfg)
        images += drawn.images
        reports += session.reports
    return images, reports


def clean(verdict: Any) -> bool:
    """All as asked, and nothing more."""
    return bool(verdict.all_right and not verdict.extra and not verdict.mixture)


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability of a split at least that uneven, if both were equally likely."""
    n, least = better + worse, min(better, worse)
    tail: float = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return min(1.0, 2 * tail)


def summary(verdicts: Sequence[Any], plain: Sequence[Any], seconds: float) -> dict[str, Any]:
    """Means over the pictures, and the comparison with the plain ones."""
    row: dict[str, Any] = {}
    for name in SHOWN:
        values = [float(getattr(v, name)) for v in verdicts if getattr(v, name) is not None]
        row[name] = round(sum(values) / max(1, len(values)), 4)
    row["clean"] = round(sum(map(clean, verdicts)) / len(verdicts), 4)
    row["extra"] = round(sum(v.extra for v in verdicts) / len(verdicts), 4)
    row["explained"] = round(sum(v.explained for v in verdicts) / len(verdicts), 4)
    row["better"] = sum(clean(v) and not clean(p) for v, p in zip(verdicts, plain, strict=True))
    row["worse"] = sum(clean(p) and not clean(v) for v, p in zip(verdicts, plain, strict=True))
    row["p"] = round(sign_test(row["better"], row["worse"]), 3)
    row["cpu_seconds_per_picture"] = round(seconds / len(verdicts), 3)
    return row


def measure(pipe: Any, args: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, list[Any]], list[str]]:
    """Rows by variant, pictures by variant, prompts."""
    prompts = SETS[args.set](args.prompts, args.seed)
    draw(pipe, prompts[:1], preset("SHY"), args)  # first calls are slow
    rows: dict[str, dict[str, Any]] = {}
    pictures: dict[str, list[Any]] = {}
    plain: list[Any] = []
    for name in ("plain", *args.variants):
        config = preset("SHY", strength=0.0) if name == "plain" else variant(name)
        start = time.process_time()
        pictures[name], reports = draw(pipe, prompts, config, args)
        seconds = time.process_time() - start
        verdicts = [detect.judge(prompt, image) for prompt, image in zip(prompts, pictures[name], strict=True)]
        plain = plain or verdicts
        rows[name] = summary(verdicts, plain, seconds)
        rows[name]["cost_ratio"] = round(
            rows[name]["cpu_seconds_per_picture"] / rows["plain"]["cpu_seconds_per_picture"], 2
        )
        rows[name]["guided_steps"] = round(sum(r.guided_steps for r in reports) / len(reports), 2)
        for kind in ("better", "worse"):
            rows[name][f"{kind}_at"] = [
                [prompts[i], args.seed + i]
                for i, (v, p) in enumerate(zip(verdicts, plain, strict=True))
                if clean(v) != clean(p) and clean(v) == (kind == "better")
            ]
        rows[name]["moved"] = round(sum(sum(r.moved) for r in reports) / len(reports), 4)
        print(line(name, rows[name]), flush=True)
    return rows, pictures, prompts


COLUMNS = ("clean", *SHOWN, "extra", "explained", "better", "worse", "p", "guided_steps", "moved", "cost_ratio")


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    return "| " + " | ".join([name, *(f"{row[c]:g}" for c in COLUMNS)]) + " |"


def contact_sheet(pictures: dict[str, list[Any]], prompts: Sequence[str], count: int) -> Any:
    """One row per variant, the first ``count`` prompts."""
    rows = [
        [
            Panel(image.resize((128, 128), 0), name if i == 0 else "", prompts[i])
            for i, image in enumerate(images[:count])
        ]
        for name, images in pictures.items()
    ]
    return sheet(rows, "PixelWorld, same prompts, same noise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64, metavar="N")
    parser.add_argument("--set", choices=SETS, default="two")
    parser.add_argument("--variants", nargs="+", default=["SHY", "CONFORM"], metavar="PRESET[:setting=value,…]")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="other PixelWorld weights")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet of the first pictures")
    args = parser.parse_args()
    print(f"| {args.prompts} {args.set} | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1), flush=True)
    rows, pictures, prompts = measure(pipeline(args.folder), args)
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        args.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    if args.sheet:
        contact_sheet(pictures, prompts, 8).save(args.sheet)


if __name__ == "__main__":
    main()
