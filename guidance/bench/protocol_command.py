"""The options that both protocols share, and what they make of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import InterplayError
from .protocol_data import prompts_of_file


def add_arguments(parser: argparse.ArgumentParser, methods: Sequence[str], sets: Sequence[str], seeds: str) -> None:
    """``methods``, ``sets``, ``seeds``: what is run where nothing is said, or what can be named."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="bench directory; a run in it goes on")
    parser.add_argument(
        "--model", default="pixelworld", metavar="MODEL",
        help="folder of a diffusers pipeline, pixelworld, random-sd15 or random-tiny (pixelworld)",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"by name ({', '.join(methods)})")
    parser.add_argument("--config", type=Path, metavar="FILE", help="methods as JSON or TOML, as for pixelworld")
    parser.add_argument(
        "--sets", nargs="+", metavar="SET", help=f"{', '.join(sets)}, or NAME=FILE with a prompt a line"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help=f"of the initial noise ({seeds})")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts of each set")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps (50; 25 for pixelworld)")
    parser.add_argument("--cfg", type=float, metavar="X", help="classifier-free guidance (7.5; 5 for pixelworld)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of the pictures (the model's own)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="other PixelWorld weights")


def chosen_sets(
    wanted: Sequence[str] | None, known: Mapping[str, Sequence[str]], default: Sequence[str], limit: int | None
) -> dict[str, list[str]]:
    """The prompts of each set that was asked for, by name or as NAME=FILE.

    Raises:
        InterplayError: an unknown set, or a file that cannot be read.
    """
    sets: dict[str, list[str]] = {}
    for name in wanted or default:
        label, equals, file = name.partition("=")
        if not equals and name not in known:
            raise InterplayError(f"There is no prompt set '{name}'; choose of {', '.join(known)}, or give NAME=FILE.")
        prompts = prompts_of_file(Path(file).expanduser()) if equals else list(known[name])
        sets[label] = prompts[:limit] if limit else prompts
    return sets


def check(args: argparse.Namespace) -> None:
    """Numbers that cannot be.

    Raises:
        InterplayError: one of them.
    """
    for name in ("limit", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InterplayError(f"--{name} is {value}; give a number of at least 1.")
    if args.size is not None and (args.size < 64 or args.size % 64):
        raise InterplayError(f"--size is {args.size}; give a multiple of 64 pixels.")
    if args.cfg is not None and not 1 <= args.cfg <= 100:
        raise InterplayError(f"--cfg is {args.cfg}; give a number from 1 to 100.")
    if args.seeds and any(not 0 <= seed < 2**63 for seed in args.seeds):
        raise InterplayError("A seed is a whole number from 0 to 2^63 - 1.")
    if args.seeds and len(set(args.seeds)) < len(args.seeds):
        raise InterplayError("A seed is named twice; name each once.")
