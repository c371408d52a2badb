"""Small models of the published scorers' classes: what they are made of, what they learn, and how they are read."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from interplay.guidance.pixelworld.caption_data import Lesson, _write_pool, rendered
from interplay.guidance.pixelworld.detect import detect
from interplay.guidance.pixelworld.render import enlarge, render
from interplay.guidance.pixelworld.world import KINDS, caption, sample_scene
from interplay.guidance.rewards import caption as captioning
from interplay.guidance.rewards import clip, matching, small_models, small_models_train, vqa
from interplay.guidance.rewards.answers import questions_of
from interplay.guidance.rewards.pixelworld import answer
from interplay.guidance.rewards.small_models_lessons import asked_about, look, truth

SCENES = [sample_scene(Random(i), kind) for i, kind in enumerate(KINDS * 3)]


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """(4, 3, 32, 32) in 0..1."""
    shown = [render(scene)[0] for scene in SCENES[:4]]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def eye() -> torch.nn.Module:
    return small_models.build("blip-itm", seed=1).get_submodule("vision_model").eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All five, untrained, saved and read as any folder is."""
    root = tmp_path_factory.mktemp("small")
    for name in small_models.CLASSES:
        small_models.save(name, small_models.build(name), root / name)
    return root


def as_images(pictures: torch.Tensor) -> list[Image.Image]:
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(enlarge(picture)) for picture in pixels]


def test_training_sees_pictures_as_the_processors_prepare_them(folders, pictures):
    for name, load in (("clip", clip.load_clip), ("blip-itm", matching.load_matcher)):
        found = load(str(folders / name)).pixels(as_images(pictures))
        assert torch.allclose(found, small_models.prepared(pictures), atol=1e-5)


@torch.no_grad()
def test_blip2_sees_with_blips_eye_and_clip_nearly_so(eye, pictures):
    shown = small_models.prepared(pictures)
    expected = eye(shown)[0]
    for name in ("blip2-itm", "blip2-caption", "blip-vqa"):
        model = small_models.build(name, seed=2)
        small_models.open_eye(model, eye, shown)
        found = model.get_submodule("vision_model")(shown)[0]
        assert torch.allclose(found, expected, atol=0.05)  # BLIP-2's norms have another epsilon
        other = small_models.build(name, seed=2).get_submodule("vision_model")(shown)[0]
        assert not torch.allclose(other, expected, atol=0.5)
    model = small_models.build("clip", seed=2)
    small_models.open_eye(model, eye, shown)
    own = model.get_submodule("vision_model")
    found = own.get_submodule("post_layernorm")(own(pixel_values=shown).last_hidden_state)
    assert torch.cosine_similarity(found, expected, dim=-1).mean() > 0.97


def test_every_word_that_is_asked_or_said_is_known(tmp_path):
    tokenizer = small_models.tokenizer("blip-itm", tmp_path)
    texts = [*captioning.DISTRACTORS, matching.ASK.format("a red robot, a green cat nearby")]
    for i, scene in enumerate(SCENES):
        texts += [caption(scene), caption(scene, Random(i))]
        texts += [text for pair in asked_about(scene, Random(i)) for text in pair]
    unknown = {text for text in texts if tokenizer.unk_token_id in tokenizer(text)["input_ids"]}
    assert not unknown


def test_answers_about_a_scene_are_those_of_the_detector_on_its_picture():
    count = 0
    for scene in SCENES:
        seen = detect(render(scene)[0])
        for other in (scene, SCENES[0], SCENES[2]):
            for question in questions_of(caption(other)):
                assert answer(question, truth(scene)) == answer(question, seen), question.text
                count += 1
    assert count > 100


def test_what_is_asked_has_both_answers_and_knows_captions_from_near_misses():
    for i, scene in enumerate(SCENES):
        asked = dict(asked_about(scene, Random(i)))
        assert asked[matching.ASK.format(caption(scene))] == "yes"
        wrong = [text for text, said in asked.items() if text.startswith("Does this figure") and said == "no"]
        assert wrong and all(matching.ASK.format(caption(scene)) != text for text in wrong)


def test_the_matching_that_is_taught_is_the_one_that_is_read(folders, pictures):
    """ITM and ITC out of the trainer's pieces equal those of the scorer on the same folder."""
    texts = [caption(scene) for scene in SCENES[:4]]
    for name, match in (("blip-itm", matching.blip_match), ("blip2-itm", matching.blip2_match)):
        loaded = matching.load_matcher(str(folders / name))
        expected = match(loaded, as_images(pictures), texts)
        seen = loaded.model.vision_model(pixel_values=small_models.prepared(pictures))[0]
        read = small_models_train.words(loaded.tokenizer, texts)
        kind = small_models_train.KINDS[name]
        logits, _ = kind.together(loaded.model, seen, read)
        assert torch.allclose(logits.softmax(-1)[:, 1], expected[0], atol=1e-4)
        assert torch.allclose(kind.cosines(loaded.model, seen, read).diagonal(), expected[1], atol=1e-4)


def test_the_answers_that_are_taught_are_those_that_are_read(folders, pictures):
    """The trainer's loss is the mean over the answers' pieces of what the scorer finds, though it asks in batches."""
    loaded = vqa.load_vqa(str(folders / "blip-vqa"))
    every = vqa.look(loaded, as_images(pictures)[0])
    picked = [
        ("Is the robot carrying the box?", "yes"),
        ("What color is the robot in the picture?", "blue"),
        ("Is the box carrying the robot?", "no"),
        ("How many cats are there in the picture?", "2"),
    ]
    found = [float(vqa.log_likelihood(loaded, every, question, [said])[0]) for question, said in picked]
    count = 2 * len(picked)  # each answer is a piece and the end
    loss = small_models_train.answering(loaded.model, every.repeat(4, 1, 1), picked, loaded.tokenizer)
    assert float(loss) == pytest.approx(-sum(found) / count, abs=1e-4)


@pytest.mark.parametrize("name", ["blip-caption", "blip2-caption"])
def test_the_captions_that_are_taught_are_those_that_are_written(folders, pictures, name):
    """The likeliest next word of the trainer's pass is the one that the captioner writes."""
    loaded = captioning.load_captioner(str(folders / name), "cpu")
    ids = loaded.model.generate(pixel_values=loaded.pixels(as_images(pictures)), max_new_tokens=5, do_sample=False)
    ids = ids[:, small_models.QUERIES if name == "blip2-caption" else 0 :]  # from the start token on
    seen = loaded.model.vision_model(small_models.prepared(pictures))[0]
    read = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits, wanted = small_models_train.written(loaded.model, seen, read)
    assert torch.equal(wanted, ids[:, 1:]) and torch.equal(logits.argmax(-1), wanted)


class Fails(Exception):
    pass


def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(small_models_train, "KEEP", 2)

    def run(place, stop: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 1)

        def loss(step: int) -> torch.Tensor:
            if step == stop:
                raise Fails
            return module(torch.randn(8, 3)).square().mean()

        small_models_train.fit(place, module, loss, 7, 0.1)
        return module.weight.detach().clone()

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(Fails):
        run(tmp_path / "parts.pt", stop=5)
    assert torch.equal(run(tmp_path / "parts.pt"), whole)


def test_a_short_training_writes_folders_that_score_and_learns(tmp_path):
    for kind in ("decoded", "drawn"):
        _write_pool(tmp_path / f"{kind}.npz", [rendered(Random(f"{kind} {i}")) for i in range(6)])
    pools = {"decoded": 6, "drawn": 6}
    small_models_train.train(tmp_path, ["blip2-itm", "blip-vqa"], 0.004, pools=pools, rendered=12)
    image = as_images(torch.from_numpy(rendered(Random(1)).picture)[None].float() / 255)
    for name in ("blip-itm", "blip2-itm"):
        reading = matching.itm_scorer(str(tmp_path / name)).score(image, ["a red robot"])[0]
        assert 0 < reading.value < 1 and -1 <= reading.parts["itc"] <= 1
    first = torch.load(tmp_path / "state" / "blip2-caption.pt", weights_only=True)["module"]
    eye = torch.load(tmp_path / "state" / "eye.pt", weights_only=True)["module"]
    key = "embeddings.patch_embedding.weight"
    assert torch.equal(first[f"model.vision_model.{key}"], eye[f"eye.{key}"])  # the eye stayed as it was taught
    assert not (tmp_path / "clip").exists()
    score = matching.vqascore_scorer(str(tmp_path / "blip-vqa")).score(image, ["a red robot"])[0].value
    assert 0 < score < 1
    reward = captioning.caption_scorer(str(tmp_path / "blip2-caption"), str(tmp_path / "blip2-itm"))
    assert -1 <= reward.score(image, ["a red robot"])[0].value <= 1


def test_a_pool_keeps_the_shares_of_its_kinds(eye):
    pools = [[rendered(Random(i)) for i in range(3)], [rendered(Random(i)) for i in range(3, 5)]]
    pool = look(eye, pools, 4, seed=0)
    assert pool.kinds == (0, 0, 0, 0, 1, 1, 1, 2, 2) and len(pool.seen) == 9
    seen, chosen, numbers = pool.some(Random(0), 400)
    shares = [sum(pool.kinds[i] == kind for i in numbers) / 400 for kind in range(3)]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.08)
    assert all(
        isinstance(lesson, Lesson) and lesson is pool.lessons[i] for lesson, i in zip(chosen, numbers, strict=True)
    )
    assert torch.equal(seen[7], pool.seen[numbers[7]].float())
