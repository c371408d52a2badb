"""The demo from its command line, on PixelWorld's own weights or on random ones of the same shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from interplay import cli
from interplay.errors import InterplayError
from interplay.guidance import demo, painting, pixelworld
from interplay.parsing import parse

COMMITTED = (Path(pixelworld.__file__).parent / "weights" / "unet" / "config.json").is_file()


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory) -> Path:
    """PixelWorld's models with random weights in the folder layout of the committed ones."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from interplay.guidance.pixelworld import autoencoder, export, network
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pixelworld")
    text = CLIPTextModel(CLIPTextConfig(**network.TEXT)).state_dict()
    unet = UNet2DConditionModel(**network.UNET).state_dict()
    vae = AutoencoderKL(**autoencoder.CONFIG)
    autoencoder.prepare(vae)
    tokenizer = Path(pixelworld.__file__).parent / "weights" / "tokenizer"
    export.export(folder, unet, text, vae.state_dict(), {}, tokenizer)
    return folder


@pytest.fixture
def random_pixelworld(random_weights, monkeypatch) -> None:
    """The command finds the random weights where the committed ones would be."""
    from interplay.guidance.hosts.diffusers import pixelworld as loader

    real = loader.weights_dir
    monkeypatch.setattr(loader, "weights_dir", lambda folder=None: real(folder or random_weights))


def run(*arguments: str) -> int:
    return cli.main(["demo", *arguments])


def test_the_demo_writes_a_sheet_and_a_report(random_pixelworld, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run("--host", "diffusers", "--steps", "6", "--seed", "5", "--out", str(out)) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["hypergraph"] == parse(demo.PROMPT).to_dict() and report["prompt"] == demo.PROMPT
    assert report["host"].startswith("diffusers ") and report["seed"] == 5 and report["steps"] == 6
    plain, guided = report["pictures"]["plain"], report["pictures"]["guided"]
    assert plain["guidance"]["guided_steps"] == 0 and guided["guidance"]["guided_steps"] >= 1
    assert guided["progress"]["C"] and all(0 <= p <= 1 for _, p in guided["progress"]["C"])
    for picture in (plain, guided):
        assert {"presence", "binding", "action_right", "text"} <= picture["verdict"].keys()
        assert picture["overlaps"][0].startswith("'carrying' overlaps robot") and picture["seconds"] > 0
    assert {"parse", "load", "all"} <= report["seconds"].keys() and report["settings"]["preset"] == "SHY"
    page = np.asarray(Image.open(out / "demo.png").convert("RGB"))
    assert page.shape[0] > 700 and page.shape[1] > 850 and page.std() > 20
    spoken = capsys.readouterr()
    assert "through diffusers" in spoken.out and "robot: red" in spoken.out
    assert "plain picture" in spoken.err and "guided picture" in spoken.err


def test_the_same_seed_gives_the_same_pictures_and_strength_zero_the_plain_one(random_pixelworld, tmp_path):
    pages = []
    for name in ("a", "b"):
        run("--host", "diffusers", "--steps", "4", "--out", str(tmp_path / name))
        pages.append(np.asarray(Image.open(tmp_path / name / "demo.png")))
    assert np.array_equal(*pages)
    painter, _ = painting.find_painter("diffusers")
    graph = parse(demo.PROMPT)
    drawn = {}
    for strength in (0.0, 10.0):
        config = demo.preset("SHY", strength=strength)
        drawn[strength] = painter.paint(painting.Task(graph, config, steps=4), lambda done, total: None)
    plain = painter.paint(painting.Task(graph, demo.preset("CONFORM", strength=0.0), steps=4), lambda done, total: None)
    assert np.array_equal(np.asarray(plain.image), np.asarray(drawn[0.0].image))
    assert not np.array_equal(np.asarray(plain.image), np.asarray(drawn[10.0].image))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a red robot", "fewer than two things"),
        ("a wizard greets a red robot", "never saw 'wizard', 'greets'"),
        ("of", "fewer than two things"),
    ],
)
def test_odd_prompts_get_a_sentence_and_a_picture(prompt, said, random_pixelworld, tmp_path, capsys):
    assert run(prompt, "--host", "diffusers", "--steps", "4", "--out", str(tmp_path)) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert any(said in note for note in report["notes"]) and said in capsys.readouterr().out
    assert ("guided" in report["pictures"]) == (prompt == "a wizard greets a red robot")
    assert Image.open(tmp_path / "demo.png").size[0] > 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("",), "The prompt is empty"),
        (("  \n",), "The prompt is empty"),
        (("x", "--seed", "-1"), "The seed is -1"),
        (("x", "--seed", "one"), "invalid int value"),
        (("x", "--steps", "1"), "number of steps is 1"),
        (("x", "--cfg", "0"), "cfg is 0"),
        (("x", "--preset", "BEST"), "no guidance preset called 'BEST'"),
        (("x", "--strength", "-1"), "strength is -1"),
        (("x", "--host", "webui"), "webui"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(arguments, said, tmp_path, capsys):
    assert run(*arguments, "--out", str(tmp_path / "out")) == 2
    spoken = capsys.readouterr().err.strip()
    assert said in spoken and len(spoken.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_and_damaged_weights_are_named(random_weights, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("a red robot", "--out", str(tmp_path / "file")) == 2
    assert "Nothing can be written to" in capsys.readouterr().err
    import shutil

    from interplay.guidance.hosts.diffusers import pixelworld as loader

    broken = shutil.copytree(random_weights, tmp_path / "broken")
    with open(broken / "unet" / "diffusion_pytorch_model.safetensors", "r+b") as file:
        file.truncate(1000)
    real = loader.weights_dir
    monkeypatch.setattr(loader, "weights_dir", lambda folder=None: real(folder or broken))
    assert run("a red robot", "--host", "diffusers", "--out", str(tmp_path / "out")) == 2
    assert "is damaged" in capsys.readouterr().err


def test_without_comfyui_the_demo_says_why_it_draws_through_diffusers(random_pixelworld, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    assert run("a red robot", "--steps", "4", "--out", str(tmp_path)) == 0
    assert f"through diffusers, because there is no ComfyUI in {tmp_path / 'nowhere'}" in capsys.readouterr().out
    assert run("a red robot", "--host", "comfyui", "--out", str(tmp_path)) == 2
    assert "ComfyUI cannot be used: there is no ComfyUI in" in capsys.readouterr().err


def test_a_comfyui_that_cannot_be_imported_is_named_as_the_reason(random_pixelworld, monkeypatch):
    def broken():
        raise ImportError("no module named 'comfy.options'")

    monkeypatch.setattr(painting, "why_no_comfyui", lambda: None)
    monkeypatch.setattr(painting, "enter_comfyui", broken)
    painter, how = painting.find_painter("auto")
    assert painter.name.startswith("diffusers") and "cannot be imported (no module named 'comfy.options')" in how
    with pytest.raises(InterplayError, match="cannot be imported"):
        painting.find_painter("comfyui")


@pytest.mark.comfy
def test_both_hosts_draw_the_same_pictures(random_weights, monkeypatch):
    painting.enter_comfyui()
    from interplay.guidance.hosts.comfyui import pixelworld as comfy_loader
    from interplay.guidance.hosts.diffusers import pixelworld as loader

    real = loader.weights_dir
    for module in (loader, comfy_loader):
        monkeypatch.setattr(module, "weights_dir", lambda folder=None: real(folder or random_weights))
    graph, drawn = parse(demo.PROMPT), {}
    for host in ("comfyui", "diffusers"):
        painter = painting._painter(host)
        for strength in (0.0, 3.0):
            steps: list[tuple[int, int]] = []
            task = painting.Task(graph, demo.preset("SHY", strength=strength, end=0.7), seed=4, steps=6)
            drawn[host, strength] = painter.paint(task, lambda done, total, to=steps: to.append((done, total)))
            assert steps[-1] == (6, 6)
    gaps = []
    for strength in (0.0, 3.0):
        one, other = drawn["comfyui", strength], drawn["diffusers", strength]
        assert one.graph.positions == other.graph.positions
        np.testing.assert_allclose(one.maps, other.maps, rtol=0.02, atol=1e-4)
        gap = np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image).astype(int))
        gaps.append(gap.mean())
    moved = [np.asarray(drawn["diffusers", s].image).astype(int) for s in (0.0, 3.0)]
    # of 255: the hosts interpolate sigmas between whole timesteps a little differently
    assert max(gaps) < 2 < 6 < np.abs(moved[0] - moved[1]).mean()


@pytest.mark.skipif(not COMMITTED, reason="PixelWorld's weights are not there yet")
def test_the_committed_weights_draw_what_is_asked_often_enough_to_see(tmp_path):
    painter, _ = painting.find_painter("diffusers")
    from interplay.guidance.pixelworld.detect import judge

    right = 0
    for seed in range(4):
        prompt = ("a red robot in the forest", "a blue box in the city")[seed % 2]
        task = painting.Task(parse(prompt), demo.preset("SHY", strength=0.0), seed)
        right += judge(prompt, painter.paint(task, lambda done, total: None).image).presence == 1.0
    assert right >= 2
