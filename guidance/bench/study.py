"""``interplay bench study DIR --out FILE.html``: one page that asks people which of two pictures is better.

The protocol of SHYI (arXiv 2501.09055, section 3.3): two pictures of one prompt and seed, two questions, a choice for
each, no ties (the shares of the paper's two methods add up to one hundred). Sides and order are shuffled by the page,
for every rater anew. The page carries its pictures, needs no server and sends nothing.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import logging
import random
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from .results import Row, read_results, read_settings, write_whole
from .study_key import seal

log = logging.getLogger(__name__)

QUESTIONS = (
    ("prompt", "Which image encapsulates the prompt better?"),
    ("interaction", "Which image shows more interaction between the two objects?"),
)
PAIRS = 18  # six prompts with three seeds each, as in the paper
SEEDS = 3
_HERE = Path(__file__).parent
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What a picture needs to be drawn; text chunks can name the method, so they stay out.
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"IDAT", b"IEND")


@dataclass(frozen=True)
class Cell:
    """One prompt and seed with the picture of every method asked about: method -> PNG without text."""

    prompt_set: str
    prompt: str
    seed: int
    pictures: dict[str, bytes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="bench directory (results.csv and pictures)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page to write")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="two or more; needed when DIR has more than two")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="prompt sets to draw from (default: all)")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, metavar="N", help="comparisons for every two methods (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of prompts and seeds (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the page and say what is in it."""
    page, facts = make(args.dir, args.methods, args.sets, args.pairs, args.seed)
    write_whole(args.out, page.encode())
    print(
        f"{args.out} ({len(page) / 1e6:.1f} MB): study {facts['study']}, {facts['pairs']} pairs, "
        f"{facts['pairs'] * len(QUESTIONS)} questions"
    )
    print(f"  methods: {', '.join(facts['methods'])}; {facts['prompts']} prompts")
    if facts["pairs"] < facts["asked"]:
        print(f"  fewer than the {facts['asked']} pairs asked for: {args.dir} has no more that fit")
    if facts["same"]:
        print(f"  left out: {facts['same']} prompts with a seed where two methods made the same picture")
    return 0


def make(
    folder: Path, methods: Sequence[str] | None, sets: Sequence[str] | None, pairs: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """The page as HTML, and facts about it: study (its id), pairs, asked, methods, prompts, same.

    methods: two or more, or None for the two that the bench has; sets: prompt sets, or None for all; pairs: comparisons
    for every two methods; seed: of the draw.

    Raises:
        InterplayError: no bench directory, an unknown method or set, nothing to compare, or a picture that cannot be
            used.
    """
    settings, rows = read_settings(folder), read_results(folder)
    if pairs < 1:
        raise InterplayError(f"--pairs {pairs} leaves nothing to ask; give 1 or more.")
    rows = _of_sets(rows, sets, folder)
    chosen = _choose_methods(rows, methods, folder)
    dice = random.Random(f"interplay study {seed}")
    cells, same = _draw(folder, rows, chosen, pairs, dice)
    study, key = _study(cells, chosen, dice)
    key |= {"bench": settings.get("bench", ""), "model": settings.get("model", {}), "seed": seed, "same": same}
    study["key"] = seal(key)
    study["id"] = hashlib.sha256(json.dumps(study, sort_keys=True).encode()).hexdigest()[:16]
    facts = {
        "study": study["id"],
        "pairs": len(study["pairs"]),
        "methods": chosen,
        "same": same,
        "asked": pairs * len(list(combinations(chosen, 2))),
        "prompts": len({c.prompt for c in cells}),
    }
    return _page(study), facts


def _of_sets(rows: list[Row], sets: Sequence[str] | None, folder: Path) -> list[Row]:
    known = list(dict.fromkeys(row.prompt_set for row in rows))
    for name in sets or ():
        if name not in known:
            raise InterplayError(f"{folder} has no prompt set '{name}'; it has {', '.join(known) or 'no results'}.")
    return [row for row in rows if not sets or row.prompt_set in sets]


def _choose_methods(rows: list[Row], methods: Sequence[str] | None, folder: Path) -> list[str]:
    known = list(dict.fromkeys(row.method for row in rows if row.file))
    if not known:
        raise InterplayError(f"{folder} has no pictures in its results.csv; run a bench into it first.")
    chosen = list(dict.fromkeys(methods or known))
    for name in chosen:
        if name not in known:
            raise InterplayError(f"{folder} has no pictures of the method '{name}'; it has {', '.join(known)}.")
    if len(chosen) < 2 or (not methods and len(chosen) > 2):
        raise InterplayError(f"A study compares two methods; choose them by --methods among {', '.join(known)}.")
    return chosen


def _draw(folder: Path, rows: list[Row], methods: list[str], pairs: int, dice: random.Random) -> tuple[list[Cell], int]:
    """Prompts in random order, three seeds of each, until there are enough; more seeds only when prompts run out.

    Returns the cells and how many were passed over because two methods made the same picture.
    """
    files: dict[tuple[str, str], dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.file and row.method in methods:
            files[row.prompt_set, row.prompt][row.seed][row.method] = row.file
    queue = []
    for prompt in dice.sample(sorted(files), len(files)):
        full = sorted(seed for seed, made in files[prompt].items() if len(made) == len(methods))
        queue += [(n // SEEDS, prompt, seed) for n, seed in enumerate(dice.sample(full, len(full)))]
    cells: list[Cell] = []
    same = 0
    for _, prompt, seed in sorted(queue, key=lambda entry: entry[0]):
        if len(cells) == pairs:
            break
        pictures = {m: _picture(folder / files[prompt][seed][m]) for m in methods}
        if len(set(pictures.values())) < len(methods):
            same += 1
        else:
            cells.append(Cell(*prompt, seed, pictures))
    if not cells:
        raise InterplayError(f"{folder} has no prompt and seed with different pictures of {', '.join(methods)}.")
    return cells, same


def _study(cells: list[Cell], methods: list[str], dice: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page shows, and the key that stays sealed. Ids and their order tell nothing about methods."""
    shown: dict[str, Any] = {"format": 1, "questions": [{"id": k, "text": t} for k, t in QUESTIONS]}
    key: dict[str, Any] = {"methods": methods, "pictures": {}, "pairs": {}}
    pictures: dict[str, str] = {}
    pairs = []
    for cell in cells:
        ids = {}
        for method in methods:
            ids[method] = f"{dice.getrandbits(48):012x}"
            pictures[ids[method]] = base64.b64encode(cell.pictures[method]).decode()
            key["pictures"][ids[method]] = method
        for a, b in combinations(methods, 2):
            name = f"{dice.getrandbits(48):012x}"
            pairs.append({"id": name, "prompt": cell.prompt, "pictures": sorted((ids[a], ids[b]))})
            key["pairs"][name] = {"set": cell.prompt_set, "prompt": cell.prompt, "seed": cell.seed, "methods": [a, b]}
    shown["pairs"] = sorted(pairs, key=lambda pair: str(pair["id"]))
    shown["pictures"] = dict(sorted(pictures.items()))
    return shown, key


def _picture(path: Path) -> bytes:
    """A PNG without its text; pictures of equal pixels and encoding give equal bytes.

    Raises:
        InterplayError: the file is missing, damaged, or no PNG.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InterplayError(f"The picture {path} cannot be read ({error.strerror}); run the bench again.") from None
    if not content.startswith(_SIGNATURE):
        raise InterplayError(f"The picture {path} is no PNG; a bench directory holds PNG files.")
    out, at = _SIGNATURE, len(_SIGNATURE)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        chunk, at = content[at : at + 12 + size], at + 12 + size
        if len(chunk) < 12 + size or struct.pack(">I", zlib.crc32(chunk[4:-4])) != chunk[-4:]:
            break
        out += chunk if chunk[4:8] in _CHUNKS else b""
        if chunk[4:8] == b"IEND":
            return out
    raise InterplayError(f"The picture {path} is damaged; delete its row in results.csv and run the bench again.")


def _page(study: dict[str, Any]) -> str:
    page = (_HERE / "study.html").read_text(encoding="utf-8")
    script = (_HERE / "study.js").read_text(encoding="utf-8")
    data = json.dumps(study, ensure_ascii=False).replace("<", "\\u003c")
    return page.replace("/*SCRIPT*/", script).replace("/*STUDY*/", data)
