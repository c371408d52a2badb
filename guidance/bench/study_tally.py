"""``interplay bench study-tally *.json``: Table 1 of SHYI from the files that raters saved, with what it can bear."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InterplayError
from .results import write_whole
from .stats import DRAWS, mcnemar_exact
from .study_agreement import fleiss_kappa, krippendorff_alpha
from .study_answers import Answers, Vote, gather, read_answers

VOTE_COLUMNS = (
    *("rater", "question", "method_a", "method_b", "prompt_set", "prompt", "seed"),
    *("choice", "side", "seconds"),
)
TALLY, VOTES, TABLES = "study.json", "votes.csv", "study.md"


@dataclass(frozen=True)
class Share:
    """How often ``first`` was preferred to ``second``; every share in [0, 1].

    question: its id, or "both"; prompt: or "all"; low, high: 95 % interval over raters and prompts; raters_for,
    raters_against: raters who took one method more often than the other, raters_p: exact sign test of the two;
    prompts_for, prompts_against, prompts_p: the same over prompts; alpha: Krippendorff's over pictures; kappa: Fleiss',
    where all pictures have equally many raters.
    """

    first: str
    second: str
    question: str
    prompt: str
    votes: int
    raters: int
    share: float
    low: float
    high: float
    raters_for: int
    raters_against: int
    raters_p: float
    prompts_for: int
    prompts_against: int
    prompts_p: float
    alpha: float | None
    kappa: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="answers as the page saved them")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {TABLES}, {TALLY} and {VOTES} there")
    parser.add_argument("--without", nargs="+", default=[], metavar="RATER", help="raters to leave out, by their ids")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the tables, and write them where asked."""
    files = [read_answers(path) for path in args.files]
    unknown = sorted(set(args.without) - {file.rater for file in files})
    if unknown:
        raise InterplayError(f"No file is of the rater '{unknown[0]}'; --without takes ids as the warnings print them.")
    kept, warnings = gather([file for file in files if file.rater not in args.without])
    if not kept:
        raise InterplayError("There are no answers to count; give files of raters who answered at least one question.")
    warnings += [f"rater {rater} left out as asked" for rater in args.without]
    votes = [vote for file in kept for vote in file.votes]
    shares, prompts = tally(votes, args.seed), by_prompt(votes, args.seed)
    head = {"study": kept[0].study, "raters": len(kept), "votes": len(votes), "questions": kept[0].questions}
    print(text(head, shares, prompts, warnings))
    if args.out:
        write(args.out, head, shares, prompts, warnings, kept)
    return 0


def tally(votes: Sequence[Vote], seed: int = 0) -> list[Share]:
    """A share for every two methods and question, and one for all questions together where there are several."""
    questions = list(dict.fromkeys(vote.question for vote in votes))
    out = []
    for methods in dict.fromkeys(vote.methods for vote in votes):
        of_pair = [vote for vote in votes if vote.methods == methods]
        for question in questions:
            some = [vote for vote in of_pair if vote.question == question]
            out += [_share(some, question, "all", seed)] if some else []
        if len({vote.question for vote in of_pair}) > 1:
            out.append(_share(of_pair, "both" if len(questions) == 2 else "all", "all", seed))
    return out


def by_prompt(votes: Sequence[Vote], seed: int = 0) -> list[Share]:
    """Table 1 of the paper: every prompt, averaged over seeds and questions. Intervals here are over raters."""
    groups: dict[tuple[tuple[str, str], str], list[Vote]] = defaultdict(list)
    for vote in votes:
        groups[vote.methods, vote.prompt].append(vote)
    return [_share(some, "both", prompt, seed) for (_, prompt), some in sorted(groups.items())]


def _share(votes: Sequence[Vote], question: str, prompt: str, seed: int) -> Share:
    first, second = votes[0].methods
    raters = list(dict.fromkeys(vote.rater for vote in votes))
    prompts = list(dict.fromkeys((vote.prompt_set, vote.prompt) for vote in votes))
    wins, counts = np.zeros((2, len(raters), len(prompts)))
    units: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    at_rater, at_prompt = {r: i for i, r in enumerate(raters)}, {p: i for i, p in enumerate(prompts)}
    for vote in votes:
        at = at_rater[vote.rater], at_prompt[vote.prompt_set, vote.prompt]
        wins[at] += vote.choice == first
        counts[at] += 1
        units[vote.prompt_set, vote.prompt, vote.seed, vote.question].append(vote.choice)
    low, high = crossed_interval(wins, counts, seed)
    by_rater, by_text = _sign(wins.sum(1), counts.sum(1)), _sign(wins.sum(0), counts.sum(0))
    values = list(units.values())
    return Share(
        first,
        second,
        question,
        prompt,
        len(votes),
        len(raters),
        float(wins.sum() / counts.sum()),
        low,
        high,
        *by_rater,
        *by_text,
        krippendorff_alpha(values),
        fleiss_kappa(values),
    )


def crossed_interval(wins: np.ndarray, counts: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile interval of ``wins.sum() / counts.sum()`` when raters and prompts are both drawn anew.

    wins, counts: [raters, prompts]. Raters and prompts are resampled independently, each as a whole (the "pigeonhole"
    bootstrap; Owen 2007, arXiv 0712.1111): answers of one rater hang together, and so do answers to one prompt. An axis
    of length one is not resampled. Draws that hit no answer are left out.
    """
    rng = np.random.default_rng(seed)
    r, p = (rng.multinomial(n, np.full(n, 1 / n), draws).astype(float) for n in wins.shape)
    of, among = (((r @ table) * p).sum(1) for table in (wins, counts))
    some = among > 0
    low, high = np.quantile(of[some] / among[some], (0.025, 0.975))
    return float(low), float(high)


def _sign(wins: np.ndarray, counts: np.ndarray) -> tuple[int, int, float]:
    more, less = int((2 * wins > counts).sum()), int((2 * wins < counts).sum())
    return more, less, mcnemar_exact(more, less)


def text(head: dict[str, Any], shares: list[Share], prompts: list[Share], warnings: list[str]) -> str:
    """The tables for a terminal."""
    out = [f"Study {head['study']}: {head['raters']} raters, {head['votes']} answers", ""]
    out += [f"  {name}: {words}" for name, words in head["questions"].items()]
    for title, rows in _tables(shares, prompts):
        widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
        out += ["", title]
        out += [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in rows
        ]
    out += ["", *_notes(prompts), *(f"WARNING: {warning}" for warning in warnings)]
    return "\n".join(out).rstrip()


def markdown(head: dict[str, Any], shares: list[Share], prompts: list[Share], warnings: list[str]) -> str:
    """The tables for a page."""
    out = ["# User study", "", f"Study `{head['study']}`: {head['raters']} raters, {head['votes']} answers.", ""]
    out += [f"- **{name}**: {words}" for name, words in head["questions"].items()]
    for title, rows in _tables(shares, prompts):
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
        rule = "|" + "|".join("---" if i < 2 else "---:" for i in range(len(rows[0]))) + "|"
        out += ["", f"## {title}", "", lines[0], rule, *lines[1:]]
    out += ["", *(f"{note}\n" for note in _notes(prompts))]
    out += ["## Warnings", "", *(f"- {warning}" for warning in warnings)] if warnings else []
    return "\n".join(out).rstrip() + "\n"


def _tables(shares: list[Share], prompts: list[Share]) -> list[tuple[str, list[list[str]]]]:
    overall = [
        [
            "methods",
            "question",
            "first",
            "second",
            "95 % of first",
            "answers",
            "raters +/-",
            "p",
            "prompts +/-",
            "p",
            "alpha",
            "kappa",
        ]
    ]
    for s in shares:
        overall.append(
            [
                f"{s.first} : {s.second}",
                s.question,
                _percent(s.share),
                _percent(1 - s.share),
                _interval(s),
                str(s.votes),
                f"{s.raters_for}/{s.raters_against}",
                _p(s.raters_p),
                f"{s.prompts_for}/{s.prompts_against}",
                _p(s.prompts_p),
                _number(s.alpha),
                _number(s.kappa),
            ]
        )
    table = [["methods", "prompt", "first", "second", "95 % of first", "answers"]]
    for s in prompts:
        table.append(
            [f"{s.first} : {s.second}", s.prompt, _percent(s.share), _percent(1 - s.share), _interval(s), str(s.votes)]
        )
    return [("Preferred, by question", overall), ("Preferred, by prompt (all seeds and questions)", table)]


def _notes(prompts: list[Share]) -> list[str]:
    notes = [
        "first, second: share of the answers that took the first or second method; there are no ties.",
        "95 %: bootstrap over raters and prompts together (over raters alone in the table by prompt).",
        "raters +/-, prompts +/-: how many favour the first or second method, with an exact two-sided sign test.",
        "alpha: Krippendorff's, nominal; kappa: Fleiss'; 1 is full agreement of raters, 0 chance, - not defined.",
    ]
    if len({s.prompt for s in prompts}) < 5 or max((s.raters for s in prompts), default=0) < 5:
        notes.append("Few raters or prompts: the intervals are too narrow to be relied on.")
    return notes


def write(
    folder: Path,
    head: dict[str, Any],
    shares: list[Share],
    prompts: list[Share],
    warnings: list[str],
    files: Sequence[Answers],
) -> None:
    """``study.md`` (tables), ``study.json`` (all figures) and ``votes.csv`` (a row per answer)."""
    found = {
        **head,
        "shares": [asdict(s) for s in shares],
        "prompts": [asdict(s) for s in prompts],
        "warnings": warnings,
    }
    write_whole(folder / TABLES, markdown(head, shares, prompts, warnings).encode())
    write_whole(folder / TALLY, (json.dumps(_plain(found), indent=1, ensure_ascii=False) + "\n").encode())
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(VOTE_COLUMNS)
    for vote in (vote for file in files for vote in file.votes):
        table.writerow(
            [
                vote.rater,
                vote.question,
                *vote.methods,
                vote.prompt_set,
                vote.prompt,
                vote.seed,
                vote.choice,
                vote.side,
                vote.seconds,
            ]
        )
    write_whole(folder / VOTES, lines.getvalue().encode())


def _plain(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(s: Share) -> str:
    return f"{100 * s.low:.1f}-{100 * s.high:.1f}"


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
