"""The study's page as a file: what it holds, what it must not tell, and how its pairs are drawn."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from interplay.errors import InterplayError
from interplay.guidance.bench import results, study, study_key
from study_answers import METHODS, page_data, png, write_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("study") / "bench")


def test_the_page_asks_the_papers_questions_about_the_benchs_pictures(bench: Path) -> None:
    html, facts = study.make(bench, None, None, 18, 0)
    shown = page_data(html)
    assert [q["text"] for q in shown["questions"]] == [
        "Which image encapsulates the prompt better?",
        "Which image shows more interaction between the two objects?",
    ]
    assert facts["pairs"] == len(shown["pairs"]) == 12 and facts["asked"] == 18  # the bench has no more
    key = study_key.unseal(shown["key"])
    for pair in shown["pairs"]:
        about = key["pairs"][pair["id"]]
        assert pair["prompt"] == about["prompt"]
        number = int(re.findall(r"\d", about["prompt"])[0])
        for picture in pair["pictures"]:
            method = METHODS.index(key["pictures"][picture])
            colour = (40 * number + 20, 50 * (about["seed"] - 4913) + 20, 80 * method + 20)
            assert base64.b64decode(shown["pictures"][picture]) == png(colour)
        assert {key["pictures"][picture] for picture in pair["pictures"]} == set(METHODS)


def test_nothing_in_the_page_tells_which_method_made_a_picture(bench: Path) -> None:
    html, _ = study.make(bench, None, None, 12, 0)
    shown = page_data(html)
    decoded = html + "".join(base64.b64decode(p).decode("latin1") for p in shown["pictures"].values())
    decoded += base64.b64decode(shown["key"]).decode("latin1")
    for word in (*METHODS, *(results.slug(m) for m in METHODS), "acts", ".png"):
        assert word not in decoded and base64.b64encode(word.encode()).decode().rstrip("=")[:-1] not in html
    key = study_key.unseal(shown["key"])
    first = [key["pictures"][pair["pictures"][0]] for pair in shown["pairs"]]
    assert set(first) == set(METHODS), "the order within a pair must not tell the method"


def test_the_page_needs_nothing_from_elsewhere(bench: Path) -> None:
    html, _ = study.make(bench, None, None, 2, 0)
    assert "<4" not in html.split('id="study">')[1] and "\\u003c" in html  # prompts cannot end the script
    assert not re.search(r"""(?:src|href)=["'](?!data:)|https?://|@import|fetch\(|XMLHttpRequest""", html)


def test_the_draw_takes_three_seeds_of_each_prompt_and_repeats(bench: Path, tmp_path: Path) -> None:
    many = write_bench(tmp_path / "many", prompts=6, seeds=5)
    draw = [study.make(many, None, None, 6, seed) for seed in (1, 1, 2)]
    assert draw[0][0] == draw[1][0] and draw[0][1]["study"] != draw[2][1]["study"]
    pairs = list(study_key.unseal(page_data(draw[0][0])["key"])["pairs"].values())
    prompts = [pair["prompt"] for pair in pairs]
    assert {prompts.count(prompt) for prompt in prompts} == {3} and len(set(prompts)) == 2
    assert len({(pair["prompt"], pair["seed"]) for pair in pairs}) == 6
    full = study_key.unseal(page_data(study.make(many, None, None, 30, 1)[0])["key"])["pairs"]
    assert len(full) == 30  # when prompts run out, the further seeds come


def test_every_two_of_several_methods_are_compared(tmp_path: Path) -> None:
    folder = write_bench(tmp_path, methods=("plain", "CONFORM", "SHY"), prompts=2, seeds=2)
    with pytest.raises(InterplayError, match="choose them by --methods among plain, CONFORM, SHY"):
        study.make(folder, None, None, 4, 0)
    html, facts = study.make(folder, ["plain", "CONFORM", "SHY"], None, 4, 0)
    key = study_key.unseal(page_data(html)["key"])
    compared = [tuple(pair["methods"]) for pair in key["pairs"].values()]
    assert facts["pairs"] == 12 and {compared.count(two) for two in compared} == {4} and len(set(compared)) == 3
    assert len(page_data(html)["pictures"]) == 12


def test_the_same_picture_twice_is_no_question(tmp_path: Path) -> None:
    folder = write_bench(tmp_path, prompts=1, seeds=2)
    row = next(row for row in results.read_results(folder) if row.method == "SHYI" and row.seed == 4914)
    (folder / row.file).write_bytes(png((20, 70, 20), "says something else"))  # CONFORM's colour
    html, facts = study.make(folder, None, None, 2, 0)
    assert facts["same"] == 1 and facts["pairs"] == 1
    (pair,) = study_key.unseal(page_data(html)["key"])["pairs"].values()
    assert pair["seed"] == 4913


def test_a_seed_that_one_method_lacks_is_not_asked(tmp_path: Path) -> None:
    folder = write_bench(tmp_path, prompts=2, seeds=2)
    path = folder / "results.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert study.make(folder, None, None, 9, 0)[1]["pairs"] == 3


@pytest.mark.parametrize(
    ("change", "methods", "sets", "words"),
    [
        ("", ["SHYI", "SHY"], None, "no pictures of the method 'SHY'; it has CONFORM, SHYI"),
        ("", ["SHYI"], None, "compares two methods"),
        ("", None, ["x"], "no prompt set 'x'; it has acts"),
        ("cut", None, None, "is damaged"),
        ("text", None, None, "is no PNG"),
        ("gone", None, None, "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, change: str, methods: list[str] | None, sets: list[str] | None, words: str
) -> None:
    folder = write_bench(tmp_path, prompts=1, seeds=1)
    path = folder / results.read_results(folder)[0].file
    if change == "gone":
        path.unlink()
    elif change:
        path.write_bytes(path.read_bytes()[:60] if change == "cut" else b"JFIF")
    with pytest.raises(InterplayError, match=words):
        study.make(folder, methods, sets, 3, 0)


def test_a_damaged_key_is_refused() -> None:
    key = {"methods": ["ä", "b"], "pictures": {str(n): "b" for n in range(99)}}
    text = study_key.seal(key)
    assert study_key.unseal(text) == key
    for damaged in (text[:-8], "x" + text, text[4:]):
        with pytest.raises(InterplayError, match="damaged"):
            study_key.unseal(damaged)
