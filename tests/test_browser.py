"""A person's way: open the page, drop a workflow, press Run, look at the picture. In a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from comfy_page import ComfyPage
from comfy_server import ROOT, ComfyServer
from conftest import comfyui_path

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

PROMPT_NODE, SAMPLER = "Interplay_PromptToHypergraph", "Interplay_ContrastLinkKSampler"
PROMPT = "a yellow cat chasing a blue ball in the snow"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    folder = tmp_path_factory.mktemp("browser")
    checkpoints = folder / "base" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "v1-5-pruned-emaonly-fp16.safetensors").touch()  # so that the page does not ask for it
    with ComfyServer(comfyui_path(), folder / "base") as server, Chromium(server.url, folder / "profile") as browser:
        yield ComfyPage(browser)


def test_dropping_the_workflow_and_pressing_run_shows_pictures_and_reports(page: ComfyPage, tmp_path: Path) -> None:
    page.drop(ROOT / "workflows" / "shy_pixelworld.json")
    assert page.unknown() == []
    widgets = page.page.run(f"{page.nodes(SAMPLER)}[0].widgets.map((w) => [w.name, w.value])")
    assert ["preset", "SHY"] in widgets and ["strength", 1] in widgets and ["steps", 25] in widgets
    page.page.run(f"{page.widget(PROMPT_NODE, 'text')}.value = {json.dumps(PROMPT)}")
    page.press_run()
    page.wait_for_pictures("SaveImage", 400)
    report = page.page.wait(f"{page.widget(PROMPT_NODE, 'interplay_report')}?.value", 60)
    assert "chasing(cat, ball" in report
    assert len(page.saved(PROMPT_NODE)["widgets_values"]) == 4, "the report field must not be saved with the workflow"
    page.wait_for_pictures("Interplay_AttentionMaps", 200)
    page.fit()
    page.page.picture(Path(os.environ.get("INTERPLAY_SCREENSHOTS", tmp_path)) / "shy_pixelworld.png")


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_every_workflow_loads_with_its_values_in_place(page: ComfyPage, path: Path, tmp_path: Path) -> None:
    page.drop(path)
    assert page.unknown() == []
    written = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    for kind in {node["type"] for node in written if node["type"].startswith("Interplay_")}:
        values = next(node["widgets_values"] for node in written if node["type"] == kind)
        assert page.saved(kind).get("widgets_values", []) == values, kind
    page.fit()
    page.page.picture(Path(os.environ.get("INTERPLAY_SCREENSHOTS", tmp_path)) / f"{path.stem}_canvas.png")
