"""ComfyUI's page, driven as a person would: drop a workflow, type, press Run, look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chromium import Chromium

READY = "!!(window.app?.graph && window.app?.extensionManager && document.querySelector('canvas'))"
DROP = """(() => {{
  const file = new File([{text}], {name}, {{ type: "application/json" }});
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
UNKNOWN = """app.graph._nodes.filter((n) => !n.constructor.nodeData && n.type !== 'MarkdownNote').map((n) => n.type)"""
LOADED = "app.graph._nodes.every((n) => !app.nodeOutputs[n.id]?.images || n.imgs?.every((i) => i.complete))"
PICTURES = "{nodes}.every((n) => n.imgs?.length || app.nodeOutputs[n.id]?.images?.length)"


class ComfyPage:
    """A page on which ComfyUI's frontend runs."""

    def __init__(self, page: Chromium) -> None:
        self.page = page
        page.wait(READY, 240)

    def nodes(self, kind: str) -> str:
        """JavaScript for the nodes of a type."""
        return f"app.graph._nodes.filter((n) => n.type === {json.dumps(kind)})"

    def widget(self, kind: str, name: str) -> str:
        """JavaScript for a widget of the first node of a type."""
        return f"{self.nodes(kind)}[0].widgets.find((w) => w.name === {json.dumps(name)})"

    def drop(self, path: Path) -> None:
        """Drop a workflow file on the canvas and wait until its nodes are there."""
        text = path.read_text(encoding="utf-8")
        wanted = len(json.loads(text)["nodes"])
        self.page.run(DROP.format(text=json.dumps(text), name=json.dumps(path.name)))
        self.page.wait(f"app.graph._nodes.length === {wanted}", 60)

    def unknown(self) -> list[str]:
        """Types of the nodes that the frontend does not know."""
        return list(self.page.run(UNKNOWN))

    def press_run(self) -> None:
        """Press the button that queues the workflow."""
        self.page.wait(f"!!{FIND_RUN}", 60)
        self.page.run(f"{FIND_RUN}.click()")

    def wait_for_pictures(self, kind: str, seconds: float) -> None:
        """Until every node of a type shows pictures."""
        self.page.wait(PICTURES.format(nodes=self.nodes(kind)), seconds)

    def saved(self, kind: str) -> dict[str, Any]:
        """The first node of a type as the workflow would be saved."""
        graph = json.loads(self.page.run("JSON.stringify(app.graph.serialize())"))
        return next(node for node in graph["nodes"] if node["type"] == kind)

    def fit(self) -> None:
        """Close the dialog that greets a new user and all messages, and show the whole graph."""
        self.page.run("app.extensionManager.toast?.removeAll?.()")
        for kind in ("keyDown", "keyUp"):
            self.page.send("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape", windowsVirtualKeyCode=27)
        self.page.run("new Promise((done) => setTimeout(done, 1000))")
        self.page.run("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.run("new Promise((done) => setTimeout(done, 1500))")
        self.page.wait(LOADED, 60)
        self.page.run("new Promise((done) => setTimeout(done, 1500))")
