"""``interplay train raft``: a LoRA by the best of several pictures."""

from __future__ import annotations

import argparse
from typing import Any

from .raft import RaftSettings
from .refl_options import (
    PIXELWORLD,
    add_settings,
    add_shared,
    finish,
    guarded,
    open_trainee,
    sampler,
    score_of,
    settings_of,
    teller,
    training_prompts,
    watch_of,
)

PRESETS: dict[str, dict[str, Any]] = {
    "raft": {},
    "finerewards": {"rounds": 2, "pictures": 10, "rate": 9e-6},  # the authors' public code
    PIXELWORLD: {
        "pictures": 4,
        "draw_steps": 15,
        "draw_batch": 16,
        "steps": 300,
        "batch": 8,
        "low": 0.1,
        "rate": 5e-4,
        "warm": 10,
        "ema": 0.97,
        "validate_every": 100,
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_shared(parser)
    add_settings(parser, RaftSettings, PRESETS)


def run(args: argparse.Namespace) -> int:
    """Draw, choose and train, or go on."""
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from .raft import RaftJob, train_raft

    settings = settings_of(args, RaftSettings, PRESETS, PIXELWORLD if args.model == PIXELWORLD else "raft")
    prompts = training_prompts(args)
    score, watch = score_of(args.judge, args), watch_of(args, prompts, "itm")
    model = open_trainee(args, settings.seed)
    told = (teller("step"), teller("prompt"), sampler(args.out))
    outcome = train_raft(RaftJob(model, score, args.judge, prompts, watch, *told), settings, args.out, args.resume)
    return finish(args, model, outcome, "raft", args.judge)
