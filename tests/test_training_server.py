"""The workflow a newcomer runs first, through a real, headless ComfyUI server: a LoRA is trained, and drawn with."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfy_server import ComfyServer, api_workflow, nodes_of
from conftest import comfyui_path

pytestmark = [pytest.mark.comfy, pytest.mark.server]

SHORT = {
    "Interplay_NegativeCaptions": {"scenes": 16},
    "Interplay_NegativeLoRATrainer": {
        "steps": 3, "batch": 2, "validate_every": 3, "save_every": 3, "learning_rate": 0.01, "margin_k": 3.0,
        "ghosts": 0.05,
    },
    "KSampler": {"steps": 4},
    "EmptyLatentImage": {"batch_size": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfyui") / "base"
    with ComfyServer(comfyui_path(), base) as running:
        yield running


def pixels(server: ComfyServer, entry: dict[str, Any], node: str) -> np.ndarray:
    (picture,) = server.pictures(entry, node)
    return np.asarray(picture.convert("RGB"))


def test_a_lora_is_trained_drawn_with_and_read_whole_by_load_lora(server: ComfyServer) -> None:
    prompt = copy.deepcopy(api_workflow("negative_lora_pixelworld"))
    for node in prompt.values():
        node["inputs"] |= SHORT.get(node["class_type"], {})
    (trainer,), (told,), (saved,) = (
        nodes_of(prompt, kind) for kind in ("Interplay_NegativeLoRATrainer", "PreviewAny", "SaveImage")
    )
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    report = json.loads(entry["outputs"][told]["text"][0])
    assert report["steps"] == report["kept"] == 3 and report["layers"] == 28 and report["objective"] == "contrast_hinge"
    after = pixels(server, entry, saved)

    before = len(server.log)
    loader = {"model": prompt[trainer]["inputs"]["model"], "lora_name": report["lora"], "strength_model": 1.0}
    again = {key: node for key, node in prompt.items() if key not in (trainer, told)}
    again = {key: node for key, node in again.items() if node["class_type"] != "PreviewImage"}
    again[trainer] = {"class_type": "LoraLoaderModelOnly", "inputs": loader}
    loaded = server.run(again)
    assert loaded["status"]["status_str"] == "success", loaded["status"]
    assert "not loaded" not in server.log[before:]
    assert np.array_equal(pixels(server, loaded, saved), after)
    again[trainer]["inputs"]["strength_model"] = 0.0
    assert not np.array_equal(pixels(server, server.run(again), saved), after)
