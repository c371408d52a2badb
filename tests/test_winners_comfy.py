"""Draw Winners on PixelWorld in the host: its pictures are the best there were, and make a LoRA with negatives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interplay.guidance.training.refl_model import draw
from interplay.guidance.training.refl_rewards import pixelworld_reward

pytestmark = pytest.mark.comfy

PROMPTS = ["a red robot carrying a blue box in the forest", "a yellow cat and a pink ball in the sea"]


@pytest.fixture(scope="module")
def loaded():
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    with torch.inference_mode():  # as ComfyUI's executor does
        yield load_pixelworld()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    import folder_paths

    for name in ("loras", "output"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    return tmp_path


def run_node(loaded, **changes):
    from interplay.nodes.refl import DrawWinners

    widgets = {
        "prompts": "\n".join(PROMPTS),
        "judge": "itm",
        "tie": "none",
        "matcher": "PixelWorld",
        "captioner": "PixelWorld",
        "encoder": "PixelWorld",
        "pictures": 4,
        "winners": 2,
        "keep": -1000.0,
        "width": 128,
        "height": 128,
        "steps": 4,
        "cfg": 3.0,
        "batch_of_pictures": 4,
        "seed": 5,
        "name": "tiny",
        "resume": False,
    }
    return DrawWinners.execute(*loaded, **{**widgets, **changes}).args


def test_the_best_pictures_come_with_their_captions(loaded, folders: Path):
    """Against drawing all and judging them by hand."""
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee

    images, captions, report = run_node(loaded)
    trainee = ModelTrainee(*loaded, PROMPTS, (128, 128))
    trainee.load()
    judge, wanted = pixelworld_reward("itm"), []
    for place, prompt in enumerate(PROMPTS):
        latents = draw(trainee, [prompt] * 4, [(5, "raft", 0, place, i) for i in range(4)], 4, 3.0)
        pictures = trainee.decode(latents).clamp(0, 1)
        rewards = judge(pictures, [prompt] * 4)
        best = rewards.argsort(descending=True)[:2]
        wanted += [(float(rewards[i]), prompt, pictures[i].movedim(0, -1)) for i in best]
    wanted.sort(key=lambda row: -row[0])
    assert captions.splitlines() == [prompt for _, prompt, _ in wanted]
    torch.testing.assert_close(images, torch.stack([picture for *_, picture in wanted]), atol=2e-3, rtol=0)
    said = json.loads(report)
    assert said["pictures"] == 8 and said["winners used"] == 4 and said["prompts used"] == 2
    assert said["mean reward of winners"] == pytest.approx(sum(r for r, *_ in wanted) / 4, abs=1e-3)
    keep = wanted[0][0] - 1e-4
    few, texts, _ = run_node(loaded, keep=keep, resume=True)
    assert len(few) == 1 and texts == wanted[0][1]


def test_winners_are_drawn_under_guidance(loaded, folders: Path):
    """Against drawing them so by hand."""
    from interplay.guidance.hosts.comfyui.refl import ModelTrainee

    prompt = "a purple cat chasing a green cat"
    images, *_ = run_node(loaded, prompts=prompt, pictures=2, winners=1, steps=8, guide="SHY")
    trainee = ModelTrainee(*loaded, [prompt], (128, 128))
    trainee.load()
    names, judge = [(5, "raft", 0, 0, i) for i in range(2)], pixelworld_reward("itm")
    for guide, same in (("SHY", True), ("", False)):
        pictures = trainee.decode(draw(trainee, [prompt] * 2, names, 8, 3.0, guide)).clamp(0, 1)
        best = pictures[int(judge(pictures, [prompt] * 2).argmax())].movedim(0, -1)
        assert torch.allclose(images[0], best, atol=2e-3) is same


def test_resume_takes_what_was_drawn_and_a_new_run_does_not(loaded, folders: Path, monkeypatch):
    from interplay.guidance.hosts.comfyui import winners

    first, *_ = run_node(loaded)
    monkeypatch.setattr(winners.ModelTrainee, "denoise", lambda *_: pytest.fail("drawn again"))
    again, *_ = run_node(loaded, resume=True)
    assert torch.equal(first, again)
    for change in ({"seed": 6}, {"tie": "likelihood"}, {"width": 64}):
        with pytest.raises(ValueError, match="other prompts, rewards, sizes"):
            run_node(loaded, resume=True, **change)
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        run_node(loaded)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": " \n"}, "no prompts to draw"),
        ({"tie": "itm"}, "'itm' judges already"),
        ({"winners": 4}, "4 winners of 4 pictures are no choice"),
        ({"keep": 500.0}, "No picture is good enough"),
        ({"matcher": "blip2-itm-vit-g"}, "is missing; put the files of"),
    ],
)
def test_one_sentence_for_what_cannot_be(loaded, folders: Path, changes, words):
    with pytest.raises(ValueError, match=words):
        run_node(loaded, **changes)


def test_winners_and_their_negatives_make_a_lora(loaded, folders: Path):
    """The nodes as a user wires them: Draw Winners, Negative Captions, Negative LoRA Trainer."""
    from interplay.nodes.training import NegativeCaptions, NegativeLoRATrainer

    import nodes as host_nodes

    images, captions, _ = run_node(loaded, judge="caption", tie="itm")
    made = NegativeCaptions.execute(
        source="text", text=captions, folder="", scenes=4, limit=4, ops="", mixed=True, positives=False, seed=0
    ).args[0]
    assert [r.caption for r in made.records] == captions.splitlines() and all(r.negatives for r in made.records)
    _, path, *_, report, lora = NegativeLoRATrainer.execute(
        *loaded,
        made,
        images,
        lora_name="winners",
        objective="contrast_hinge",
        steps=2,
        batch=2,
        learning_rate=1e-3,
        rank=2,
        targets="attn2",
        seed=0,
        resume=False,
        validate_every=2,
        save_every=2,
        hold_below=0.45,
        ghosts=0.5,
    ).args
    steps = (folders / "output/interplay_training/winners/metrics.jsonl").read_text().splitlines()
    assert any("ghosts" in json.loads(line) for line in steps)
    assert json.loads(report)["steps"] == 2 and Path(path) == folders / "loras/winners.safetensors"
    patched, _ = host_nodes.LoraLoader().load_lora(*loaded[:2], "winners.safetensors", 1.0, 0.0)
    assert len(patched.patches) == len(lora) // 3 == 28
