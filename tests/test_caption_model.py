"""PixelWorld's caption model: what it learns from, its arithmetic, and what the shipped weights can do."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.pixelworld import caption, caption_data
from interplay.guidance.pixelworld.caption_data import meaning, near_miss, sentences, told
from interplay.guidance.pixelworld.detect import detect
from interplay.guidance.pixelworld.render import enlarge, render
from interplay.guidance.pixelworld.world import Scene, Thing, sample_scene
from interplay.guidance.pixelworld.world import caption as plain
from interplay.guidance.rewards import pixelworld_caption
from PIL import Image


@pytest.fixture(scope="module")
def model() -> caption.CaptionModel:
    torch.manual_seed(0)
    return caption.CaptionModel().eval()


def scenes(count: int, kind: str | None = None, seed: int = 0, adorned: bool | None = None) -> list:
    rng = Random(seed)
    return [sample_scene(rng, kind, seen=False, adorned=adorned) for _ in range(count)]


def shown(of: list) -> torch.Tensor:
    pixels = np.stack([enlarge(render(scene)[0]) for scene in of]).astype(np.float32) / 255
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


# --- what it learns from ----------------------------------------------------------------------------------------------


def test_paraphrases_say_the_same_and_near_misses_something_else():
    rng = Random(1)
    for scene in scenes(200):
        written, one, two, misses = sentences(scene, rng)
        assert meaning(one) == meaning(two)
        assert all(meaning(miss) != meaning(one) for miss in misses)
        assert meaning(written).things == meaning(one).things
        if scene.action:
            assert meaning(misses[0]).things[0].object == scene.target.object  # the roles are exchanged first


def test_two_things_in_one_colour_have_near_misses_too():
    scene = Scene(Thing("cat", "red"), "city", None, Thing("box", "red"), x=caption_data.NOWHERE)
    _, one, _, misses = sentences(scene, Random(0))
    assert len(misses) == 2 and all(meaning(miss) != meaning(one) for miss in misses)


def test_things_that_stand_apart_have_no_order_but_parties_have():
    assert meaning("a red cat and a blue box") == meaning("a blue box and a red cat")
    assert meaning("a red cat carrying a blue box") != meaning("a blue box carrying a red cat")


def test_a_near_miss_changes_what_it_is_told_to():
    scene = next(s for s in scenes(50, "action", adorned=False))
    turned = near_miss(scene, Random(0), "roles")
    assert (turned.subject, turned.target) == (scene.target, scene.subject)
    painted = near_miss(scene, Random(0), "adjectives")
    assert {t.object: t.colour for t in painted.things} == {
        scene.subject.object: scene.target.colour,
        scene.target.object: scene.subject.colour,
    }


def test_a_drawn_picture_is_told_as_it_is():
    for scene in scenes(20, "bystander", seed=4):
        found = told(detect(render(scene)[0]))
        assert found is not None and plain(found) == plain(scene)
    broken = render(scenes(1, "action")[0])[0].copy()
    broken[::2] = 255
    assert told(detect(broken)) is None


def test_pools_come_back_from_their_file(tmp_path):
    lessons = [caption_data.Lesson(s, render(s)[0].transpose(2, 0, 1)) for s in scenes(5)]
    caption_data._write_pool(tmp_path / "pool.npz", lessons)
    back = caption_data.read_pool(tmp_path / "pool.npz")
    assert [lesson.scene for lesson in back] == [lesson.scene for lesson in lessons]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(back, lessons, strict=True))


# --- its arithmetic ---------------------------------------------------------------------------------------------------


def test_captions_are_the_likeliest_words_one_after_another(model):
    pictures = shown(scenes(3))
    with torch.no_grad():
        places = model.look(pictures)
        for i, said in enumerate(model.captions(pictures)):
            ids = [caption.START]
            while ids[-1] != caption.END and len(ids) < caption.LENGTH:
                ids.append(int(model.write(places[i : i + 1], torch.tensor([ids]))[0, -1].argmax()))
            assert said == caption.sentence([caption.WORDS[k] for k in ids if k > caption.UNKNOWN])


def test_padding_changes_no_sentence(model):
    short, long = "a red cat", "a big striped red cat carrying a small blue box in the forest, a green fish nearby"
    with torch.no_grad():
        together, alone = model.embed([short, long]), model.embed([short])
        pictures = shown(scenes(1)).expand(2, -1, -1, -1)
        likely = model.log_likelihood(pictures, [short, long])
        assert likely[0] == pytest.approx(float(model.log_likelihood(pictures[:1], [short])[0]), abs=1e-4)
    assert torch.allclose(together[0], alone[0], atol=1e-5)


def test_the_writer_does_not_see_what_comes(model):
    places = model.look(shown(scenes(1)))
    one, two = caption.encode(["a red cat in the forest"]), caption.encode(["a red cat on a box"])
    with torch.no_grad():
        assert torch.allclose(model.write(places, one)[:, :4], model.write(places, two)[:, :4], atol=1e-5)


def test_a_match_has_a_gradient_to_the_picture_and_the_reward_has_none(model):
    pictures = shown(scenes(2)).requires_grad_()
    pixelworld_caption.match_reward(pictures, ["a red cat", "a blue box"], model).sum().backward()
    assert pictures.grad is not None and float(pictures.grad.abs().sum()) > 0
    reward = pixelworld_caption.caption_reward(pictures, ["a red cat", "a blue box"], model)
    said = pixelworld_caption.captions(pictures, model)
    with torch.no_grad():
        plainly = (model.embed(said) * model.embed(["a red cat", "a blue box"])).sum(-1)
    assert not reward.requires_grad and torch.allclose(reward, plainly, atol=1e-6)


def test_what_it_cannot_read_is_said(model):
    with pytest.raises(InterplayError, match="knows no word of the prompt 'the Eiffel Tower'"):
        pixelworld_caption.caption_reward(torch.rand(1, 3, 32, 32), ["the Eiffel Tower"], model)
    with pytest.raises(InterplayError, match="1 pictures and 2 prompts"):
        pixelworld_caption.match_reward(torch.rand(1, 3, 32, 32), ["a cat", "a box"], model)


def test_a_missing_or_other_model_is_said(tmp_path, model):
    with pytest.raises(InterplayError, match="missing"):
        caption.load_caption_model(tmp_path)
    caption.save_caption_model(model, model.state_dict(), tmp_path)
    back = caption.load_caption_model(tmp_path)
    assert torch.allclose(back.word.weight, model.word.weight, atol=1e-3)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace('"robot"', '"rocket"'), encoding="utf-8")
    with pytest.raises(InterplayError, match="other words"):
        caption.load_caption_model(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InterplayError, match="damaged"):
        caption.load_caption_model(tmp_path)


# --- the shipped weights ----------------------------------------------------------------------------------------------


def test_the_shipped_model_is_small():
    files = [caption.caption_folder() / name for name in caption.FILES]
    assert sum(path.stat().st_size for path in files) <= 4_000_000


def test_it_says_what_rendered_scenes_show():
    of = scenes(40, "action", seed=77, adorned=False)
    said = pixelworld_caption.captions(shown(of))
    exact = sum(meaning(text) == meaning(plain(scene)) for text, scene in zip(said, of, strict=True))
    assert exact >= 24, f"{exact} of 40 captions are exact"  # docs/scores.md has the share; by chance hardly one is


def test_it_tells_swapped_captions():
    of = scenes(40, "action", seed=78, adorned=False)
    pictures, own = shown(of), [plain(scene) for scene in of]
    for kind in ("roles", "adjectives"):
        wrong = [plain(near_miss(scene, Random(0), kind)) for scene in of]
        reward = pixelworld_caption.caption_reward(pictures, own) - pixelworld_caption.caption_reward(pictures, wrong)
        match = pixelworld_caption.match_reward(pictures, own) - pixelworld_caption.match_reward(pictures, wrong)
        assert int((reward > 0).sum()) >= 34 and int((match > 0).sum()) >= 34, kind


def test_scorers_have_their_columns():
    of = scenes(3, "action", seed=5, adorned=False)
    images = [Image.fromarray(enlarge(render(scene)[0])) for scene in of]
    prompts = [plain(scene) for scene in of]
    for scorer in (pixelworld_caption.caption_scorer(), pixelworld_caption.match_scorer()):
        readings = scorer.score(images, prompts)
        assert all(r.value is not None and r.value > 0.5 for r in readings)
        assert set(readings[0].parts) == set(scorer.parts)
