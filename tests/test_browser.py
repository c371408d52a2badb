"""A person's way: open the page, drop a workflow, press Run, look at the picture. In a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from comfy_server import ROOT, ComfyServer
from conftest import comfyui_path

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

DROP = """(() => {{
  const file = new File([{text}], "{name}.json", {{ type: "application/json" }});
  const data = new DataTransfer();
  data.items.add(file);
  const target = document.querySelector("#graph-canvas") ?? document.querySelector("canvas");
  const box = target.getBoundingClientRect();
  const where = {{ bubbles: true, cancelable: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }};
  for (const type of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(type, {{ ...where, dataTransfer: data }}));
}})()"""
FIND_RUN = """(() => {
  const marked = document.querySelector("[data-testid='queue-button'] button, button[data-testid='queue-button']");
  const named = [...document.querySelectorAll("button")].find((b) => /^(Run|Queue)$/.test(b.textContent.trim()));
  return marked ?? named;
})()"""
PROMPT = "a yellow cat chasing a blue ball in the snow"
OF_TYPE = "app.graph._nodes.filter((n) => n.type === '{type}')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    folder = tmp_path_factory.mktemp("browser")
    with ComfyServer(comfyui_path(), folder / "base") as server, Chromium(server.url, folder / "profile") as page:
        page.wait("!!(window.app?.graph && window.app?.extensionManager && document.querySelector('canvas'))", 240)
        yield page


def test_dropping_the_workflow_and_pressing_run_shows_pictures_and_reports(page: Chromium, tmp_path: Path) -> None:
    text = (ROOT / "workflows" / "shy_pixelworld.json").read_text(encoding="utf-8")
    page.run(DROP.format(text=json.dumps(text), name="shy_pixelworld"))
    page.wait(OF_TYPE.format(type="Interplay_ContrastLinkKSampler") + ".length === 1", 60)
    missing = page.run(
        "app.graph._nodes.filter((n) => n.has_errors || !n.constructor.nodeData && n.type !== 'MarkdownNote')"
        ".map((n) => n.type)"
    )
    assert missing == []
    widgets = page.run(
        OF_TYPE.format(type="Interplay_ContrastLinkKSampler") + "[0].widgets.map((w) => [w.name, w.value])"
    )
    assert ["preset", "SHY"] in widgets and ["strength", 1] in widgets and ["steps", 25] in widgets
    text_widget = OF_TYPE.format(type="Interplay_PromptToHypergraph") + "[0].widgets.find((w) => w.name === 'text')"
    page.run(f"{text_widget}.value = {json.dumps(PROMPT)}")
    page.wait(f"!!{FIND_RUN}", 60)
    page.run(f"{FIND_RUN}.click()")
    page.wait(
        OF_TYPE.format(type="SaveImage") + ".every((n) => n.imgs?.length || app.nodeOutputs[n.id]?.images?.length)", 240
    )
    report = page.wait(
        OF_TYPE.format(type="Interplay_PromptToHypergraph")
        + "[0].widgets.find((w) => w.name === 'interplay_report')?.value",
        60,
    )
    assert "chasing(cat, ball" in report
    saved = page.run("JSON.stringify(app.graph.serialize())")
    prompt_node = next(n for n in json.loads(saved)["nodes"] if n["type"] == "Interplay_PromptToHypergraph")
    assert len(prompt_node["widgets_values"]) == 4, "the report field must not be saved with the workflow"
    page.picture(Path(os.environ.get("INTERPLAY_SCREENSHOTS", tmp_path)) / "shy_pixelworld.png")
