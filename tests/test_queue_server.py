"""``interplay queue`` against a real ComfyUI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_server import ROOT, ComfyServer, nodes_of
from conftest import comfyui_path
from interplay import cli
from interplay.guidance.queueing import filled, read_workflow
from PIL import Image

pytestmark = [pytest.mark.comfy, pytest.mark.server]
SMALL = ["--set", "KSampler.steps=4", "--set", "Guided.steps=4", "--set", "EmptyLatentImage.batch_size=1"]
PROMPTS = ["a red robot carrying a blue box", "a green cat chasing a red ball"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui_path(), tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def queue(server: ComfyServer, out: Path, *more: str) -> int:
    return cli.main(["queue", "shy_pixelworld", *SMALL, "--server", server.url, "--out", str(out), *more])


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def asked_by_hand(server: ComfyServer, prompt: str, seed: int) -> list[np.ndarray]:
    """The same pictures through the tests' own client."""
    workflow = filled(read_workflow("shy_pixelworld"), prompt, seed)
    for node in workflow.values():
        for name, value in (("steps", 4), ("batch_size", 1)):
            if name in node["inputs"]:
                node["inputs"][name] = value
    entry = server.run(workflow)
    return [np.asarray(p) for node in nodes_of(workflow, "SaveImage") for p in server.pictures(entry, node)]


def test_every_prompt_is_drawn_with_every_seed_as_the_page_would_draw_it(server: ComfyServer, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    assert queue(server, tmp_path, "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "5", "--count", "2") == 0
    found = rows(tmp_path / "queue.jsonl")
    assert [(row["prompt"], row["seed"]) for row in found] == [(p, s) for p in PROMPTS for s in (5, 6)]
    assert all(len(row["files"]) == 2 and not row["error"] for row in found)
    assert any("guided steps" in text for texts in found[0]["texts"].values() for text in texts)
    for row in (found[0], found[3]):
        kept = [np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in row["files"]]
        for mine, theirs in zip(kept, asked_by_hand(server, row["prompt"], row["seed"]), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    listed = rows(tmp_path / "pictures.jsonl")
    assert [row["file"] for row in listed] == [name for row in found for name in row["files"]]
    assert cli.main(["score", str(tmp_path), "--jsonl", str(tmp_path / "pictures.jsonl"), "--captioner", "pixelworld",
                     "--caption-encoder", "pixelworld", "--out", str(tmp_path / "scores.csv")]) == 0  # fmt: skip
    assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(listed)


def test_what_is_there_is_not_drawn_again_and_what_is_lost_is(server: ComfyServer, tmp_path: Path) -> None:
    arguments = ("--prompt", PROMPTS[0], "--seeds", "1", "2")
    assert queue(server, tmp_path, *arguments) == 0
    known = len(server.get("/history"))
    assert queue(server, tmp_path, *arguments) == 0
    assert len(server.get("/history")) == known and len(rows(tmp_path / "queue.jsonl")) == 2
    lost = tmp_path / rows(tmp_path / "queue.jsonl")[1]["files"][0]
    before = lost.read_bytes()
    lost.unlink()
    assert queue(server, tmp_path, *arguments, "--seeds", "1", "2", "3") == 0
    assert len(rows(tmp_path / "queue.jsonl")) == 4 and lost.read_bytes() == before


def test_a_run_that_fails_is_told_and_the_others_are_drawn(
    server: ComfyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--set", "Interplay_PromptToHypergraph.override=+ riding(walrus, robot)"]
    assert queue(server, tmp_path, "--prompt", PROMPTS[0], "--prompt", "a walrus riding a red robot", *wrong) == 2
    assert "1 of 2 runs failed" in capsys.readouterr().err.splitlines()[-1]
    bad, good = rows(tmp_path / "queue.jsonl")
    assert "Interplay_PromptToHypergraph" in bad["error"] and "walrus" in bad["error"] and not bad["files"]
    assert not good["error"] and len(good["files"]) == 2


def test_a_workflow_that_comfyui_refuses_is_told_with_node_and_input(
    server: ComfyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert queue(server, tmp_path, "--set", "KSampler.sampler_name=no_such") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "KSampler" in error and "sampler_name" in error


def test_stopping_takes_only_its_own_runs_out_of_the_queue(server: ComfyServer, tmp_path: Path) -> None:
    # Where the tests run in a shell's background SIGINT is ignored, and children would inherit that.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys; "
    start += f"sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest; from interplay import cli; "
    command = [sys.executable, "-c", f"{start}sys.exit(cli.main(sys.argv[1:]))"]
    command += ["queue", "shy_pixelworld", "--server", server.url, "--out", str(tmp_path), "--count", "40"]
    known = set(server.get("/history"))
    process = subprocess.Popen([*command, "--set", "KSampler.steps=400"], stderr=subprocess.PIPE, env=os.environ)
    limit = time.monotonic() + 120
    while len(server.get("/queue")["queue_pending"]) < 1 and time.monotonic() < limit:
        time.sleep(0.2)
    status, answer = server.post(filled(read_workflow("shy_pixelworld"), PROMPTS[0], 77))
    assert status == 200, answer
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted" in error and b"Traceback" not in error
    assert server.wait(answer["prompt_id"])["status"]["status_str"] == "success"
    done = {id: entry["status"]["status_str"] for id, entry in server.get("/history").items() if id not in known}
    assert [id for id, status in done.items() if status == "success"] == [answer["prompt_id"]], done
    left = server.get("/queue")
    assert not left["queue_running"] and not left["queue_pending"]
