"""``interplay train refl``: a LoRA by the gradient of a reward."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .refl import ReflSettings
from .refl_options import (
    PIXELWORLD,
    add_settings,
    add_shared,
    finish,
    guarded,
    open_trainee,
    reward_place,
    sampler,
    settings_of,
    teller,
    training_prompts,
    watch_of,
)

PRESETS: dict[str, dict[str, Any]] = {
    "imagereward": {},
    "realigndiff": {"ladder": 50, "first": 30, "last": 49, "margin": 1.0, "patience": 4},
    PIXELWORLD: {
        "steps": 800,
        "batch": 8,
        "ladder": 12,
        "first": 0,
        "last": 2,
        "cfg": 5.0,
        "eta": 0.0,
        "weight": 1.0,
        "pretrain_weight": 5.0,
        "rate": 3e-3,
        "warm": 10,
        "ema": 0.98,
        "validate_every": 400,
        "validate_steps": 12,
        "save_every": 50,
        "twins": 4,
        "points": 1024,
        "guide": "SHY",
        "ghosts": 3.0,
    },
    "drtune": {
        "steps": 200,
        "batch": 8,
        "ladder": 12,
        "first": 5,
        "last": 11,
        "carry": 3,
        "eta": 0.0,
        "weight": 1.0,
        "pretrain_weight": 1.0,
        "rate": 3e-4,
        "warm": 10,
        "ema": 0.95,
        "validate_every": 50,
        "save_every": 25,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_shared(parser)
    parser.add_argument("--reward", nargs="+", default=["itm"], metavar="KIND[=WEIGHT]",
                        help="gradient rewards, mixed by weight: itm, itc, likelihood (itm); with --twins also "
                        "caption, which has no gradient")  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="FOLDER",
                        help="pictures with captions for --pretrain images")  # fmt: skip
    add_settings(parser, ReflSettings, PRESETS)


def run(args: argparse.Namespace) -> int:
    """Train or go on."""
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from .refl import ReflJob, train_refl

    settings = settings_of(args, ReflSettings, PRESETS, PIXELWORLD if args.model == PIXELWORLD else "imagereward")
    prompts = training_prompts(args)
    reward, watch = _reward(args, settings.twins > 0), watch_of(args, prompts, "itc")
    model = open_trainee(args, settings.seed)
    examples = _examples(args, model) if settings.pretrain == "images" else None
    told = (teller("step"), sampler(args.out), teller("point"))
    job = ReflJob(model, reward, prompts, watch, examples, *told, _negatives(args.model == PIXELWORLD))
    outcome = train_refl(job, settings, args.out, args.resume)
    return finish(args, model, outcome, "refl", reward.name)


def _negatives(pixelworld: bool) -> Any:
    """The rule that finds a prompt's twins; PixelWorld's says nothing that is held out."""
    from .pixelworld import swaps
    from .twins import negatives_by_rule

    return swaps if pixelworld else negatives_by_rule


def _reward(args: argparse.Namespace, drawn: bool) -> Any:
    """drawn: rewards only look at pictures, so the caption reward will do."""
    from ...errors import InterplayError
    from .refl_options import device_of, score_of
    from .refl_rewards import GradientReward, open_reward, weighted

    parts = []
    for text in args.reward:
        kind, _, weight = text.partition("=")
        try:
            share = float(weight or 1)
        except ValueError:
            raise InterplayError(f"The weight in '{text}' is no number; write for example itm=0.7.") from None
        if kind == "caption":
            if not drawn:
                raise InterplayError("The caption reward has no gradient; use itm or likelihood, or --twins 4.")
            parts.append((GradientReward(kind, 1.0, score_of(kind, args)), share))
            continue
        parts.append((open_reward(kind, reward_place(kind, args), device_of(args.device), args.download), share))
    return weighted(parts)


def _examples(args: argparse.Namespace, model: Any) -> Any:
    """Latents and captions of the pictures that are given."""
    from PIL import Image

    from ...errors import InterplayError
    from ..hosts.diffusers.itm import encode
    from .records import read_records
    from .refl import Examples

    if args.images is None:
        raise InterplayError("The pre-training term 'images' needs --images FOLDER; or use --pretrain anchor.")
    records = read_records(args.images)
    pictures = [Image.open(record.image).convert("RGB") for record in records]
    return Examples(encode(model.pipeline, pictures).cpu(), [record.caption for record in records])
