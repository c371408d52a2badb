"""The nodes Caption Reward and Alignment Scores in ComfyUI, on small random models of the real classes."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch

pytestmark = pytest.mark.comfy

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.rewards import caption, clip, matching, vqa  # noqa: E402
from PIL import Image  # noqa: E402

PROMPT = "a red robot carrying a blue box in the forest"


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).random((3, 40, 48, 3), dtype=np.float32))


@pytest.fixture(scope="module")
def pictures(images):
    return [Image.fromarray((i.numpy() * 255).round().astype(np.uint8)) for i in images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``models/interplay`` with one model of each kind."""
    import folder_paths
    from interplay.nodes import rewards

    root = tmp_path_factory.mktemp("models") / "interplay"
    tiny.clip(root / "clip-vit-large-patch14")
    tiny.blip2(root / "blip2-opt-2.7b", "Blip2ForConditionalGeneration")
    tiny.blip2(root / "blip2-itm-vit-g", "Blip2ForImageTextRetrieval")
    tiny.blip(root / "blip-vqa-base", "BlipForQuestionAnswering")
    tiny.bert(root / "my-encoder")
    rewards.register_folder()
    places = folder_paths.folder_names_and_paths["interplay"]
    before = list(places[0])
    places[0][:] = [str(root)]
    yield root
    places[0][:] = before


def outputs(found, names) -> dict:
    return dict(zip(names, found.args, strict=True))


def test_caption_reward_is_eq_4_of_the_models_in_the_folders(folder, images, pictures):
    from interplay.nodes.rewards import CaptionReward

    found = CaptionReward.execute(images, PROMPT, "blip2-opt-2.7b", "blip2-itm-vit-g", 12)
    scores, ranks, said, best, picture, report = found.args
    captioner = caption.load_captioner(str(folder / "blip2-opt-2.7b"), "cpu")
    assert said == caption.captions(captioner, caption.Style(max_new_tokens=12))(pictures)
    embed = caption.sentence_encoder(caption.load_encoder(str(folder / "blip2-itm-vit-g"), "cpu"))
    assert scores == pytest.approx((embed(said) * embed([PROMPT])).sum(-1).tolist(), abs=1e-5)
    assert ranks == [1 + sum(other > s for other in scores) for s in scores]
    assert best == int(np.argmax(scores)) and torch.equal(picture, images[best : best + 1])
    assert json.loads(report)["captions"] == said
    assert all(text in found.ui["text"][0] for text in said)


def test_given_captions_need_no_captioner_and_other_folders_can_be_chosen(folder, images):
    from interplay.nodes.rewards import CaptionReward

    assert "my-encoder" in CaptionReward.define_schema().inputs[3].options
    found = CaptionReward.execute(images, PROMPT, "blip2-flan-t5-xl", "my-encoder", 12, f"a cat\n{PROMPT}\na dog").args
    assert found[3] == 1 and found[0][1] == pytest.approx(1.0, abs=1e-5) and max(found[0][0], found[0][2]) < 0.999
    with pytest.raises(InterplayError, match="2 captions and 3 pictures"):
        CaptionReward.execute(images, PROMPT, "blip2-opt-2.7b", "my-encoder", 12, "a cat\na dog")


def test_a_missing_model_is_said_in_one_sentence(folder, images):
    from interplay.nodes.rewards import AlignmentScores, CaptionReward

    said = r"blip2-flan-t5-xl for captions is missing; put the files of huggingface.co/Salesforce/blip2-flan-t5-xl"
    with pytest.raises(InterplayError, match=said) as error:
        CaptionReward.execute(images, PROMPT, "blip2-flan-t5-xl", "my-encoder", 12)
    assert str(folder / "blip2-flan-t5-xl") in str(error.value)
    off = {"clip": "none", "matching": "none", "vqascore": "none", "tifa": "none"}
    with pytest.raises(InterplayError, match="Every score is set to none"):
        AlignmentScores.execute(images, PROMPT, "", **off)


def test_models_are_under_the_hosts_memory_management(folder, images):
    import comfy.model_management as manager
    from interplay.guidance.hosts.comfyui import scores

    scores.caption_readings(
        [Image.new("RGB", (32, 32))], [PROMPT], "blip2-opt-2.7b", "my-encoder", caption.Style(max_new_tokens=8)
    )
    held = [entry.model for entry in manager.current_loaded_models]
    opened = scores.opened("my-encoder", "comparing captions", caption.load_encoder)
    assert opened.managed.patcher in held
    manager.unload_all_models()
    assert opened.managed.patcher not in [entry.model for entry in manager.current_loaded_models]
    again = scores.caption_readings(
        [Image.new("RGB", (32, 32))], [PROMPT], "blip2-opt-2.7b", "my-encoder", caption.Style(max_new_tokens=8)
    )
    assert again[0].value is not None


def test_alignment_scores_are_those_of_the_scorers_and_make_a_table(folder, images, pictures, tmp_path):
    import folder_paths
    from interplay.nodes.rewards import COLUMNS, AlignmentScores

    chosen = {"clip": "clip-vit-large-patch14", "matching": "blip2-itm-vit-g"}
    chosen |= {"vqascore": "blip-vqa-base", "tifa": "blip-vqa-base"}
    kept = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    try:
        found = AlignmentScores.execute(images, PROMPT, "run/scores", images.flip(0), **chosen)
    finally:
        folder_paths.set_output_directory(kept)
    out = outputs(found, [*COLUMNS, "table", "csv", "report"])
    prompts = [PROMPT] * 3
    plain = clip.clip_scorer(str(folder / chosen["clip"])).score(pictures, prompts)
    assert out["clip"] == pytest.approx([r.value for r in plain], abs=1e-5)
    match = matching.itm_scorer(str(folder / chosen["matching"])).score(pictures, prompts)
    assert out["itm"] == pytest.approx([r.value for r in match], abs=1e-5)
    assert out["itc"] == pytest.approx([r.parts["itc"] for r in match], abs=1e-5)
    asked = vqa.tifa_scorer(str(folder / chosen["tifa"])).score(pictures, prompts)
    assert out["edges"] == pytest.approx([r.parts["edges"] for r in asked])
    rows = list(csv.DictReader(io.StringIO(out["csv"])))
    assert [row["batch"] for row in rows] == ["pictures"] * 3 + ["baseline"] * 3
    assert float(rows[0]["clip"]) == pytest.approx(float(rows[5]["clip"]), abs=1e-5)  # the same picture
    assert (tmp_path / "run" / "scores_00001_.csv").read_text(encoding="utf-8") == out["csv"]
    summary = {line["column"]: line for line in json.loads(out["report"])["summary"]}
    assert summary["clip"]["difference"] == pytest.approx(0.0, abs=1e-6)
    assert "clip_hessel" in out["table"] and "tifa_swapped" in out["table"]


def test_pixelworld_needs_no_download(images):
    """Rendered scenes under their own captions and under swapped ones, through both nodes."""
    from random import Random

    from interplay.guidance.pixelworld.render import enlarge, render
    from interplay.guidance.pixelworld.world import caption as plain
    from interplay.guidance.pixelworld.world import sample_scene
    from interplay.nodes.rewards import COLUMNS, AlignmentScores, CaptionReward

    rng = Random(3)
    scenes = [sample_scene(rng, "action", adorned=False) for _ in range(4)]
    batch = torch.from_numpy(np.stack([enlarge(render(scene)[0]) for scene in scenes]).astype(np.float32) / 255)
    prompts = [plain(scene) for scene in scenes]
    found = CaptionReward.execute(batch, "\n".join(prompts), "PixelWorld", "PixelWorld", 40)
    wrong = CaptionReward.execute(batch, "\n".join(prompts[1:] + prompts[:1]), "PixelWorld", "PixelWorld", 40)
    assert min(found.args[0]) > max(wrong.args[0])
    chosen = {"clip": "none", "matching": "PixelWorld", "vqascore": "none", "tifa": "PixelWorld"}
    out = outputs(
        AlignmentScores.execute(batch, "\n".join(prompts), "", **chosen), [*COLUMNS, "table", "csv", "report"]
    )
    assert out["tifa"] == out["edges"] == [1.0] * 4 and all(math.isnan(v) for v in out["clip"])
    assert min(out["itc"]) > 0.5
    with pytest.raises(InterplayError, match="knows no word"):
        CaptionReward.execute(batch, "the Eiffel Tower", "PixelWorld", "PixelWorld", 40)


def test_best_of_batch_takes_a_mix_with_the_caption_reward_and_refuses_an_empty_score():
    from interplay.nodes.scores import BestOfBatch

    batch = torch.rand(3, 8, 8, 3)
    weights = {f"weight_{i}": [1.0] for i in range(1, 5)}
    mixed = BestOfBatch.execute([0.1, 0.2, 0.3], [batch], score_2=[5.0, 1.0, 1.0], **{**weights, "weight_2": [2.0]})
    assert mixed.args[2] == 0
    with pytest.raises(InterplayError, match=r"score 2 .* no figure"):
        BestOfBatch.execute([0.1, 0.2, 0.3], [batch], score_2=[math.nan] * 3, **weights)


def test_questions_of_others_are_asked_instead(folder, images):
    from interplay.nodes.rewards import AlignmentScores

    asked = json.dumps([{"question": "Is there a cat?", "choices": ["yes", "no"], "answer": "no", "type": "object"}])
    chosen = {"clip": "none", "matching": "none", "vqascore": "none", "tifa": "blip-vqa-base"}
    report = json.loads(AlignmentScores.execute(images, PROMPT, "", questions=asked, **chosen).args[-1])
    assert all(text.startswith("Is there a cat?") and " / " not in text for text in report["notes"]["answers"])


def test_the_folder_is_registered_where_users_can_move_it():
    import folder_paths
    from interplay.guidance.hosts.comfyui.scores import FOLDER, register_folder

    register_folder()
    assert any(Path(p).name == "interplay" for p in folder_paths.get_folder_paths(FOLDER))
