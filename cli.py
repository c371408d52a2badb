"""The command ``interplay``. Each subcommand lives in a module of its own, which is imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .errors import InterplayError

COMMANDS = {
    "demo": (".guidance.demo", "parse a prompt, draw it plainly and with guidance, and lay both side by side"),
    "parse": (".parsing.command", "read a prompt as a hypergraph and print it"),
    "train": (".guidance.training.command", "train PixelWorld or a LoRA: negatives, negatives-lora, refl, raft"),
    "bench": (".guidance.bench.command", "measure methods against each other, and ask people about their pictures"),
    "score": (".guidance.rewards.score", "score pictures against prompts, and evaluate scores on known data sets"),
    "queue": (".guidance.queue_command", "draw many prompts and seeds with a workflow in a running ComfyUI"),
    "doctor": (".guidance.doctor", "say what is installed, what is missing and what to do about it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success, 2 on bad input (one sentence on standard error), 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _speak_utf8()
    try:
        return _dispatch(arguments)
    except InterplayError as error:
        print(f"interplay: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interplay: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again while it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        module = _module(name)
        parser = _Parser(prog=f"interplay {name}", description=COMMANDS[name][1])
        module.add_arguments(parser)
        free = getattr(module, "FREE_TEXT", ())
        status = module.run(parser.parse_args(_with_values(arguments[1:], free)))
        sys.stdout.flush()
        return int(status)
    if name and not name.startswith("-"):
        raise InterplayError(f"There is no command '{name}'; use one of {', '.join(COMMANDS)}.")
    parser = _Parser(
        prog="interplay",
        description="Prompts in which things act on each other.",
        epilog="\n".join(f"  {command:<8}{about}" for command, (_, about) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="interplay [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"interplay {_version()}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise InterplayError(f"{message[:1].upper()}{message[1:]}; see '{self.prog} --help'.")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(COMMANDS[name][0], __package__)
    except ModuleNotFoundError as error:
        ours = (error.name or "").startswith(__package__ or "interplay")
        if ours:
            raise
        raise InterplayError(
            f"'interplay {name}' needs {error.name}, which is not installed; run pip install \"interplay[demo]\"."
        ) from error


def _with_values(arguments: list[str], free: Sequence[str]) -> list[str]:
    """Join options with their values where a value may begin with a hyphen, as in ``--text -forest``."""
    out: list[str] = []
    for argument in arguments:
        if out and out[-1] in free and "--" not in out[:-1]:
            out[-1] = f"{out[-1]}={argument}"
        else:
            out.append(argument)
    return out


def _speak_utf8() -> None:
    """Print every character, also into pipes whose locale lacks it; half a surrogate pair as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _version() -> str:
    package = sys.modules[__package__ or "interplay"]
    return str(getattr(package, "__version__", ""))


if __name__ == "__main__":
    sys.exit(main())
