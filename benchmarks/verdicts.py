#!/usr/bin/env python3
"""How often the rules for verdicts agree with verdicts written by hand, over ``tests/data/verdict_cases.jsonl``.

usage: verdicts.py [--set development|kept-back] [--show]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from interplay.guidance.grounding.verdicts import judge_offline

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "verdict_cases.jsonl"
SCORES = {"certain": 2.0, "possible": 0.5, "unlikely": 0.0}
NAMES = {score: name for name, score in SCORES.items()}


def read(which: str) -> list[dict]:
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["set"] == which]


def compare(rows: list[dict]) -> tuple[Counter, Counter, list[str]]:
    """(expected, found) verdicts, right and wrong phrases of tags rightly called certain, and what was wrong."""
    verdicts: Counter = Counter()
    phrases: Counter = Counter()
    wrong = []
    for row in rows:
        wanted = {tag: (name, row[name][tag] if name == "certain" else "") for name in SCORES for tag in row[name]}
        for item in judge_offline(row["prompt"], list(wanted)).items:
            name, phrase = wanted[item.tag]
            found = NAMES[item.score]
            verdicts[name, found] += 1
            if name == found == "certain":
                right = phrase in (item.phrase, *item.others)
                phrases[right] += 1
                if not right:
                    wrong.append(f"{row['prompt']} | {item.tag}: {item.phrase!r} for {phrase!r}")
            if name != found:
                wrong.append(f"{row['prompt']} | {item.tag}: {found} for {name} ({item.reason})")
    return verdicts, phrases, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=("development", "kept-back"), nargs="*", default=["development", "kept-back"])
    parser.add_argument("--show", action="store_true", help="what was wrong, line by line")
    args = parser.parse_args()
    print("| set | prompts | tags | right | certain | possible | unlikely | phrase right |")
    print("|---|---|---|---|---|---|---|---|")
    for which in args.set:
        rows = read(which.replace("-", " "))
        verdicts, phrases, wrong = compare(rows)
        total, right = sum(verdicts.values()), sum(n for (a, b), n in verdicts.items() if a == b)
        shares = [f"{verdicts[n, n]} / {sum(k for (a, _), k in verdicts.items() if a == n)}" for n in SCORES]
        cells = [which, len(rows), total, f"{right} ({right / total:.1%})", *shares]
        print("| " + " | ".join(map(str, [*cells, f"{phrases[True]} / {sum(phrases.values())}"])) + " |")
        if args.show:
            print("\n".join(wrong))


if __name__ == "__main__":
    main()
