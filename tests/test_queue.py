"""Filling workflows in API format: where prompts, seeds and values go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ROOT, api_workflow
from interplay import cli
from interplay.errors import InterplayError
from interplay.guidance.queueing import Change, filled, prompt_of, read_workflow, seed_of

NAMES = sorted(file.stem for file in (ROOT / "workflows" / "api").glob("*.json"))
OTHER = "a red cat pushing a blue ball in the snow"


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Node and input of all that was changed, with the new value."""
    assert before.keys() == after.keys()
    return {
        (id, name): after[id]["inputs"][name]
        for id in before
        for name in before[id]["inputs"]
        if after[id]["inputs"][name] != before[id]["inputs"][name]
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_and_a_seed_reach_every_shipped_workflow(name: str) -> None:
    workflow = read_workflow(name)
    assert workflow == api_workflow(name)
    changed = differences(workflow, filled(workflow, OTHER, 1234))
    old = prompt_of(workflow)
    stood = {(id, key) for id, node in workflow.items() for key, value in node["inputs"].items() if value == old}
    assert {place for place, value in changed.items() if value == OTHER} == stood
    rest = {key for (_, key), value in changed.items() if value != OTHER}
    assert rest == {"seed"} and min(v for v in changed.values() if v != OTHER) == 1234


def test_samplers_that_shared_a_seed_still_do_and_tries_keep_their_distance() -> None:
    shared = filled(read_workflow("shy_pixelworld"), None, 90)
    assert [node["inputs"]["seed"] for node in shared.values() if "seed" in node["inputs"]] == [90, 90]
    tries = filled(read_workflow("until_good_pixelworld"), None, 50)
    assert [node["inputs"]["seed"] for node in tries.values() if "seed" in node["inputs"]] == [50, 51, 52, 53]
    noise = [node["inputs"]["noise_seed"] for node in tries.values() if "noise_seed" in node["inputs"]]
    assert noise == [0, 0, 0, 0], "the scorer's noise is not the picture's"


def test_seeds_wrap_where_the_host_ends() -> None:
    tries = filled(read_workflow("until_good_pixelworld"), None, 2**64 - 2)
    assert [n["inputs"]["seed"] for n in tries.values() if "seed" in n["inputs"]] == [2**64 - 2, 2**64 - 1, 0, 1]


def test_the_positive_prompt_is_found_behind_controlnet_and_never_the_negative() -> None:
    workflow: dict[str, Any] = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 1]}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["9", 1]}},
        "3": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["2", 0], "negative": ["1", 0]}},
        "4": {"class_type": "KSampler", "inputs": {"positive": ["3", 0], "negative": ["3", 1], "latent_image": ["8", 0],
                                                   "seed": 3}},
    }  # fmt: skip
    assert prompt_of(workflow) == "a cat" and seed_of(workflow) == 3
    assert differences(workflow, filled(workflow, "a dog", 7)) == {("2", "text"): "a dog", ("4", "seed"): 7}


def test_values_are_put_by_id_title_and_type() -> None:
    workflow = read_workflow("shy_pixelworld")
    changes = tuple(
        Change.read(text) for text in ("4.batch_size=1", "Guided.steps=9", "KSampler.sampler_name=dpmpp_2m")
    )
    assert set(differences(workflow, filled(workflow, None, None, changes)).values()) == {1, 9, "dpmpp_2m"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing_like_it"], "There is no workflow 'nothing_like_it'"),
        (["shy_pixelworld", "--set", "steps=3"], "write NODE.INPUT=VALUE"),
        (["shy_pixelworld", "--set", "Nobody.steps=3"], "has no node 'Nobody'"),
        (["shy_pixelworld", "--set", "Plain.stepz=3"], "has no input 'stepz'"),
        (["shy_pixelworld", "--set", "Plain.model=3"], "comes from another node"),
        (["shy_pixelworld", "--count", "0"], "ask for one seed or more"),
        (["shy_pixelworld", "--count", "2", "--seeds", "1", "2"], "either --seeds"),
        (["shy_pixelworld", "--prompts", "no_such_file.txt"], "cannot be read"),
        (["shy_pixelworld", "--server", "ftp://example.org"], "no address of a ComfyUI"),
        (["shy_pixelworld", "--server", "127.0.0.1:9"], "start it, or name another with --server"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["queue", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_workflow_of_the_page_is_refused_with_the_way_to_export_it(tmp_path: Path) -> None:
    page = ROOT / "workflows" / "shy_pixelworld.json"
    with pytest.raises(InterplayError, match="Export \\(API\\)"):
        read_workflow(str(page))
    for text in ("[]", "{}", json.dumps({"1": {"class_type": "KSampler"}}), "{"):
        (tmp_path / "w.json").write_text(text, encoding="utf-8")
        with pytest.raises(InterplayError, match=r"export"):
            read_workflow(str(tmp_path / "w.json"))


def test_a_workflow_without_prompt_or_seed_says_where_to_put_them() -> None:
    workflow = {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64}}}
    with pytest.raises(InterplayError, match=r"--set NODE\.text"):
        filled(workflow, "a cat", None)
    with pytest.raises(InterplayError, match=r"--set NODE\.seed"):
        filled(workflow, None, 3)
