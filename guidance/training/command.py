"""``interplay train``: every trainer is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib

from ...errors import InterplayError

TRAINERS = {
    "pixelworld": ("..pixelworld.train", "train PixelWorld, the small model that comes with the pack"),
    "fusers": ("..pixelworld.train_fusers", "fusers that make PixelWorld obey boxes and who does what in them"),
    "negatives": (".negatives_command", "make captions that pictures do not match, from their own captions"),
    "negatives-lora": (".negatives_lora_command", "a LoRA that tells captions from their negatives, and draws so"),
    "refl": (".refl_command", "a LoRA by the gradient of a reward"),
    "raft": (".raft_command", "a LoRA by the best of several pictures, as a reward finds them"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The trainer and what belongs to it; its own options are read when it is known."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = f"{parser.prog} [-h] TRAINER ..."
    parser.epilog = "\n".join(f"  {name:<16}{about}" for name, (_, about) in TRAINERS.items())
    parser.add_argument("trainer", nargs="?", metavar="TRAINER", help=", ".join(TRAINERS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options; see TRAINER --help")
    parser.set_defaults(_main=parser)


def run(args: argparse.Namespace) -> int:
    """Run the trainer. Returns its exit status: 0, or 3 where it stopped itself."""
    main: argparse.ArgumentParser = args._main
    if args.trainer is None:
        main.print_help()
        return 0
    if args.trainer not in TRAINERS:
        raise InterplayError(f"There is no trainer '{args.trainer}'; use one of {', '.join(TRAINERS)}.")
    place, about = TRAINERS[args.trainer]
    try:
        module = importlib.import_module(place, __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith((__package__ or "interplay").split(".")[0]):
            raise
        raise InterplayError(
            f"'{main.prog} {args.trainer}' needs {error.name}, which is not installed; "
            'run pip install "interplay[demo]".'
        ) from error
    parser = type(main)(prog=f"{main.prog} {args.trainer}", description=about)
    module.add_arguments(parser)
    # PixelWorld's own trainer names what it trains as its first argument, since it was the first to be there.
    first = [args.trainer] if args.trainer == "pixelworld" else []
    return int(module.run(parser.parse_args([*first, *args.rest])))
