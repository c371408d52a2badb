"""Counting answers: shares, intervals, tests and agreement against published examples and plain recounts."""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interplay.cli import main
from interplay.errors import InterplayError
from interplay.guidance.bench import study
from interplay.guidance.bench.study_agreement import fleiss_kappa, krippendorff_alpha
from interplay.guidance.bench.study_answers import read_answers
from interplay.guidance.bench.study_tally import crossed_interval, tally
from study_answers import answer, write_bench

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability": examples B and C. "." is a missing value.
TWO = ["0100000010", "1110010000"]
FOUR = ["123321412...", "1233224125.3", ".3332342251.", "1233244125" + "1."]
# Fleiss (1971) as tabled in many places: 10 subjects, 14 raters, 5 categories.
FLEISS = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"""


def columns(raters: list[str]) -> list[list[str]]:
    return [[value for value in unit if value != "."] for unit in zip(*raters, strict=True)]


def test_alpha_of_the_published_examples() -> None:
    assert krippendorff_alpha(columns(TWO)) == pytest.approx(0.095, abs=0.0005)
    assert krippendorff_alpha(columns(FOUR)) == pytest.approx(0.743, abs=0.0005)


def test_kappa_of_the_published_example() -> None:
    units = [[c for c, n in enumerate(line.split()) for _ in range(int(n))] for line in FLEISS.split("/")]
    assert fleiss_kappa(units) == pytest.approx(0.210, abs=0.0005)


def test_alpha_is_one_minus_observed_over_expected_disagreement_pair_by_pair() -> None:
    dice = random.Random(5)
    units = [[dice.choice("ab") for _ in range(dice.randint(0, 5))] for _ in range(20)]
    kept = [unit for unit in units if len(unit) > 1]
    values = [value for unit in kept for value in unit]
    observed = sum(sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in kept) / len(
        values
    )
    unlike = [a != b for a, b in itertools.permutations(values, 2)]
    assert krippendorff_alpha(units) == pytest.approx(1 - observed / (sum(unlike) / len(unlike)), abs=1e-12)


def test_agreement_that_is_not_defined() -> None:
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None and fleiss_kappa([["a", "a"]]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None and fleiss_kappa([["a"], ["b"]]) is None
    assert fleiss_kappa([["a", "b"], ["a", "b", "b"]]) is None and fleiss_kappa([]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == fleiss_kappa([["a", "a"], ["b", "b"]]) == 1


def test_the_interval_draws_raters_and_prompts() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 4, (9, 8))
    wins = rng.binomial(counts, rng.uniform(0.2, 0.9, (9, 1)))
    means = []
    for _ in range(20000):
        r, p = rng.integers(0, 9, 9), rng.integers(0, 8, 8)
        means.append(wins[np.ix_(r, p)].sum() / counts[np.ix_(r, p)].sum())
    assert crossed_interval(wins, counts) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.012)
    only_raters = crossed_interval(wins[:, :1], counts[:, :1])
    assert only_raters[0] < only_raters[1]
    assert crossed_interval(np.ones((3, 2)), np.ones((3, 2))) == (1, 1)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return study.make(write_bench(tmp_path_factory.mktemp("tally") / "bench"), None, None, 12, 0)[0]


def save(folder: Path, name: str, found: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def shy_mostly(dice: random.Random, share: float) -> Callable[[dict[str, Any], str, str], str]:
    return lambda pair, question, left: "SHYI" if dice.random() < share else "CONFORM"


def test_shares_and_signs_are_those_of_a_recount(page: str, tmp_path: Path) -> None:
    dice = random.Random(1)
    files = [answer(page, f"{n:016x}", shy_mostly(dice, 0.4 + 0.1 * n)) for n in range(5)]
    paths = [save(tmp_path, f"{n}.json", file) for n, file in enumerate(files)]
    votes = [vote for path in paths for vote in read_answers(path).votes]
    shares = {share.question: share for share in tally(votes)}
    assert list(shares) == ["prompt", "interaction", "both"] and shares["both"].votes == 5 * 24
    for question, share in shares.items():
        some = [v for v in votes if question in ("both", v.question)]
        assert (share.first, share.second) == ("CONFORM", "SHYI")
        assert share.share == pytest.approx(sum(v.choice == "CONFORM" for v in some) / len(some))
        lead = [sum(1 if v.choice == "CONFORM" else -1 for v in some if v.rater == r) for r in {v.rater for v in some}]
        assert (share.raters_for, share.raters_against) == (sum(n > 0 for n in lead), sum(n < 0 for n in lead))
        assert share.low <= share.share <= share.high and share.kappa is not None
        units = {}
        for v in some:
            units.setdefault((v.prompt, v.seed, v.question), []).append(v.choice)
        assert share.alpha == krippendorff_alpha(list(units.values()))


def test_the_command_prints_and_writes_the_tables(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def by_question(pair: dict[str, Any], question: str, left: str) -> str:
        return "SHYI" if question == "prompt" or "<0>" in pair["prompt"] else "CONFORM"

    paths = [save(tmp_path, f"{n}.json", answer(page, f"{n:016x}", by_question)) for n in range(6)]
    assert main(["bench", "study-tally", *map(str, paths), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines() if line.startswith("CONFORM : SHYI")]
    by_name = {line[3]: line for line in lines[:3]}
    assert by_name["prompt"][4:6] == ["0.0", "%"] and by_name["interaction"][4:6] == ["75.0", "%"]
    assert by_name["both"][4:8] == ["37.5", "%", "62.5", "%"]
    assert [line[-6:-4] for line in lines[3:]] == [["0.0", "%"]] + 3 * [["50.0", "%"]]
    assert "WARNING" not in said
    found = json.loads((tmp_path / "out" / "study.json").read_text())
    interaction = next(share for share in found["shares"] if share["question"] == "interaction")
    assert (interaction["prompts_for"], interaction["prompts_against"], interaction["prompts_p"]) == (3, 1, 0.625)
    assert (interaction["raters_for"], interaction["raters_p"]) == (6, 2 / 2**6)
    assert interaction["alpha"] == interaction["kappa"] == 1 and found["shares"][0]["alpha"] is None
    with (tmp_path / "out" / "votes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["votes"] == 6 * 24
    assert sum(row["choice"] == "CONFORM" for row in rows if row["question"] == "interaction") == 6 * 9
    assert "| CONFORM : SHYI | prompt | 0.0 % | 100.0 % |" in (tmp_path / "out" / "study.md").read_text()


def test_what_is_doubtful_is_said(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(2)
    good = answer(page, "a" * 16, shy_mostly(dice, 0.6))
    lefty = answer(page, "b" * 16, lambda pair, question, left: left)
    part = answer(page, "c" * 16, shy_mostly(dice, 0.6), 5)
    hasty = answer(page, "d" * 16, shy_mostly(dice, 0.6))
    for entry in hasty["answers"]:
        entry["seconds"] = 0.4
    foreign = {**answer(page, "e" * 16, shy_mostly(dice, 0.6)), "study": "f" * 16}
    early = {**good, "answers": good["answers"][:7]}
    empty = answer(page, "0" * 16, shy_mostly(dice, 0.6), 0)
    files = {
        "good": good,
        "again": good,
        "early": early,
        "lefty": lefty,
        "part": part,
        "hasty": hasty,
        "foreign": foreign,
        "empty": empty,
    }
    paths = [str(save(tmp_path, f"{name}.json", file)) for name, file in files.items()]
    assert main(["bench", "study-tally", *paths]) == 0
    said = capsys.readouterr().out
    warnings = [line.removeprefix("WARNING: ") for line in said.splitlines() if line.startswith("WARNING")]
    for words in (
        "again.json is of the same rater as good.json (the same answers): left out",
        "early.json is of the same rater as good.json (24 answers): left out",
        f"lefty.json: rater {'b' * 16} chose the left picture 24 of 24 times",
        "part.json is incomplete (5 of 24 answers)",
        f"hasty.json: rater {'d' * 16} took 0.4 s",
        f"foreign.json is of another study ({'f' * 16}, not {good['study']}): left out",
        "empty.json has no answers: left out",
    ):
        assert sum(warning.startswith(words) for warning in warnings) == 1, words
    assert len(warnings) == 7 and f"4 raters, {3 * 24 + 5} answers" in said
    assert main(["bench", "study-tally", *paths, "--without", "b" * 16]) == 0
    said = capsys.readouterr().out
    assert f"3 raters, {2 * 24 + 5} answers" in said and f"rater {'b' * 16} left out as asked" in said


def test_the_fuller_of_two_files_of_a_rater_counts(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = answer(page, "a" * 16, shy_mostly(random.Random(2), 0.6))
    early = save(tmp_path, "early.json", {**whole, "answers": whole["answers"][:7]})
    assert main(["bench", "study-tally", str(early), str(save(tmp_path, "late.json", whole))]) == 0
    said = capsys.readouterr().out
    assert "1 raters, 24 answers" in said and "early.json is of the same rater as late.json" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "holds no answers of a study"),
        ({"key": "eJw="}, "key of this study is damaged"),
        ({"answers": [{"pair": "nowhere"}]}, "contradicts its own key"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(page: str, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = save(tmp_path, "x.json", {**answer(page, "a" * 16, lambda *_: "SHYI"), **change})
    with pytest.raises(InterplayError, match=words):
        read_answers(path)


def test_a_question_answered_twice_or_with_a_foreign_picture_is_refused(page: str, tmp_path: Path) -> None:
    found = answer(page, "a" * 16, lambda *_: "SHYI")
    first, other = found["answers"][0], found["answers"][2]
    with pytest.raises(InterplayError, match="twice"):
        read_answers(save(tmp_path, "twice.json", {**found, "answers": [first, first]}))
    with pytest.raises(InterplayError, match="contradicts"):
        read_answers(save(tmp_path, "choice.json", {**found, "answers": [{**first, "choice": other["left"]}]}))
