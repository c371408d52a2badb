"""The study's page in a real browser, from a file: answer by keys, close, go on, save, tally."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from interplay.cli import main
from interplay.guidance.bench import study, study_key
from interplay.guidance.bench.study_answers import read_answers
from study_answers import page_data, write_bench

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

KEYS = {
    "left": ("ArrowLeft", 37),
    "right": ("ArrowRight", 39),
    "one": ("1", 49),
    "two": ("2", 50),
    "u": ("u", 85),
    "back": ("Backspace", 8),
}
SHOWN = """(() => {
  const images = [...document.querySelectorAll("#pictures img")].map((i) => i.src.split(",")[1]);
  const now = [...document.querySelectorAll("fieldset")].findIndex((f) => f.classList.contains("now"));
  return { prompt: document.getElementById("prompt").textContent, left: images[0], right: images[1], question: now,
           where: document.getElementById("where").textContent, done: document.getElementById("progress").value };
})()"""


class Rater:
    """A person at the page, who takes note of what they chose."""

    def __init__(self, page: Chromium, shown: dict[str, Any]) -> None:
        self.page, self.shown = page, shown
        self.names = {content: name for name, content in shown["pictures"].items()}
        self.chosen: list[tuple[str, str, str]] = []  # prompt, question, picture

    def press(self, key: str, **more: Any) -> None:
        name, code = KEYS[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.page.send("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **more)

    def look(self) -> dict[str, Any]:
        return dict(self.page.run(SHOWN))

    def answer(self, key: str) -> None:
        seen = self.look()
        side = {"left": "left", "one": "left", "right": "right", "two": "right"}[key]
        question = self.shown["questions"][seen["question"]]["id"]
        self.chosen.append((seen["prompt"], question, self.names[seen[side]]))
        self.press(key)

    def undo(self, key: str) -> None:
        self.chosen.pop()
        self.press(key)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_bench(folder / "bench", prompts=2, seeds=2)
    path = folder / "study.html"
    assert main(["bench", "study", str(folder / "bench"), "--out", str(path), "--pairs", "4"]) == 0
    return path


def opened(html: Path, profile: Path, size: tuple[int, int] = (1280, 900)) -> Chromium:
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    (profile / "DevToolsActivePort").unlink(missing_ok=True)  # the last browser's
    return Chromium(html.as_uri(), profile, size)


def picture(page: Chromium, name: str) -> None:
    if folder := os.environ.get("INTERPLAY_SCREENSHOTS"):
        page.picture(Path(folder) / f"study_{name}.png")


READY = "document.readyState === 'complete' && !!document.querySelector('#questions fieldset')"


def put(page: Chromium, key: str, value: str) -> None:
    """Store a text as another tab of the study would, and let the page know as the browser would."""
    page.run(f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})")
    page.run(f"dispatchEvent(new StorageEvent('storage', {{key: {json.dumps(key)}, newValue: {json.dumps(value)}}}))")


def test_answers_by_keys_survive_closing_and_come_out_of_the_download(html: Path, tmp_path: Path) -> None:
    shown = page_data(html.read_text(encoding="utf-8"))
    profile, downloads = tmp_path / "profile", tmp_path / "downloads"
    downloads.mkdir()
    with opened(html, profile) as page:
        page.wait(READY)
        assert page.run("document.getElementById('count').textContent") == "4"
        picture(page, "welcome")
        page.run("document.getElementById('start').click()")
        rater = Rater(page, shown)
        first = rater.look()
        assert (first["where"], first["question"]) == ("Pair 1 of 4", 0)
        rater.answer("left")
        assert rater.look()["question"] == 1 and rater.look()["left"] == first["left"]
        rater.press("right", autoRepeat=True)  # a key held down is no second answer
        assert rater.look()["question"] == 1
        rater.answer("two")
        rater.answer("right")
        rater.undo("back")
        rater.undo("u")
        assert (rater.look()["where"], rater.look()["question"]) == ("Pair 1 of 4", 1)
        rater.answer("left")
        rater.answer("one")
        before = rater.look()
        picture(page, "compare")
        page.wait("new Promise((done) => setTimeout(() => done(true), 1000))")
        page.send("Page.navigate", url="about:blank")
    with opened(html, profile) as page:
        page.wait(READY)
        rater.page = page
        assert rater.look() == before and before["done"] == 3
        page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        for key in ("right", "right", "left", "right", "left"):
            rater.answer(key)
        assert page.run("!document.getElementById('end').hidden && document.activeElement.id") == "end-title"
        rater.undo("back")
        rater.answer("right")
        picture(page, "end")
        page.run("document.getElementById('save').click()")
        path = finished(downloads)
        assert json.loads(page.run("document.getElementById('text').value"))["answers"]
    found = json.loads(path.read_text(encoding="utf-8"))
    prompts = {pair["id"]: f"“{pair['prompt']}”" for pair in shown["pairs"]}
    assert [(prompts[a["pair"]], a["question"], a["choice"]) for a in found["answers"]] == rater.chosen
    assert found["complete"] and found["undone"] == 3 and len(rater.chosen) == 8
    key = study_key.unseal(shown["key"])
    votes = read_answers(path).votes
    assert [vote.choice for vote in votes] == [key["pictures"][choice] for _, _, choice in rater.chosen]
    assert main(["bench", "study-tally", str(path), "--out", str(tmp_path / "out")]) == 0
    shares = {s["question"]: s for s in json.loads((tmp_path / "out" / "study.json").read_text())["shares"]}
    for question, _ in study.QUESTIONS:
        some = [key["pictures"][choice] for _, asked, choice in rater.chosen if asked == question]
        assert shares[question]["share"] == some.count("CONFORM") / 4


def finished(downloads: Path) -> Path:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if files := list(downloads.glob("study-*.json")):
            return files[0]
        time.sleep(0.2)
    raise AssertionError(f"nothing was downloaded, only {list(downloads.iterdir())}")


def plan(study_id: str, pairs: list[dict[str, Any]], rater: str) -> list[tuple[str, str]]:
    """The page's order and left pictures, drawn anew: FNV-1a seeds mulberry32."""
    state = 0x811C9DC5
    for byte in f"{study_id} {rater}".encode():
        state = (state ^ byte) * 0x01000193 % 2**32

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) % 2**32
        t = (state ^ (state >> 15)) * (state | 1) % 2**32
        t ^= (t + (t ^ (t >> 7)) * (t | 61)) % 2**32
        return (t ^ (t >> 14)) / 2**32

    pairs = list(pairs)
    for i in range(len(pairs) - 1, 0, -1):
        j = int(draw() * (i + 1))
        pairs[i], pairs[j] = pairs[j], pairs[i]
    return [(pair["id"], pair["pictures"][0 if draw() < 0.5 else 1]) for pair in pairs]


def test_sides_and_order_follow_from_the_raters_id(html: Path, tmp_path: Path) -> None:
    shown = page_data(html.read_text(encoding="utf-8"))
    with opened(html, tmp_path / "profile") as page:
        seen = set()
        for rater in ("0123456789abcdef", "fedcba9876543210", "0000000000000001"):
            kept = {"study": shown["id"], "rater": rater, "started": "", "undone": 0, "answers": []}
            page.wait(READY)
            put(page, "interplay-study-" + shown["id"], json.dumps(kept))
            for _ in range(8):
                page.run("document.querySelector('fieldset.now [data-side=left]').click()")
            saved = json.loads(page.run("document.getElementById('text').value"))
            assert saved["rater"] == rater
            answers = saved["answers"]
            order = [(a["pair"], a["left"]) for a in answers[::2]]
            assert order == plan(shown["id"], shown["pairs"], rater)
            seen.add(tuple(order))
        assert len(seen) == 3


def test_the_phones_page_fits_and_can_be_used_by_touch_and_by_reader(html: Path, tmp_path: Path) -> None:
    with opened(html, tmp_path / "profile") as page:
        page.send("Emulation.setDeviceMetricsOverride", width=375, height=667, deviceScaleFactor=2, mobile=True)
        page.wait(READY)
        page.run("document.getElementById('start').click()")
        page.wait("[...document.querySelectorAll('#pictures img')].every((i) => i.complete && i.naturalWidth)")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        sizes = page.run(
            "[...document.querySelectorAll('fieldset button')].map((b) => b.getBoundingClientRect().height)"
        )
        assert len(sizes) == 4 and min(sizes) >= 44
        last = page.run("document.querySelector('fieldset:last-of-type').getBoundingClientRect().bottom")
        assert last <= 667, "both questions are on the first screen"
        picture(page, "phone")
        tree = page.send("Accessibility.getFullAXTree")["nodes"]
        said = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n.get("ignored")}
        assert ("heading", page.run("document.getElementById('prompt').textContent")) in said
        assert ("group", "1. Which image encapsulates the prompt better?") in said
        assert {("image", "Left picture"), ("image", "Right picture")} <= said or (
            "button",
            "Show the left picture larger",
        ) in said
        assert all(name for role, name in said if role in ("button", "progressbar", "image", "group", "dialog"))
        page.run("document.querySelector('[data-zoom=right]').click()")
        assert page.run(
            "document.getElementById('large').open && document.querySelector('#large img').src"
        ) == page.run("document.querySelectorAll('#pictures img')[1].src")
        picture(page, "phone_large")
        page.run("document.getElementById('close').click()")
        page.run("document.querySelector('fieldset.now [data-side=right]').focus()")
        page.run("document.activeElement.click()")
        assert page.run("document.activeElement.closest('fieldset').classList.contains('now')")


def test_a_rater_who_stops_saves_what_there_is_and_another_starts_anew(html: Path, tmp_path: Path) -> None:
    with opened(html, tmp_path / "profile") as page:
        page.wait(READY)
        page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.run("document.getElementById('start').click()")
        for _ in range(3):
            page.run("document.querySelector('fieldset.now [data-side=left]').click()")
        page.run("document.getElementById('part').click()")
        path = finished(tmp_path)
        found = read_answers(path)
        assert [vote.side for vote in found.votes] == ["left"] * 3 and found.asked == 8
        assert f"Saved as {path.name}" in page.run("document.querySelector('#compare .saved').textContent")
        for _ in range(5):
            page.run("document.querySelector('fieldset.now [data-side=left]').click()")
        assert not page.run("document.querySelector('#end .saved').textContent")
        page.run("window.confirm = () => true, document.getElementById('another').click()")
        assert page.run("!document.getElementById('welcome').hidden && localStorage.length === 0")
        page.run("document.getElementById('start').click()")
        kept = json.loads(page.run("localStorage.getItem(localStorage.key(0))"))
        assert kept["rater"] != found.rater and kept["answers"] == []


def test_damaged_answers_start_anew_and_say_so(html: Path, tmp_path: Path) -> None:
    name = "interplay-study-" + page_data(html.read_text(encoding="utf-8"))["id"]
    with opened(html, tmp_path / "profile") as page:
        page.wait(READY)
        put(page, name, "{broken")
        assert "damaged" in page.run("document.getElementById('notice').textContent")
        assert page.run("document.getElementById('where').textContent") == "Pair 1 of 4"
