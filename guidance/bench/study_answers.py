"""The files that raters hand in: read, checked against each other, and turned into votes."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from .stats import mcnemar_exact
from .study_key import unseal

FORMAT = "interplay-study-answers-1"
ONE_SIDED = 0.001  # a side taken this improbably often by chance
ALWAYS = 6  # so many answers, all for one side, are remarked on in any case
HASTE = 1.0  # seconds for an answer, in the middle


@dataclass(frozen=True)
class Vote:
    """One answer: rater, question (its id), methods (of the pair, in the study's order), prompt, seed, choice (method),
    side ("left" or "right"), seconds."""

    rater: str
    question: str
    methods: tuple[str, str]
    prompt_set: str
    prompt: str
    seed: int
    choice: str
    side: str
    seconds: float


@dataclass(frozen=True)
class Answers:
    """One rater's file. questions: id -> text; asked: how many answers a complete file has."""

    path: Path
    study: str
    rater: str
    asked: int
    questions: dict[str, str]
    votes: tuple[Vote, ...]


def read_answers(path: Path) -> Answers:
    """A file that the page has saved.

    Raises:
        InterplayError: it cannot be read, is none of ours, or contradicts its own key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InterplayError(f"{path} cannot be read as answers of a study ({error}); leave it out.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InterplayError(f"{path} holds no answers of a study; give the files that its page saves.")
    try:
        key = unseal(found["key"])
        votes = tuple(_vote(str(found["rater"]), answer, key) for answer in found["answers"])
        questions = {str(q["id"]): str(q["text"]) for q in found["questions"]}
        answers = Answers(path, str(found["study"]), str(found["rater"]), int(found["asked"]), questions, votes)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InterplayError):
            raise
        raise InterplayError(f"{path} contradicts its own key (at {error}); leave it out.") from None
    if len({(v.question, v.methods, v.prompt_set, v.prompt, v.seed) for v in votes}) < len(votes) or any(
        vote.question not in questions for vote in votes
    ):
        raise InterplayError(f"{path} answers a question twice or one that was not asked; leave it out.")
    return answers


def _vote(rater: str, answer: dict[str, Any], key: dict[str, Any]) -> Vote:
    pair, pictures = key["pairs"][answer["pair"]], key["pictures"]
    first, second = pair["methods"]
    if {pictures[answer["left"]], pictures[answer["right"]]} != {first, second}:
        raise KeyError(answer["pair"])
    sides = {answer["left"]: "left", answer["right"]: "right"}
    side, choice = sides[answer["choice"]], pictures[answer["choice"]]
    place = (pair["set"], pair["prompt"], int(pair["seed"]))
    return Vote(rater, answer["question"], (first, second), *place, choice, side, float(answer["seconds"]))


def gather(files: Sequence[Answers]) -> tuple[list[Answers], list[str]]:
    """The files to count, one per rater and all of one study, and what to warn of.

    Left out: studies other than the one of most raters (the first at a draw), and of several files of a rater all but
    the fullest. Kept, with a warning: incomplete ones, raters who keep to one side, raters in haste.
    """
    warnings = []
    raters: dict[str, set[str]] = {}
    for file in files:
        raters.setdefault(file.study, set()).add(file.rater)
    study = max(raters, key=lambda name: len(raters[name]))
    best: dict[str, Answers] = {}
    for file in files:
        if file.study != study:
            warnings.append(f"{file.path.name} is of another study ({file.study}, not {study}): left out")
            continue
        known = best.setdefault(file.rater, file)
        if known is file:
            continue
        less, more = (known, file) if len(file.votes) > len(known.votes) else (file, known)
        best[file.rater] = more
        same = "the same answers" if set(less.votes) == set(more.votes) else f"{len(more.votes)} answers"
        warnings.append(f"{less.path.name} is of the same rater as {more.path.name} ({same}): left out")
    kept = [file for file in best.values() if file.votes]
    warnings += [f"{file.path.name} has no answers: left out" for file in best.values() if not file.votes]
    for file in kept:
        warnings += _doubts(file)
    return kept, warnings


def _doubts(file: Answers) -> list[str]:
    out = []
    if len(file.votes) < file.asked:
        share = f"{len(file.votes)} of {file.asked} answers"
        out.append(f"{file.path.name} is incomplete ({share}): counted as far as it goes")
    sides = Counter(vote.side for vote in file.votes)
    chance = mcnemar_exact(sides["left"], sides["right"])
    side, times = sides.most_common(1)[0]
    if chance < ONE_SIDED or (times == len(file.votes) >= ALWAYS):
        out.append(
            f"{file.path.name}: rater {file.rater} chose the {side} picture {times} of {len(file.votes)} times "
            f"(chance {chance:.1g}): counted; --without {file.rater} leaves it out"
        )
    pace = statistics.median(vote.seconds for vote in file.votes)
    if pace < HASTE:
        out.append(
            f"{file.path.name}: rater {file.rater} took {pace:.1f} s for an answer in the middle: counted; "
            f"--without {file.rater} leaves it out"
        )
    return out
