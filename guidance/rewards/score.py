"""``interplay score``: scores of the pictures in a folder, and evaluations on local copies of known data sets.

interplay score DIR --prompt "a red robot carrying a blue box" --diffusion-itm pixelworld
interplay score DIR --jsonl captions.jsonl --clip FOLDER --out scores.csv
interplay score --eval winoground DIR --diffusion-itm FOLDER
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ...errors import InterplayError
from . import command
from .evaluate import TASKS, Item, Result, score_item, tally
from .evaluate_folders import SUFFIXES, read_items, read_jsonl
from .itm_settings import PRESETS, itm_preset
from .scorer import Reading, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

FREE_TEXT = ("--prompt",)
PIXELWORLD = "pixelworld"
BATCH = 32  # pictures that are open at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of pictures, or of the data set")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="score every picture in the folder against this")
    what.add_argument("--jsonl", type=Path, help='lines such as {"image": "a.png", "prompt": "a cat"}')
    what.add_argument("--eval", choices=sorted(TASKS), help="evaluate on a data set that lies in the folder")
    model = parser.add_argument_group("the diffusion model's own score")
    model.add_argument("--diffusion-itm", metavar="MODEL", help="'pixelworld', or folder of a diffusers pipeline")
    model.add_argument("--preset", choices=list(PRESETS), default="fast", help="how noise is drawn (default: fast)")
    model.add_argument("--levels", type=int, help="noise levels")
    model.add_argument("--seed", type=int, default=0, help="of the noise")
    model.add_argument("--no-swaps", action="store_true", help="no margin against swapped captions")
    model.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    command.add_arguments(parser)
    parser.add_argument("--limit", type=int, help="the first so many items of an evaluation")
    parser.add_argument("--out", type=Path, help="write the table as CSV (an evaluation: as JSON)")


def run(args: argparse.Namespace) -> int:
    """Score and print; 0 when done."""
    found = scorers(args)
    if args.eval:
        report = {scorer.name: evaluate(scorer, args.eval, args.folder, args.limit) for scorer in found}
        _say(report)
        if args.out:
            plain = {name: [vars(result) for result in results] for name, results in report.items()}
            args.out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        return 0
    rows = pictures_and_prompts(args)
    readings = {scorer.name: score_rows(scorer, rows) for scorer in found}
    if args.out:
        with args.out.open("w", encoding="utf-8", newline="") as file:
            write_table(file, found, rows, readings)
    else:
        write_table(sys.stdout, found, rows, readings)
    return 0


def scorers(args: argparse.Namespace) -> list[Scorer]:
    """The scorers that the options name, loaded now. InterplayError when they name none."""
    made = [_diffusion_itm(args)] if args.diffusion_itm else []
    made += command.scorers(args, device=args.device)
    if not made:
        options = ", ".join(f"--{name}" for name in ("diffusion-itm", *command.OPTIONS))
        raise InterplayError(f"Name what to score with: one or more of {options}.")
    return made


def _diffusion_itm(args: argparse.Namespace) -> Scorer:
    """The diffusion model's own score, through diffusers."""
    host = "..hosts.diffusers"
    itm = importlib.import_module(f"{host}.itm", __package__)
    if args.diffusion_itm == PIXELWORLD:
        pipeline = importlib.import_module(f"{host}.pixelworld", __package__).load_pixelworld().to(args.device)
    else:
        import torch

        dtype = torch.float32 if args.device == "cpu" else torch.float16
        models = importlib.import_module(f"{host}.models", __package__)
        pipeline = models.open_folder(Path(args.diffusion_itm), dtype, args.device)
    changes: dict[str, Any] = {"seed": args.seed}
    if args.levels:
        changes |= {"levels": args.levels, "steps": ()}
    fit = "squash" if args.preset.startswith("paper") else "crop"
    swaps = not args.no_swaps and not args.eval
    scorer: Scorer = itm.itm_scorer(pipeline, itm_preset(args.preset, **changes), swaps, fit, "diffusion_itm")
    return scorer


def pictures_and_prompts(args: argparse.Namespace) -> list[tuple[Path, str]]:
    """What to score. InterplayError when there is nothing, or a picture is missing."""
    if not args.folder.is_dir():
        raise InterplayError(f"There is no folder {args.folder}; give the one that holds the pictures.")
    if args.prompt is not None:
        rows = [(p, args.prompt) for p in sorted(args.folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    else:
        rows = [_row(args.folder, row) for row in read_jsonl(_list(args))]
    if not rows:
        raise InterplayError(f"There are no pictures in {args.folder}; {', '.join(SUFFIXES)} are read.")
    return rows


def _list(args: argparse.Namespace) -> Path:
    if args.jsonl:
        path: Path = args.jsonl
        return path
    for name in ("captions.jsonl", "metadata.jsonl"):
        if (args.folder / name).is_file():
            return Path(args.folder / name)
    raise InterplayError("Say what the pictures shall show: give --prompt TEXT or --jsonl FILE.")


def _row(folder: Path, row: dict[str, Any]) -> tuple[Path, str]:
    name = next((row[key] for key in ("image", "file", "file_name") if key in row), None)
    text = next((row[key] for key in ("prompt", "caption", "text") if key in row), None)
    if not isinstance(name, str) or not isinstance(text, str):
        raise InterplayError(f'A line needs "image" and "prompt", but one has {", ".join(row) or "nothing"}.')
    if not (folder / name).is_file():
        raise InterplayError(f"The picture {folder / name} is missing; put it there or leave its line out.")
    return folder / name, text


def score_rows(scorer: Scorer, rows: Sequence[tuple[Path, str]]) -> list[Reading]:
    """A reading for each row; rows of one prompt are scored together."""
    order = sorted(range(len(rows)), key=lambda i: rows[i][1])
    out: dict[int, Reading] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        found = scorer.score([_open(rows[i][0]) for i in part], [rows[i][1] for i in part])
        out.update(zip(part, found, strict=True))
    return [out[i] for i in range(len(rows))]


def write_table(
    file: TextIO, found: Sequence[Scorer], rows: Sequence[tuple[Path, str]], readings: dict[str, list[Reading]]
) -> None:
    """CSV: image, prompt, rank among the pictures of its prompt by the first scorer, then every figure."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "prompt", "rank", *(column for scorer in found for column in scorer.columns)])
    first = [reading.value for reading in readings[found[0].name]]
    for i, (path, prompt) in enumerate(rows):
        rivals = [v for v, (_, other) in zip(first, rows, strict=True) if other == prompt and v is not None]
        own = first[i]
        rank = "" if own is None else 1 + sum(v > own for v in rivals)
        cells = [cell for scorer in found for cell in scorer.cells(readings[scorer.name][i]).values()]
        writer.writerow([path.name, prompt, rank, *("" if c is None else f"{c:.6g}" for c in cells)])


def evaluate(scorer: Scorer, task: str, folder: Path, limit: int | None = None) -> list[Result]:
    """The figures of a data set in a folder."""
    items = read_items(task, folder)[:limit]
    tables = [score_item(scorer, item, _opened(item)) for item in items]
    return tally(task, items, tables)


def _opened(item: Item) -> list[Image]:
    pictures = [_open(path) for path in item.pictures]
    if item.box is None:
        return pictures
    left, top, right, bottom = map(round, item.box)
    return [picture.crop((left, top, right, bottom)) for picture in pictures]


def _open(path: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InterplayError(f"{path} cannot be read as a picture ({error}); replace it.") from error


def _say(report: dict[str, list[Result]]) -> None:
    for name, results in report.items():
        print(name)
        for result in results:
            print(f"  {result.line()}")
