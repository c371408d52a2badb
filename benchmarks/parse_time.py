"""How long parsing takes: CPU time of the first call (tables load) and of later prompts, by length.

python benchmarks/parse_time.py [--parser NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from interplay.parsing import parse

CLAUSES = (
    "a tall white dog carrying a small wooden box",
    "a ginger cat chasing two grey mice under an old table",
    "an old fisherman in a yellow raincoat pulling a heavy net",
    "a young knight raising a silver shield against a red dragon",
    "three children flying a bright kite over the windy beach",
    "a hungry seagull stealing a fish from a full bucket",
    "a robot painting a portrait of a smiling queen",
    "a black horse jumping over a broken fence in the rain",
)
LENGTHS = (7, 19, 38, 77)


def prompt_of(words: int, turn: int) -> str:
    """A prompt of that many words; another one for each turn, since results are remembered."""
    order = [*CLAUSES[turn % len(CLAUSES) :], *CLAUSES[: turn % len(CLAUSES)]]
    text = ", while ".join(order).split()
    return " ".join([*text[: words - 1], f"house{turn}" if turn >= len(CLAUSES) else text[words - 1]])


def seconds_of(prompt: str, parser: str) -> float:
    """CPU seconds of one parse."""
    start = time.process_time()
    parse(prompt, parser)
    return time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parser", default="auto")
    options.add_argument("--repeats", type=int, default=24)
    options.add_argument("--json", type=Path, metavar="FILE")
    args = options.parse_args()
    rows: dict[str, float] = {"first call": round(1000 * seconds_of("a cat chasing a mouse", args.parser), 1)}
    for words in LENGTHS:
        times = [seconds_of(prompt_of(words, turn), args.parser) for turn in range(args.repeats)]
        rows[f"{words} words"] = round(1000 * statistics.median(times), 2)
    print("| prompt | CPU time |\n|---|---|")
    print("\n".join(f"| {name} | {value:g} ms |" for name, value in rows.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
