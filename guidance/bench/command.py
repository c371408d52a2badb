"""``interplay bench``: every benchmark is a module of this package with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from ...errors import InterplayError

SUBCOMMANDS = {
    "pixelworld": "methods × prompts × seeds on PixelWorld, read back by the exact detector",
    "report": "make the report page of a PixelWorld run anew from its results.csv",
    "shyi": "the protocol of SHY and SHYI: their prompts, seeds and scores",
    "realign": "the protocol of RealignDiff",
    "study": "make one HTML page that asks people which of two pictures is better",
    "study-tally": "count the answers that the page has saved",
}


def _module(name: str) -> str:
    return f"{__package__}.{name.replace('-', '_')}"


def available() -> dict[str, str]:
    """The subcommands that are there, with a line about each."""
    return {name: about for name, about in SUBCOMMANDS.items() if importlib.util.find_spec(_module(name))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand and what belongs to it; its own options are read when it is known."""
    known = available()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = f"{parser.prog} [-h] BENCHMARK ..."
    parser.epilog = "\n".join(f"  {name:<12}{about}" for name, about in known.items())
    parser.add_argument("benchmark", nargs="?", metavar="BENCHMARK", help=", ".join(known))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options; see BENCHMARK --help")
    parser.set_defaults(_main=parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand. Returns its exit status."""
    main: argparse.ArgumentParser = args._main
    if args.benchmark is None:
        main.print_help()
        return 0
    if args.benchmark not in available():
        raise InterplayError(f"There is no benchmark '{args.benchmark}'; use one of {', '.join(available())}.")
    try:
        module = importlib.import_module(_module(args.benchmark))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__.split(".")[0]):
            raise
        raise InterplayError(
            f"'{main.prog} {args.benchmark}' needs {error.name}, which is not installed; "
            'run pip install "interplay[demo]".'
        ) from error
    parser = type(main)(prog=f"{main.prog} {args.benchmark}", description=SUBCOMMANDS[args.benchmark])
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(args.rest)))
