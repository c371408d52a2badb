"""The tables and the page of a bench, made from drawn scenes instead of a model's pictures."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest
from chromium import Chromium, find_chromium
from interplay.errors import InterplayError
from interplay.guidance.bench import report, results
from interplay.guidance.bench.results import Row, append_row, picture_file, read_results, write_settings
from interplay.guidance.bench.tables import Results, compare, cost_ratio, figure, markdown
from interplay.guidance.pixelworld import world
from interplay.guidance.pixelworld.render import enlarge, render
from PIL import Image

METHODS = ("plain", "CONFORM", "SHY <b>&")
SETS = ("one object", "two objects held out", "actions held out")
SETTINGS = {
    "bench": "pixelworld",
    "interplay": "0",
    "model": {"name": "PixelWorld", "sha256": "0" * 64},
    "settings": {"steps": 3, "cfg": 5.0, "sampler": "DDIM", "n": 12, "seed": 0, "seeds": 1, "batch": 8},
    "methods": list(METHODS),
    "sets": list(SETS),
    "method_settings": {name: {} for name in METHODS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve prompts of three sets under three methods that are right in different shares; two pictures of a prompt."""
    out, rng = tmp_path_factory.mktemp("bench"), Random(7)
    write_settings(out, SETTINGS)
    for method, share in zip(METHODS, (0.4, 0.6, 0.9), strict=True):
        for name in SETS:
            for i in range(12):
                if method == METHODS[2] and name == SETS[0] and i > 5:
                    continue  # a slow method has fewer
                _write(out, rng, method, share, name, i)
    return out


def _write(out: Path, rng: Random, method: str, share: float, name: str, i: int) -> None:
    scene = world.sample_scene(Random(f"{name} {i // 2}"), "action")
    file = picture_file(name, i // 2, i, method)
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(enlarge(render(scene)[0])).save(out / file)
    right, action = rng.random() < share, rng.random() < share if "action" in name else None
    row = Row(
        method, name, world.caption(scene), i, rng.random(), rng.random(), right, action,
        right and action is not False, rng.random() < 0.2, rng.random() / 50, 50 + rng.random(), 0.5 + rng.random(),
        {"file": file, "flops": str(4e10 + i), "extra": str(rng.randrange(2)), "environment_right": "1"},
    )  # fmt: skip
    append_row(out, row)


@pytest.fixture(scope="module")
def page(folder) -> str:
    return report.write(folder).read_text(encoding="utf-8")


class Tables(HTMLParser):
    """Tables by id: rows of (data-value, text)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.heads: dict[str, list[str]] = {}
        self.links: list[str] = []
        self._in = ""
        self._table = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "poster", "srcset") and v]
        if tag == "table":
            self._table = attributes["id"]
            self.tables[self._table], self.heads[self._table] = [], []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self._in = tag
            self._value, self._text = attributes.get("data-value", ""), ""

    def handle_data(self, data):
        if self._in:
            self._text += data

    def handle_endtag(self, tag):
        if tag == self._in:
            if tag == "th":
                self.heads[self._table].append(self._text)
            else:
                self.tables[self._table][-1].append((self._value, self._text))
            self._in = ""


def lines(page: str, key: str) -> list[dict[str, tuple[str, str]]]:
    found = Tables(page)
    return [dict(zip(found.heads[key], cells, strict=True)) for cells in found.tables[key] if cells]


def cells_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def inside(group: str, name: str) -> bool:
    return group in ("all sets", name) or (group == "held out" and name.endswith("held out"))


def test_the_tables_are_what_the_csv_says(folder, page):
    """Every mean of the page, computed anew with nothing but the csv module."""
    cells, table = cells_of(folder), lines(page, "reached")
    assert len(table) == 5 * 3
    columns = {
        "all right": "all_right",
        "objects right": "objects_right",
        "action right": "action_right",
        "presence": "presence",
        "binding": "binding",
        "mixtures": "mixture",
        "objects too many": "extra",
        "quality": "quality",
        "U-Net passes": "unet_passes",
        "FLOPs": "flops",
        "seconds": "seconds",
    }
    for line in table:
        method, group = line["method"][0], line["prompt set"][0]
        mine = [c for c in cells if c["method"] == method and inside(group, c["prompt_set"])]
        assert int(line["pictures"][0]) == len(mine) > 0
        for label, column in columns.items():
            values = [float(c[column]) for c in mine if c[column]]
            if values:
                assert float(line[label][0]) == pytest.approx(sum(values) / len(values)), (method, group, label)
            else:
                assert line[label] == ("", "")


def test_the_comparisons_are_what_the_csv_says(folder, page):
    cells, table = cells_of(folder), lines(page, "compared")
    checked = 0
    for line in table:
        method, group, base = (line[name][0] for name in ("method", "prompt set", "against"))
        column = {"all right": "all_right", "action right": "action_right", "quality": "quality"}.get(line["column"][0])
        if column is None:
            continue
        by_picture = {
            name: {
                (c["prompt_set"], c["seed"]): float(c[column])
                for c in cells
                if c["method"] == name and c[column] and inside(group, c["prompt_set"])
            }
            for name in (method, base)
        }
        both = by_picture[method].keys() & by_picture[base].keys()
        differences = [by_picture[method][key] - by_picture[base][key] for key in both]
        scale = 1 if column == "quality" else 100
        assert int(line["pictures"][0]) == len(both)
        assert float(line["difference"][0]) == pytest.approx(scale * sum(differences) / len(both))
        assert float(line["from"][0]) <= float(line["difference"][0]) <= float(line["to"][0])
        if column != "quality":
            b, c = differences.count(1.0), differences.count(-1.0)
            tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) * 2 / 2 ** (b + c)
            assert (int(line["gained"][0]), int(line["gone"][0])) == (b, c)
            assert float(line["p"][0]) == pytest.approx(min(1, tail))
        checked += 1
    assert checked == 3 * (5 + 5 + 3)


def test_prompts_not_pictures_are_drawn_for_intervals(folder):
    """Two pictures of a prompt that say the same make the interval no narrower than one of them."""
    rows = [r for r in read_results(folder) if r.method == "plain"]
    one = rows[::2]
    twice = [Row(**{**_plain(r), "seed": r.seed + k}) for r in one for k in (0, 1000)]
    narrow, wide = figure(one, "quality"), figure(twice, "quality")
    assert (narrow.low, narrow.high) == pytest.approx((wide.low, wide.high), rel=0.02)


def _plain(row: Row) -> dict:
    return {name: getattr(row, name) for name in (*results.COLUMNS, "extra")}


def test_comparisons_use_the_pictures_that_both_have():
    def rows(method: str, right: list[bool | None], cost: float) -> list[Row]:
        return [Row(method, "s", f"p{i}", i, all_right=value, seconds=cost * (i + 1)) for i, value in enumerate(right)]

    ours, base = rows("a", [True, True, False, None], 2.0), rows("b", [False, True, True, True, False, False], 1.0)
    found = compare(ours, base, "all_right")
    assert (found.n, found.better, found.worse, found.difference, found.p) == (3, 1, 1, 0.0, 1.0)
    assert found.lost == 0.5
    assert cost_ratio(ours, base, "seconds") == 2.0
    assert compare(ours, rows("c", [], 1), "all_right") is None and compare(ours, base, "action_right") is None


def test_markdown_has_every_method_and_pool(folder):
    text = markdown(read_results(folder))
    assert re.findall(r"^### (.*)$", text, re.M) == ["all sets", "held out", *SETS]
    assert text.count("| SHY <b>& − plain |") == text.count("| SHY <b>& − CONFORM |") == 5
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) == 2
    assert Results(tuple(read_results(folder))).groups == ["all sets", "held out", *SETS]


def test_the_page_holds_everything_itself(page):
    links = Tables(page).links
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "SHY <b>&" not in page and "SHY &lt;b&gt;&amp;" in page


def test_the_gallery_shows_the_pictures_themselves(folder, page):
    import base64

    data = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    rows = read_results(folder)
    assert len(data) == len(rows)
    shown = {Image.open(io.BytesIO(base64.b64decode(d))).resize((128, 128), 0).tobytes() for d in data}
    assert shown == {Image.open(folder / row.file).tobytes() for row in rows}


def test_where_methods_disagree_comes_first_and_fills_half(monkeypatch):
    keys = [("s", f"p{i}", i) for i in range(10)]
    split = {8: (True, False, True, False), 3: (True, False, False, False)}
    rows = {
        key: [Row(f"m{k}", *key, all_right=value) for k, value in enumerate(split.get(key[2], (True,) * 4))]
        for key in keys
    }
    monkeypatch.setattr(report, "GALLERY", 4)
    assert [key[2] for key in report._chosen(keys, rows)] == [0, 1, 3, 8]
    assert (
        report.disagreement(rows[keys[8]])
        > report.disagreement(rows[keys[3]])
        > report.disagreement(rows[keys[0]])
        == 0
    )


def test_bad_folders_get_one_sentence(tmp_path, folder):
    write_settings(tmp_path, SETTINGS)
    with pytest.raises(InterplayError, match="has no results yet"):
        report.write(tmp_path)
    write_settings(tmp_path, {**SETTINGS, "bench": "shyi"})
    with pytest.raises(InterplayError, match="this report is for 'pixelworld'"):
        report.write(tmp_path)
    write_settings(tmp_path, SETTINGS)
    append_row(tmp_path, read_results(folder)[0])
    with pytest.raises(InterplayError, match="cannot be read"):
        report.write(tmp_path)


# --- in a browser -----------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    find_chromium() is None or importlib.util.find_spec("websocket") is None,
    reason="drives Chromium through websocket-client; install both to run this test",
)
VISIBLE = "[...document.querySelectorAll('%s')].filter(e => e.getClientRects().length)"


@needs_browser
def test_the_page_sorts_and_filters_by_keyboard(folder, page, tmp_path):
    with Chromium((folder / "report.html").as_uri(), tmp_path / "profile", (1400, 1000)) as browser:
        browser.wait("document.readyState === 'complete' && document.getElementById('shown')?.textContent !== ''")
        _tables_sort(browser)
        _sets_filter(browser)
        _gallery_orders(browser)


def _column(browser: Chromium, index: int) -> list:
    return browser.run(VISIBLE % "#reached tbody tr" + f".map(r => r.cells[{index}].dataset.value)")


def _press(browser: Chromium, key: str, code: int, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


def _tables_sort(browser: Chromium) -> None:
    assert _column(browser, 1) == ["all sets"] * 3
    browser.run("document.querySelectorAll('#reached th button')[3].focus()")
    _press(browser, "Enter", 13, "\r")
    falling = [float(v) for v in _column(browser, 3)]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == 3
    assert browser.run("document.querySelectorAll('#reached th')[3].getAttribute('aria-sort')") == "descending"
    _press(browser, "Enter", 13, "\r")
    assert [float(v) for v in _column(browser, 3)] == falling[::-1]
    browser.run("document.querySelectorAll('#reached th button')[0].click()")
    assert _column(browser, 0) == sorted(METHODS, reverse=True)
    assert browser.run("document.querySelectorAll('#reached [aria-sort]').length") == 1


def _choose(browser: Chromium, which: str, value: str) -> None:
    browser.run(f"{which}.value = {value!r}; {which}.dispatchEvent(new Event('change'))")


def _sets_filter(browser: Chromium) -> None:
    items = VISIBLE % "#gallery > li"
    assert browser.run(f"{items}.length") == 36
    _choose(browser, "document.getElementById('group')", "held out")
    assert set(_column(browser, 1)) == {"held out"}
    assert sorted(set(browser.run(f"{items}.map(e => e.dataset.set)"))) == sorted(SETS[1:])
    assert browser.run("document.getElementById('shown').textContent") == "24 of 36 prompts shown"
    _choose(browser, "document.getElementById('group')", "*")
    assert len(_column(browser, 1)) == 15 and browser.run(f"{items}.length") == 36
    browser.run("document.getElementById('differ').focus()")
    _press(browser, " ", 32, " ")
    kept = browser.run(f"{items}.map(e => [...e.querySelectorAll('figure')].map(f => f.className))")
    assert 0 < len(kept) < 36


def _gallery_orders(browser: Chromium) -> None:
    items = VISIBLE % "#gallery > li"
    browser.run("document.getElementById('differ').click()")
    values = browser.run(f"{items}.map(e => Number(e.dataset.differ))")
    assert values == sorted(values, reverse=True) and len(set(values)) > 1
    _choose(browser, "document.getElementById('order')", "prompt")
    prompts = browser.run(f"{items}.map(e => e.querySelector('b').textContent)")
    assert prompts == sorted(prompts)
    _choose(browser, "document.getElementById('order')", "run")
    numbers = browser.run(f"{items}.map(e => Number(e.dataset.run))")
    assert numbers == sorted(numbers)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
