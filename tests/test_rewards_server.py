"""The workflow with captions, a mix of scores and a table, through a real, headless ComfyUI server."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import numpy as np
import pytest
from comfy_server import ComfyServer, api_workflow, nodes_of
from conftest import comfyui_path

pytestmark = [pytest.mark.comfy, pytest.mark.server]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path(), tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def test_captions_are_shown_and_the_best_by_the_mix_is_saved(server: ComfyServer) -> None:
    prompt = copy.deepcopy(api_workflow("caption_reward_pixelworld"))
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
        if node["class_type"] == "Interplay_DiffusionITM":
            node["inputs"]["levels"] = 4
        if node["class_type"] == "Interplay_AlignmentScores":
            node["inputs"]["csv_name"] = "interplay/scores"
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    (reward,), (itm,) = nodes_of(prompt, "Interplay_CaptionReward"), nodes_of(prompt, "Interplay_DiffusionITM")
    shown = entry["outputs"][reward]["text"][0].splitlines()
    assert len(shown) == 8 and all(" in the " in line for line in shown)
    scores = np.array([float(line.split(": ")[1].split(",")[0]) for line in shown])
    own = np.array(json.loads(entry["outputs"][itm]["text"][0])["comparable"])[:, 0]
    mix = sum((v - v.mean()) / v.std() for v in (scores, own))
    (everything,), (save,) = nodes_of(prompt, "PreviewImage"), nodes_of(prompt, "SaveImage")
    pictures, (best,) = server.pictures(entry, everything), server.pictures(entry, save)
    assert np.array_equal(np.asarray(best.convert("RGB")), np.asarray(pictures[int(mix.argmax())].convert("RGB")))
    (table,) = nodes_of(prompt, "Interplay_AlignmentScores")
    text = entry["outputs"][table]["text"][0]
    assert all(f"| {name} |" in text for name in ("itc", "tifa", "tifa_roles", "tifa_swapped", "tifa_pairs"))
    rows = (server.base / "output" / "interplay" / "scores_00001_.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 9 and rows[0].startswith("picture,batch,prompt,itc,")
