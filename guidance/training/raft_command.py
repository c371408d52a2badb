"""``interplay train raft``: a LoRA by the best of several pictures."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .raft import RaftSettings
from .refl_options import (
    JUDGES,
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
    parser.add_argument("--draw-only", action="store_true",
                        help="write the winners and the negatives of their prompts to DIR/data, for another trainer: "
                        "interplay train negatives-lora --data DIR/data")  # fmt: skip
    parser.add_argument("--tie", default="none", choices=(*JUDGES, "none"),
                        help="the reward that chooses between pictures of one judgement (none)")  # fmt: skip
    add_settings(parser, RaftSettings, PRESETS)


def run(args: argparse.Namespace) -> int:
    """Draw, choose and train, or go on."""
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    from .raft import RaftJob, train_raft

    settings = settings_of(args, RaftSettings, PRESETS, PIXELWORLD if args.model == PIXELWORLD else "raft")
    prompts = training_prompts(args)
    score, watch = score_of(args.judge, args), None if args.draw_only else watch_of(args, prompts, "itm")
    model = open_trainee(args, settings.seed)
    if args.draw_only:
        return _draw(args, model, score, prompts, settings)
    told = (teller("step"), teller("prompt"), sampler(args.out))
    job = RaftJob(model, score, args.judge, prompts, watch, *told, tie=_tie(args), tie_name=args.tie)
    outcome = train_raft(job, settings, args.out, args.resume)
    return finish(args, model, outcome, "raft", args.judge)


def _tie(args: argparse.Namespace) -> Any:
    return None if args.tie == "none" else score_of(args.tie, args)


def _draw(args: argparse.Namespace, model: Any, score: Any, prompts: Any, settings: RaftSettings) -> int:
    """The first round's winners as a folder of training data, by the first process alone."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    from ..hosts.diffusers.refl import PipelineTrainee
    from .negatives import negatives
    from .pixelworld import swaps
    from .raft import choose, draw_winners, write_data

    def rules(prompt: str) -> list[str]:
        return swaps(prompt) if args.model == PIXELWORLD else [n.text for n in negatives(prompt)]

    def paint(latents: Any) -> Any:  # the whole decoder; a trainee's own may be a small one
        return PipelineTrainee.decode(model, latents.to(model.device())).clamp(0.0, 1.0)

    judged = f"{args.judge}, {args.tie}"
    winners = draw_winners(model, score, prompts, settings, 0, args.out, teller("prompt"), _tie(args), judged)
    used = choose(winners, settings)
    print(f"{write_data(paint, used, args.out / 'data', rules)} names {len(used)} pictures of {len(prompts)} prompts.")
    return 0
