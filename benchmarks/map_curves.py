"""When do the attention maps know whether a picture will be right? Progress of C and R, step by step, on PixelWorld.

    python benchmarks/map_curves.py [--set actions] [--n 64] [--seed 7000] [--weights FOLDER]

Draws plainly while measuring the terms at every step, reads the pictures back with the detector, and prints for each
step the mean progress (0 = reached, 1 = worst) of pictures that came out right and wrong, and the AUC of telling them
apart by it: C against the objects, R against the action.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from interplay.guidance.hosts.diffusers.guidance import guided
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.pixelworld import world
from interplay.guidance.pixelworld.detect import judge
from interplay.guidance.pixelworld.evaluate import auc
from interplay.guidance.presets import preset

LOOK = {
    "terms": ("C", "R"),
    "step": 0.0,
    "start": 0.0,
    "end": 0.6,
    "windows": (),
    "refine_at": (),
    "refine_iterations": (),
    "targets": (),
    "wake": (),
    "off_switch": False,
    "early_stop": False,
}


def measure(options: argparse.Namespace) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(n, 2) objects and action right, and for each term (n, steps) progress."""
    pipeline = load_pixelworld(folder=options.weights) if options.weights else load_pixelworld()
    pipeline.set_progress_bar_config(disable=True)
    prompts = world.PROMPT_SETS[options.set](options.n, options.seed)
    right, curves = [], {"C": [], "R": []}
    for first in range(0, options.n, 16):
        part = prompts[first : first + 16]
        noise = [torch.Generator().manual_seed(options.seed + first + i) for i in range(len(part))]
        with guided(pipeline, preset("SHY", **LOOK), part) as session:
            settings = {"num_inference_steps": 25, "guidance_scale": 5.0, "output_type": "np"}
            pictures = pipeline(part, generator=noise, **settings).images
        for prompt, picture, report in zip(part, pictures, session.reports, strict=True):
            found = judge(prompt, picture)
            right.append((bool(found.objects_right), bool(found.action_right)))
            for name, rows in curves.items():
                rows.append([np.ravel(step.curve[name])[0] if name in step.curve else np.nan for step in report.steps])
    return np.array(right), {name: np.array(rows, dtype=float) for name, rows in curves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="actions", choices=sorted(world.PROMPT_SETS))
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--weights", type=Path)
    right, curves = measure(parser.parse_args())
    terms = [(n, c, right[:, k]) for k, (n, c) in enumerate(curves.items()) if np.isfinite(c).all()]
    print("| step | " + " | ".join(f"{n} where right | {n} where wrong | AUC" for n, *_ in terms) + " |")
    print("|---" * (1 + 3 * len(terms)) + "|")
    for step in range(terms[0][1].shape[1]):
        cells = [
            f"{c[good, step].mean():.2f} | {c[~good, step].mean():.2f} | {auc(-c[:, step], good):.2f}"
            for _, c, good in terms
        ]
        print(f"| {step} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
