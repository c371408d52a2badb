"""``interplay bench pixelworld``: methods × prompts × seeds, read back by the exact detector."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import InterplayError
from ..pixelworld import world

N, SLOW_N, FULL_N = 64, 4, 256  # prompts of each set: by default, for slow methods by default, with --full


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="bench directory; a run in it goes on")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help='names of methods, or "SHY:step=0.03,end=0.4"')
    parser.add_argument("--config", type=Path, metavar="FILE", help="methods as JSON or TOML: {name: {preset: …, …}}")
    parser.add_argument("--sets", nargs="+", metavar="SET", help=", ".join(world.PROMPT_SETS))
    parser.add_argument("--n", type=int, help=f"prompts of each set ({N}; with --full {FULL_N})")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise (0)")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt (1)")
    parser.add_argument("--full", action="store_true", help="the published table: every method on every prompt")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="other PixelWorld weights")
    parser.add_argument("--processes", type=int, default=2, help="workers of one thread each (2)")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps (25)")
    parser.add_argument("--cfg", type=float, default=5.0, help="classifier-free guidance scale (5)")


def run(args: argparse.Namespace) -> int:
    """Run, and print the summary."""
    from . import methods, report, runner, tables

    _check(args)
    configured = methods.read_config(args.config) if args.config else {}
    names = args.methods or (["plain", *configured] if configured else list(methods.known()))
    chosen = {name: methods.named(name, configured) for name in names}
    n = args.n or (FULL_N if args.full else N)
    plan = runner.Plan(
        methods=tuple(chosen.values()),
        sets=tuple(args.sets or world.PROMPT_SETS),
        n=n,
        seed=args.seed,
        seeds=args.seeds,
        steps=args.steps,
        cfg=args.cfg,
        slow_n=None if args.full or args.methods or args.config else min(n, SLOW_N),
        weights=args.weights,
    )
    rows = runner.execute(args.out, plan, args.processes)
    print(tables.markdown(rows), f"The pictures side by side are in {report.write(args.out)}.", sep="\n\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("n", "seeds", "processes", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InterplayError(f"--{name} is {value}; give a number of at least 1.")
    if not 0 <= args.cfg < float("inf"):
        raise InterplayError(f"--cfg is {args.cfg}; give a number of 0 or more.")
