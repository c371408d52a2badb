"""``interplay train negatives``: captions that pictures do not match, for training or evaluation."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from .negative_filters import OPS, Embed, far_enough

FREE_TEXT = ("--text",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add = parser.add_argument
    add("data", nargs="?", type=Path, help="captions.jsonl, imagefolder, kohya folders, NegCLIP .tsv, or a .txt of one "
        "caption a line")  # fmt: skip
    add("--text", action="append", default=[], metavar="CAPTION", help="a caption; printed, not written")
    add("--out", type=Path, metavar="DIR", help="folder for captions.jsonl")
    add("--ops", nargs="+", default=list(OPS), choices=OPS, metavar="OP", help=", ".join(OPS))
    add("--limit", type=int, default=4, help="negatives of each caption (4)")
    add("--mixed", action="store_true", help="let living and lifeless parties change places, too")
    add("--llm", action="store_true", help="also ask the endpoint that INTERPLAY_LLM_BASE_URL and _MODEL name")
    add("--clip", metavar="FOLDER", help="a CLIP model; leaves out what its text encoder finds too near the caption")
    add("--distance", type=float, default=0.02, metavar="TAU", help="with --clip: 1 - cosine that a negative needs "
        "(0.02)")  # fmt: skip
    add("--order", action="store_true", help="COCO-Order's four perturbations instead; for evaluation only")
    add("--seed", type=int, default=0, help="of replacements and perturbations (0)")
    add("--why", action="store_true", help="with --text: show what was turned down, and why")


def run(args: argparse.Namespace) -> int:
    """Make them. Returns 0."""
    if not 0 <= args.distance < 2:
        raise InterplayError(f"--distance is {args.distance}; give 1 - cosine, such as 0.02.")
    if args.limit < 1:
        raise InterplayError(f"--limit is {args.limit}; give a number of at least 1.")
    if args.text:
        for caption in args.text:
            _show(caption, args)
        return 0
    if args.data is None or args.out is None:
        raise InterplayError("Name the captions (a file or folder) and --out DIR, or give one with --text.")
    from .records import write_records

    records, tally = _records(args.data), Counter[str]()
    made = []
    for i, record in enumerate(records):
        found, positives = _made(record.caption, args)
        tally.update(n.op for n in found if not n.reason)
        texts = tuple(dict.fromkeys((*record.negatives, *(n.text for n in found))))
        made.append(replace(record, negatives=texts, positives=tuple(dict.fromkeys((*record.positives, *positives)))))
        if i % 100 == 99:
            print(f"{i + 1} of {len(records)} captions", file=sys.stderr, flush=True)
    file = write_records(made, args.out / "captions.jsonl")
    without = sum(not r.negatives for r in made)
    said = ", ".join(f"{op} {count}" for op, count in tally.most_common()) or "none"
    print(f"{file}: {len(made)} captions, {without} without negatives; made: {said}.")
    return 0


def _records(place: Path) -> list[Any]:
    from .records import Record, read_records

    if place.suffix != ".txt":
        return read_records(place)
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InterplayError(f"The captions in {place} cannot be read ({error}); give a text file.") from error
    return [Record("", line) for line in lines]


def _made(caption: str, args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    from .negatives import Negative, hard_positives, negatives
    from .negatives_order import order_perturbations

    if args.order:
        shuffled = order_perturbations(caption, args.seed)
        return [Negative(text, name, ("", "")) for name, text in shuffled.items()], []
    found = negatives(caption, args.ops, args.limit, args.mixed, args.seed)
    if args.llm:
        from .negatives_llm import Answers, endpoint_ask, llm_negatives, with_model

        if not hasattr(args, "_ask"):
            args._ask, args._model = endpoint_ask()
            args._answers = Answers(args.out / "answers" if args.out else None)
        offered = [n for n in llm_negatives(caption, args._ask, args._answers, args._model) if n.op in args.ops]
        found = with_model(found, offered, args.limit)
    if args.clip:
        far = far_enough(caption, [n.text for n in found], _embed(args), args.distance)
        found = [n for n in found if n.text in far]
    return found, hard_positives(caption)


def _embed(args: argparse.Namespace) -> Embed:
    """The text encoder of ``--clip``, opened once."""
    if not hasattr(args, "_encoder"):
        from ..rewards.clip import load_clip, text_embeddings

        loaded = load_clip(args.clip)
        args._encoder = lambda texts: text_embeddings(loaded, texts).tolist()
    encoder: Embed = args._encoder
    return encoder


def _show(caption: str, args: argparse.Namespace) -> None:
    found, positives = _made(caption, args)
    if args.why:
        from .negatives import candidates

        found = [*found, *(n for n in candidates(caption, args.ops, args.mixed, args.seed) if n.reason)]
    line = {
        "caption": caption,
        "negatives": [{"text": n.text, "op": n.op, "changed": n.changed, **({"why not": n.reason} if n.reason else {})}
                      for n in found],
        "positives": positives,
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False, indent=1))
