#!/usr/bin/env python3
"""How often the rules for verdicts agree with the project's own verdicts, over ``tests/data/verdict_cases.jsonl``.

The intervals are of a bootstrap over prompts. ``--judge words`` is the yardstick: a tag whose word stands in the prompt
is certain, any other unlikely.

usage: verdicts.py [--set development kept-back fresh] [--judge rules|words] [--show]
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from interplay.guidance.grounding.verdicts import TagVerdict, judge_offline
from interplay.guidance.grounding.verdicts_text import verbatim

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "verdict_cases.jsonl"
SCORES = {"certain": 2.0, "possible": 0.5, "unlikely": 0.0}
SETS = ("development", "kept-back", "fresh")
NAMES = {score: name for name, score in SCORES.items()}


def read(which: str) -> list[dict]:
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["set"] == which]


def by_rules(prompt: str, tags: Sequence[str]) -> Sequence[TagVerdict]:
    """The pack's offline judge."""
    return judge_offline(prompt, tags).items


def by_words(prompt: str, tags: Sequence[str]) -> Sequence[TagVerdict]:
    """The yardstick: is the word there?"""
    found = [(tag, verbatim(tag, prompt)) for tag in tags]
    return [TagVerdict(tag, 2.0 if phrase else 0.0, phrase or "") for tag, phrase in found]


JUDGES: dict[str, Callable[[str, Sequence[str]], Sequence[TagVerdict]]] = {"rules": by_rules, "words": by_words}


def compare(row: dict, judge: str = "rules") -> tuple[Counter, Counter, list[str]]:
    """(expected, found) verdicts, right and wrong phrases of tags rightly called certain, and what was wrong."""
    verdicts: Counter = Counter()
    phrases: Counter = Counter()
    wrong = []
    wanted = {tag: (name, row[name][tag] if name == "certain" else "") for name in SCORES for tag in row[name]}
    for item in JUDGES[judge](row["prompt"], list(wanted)):
        name, phrase = wanted[item.tag]
        found = NAMES[item.score]
        verdicts[name, found] += 1
        if name != found:
            wrong.append(f"{row['prompt']} | {item.tag}: {found} for {name} ({item.reason})")
        elif name == "certain":
            right = phrase in (item.phrase, *item.others)
            phrases[right] += 1
            wrong += [] if right else [f"{row['prompt']} | {item.tag}: {item.phrase!r} for {phrase!r}"]
    return verdicts, phrases, wrong


def share(verdicts: Counter) -> float:
    """Of right verdicts."""
    return sum(n for (a, b), n in verdicts.items() if a == b) / sum(verdicts.values())


def interval(parts: Sequence[Counter], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of ``share``, prompts drawn with replacement."""
    source = random.Random(0)
    found = sorted(share(sum(source.choices(parts, k=len(parts)), Counter())) for _ in range(draws))
    return found[int(0.025 * draws)], found[int(0.975 * draws)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, nargs="*", default=SETS)
    parser.add_argument("--judge", choices=JUDGES, default="rules")
    parser.add_argument("--show", action="store_true", help="what was wrong, line by line")
    args = parser.parse_args()
    names = ("set", "prompts", "tags", "right", "95 %", *SCORES, "called certain, rightly", "phrase right")
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for which in args.set:
        found = [compare(row, args.judge) for row in read(which.replace("-", " "))]
        parts = [part for part, _, _ in found]
        verdicts, phrases = sum(parts, Counter()), sum((part for _, part, _ in found), Counter())
        low, high = interval(parts)
        shares = [f"{verdicts[n, n]} / {sum(verdicts[n, m] for m in SCORES)}" for n in SCORES]
        called = f"{verdicts['certain', 'certain']} / {sum(verdicts[n, 'certain'] for n in SCORES)}"
        cells = [which, len(parts), sum(verdicts.values()), f"{share(verdicts):.1%}", f"{low:.1%}–{high:.1%}", *shares]
        print("| " + " | ".join(map(str, [*cells, called, f"{phrases[True]} / {sum(phrases.values())}"])) + " |")
        if args.show:
            print("\n".join(line for _, _, wrong in found for line in wrong))


if __name__ == "__main__":
    main()
