"""The workflows of RealignDiff on ComfyUI's page: after a run every node still lies in its group, and on no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from comfy_page import ComfyPage
from comfy_server import ComfyServer
from conftest import ROOT, comfyui_path

pytestmark = [pytest.mark.comfy, pytest.mark.server, pytest.mark.browser]
DONE = "app.__done = ''; app.api.addEventListener('execution_success', () => { app.__done = 'yes' });"
BOXES = """(() => {
  const box = ({ pos, size }, title) => [pos[0], pos[1] - title, pos[0] + size[0], pos[1] + size[1]];
  const nodes = app.graph._nodes.map((n) => [n.title, ...box(n, 30)]);
  return [nodes, app.graph._groups.map((g) => box(g, 0))];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    pytest.importorskip("websocket")
    base = tmp_path_factory.mktemp("comfyui")
    with ComfyServer(comfyui_path(), base / "base") as server, Chromium(server.url, base / "profile") as browser:
        yield ComfyPage(browser)


def apart(a: list[Any], b: list[Any]) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("name", ["reweight_pixelworld", "realign_pixelworld", "realign_loop_pixelworld"])
def test_nodes_that_grew_stay_in_their_groups(page: ComfyPage, name: str) -> None:
    page.drop(ROOT / "workflows" / f"{name}.json")
    before = {title: box for title, *box in page.page.run(BOXES)[0]}
    page.page.run(DONE)
    page.press_run()
    page.page.wait("app.__done === 'yes'", 300)
    page.fit()
    nodes, groups = page.page.run(BOXES)
    assert any(box != before[title] for title, *box in nodes) or name == "realign_loop_pixelworld"
    for title, *box in nodes:
        within = [g for g in groups if g[0] <= box[0] and g[1] <= box[1] and box[2] <= g[2] and box[3] <= g[3]]
        assert within, f"{title} has outgrown its group: {box}"
    for i, (title, *box) in enumerate(nodes):
        assert all(apart(box, other) for _, *other in nodes[i + 1 :]), f"{title} lies on another node"
