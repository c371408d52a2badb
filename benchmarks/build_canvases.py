"""Run workflows in a real ComfyUI page and save how their canvas looks when all is done.

    COMFYUI_PATH=... python benchmarks/build_canvases.py --out DIR [NAME ...]

Needs Chromium and a ComfyUI with its requirements. Without names: every workflow of PixelWorld. With --still the page
finds empty files in the place of checkpoints, and so does not frame their loaders in red.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import conftest  # noqa: E402, F401  (makes `interplay` importable)
from chromium import Chromium  # noqa: E402
from comfy_page import ComfyPage  # noqa: E402
from comfy_server import ComfyServer  # noqa: E402

STARTED = "!!app.__begun"
BEGIN = "api = app.api; api.addEventListener('execution_success', () => { app.__begun = 'done' }); " + (
    "api.addEventListener('execution_error', (e) => { app.__begun = JSON.stringify(e.detail).slice(0, 900) })"
)
BOX = """(() => {
  const things = [...app.graph._nodes, ...app.graph._groups];
  const boxes = things.map(({ pos, size }) => [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]]);
  const low = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])) - 10);
  const high = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])) + 10);
  const frame = document.querySelector("#graph-canvas").getBoundingClientRect();
  const at = (p) => { const [x, y] = app.canvas.ds.convertOffsetToCanvas(p); return [x + frame.x, y + frame.y]; };
  return [...at(low), ...at(high), window.innerWidth];
})()"""


def canvas(page: ComfyPage, path: Path, seconds: float, still: bool) -> Image.Image:
    """Drop the workflow, press Run, wait until it is done, and crop the page to the graph. still: do not press Run."""
    page.drop(path)
    if still:
        page.page.run("new Promise((done) => setTimeout(done, 10000))")  # the dialog that greets may come late
    else:
        page.page.run(f"app.__begun = ''; {BEGIN}")
        page.press_run()
        page.page.wait(STARTED, seconds)
        said = page.page.run("app.__begun")
        if said != "done":
            raise SystemExit(f"{path.name}: {said}")
    page.fit()
    with tempfile.TemporaryDirectory() as folder:
        page.page.picture(Path(folder) / "page.png")
        picture = Image.open(io.BytesIO((Path(folder) / "page.png").read_bytes())).convert("RGB")
    left, top, right, bottom, width = page.page.run(BOX)
    scale = picture.width / width
    return picture.crop(tuple(round(v * scale) for v in (left, top, right, bottom)))


def stand_in(path: Path, base: Path) -> None:
    """Empty files under the names of the checkpoints that a workflow loads."""
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            file = base / "models" / "checkpoints" / node["widgets_values"][0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900, help="the longest that one workflow may take")
    parser.add_argument("--still", action="store_true", help="show the workflows without running them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.names or sorted(p.stem for p in (ROOT / "workflows").glob("*pixelworld*.json"))
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    with tempfile.TemporaryDirectory() as folder:
        base, profile = Path(folder) / "base", Path(folder) / "profile"
        paths = [ROOT / "workflows" / f"{name}.json" for name in names]
        for path in paths if options.still else ():
            stand_in(path, base)
        with ComfyServer(comfyui, base) as server, Chromium(server.url, profile) as browser:
            page = ComfyPage(browser)
            for path in paths:
                canvas(page, path, options.seconds, options.still).save(options.out / f"{path.stem}.png")


if __name__ == "__main__":
    main()
