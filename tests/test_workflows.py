"""The example workflows: both formats say the same, and they fit the nodes as published."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
UI_FILES = sorted((ROOT / "workflows").glob("*.json"))
SNAPSHOT = json.loads((ROOT / "tests" / "data" / "object_info.json").read_text(encoding="utf-8"))


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_workflows", ROOT / "benchmarks" / "build_workflows.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


KINDS = builder().own_kinds() | builder().STOCK


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def api_of(path: Path) -> dict[str, Any]:
    return load(path.parent / "api" / path.name)


def test_there_are_workflows_and_files_are_what_the_description_says() -> None:
    assert len(UI_FILES) >= 3
    written = builder().files()
    assert {p for p in written if p.parent.name == "workflows"} == set(UI_FILES)
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python benchmarks/build_workflows.py"


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_ui_nodes_are_known_and_have_a_value_for_each_widget(path: Path) -> None:
    for node in load(path)["nodes"]:
        kind = KINDS[node["type"]]
        assert len(node["widgets_values"]) == len(kind.widgets), node["type"]
        sockets = [(i["name"], i["type"]) for i in node["inputs"] if "widget" not in i]
        assert sockets == list(kind.sockets)
        if node["type"].startswith("Interplay_"):
            assert node["properties"]["cnr_id"] == "interplay"
            assert node["properties"]["ver"]


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_links_agree_at_both_ends(path: Path) -> None:
    graph = load(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    seen = set()
    for link, source, out_slot, target, in_slot, kind in graph["links"]:
        output, socket = nodes[source]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert link in output["links"]
        assert socket["link"] == link
        assert kind in ("*", output["type"])
        assert socket["type"] in ("*", output["type"])
        seen.add(link)
    assert len(seen) == len(graph["links"]) <= graph["last_link_id"]


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_api_and_ui_format_say_the_same(path: Path) -> None:
    graph, api = load(path), api_of(path)
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    said = {}
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        inputs = dict(zip(KINDS[node["type"]].widgets, node["widgets_values"], strict=True))
        inputs.pop("control_after_generate", None)
        inputs |= {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        said[str(node["id"])] = (node["type"], inputs)
    assert {id: (entry["class_type"], entry["inputs"]) for id, entry in api.items()} == said


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_required_inputs_are_there_and_values_are_within_bounds(path: Path) -> None:
    for entry in api_of(path).values():
        info = SNAPSHOT.get(entry["class_type"])
        if info is None:
            continue
        known = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert set(info["input"].get("required", {})) <= set(entry["inputs"]) <= set(known)
        for name, value in entry["inputs"].items():
            _, options = known[name]
            if "options" in options:
                assert value in options["options"], name
            if "min" in options:
                assert options["min"] <= value <= options["max"], name


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_every_workflow_has_a_thumbnail_and_a_note(path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(path.with_suffix(".jpg")) as picture:
        assert min(picture.size) >= 128
    assert any(node["type"] == "MarkdownNote" and node["widgets_values"][0].strip() for node in load(path)["nodes"])


@pytest.mark.parametrize("path", UI_FILES, ids=lambda p: p.stem)
def test_nodes_of_a_workflow_do_not_overlap(path: Path) -> None:
    boxes = [(n["id"], *n["pos"], *n["size"]) for n in load(path)["nodes"]]
    for i, (a, x, y, w, h) in enumerate(boxes):
        for b, x2, y2, w2, h2 in boxes[i + 1 :]:
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 - 30 or y2 + h2 <= y - 30
            assert apart, f"nodes {a} and {b} overlap"
