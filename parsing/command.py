"""``interplay parse``: print the hypergraph of a prompt."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import InterplayError
from . import format_text, parse_with_text
from .hif import to_hif
from .hypergraph import Hypergraph

FREE_TEXT = ("--text",)
"""Options whose value may begin with a hyphen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``interplay parse``."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt ('-': standard input)")
    parser.add_argument("--jsonl", metavar="FILE", help="one JSON object with a 'prompt' a line ('-': standard input)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object (schema of the gold corpus)")
    form.add_argument("--hif", action="store_true", help="print one HIF object (Hypergraph Interchange Format)")
    parser.add_argument("--parser", default="auto", metavar="NAME", help="auto, rules, or an installed spaCy pipeline")
    parser.add_argument("--text", default="", metavar="OVERRIDE", help="text form: edits (+ - =) or a whole graph")


def run(args: argparse.Namespace) -> int:
    """Print to standard output; ``InterplayError`` for whatever a person can mend."""
    if (args.prompt is None) == (args.jsonl is None):
        raise InterplayError('Give either a prompt or --jsonl FILE, as in: interplay parse "a cat chasing a mouse".')
    if args.jsonl is not None:
        for prompt in _prompts(args.jsonl):
            graph = parse_with_text(prompt, args.text, args.parser)
            print(json.dumps(to_hif(graph), ensure_ascii=False) if args.hif else graph.to_json())
        return 0
    prompt = _standard_input().rstrip("\n") if args.prompt == "-" else args.prompt
    _show(parse_with_text(prompt, args.text, args.parser), args)
    return 0


def _show(graph: Hypergraph, args: argparse.Namespace) -> None:
    if args.json:
        print(graph.to_json())
    elif args.hif:
        print(json.dumps(to_hif(graph), ensure_ascii=False))
    else:
        text = format_text(graph)
        if text:
            print(text)
        for warning in graph.warnings:
            print(warning, file=sys.stderr)
        if not graph.vertices:
            print("The prompt names no thing that the parser knows.", file=sys.stderr)


def _prompts(file: str) -> Iterator[str]:
    name = "standard input" if file == "-" else file
    for number, line in enumerate(_read(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InterplayError(f"Line {number} of {name} is not JSON ({error}); correct or remove it.") from error
        prompt = data.get("prompt") if isinstance(data, dict) else None
        if not isinstance(prompt, str):
            raise InterplayError(f'Line {number} of {name} has no text \'prompt\'; write {{"prompt": "…"}}.')
        yield prompt


def _read(file: str) -> str:
    if file == "-":
        return _standard_input()
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InterplayError(f"{file} cannot be read ({reason}); check the path.") from error
    except UnicodeDecodeError as error:
        raise InterplayError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InterplayError(f"Standard input is not UTF-8 text (byte {error.start}); convert it.") from error
