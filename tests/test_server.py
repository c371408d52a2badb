"""The example workflows through a real, headless ComfyUI server."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfy_server import FOLDER, ROOT, ComfyServer, api_workflow, nodes_of
from conftest import comfyui_path
from PIL import Image

pytestmark = [pytest.mark.comfy, pytest.mark.server]

PIXEL = api_workflow("shy_pixelworld")
PROMPT, GUIDED = (
    nodes_of(PIXEL, "Interplay_PromptToHypergraph")[0],
    nodes_of(PIXEL, "Interplay_ContrastLinkKSampler")[0],
)
SAVE_PLAIN, SAVE_GUIDED = nodes_of(PIXEL, "SaveImage")
MAPS, DRAWING = nodes_of(PIXEL, "Interplay_AttentionMaps")[0], nodes_of(PIXEL, "Interplay_HypergraphPreview")[0]
IDS = set(json.loads((ROOT / "tests" / "data" / "object_info.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path(), tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


@pytest.fixture(scope="module")
def finished(server: ComfyServer) -> dict[str, Any]:
    """History of the PixelWorld workflow as it is shipped."""
    entry = server.run(PIXEL)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


def small() -> dict[str, Any]:
    """The PixelWorld workflow, one picture and few steps."""
    prompt = copy.deepcopy(PIXEL)
    for node in prompt.values():
        if "batch_size" in node["inputs"]:
            node["inputs"]["batch_size"] = 1
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 6
    return prompt


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.int16)


def test_the_pack_loads_under_any_folder_name_with_all_its_nodes(server: ComfyServer) -> None:
    info = server.get("/object_info")
    assert {id for id in info if id.startswith("Interplay_")} == IDS
    assert all(FOLDER in info[id]["python_module"] for id in IDS)


def test_the_workflow_draws_plain_and_guided_pictures_that_differ(
    server: ComfyServer, finished: dict[str, Any]
) -> None:
    plain, guided = server.pictures(finished, SAVE_PLAIN), server.pictures(finished, SAVE_GUIDED)
    assert len(plain) == len(guided) == 4
    assert {p.size for p in plain + guided} == {(128, 128)}
    assert all(array(p).std() > 10 for p in plain + guided), "a picture is all of one colour"
    assert any((array(p) != array(g)).any() for p, g in zip(plain, guided, strict=True))


def test_reports_graph_and_maps_reach_the_history(server: ComfyServer, finished: dict[str, Any]) -> None:
    outputs = finished["outputs"]
    report = "\n".join(outputs[GUIDED]["text"])
    assert "SHY" in report and "guided steps" in report
    understood = "\n".join(outputs[PROMPT]["text"])
    assert "carrying(robot, box" in understood and "tokens (l: 77)" in understood
    overlaps = "\n".join(outputs[MAPS]["text"])
    assert "'carrying' overlaps robot" in overlaps
    assert len(server.pictures(finished, MAPS)) == 7  # red robot carrying blue box forest, and the action
    assert server.pictures(finished, DRAWING)[0].size == (768, 448)


def test_strength_zero_gives_the_stock_sampler_s_pictures(server: ComfyServer) -> None:
    prompt = small()
    prompt[GUIDED]["inputs"]["strength"] = 0.0
    entry = server.run(prompt)
    plain, guided = server.pictures(entry, SAVE_PLAIN)[0], server.pictures(entry, SAVE_GUIDED)[0]
    assert (array(plain) == array(guided)).all()


def test_the_patch_before_the_stock_sampler_does_what_the_sampler_node_does(server: ComfyServer) -> None:
    prompt = small()
    direct = server.pictures(server.run(prompt), SAVE_GUIDED)[0]
    settings = prompt[GUIDED]["inputs"]
    patch_inputs = {
        "model": settings["model"],
        "preset": "SHY",
        "strength": 1.0,
        "start_percent": 0.0,
        "end_percent": 0.0,
    }
    prompt["patch"] = {"class_type": "Interplay_ContrastLinkGuidance", "inputs": patch_inputs}
    stock = {key: value for key, value in settings.items() if key not in ("preset", "strength")}
    prompt[GUIDED] = {"class_type": "KSampler", "inputs": {**stock, "model": ["patch", 0]}}
    for id in nodes_of(prompt, "PreviewAny"):
        del prompt[id]
    patched = server.pictures(server.run(prompt), SAVE_GUIDED)[0]
    assert (array(direct) == array(patched)).all()


def test_the_patch_workflow_runs_with_pixelworld_in_the_loader_s_place(server: ComfyServer) -> None:
    prompt = api_workflow("shy_sd15_patch")
    prompt[nodes_of(prompt, "CheckpointLoaderSimple")[0]] = {"class_type": "Interplay_PixelWorldLoader", "inputs": {}}
    prompt[nodes_of(prompt, "EmptyLatentImage")[0]]["inputs"] |= {"width": 128, "height": 128}
    prompt[nodes_of(prompt, "KSampler")[0]]["inputs"]["steps"] = 6
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert server.pictures(entry, nodes_of(prompt, "SaveImage")[0])[0].size == (128, 128)


def test_the_template_browser_lists_the_workflows_with_thumbnails(server: ComfyServer) -> None:
    listed = server.get("/api/workflow_templates")[FOLDER]
    assert set(listed) == {path.stem for path in (ROOT / "workflows").glob("*.json")}
    for name in listed:
        assert server.get(f"/api/workflow_templates/{FOLDER}/{name}.json")["version"] == 0.4
        assert server.read(f"/api/workflow_templates/{FOLDER}/{name}.jpg")[:2] == b"\xff\xd8"


def test_help_pages_and_the_script_are_served(server: ComfyServer) -> None:
    for id in IDS:
        page = server.read(f"/extensions/{FOLDER}/docs/{id}.md").decode()
        assert page.startswith("# ")
    assert any(path.endswith("/interplay.js") for path in server.get("/extensions"))


def sentence(message: str) -> str:
    """The message, if it is one sentence."""
    text = message.strip()
    assert text.endswith(".") and "\n" not in text, text
    return text


def test_an_override_with_a_foreign_word_names_the_nearest_words(server: ComfyServer) -> None:
    prompt = small()
    prompt[PROMPT]["inputs"]["override"] = "+ robt: red"
    error = server.error(prompt)
    assert error["node_type"] == "Interplay_PromptToHypergraph"
    assert "robot" in sentence(error["exception_message"])


def test_conditioning_without_a_hypergraph_is_refused_by_the_sampler_and_the_maps(server: ComfyServer) -> None:
    prompt = small()
    prompt["stock"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red robot"}}
    prompt[GUIDED]["inputs"]["positive"] = ["stock", 0]
    error = server.error(prompt)
    assert error["node_type"] == "Interplay_ContrastLinkKSampler"
    assert "Prompt to Hypergraph" in sentence(error["exception_message"])
    prompt = small()
    prompt["stock"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red robot"}}
    prompt[MAPS]["inputs"]["positive"] = ["stock", 0]
    for id in (SAVE_GUIDED, *nodes_of(prompt, "PreviewAny")):
        del prompt[id]
    error = server.error(prompt)
    assert error["node_type"] == "Interplay_AttentionMaps"
    assert "Prompt to Hypergraph" in sentence(error["exception_message"])


def test_a_window_without_room_is_refused(server: ComfyServer) -> None:
    prompt = small()
    inputs = {"model": ["1", 0], "preset": "SHY", "strength": 1.0, "start_percent": 0.9, "end_percent": 0.5}
    prompt["patch"] = {"class_type": "Interplay_ContrastLinkGuidance", "inputs": inputs}
    prompt[GUIDED]["inputs"]["model"] = ["patch", 0]
    error = server.error(prompt)
    assert error["node_type"] == "Interplay_ContrastLinkGuidance"
    assert "0.9" in sentence(error["exception_message"])


def refusal(server: ComfyServer, prompt: dict[str, Any], node: str) -> str:
    """What is said about a wrong value: before anything runs, or by the node itself (lists, on ComfyUI 0.3.64)."""
    prompt = {id: entry for id, entry in prompt.items() if id not in (SAVE_PLAIN, MAPS, DRAWING)}
    status, answer = server.post(prompt)
    if status == 200:
        error = server.wait_for_error(answer["prompt_id"])
        assert error["node_id"] == node
        return sentence(error["exception_message"])
    assert status == 400
    (problem,) = answer["node_errors"][node]["errors"]
    return f"{problem['message']} {problem['details']}"


def test_values_out_of_range_are_refused(server: ComfyServer) -> None:
    for name, value in (("strength", 11.0), ("preset", "SHYER"), ("sampler_name", "none"), ("scheduler", "none")):
        prompt = small()
        prompt[GUIDED]["inputs"][name] = value
        said = refusal(server, prompt, GUIDED)
        assert str(value) in said


def test_nothing_in_the_log_speaks_of_a_failed_import(server: ComfyServer) -> None:
    assert "IMPORT FAILED" not in server.log
    assert "Interplay could not be loaded" not in server.log
