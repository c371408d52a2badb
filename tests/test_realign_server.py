"""RealignDiff's fine stage through a real, headless ComfyUI server: node by node, and in one node."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfy_server import ComfyServer, api_workflow, nodes_of
from conftest import comfyui_path
from interplay.guidance.pixelworld.detect import judge

pytestmark = [pytest.mark.comfy, pytest.mark.server]
PROMPT = "a red robot and a blue box in the forest"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path(), tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def finished(server: ComfyServer, prompt: dict[str, Any]) -> dict[str, Any]:
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


def right(picture: Any) -> bool:
    return judge(PROMPT, np.asarray(picture)).all_right


def test_node_by_node_a_wrong_picture_is_mended_and_a_right_one_is_left_alone(server: ComfyServer) -> None:
    prompt = api_workflow("realign_pixelworld")
    entry = finished(server, prompt)
    (plain,) = server.pictures(entry, nodes_of(prompt, "PreviewImage")[0])
    (kept,) = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    assert not right(plain) and right(kept)
    (found,) = nodes_of(prompt, "Interplay_GroundObjects")
    (seen,) = nodes_of(prompt, "Interplay_TagImage")
    tags = entry["outputs"][seen]["text"][0].splitlines()[0].removeprefix("0: ")
    objects = json.loads(entry["outputs"][found]["text"][0])["pictures"][0]
    assert set(tags.split(", ")) == {"robot", "box"}
    assert [(o["phrase"], o["verdict"]) for o in objects["objects"]] == [("red robot", 2.0), ("blue box", 2.0)]

    for sampler in nodes_of(prompt, "KSampler"):
        prompt[sampler]["inputs"]["seed"] = RIGHT_SEED
    again = finished(server, prompt)
    (plain,) = server.pictures(again, nodes_of(prompt, "PreviewImage")[0])
    (kept,) = server.pictures(again, nodes_of(prompt, "SaveImage")[0])
    assert right(plain) and np.array_equal(np.asarray(plain), np.asarray(kept))
    assert found not in again["outputs"]  # the second was not even drawn


RIGHT_SEED = 4


def test_in_one_node_every_picture_gets_better_or_stays(server: ComfyServer) -> None:
    prompt = copy.deepcopy(api_workflow("realign_loop_pixelworld"))
    entry = finished(server, prompt)
    first = server.pictures(entry, nodes_of(prompt, "PreviewImage")[0])
    kept = server.pictures(entry, nodes_of(prompt, "SaveImage")[0])
    (shown,) = nodes_of(prompt, "PreviewAny")
    told = json.loads(entry["outputs"][shown]["text"][0])["pictures"]
    assert len(first) == len(kept) == len(told) == 4
    for before, after, one in zip(first, kept, told, strict=True):
        assert right(before) == (one["before"] == 1.0) and right(after) == (one["after"] == 1.0)
        assert one["after"] >= one["before"]
        assert np.array_equal(np.asarray(before), np.asarray(after)) == (one["kept"] == 0)
        assert len(one["tries"]) == 1 if right(before) else 1 < len(one["tries"]) <= 3
    assert sum(map(right, kept)) > sum(map(right, first))


def test_a_missing_model_is_said_in_one_sentence_before_anything_is_drawn(server: ComfyServer) -> None:
    prompt = copy.deepcopy(api_workflow("realign_loop_pixelworld"))
    (loop,) = nodes_of(prompt, "Interplay_RAMGroundedSAMReweight")
    prompt[loop]["inputs"] |= {"detector": "grounding-dino-tiny", "seed": 99}
    error = server.error(prompt)
    assert error["node_type"] == "Interplay_RAMGroundedSAMReweight"
    assert "The model grounding-dino-tiny for finding things is missing; put the files of" in error["exception_message"]
    assert "models/interplay/grounding-dino-tiny" in error["exception_message"].replace("\\", "/")
