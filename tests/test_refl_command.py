"""``interplay train refl`` and ``raft`` as they are called, on PixelWorld's own weights."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from interplay.cli import main
from interplay.errors import InterplayError
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.training import raft_command, refl_command
from interplay.guidance.training.lora import applied, load
from interplay.guidance.training.raft import RaftSettings
from interplay.guidance.training.refl import ReflSettings
from interplay.guidance.training.refl_options import pixelworld_prompts, training_prompts

PROMPT = "a red robot carrying a blue box"
COMMON = ("--watch-count", "2", "--steps", "2", "--rank", "2", "--validate-every", "1", "--validate-steps", "2")
REFL = ("--prompt-count", "2", "--batch", "2", "--ladder", "3", "--first", "1", "--last", "2", "--twins", "0")
TWINS = (*REFL[:6], "--first", "0", "--last", "1", "--twins", "2", "--points", "4", "--balance", "0", "--cfg", "2")
RAFT = ("--prompt-count", "2", "--batch", "2", "--pictures", "2", "--draw-steps", "2")


@pytest.mark.parametrize(("kind", "options"), [("refl", REFL), ("refl", TWINS), ("raft", RAFT)])
def test_a_run_by_command(kind, options, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", kind, "--out", str(out), *COMMON, *options]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    assert [v["step"] for v in report["validations"]] == [0, 1, 2] and report["steps"] == 2
    judged = [v["caption"] for v in report["validations"]]
    assert report["kept"] == judged.index(max(judged))
    assert f"the LoRA of step {report['kept']}" in capsys.readouterr().out
    assert (out / "samples/step_00002.png").is_file() and (out / "loss.png").read_bytes()[:4] == b"\x89PNG"
    pipeline, state = load_pixelworld(), load(out / "lora.safetensors")
    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        text = pipeline.encode_prompt(PROMPT, "cpu", 1, False)[0]
        before = pipeline.unet(x, t, text).sample
        with applied(pipeline.unet, state):
            after = pipeline.unet(x, t, text).sample
        assert torch.equal(pipeline.unet(x, t, text).sample, before)
    assert torch.equal(after, before) == (report["kept"] == 0)
    assert main(command) == 2 and "resume it or choose another folder" in capsys.readouterr().err


def test_the_caption_reward_trains_twins_alone(tmp_path, capsys):
    run = ["train", "refl", "--out", str(tmp_path / "run"), "--reward", "caption", *COMMON]
    assert main([*run, *REFL]) == 2 and "no gradient" in capsys.readouterr().err
    assert main([*run, *TWINS, "--judge", "itm"]) == 0
    held = torch.load(next((tmp_path / "run/points").glob("*.pt")), weights_only=True)
    assert held["how"]["judged"] == "caption" and held["leads"].abs().max() > 0
    for prompt, twin in held["texts"]:
        assert prompt in pixelworld_prompts(2, 4100) and sorted(prompt.split()) == sorted(twin.split()) != twin.split()


def test_twins_of_pixelworld_say_nothing_that_is_held_out():
    from interplay.guidance.training.pixelworld import says_held_out
    from interplay.guidance.training.twins import negatives_by_rule

    prompts = pixelworld_prompts(64, 4100)
    assert any(says_held_out(twin) for prompt in prompts for twin in negatives_by_rule(prompt))
    found = [twin for prompt in prompts for twin in refl_command._negatives(True)(prompt)]
    assert len(found) > 64 and not any(map(says_held_out, found))
    assert refl_command._negatives(False)("a red cup and a blue box") == ["a blue cup and a red box"]


def test_winners_become_training_data_for_the_trainer_with_negatives(tmp_path, capsys):
    from interplay.guidance.pixelworld.world import request
    from interplay.guidance.training.records import read_records
    from PIL import Image

    out = tmp_path / "run"
    assert (
        main(["train", "raft", "--out", str(out), "--draw-only", *RAFT, "--prompt-count", "6", "--winners", "1"]) == 0
    )
    assert "names 6 pictures of 6 prompts" in capsys.readouterr().out
    records = read_records(out / "data")
    assert {r.caption for r in records} == set(pixelworld_prompts(6, 4100))
    for r in records:
        words = sorted(r.caption.split())
        assert r.negatives and all(sorted(n.split()) == words and request(n) != request(r.caption) for n in r.negatives)
    part = torch.load(next((out / "winners/round_0").glob("*.pt")), weights_only=True)
    first = next(r for r in records if r.caption == part["prompts"][0])
    vae = load_pixelworld().vae
    with torch.no_grad():
        painted = vae.decode(part["latents"][0, :1] / vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    wanted = ((painted / 2 + 0.5).clamp(0, 1) * 255).round()
    assert float((torch.from_numpy(np.array(Image.open(first.image))).float() - wanted).abs().max()) <= 1
    run = ["train", "negatives-lora", "--out", str(tmp_path / "lora"), "--data", str(out / "data"), "--steps", "1"]
    assert main([*run, "--batch", "2", "--calibrate", "4", "--held-out", "0", "--rank", "2"]) == 0
    assert (tmp_path / "lora/lora.safetensors").is_file()


@pytest.mark.parametrize(
    ("presets", "kind"), [(refl_command.PRESETS, ReflSettings), (raft_command.PRESETS, RaftSettings)]
)
def test_presets_are_settings(presets, kind):
    for values in presets.values():
        kind(**values)
    plain = ReflSettings()
    assert (plain.ladder, plain.first, plain.last, plain.weight, plain.clip, plain.steps) == (40, 30, 39, 1e-3, 1, 100)


def test_trained_prompts_hold_nothing_out_and_are_not_those_of_the_proof():
    from interplay.guidance.pixelworld.world import PROMPT_SETS
    from interplay.guidance.training.pixelworld import says_held_out

    trained = pixelworld_prompts(256, 4100)
    assert len(set(trained)) == 256 and not any(map(says_held_out, trained))
    for name in ("actions", "actions held out", "two objects held out"):
        assert not set(trained) & set(PROMPT_SETS[name](128, 0)), name


def test_prompts_of_a_file_from_any_editor(tmp_path):
    for name, text in (("bom.txt", "\ufeffa cat\r\n\r\na dog\r\n"), ("plain.txt", "a cat\n  a dog\n")):
        (tmp_path / name).write_bytes(text.encode("utf-8"))
        arguments = argparse.Namespace(prompts=tmp_path / name, model="pixelworld")
        assert training_prompts(arguments) == ["a cat", "a dog"]
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(InterplayError, match="UTF-8"):
        training_prompts(argparse.Namespace(prompts=tmp_path / "bad.txt", model="pixelworld"))
