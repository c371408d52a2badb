"""The files of a bench directory."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interplay.errors import InterplayError
from interplay.guidance.bench.results import (
    COLUMNS,
    Row,
    append_row,
    picture_file,
    read_results,
    read_settings,
    slug,
    write_settings,
)

ROW = Row(
    "SHY (paper)",
    "two objects",
    'a "red", robot; and a ünïcode cat',
    7,
    presence=0.5,
    binding=1 / 3,
    objects_right=False,
    all_right=True,
    mixture=False,
    quality=0.01234,
    unet_passes=57.25,
    seconds=0.66,
    extra={"file": "pictures/two-objects/000-7-shy-paper.png", "flops": "3.9e+10"},
)

text = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)
number = st.none() | st.floats(allow_nan=False, allow_infinity=False)
truth = st.none() | st.booleans()
rows = st.builds(
    Row, text, text, text, st.integers(), number, number, truth, truth, truth, truth, number, number, number,
    st.fixed_dictionaries({"file": text}),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=4))
def test_rows_come_back_as_they_were_written(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("bench")
    for row in written:
        append_row(folder, row)
    assert read_results(folder) == written


def test_the_file_begins_with_the_promised_columns(tmp_path):
    append_row(tmp_path, ROW)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        header, cells = csv.reader(file)
    promised = "method,prompt_set,prompt,seed,presence,binding,objects_right,action_right,all_right,mixture,quality"
    assert header == [*promised.split(","), "unet_passes", "seconds", "file", "flops"]
    assert list(COLUMNS) == header[:13]
    assert dict(zip(header, cells, strict=True)) | {"action_right": ""} == dict(zip(header, cells, strict=True))
    assert cells[header.index("all_right")] == "1" and cells[header.index("mixture")] == "0"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_last_line_without_its_end_was_not_written(tmp_path, cut):
    other = replace(ROW, seed=8)
    append_row(tmp_path, ROW)
    whole = (tmp_path / "results.csv").stat().st_size
    append_row(tmp_path, other)
    with (tmp_path / "results.csv").open("r+b") as file:
        file.truncate(whole + cut)
    assert read_results(tmp_path) == [ROW]
    append_row(tmp_path, other)
    assert read_results(tmp_path) == [ROW, other]


def test_a_header_without_its_end_was_not_written(tmp_path):
    (tmp_path / "results.csv").write_bytes(b"method,prompt_set,pro")
    assert read_results(tmp_path) == []
    append_row(tmp_path, ROW)
    assert read_results(tmp_path) == [ROW]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": {"file": "x", "clip": "0.3"}}, "no column 'clip'"),
        ({"prompt": "two\nlines"}, "line break"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_nothing_lost(tmp_path, change, message):
    append_row(tmp_path, ROW)
    with pytest.raises(InterplayError, match=message):
        append_row(tmp_path, replace(ROW, **change))
    assert read_results(tmp_path) == [ROW]


def test_damage_is_told_by_its_line(tmp_path):
    append_row(tmp_path, ROW)
    append_row(tmp_path, ROW)
    path = tmp_path / "results.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",0.66,", ",soon,"), lines[2], ""]), encoding="utf-8")
    with pytest.raises(InterplayError, match="Line 2"):
        read_results(tmp_path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InterplayError, match="lacks the column 'method'"):
        read_results(tmp_path)


def test_a_row_gives_numbers_for_any_column():
    assert (ROW.value("objects_right"), ROW.value("all_right"), ROW.value("flops")) == (0.0, 1.0, 3.9e10)
    assert ROW.value("action_right") is None and ROW.value("no such column") is None
    assert ROW.file == "pictures/two-objects/000-7-shy-paper.png" == picture_file("two objects", 0, 7, "SHY (paper)")


def test_slugs_are_safe_file_names():
    assert slug("SHY (paper)") == "shy-paper"
    assert slug("../..\\x:y?") == "x-y"
    assert slug("…") == "x"


def test_settings_are_read_back_or_refused(tmp_path):
    write_settings(tmp_path / "a", {"bench": "pixelworld", "methods": ["…"]})
    assert read_settings(tmp_path / "a") == {"bench": "pixelworld", "methods": ["…"]}
    with pytest.raises(InterplayError, match="no bench directory"):
        read_settings(tmp_path)
    (tmp_path / "a" / "bench.json").write_text("{")
    with pytest.raises(InterplayError, match="cannot be read"):
        read_settings(tmp_path / "a")
