"""Best of a batch, and trying until it is good, through a real, headless ComfyUI server."""

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path(), tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def quick(name: str) -> dict[str, Any]:
    prompt = copy.deepcopy(api_workflow(name))
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
        if node["class_type"] == "Interplay_DiffusionITM":
            node["inputs"]["levels"] = 4
    return prompt


def finished(server: ComfyServer, prompt: dict[str, Any]) -> dict[str, Any]:
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_the_saved_picture_is_the_best_by_score_and_p(server: ComfyServer) -> None:
    prompt = quick("best_of_batch_pixelworld")
    entry = finished(server, prompt)
    (itm,), (save,) = nodes_of(prompt, "Interplay_DiffusionITM"), nodes_of(prompt, "SaveImage")
    report = json.loads(entry["outputs"][itm]["text"][0])
    mixed = standard(np.array(report["comparable"])[:, 0]) + standard(np.array(report["p_match"]))
    assert all(draws == [4, 4, 4] for draws in report["draws"])
    everything, heat = nodes_of(prompt, "PreviewImage")
    pictures, (best,) = server.pictures(entry, everything), server.pictures(entry, save)
    assert len(pictures) == len(server.pictures(entry, heat)) == 8
    assert np.array_equal(np.asarray(best.convert("RGB")), np.asarray(pictures[int(mixed.argmax())].convert("RGB")))
    assert report["texts"][0] == "a green cat chasing a red robot in the desert"
    assert report["texts"][1] == "a red robot chasing a green cat in the desert"


@pytest.mark.parametrize(("threshold", "tries"), [(-1.0, 1), (2.0, 4)])
def test_tries_run_only_while_the_threshold_is_not_reached(server: ComfyServer, threshold: float, tries: int) -> None:
    prompt = quick("until_good_pixelworld")
    scorers = nodes_of(prompt, "Interplay_DiffusionITM")
    prompt[nodes_of(prompt, "Interplay_FirstGoodTry")[0]]["inputs"]["threshold"] = threshold
    for id in scorers:
        prompt[id]["inputs"]["noise_seed"] = 7 + tries  # nothing may come from the cache
    entry = finished(server, prompt)
    ran = [id for id in scorers if id in entry["outputs"]]
    assert ran == scorers[:tries]
    chances = [json.loads(entry["outputs"][id]["text"][0])["p_match"][0] for id in ran]
    shown, number = (entry["outputs"][id]["text"][0] for id in nodes_of(prompt, "PreviewAny"))
    assert float(shown) == pytest.approx(max(chances), abs=1e-5)
    assert int(number) == 1 + int(np.argmax(chances))
