"""Rewards with a gradient: PixelWorld's matching model, and BLIP and BLIP-2 built small."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from interplay.errors import InterplayError
from interplay.guidance.pixelworld import data, world
from interplay.guidance.training import refl_matcher, refl_matcher_train
from interplay.guidance.training.refl_rewards import GradientReward, model_reward, open_reward, prepared, weighted
from torch import nn

PROMPT = "a small striped red robot carrying a blue box in the forest"


# --- the matching model -----------------------------------------------------------------------------------------------


def test_facts_of_a_prompt():
    facts = refl_matcher.wanted_facts(world.request(PROMPT))
    robot, box = world.OBJECTS.index("robot"), world.OBJECTS.index("box")
    assert facts["count"].sum() == 2 and facts["count"][robot] == facts["count"][box] == 1
    assert (facts["role"][robot], facts["role"][box]) == (1, 2)
    assert world.COLOURS[facts["colour"][box]] == "blue"
    assert (facts["size"][robot], facts["size"][box], facts["pattern"][robot]) == (2, 0, 1)
    assert world.ACTIONS[facts["action"] - 1] == "carrying" and world.ENVIRONMENTS[facts["environment"]] == "forest"
    assert (facts["colour"] == -1).sum() == len(world.OBJECTS) - 2


def test_facts_of_a_scene_are_those_of_its_plain_caption():
    rng = Random(4)
    for _ in range(60):
        scene = world.sample_scene(rng)
        seen, said = (
            refl_matcher_train.scene_facts(scene),
            refl_matcher.wanted_facts(world.request(world.caption(scene))),
        )
        assert all(torch.equal(seen[name], said[name]) for name in seen)


def test_of_two_of_a_kind_only_the_number_is_asked():
    rng, twins = Random(1), []
    while len(twins) < 3:
        scene = refl_matcher_train.draw_scene(rng)
        if len({t.object for t in scene.things}) < len(scene.things):
            twins.append(scene)
    for scene in twins:
        facts, kind = refl_matcher_train.scene_facts(scene), world.OBJECTS.index(scene.subject.object)
        assert facts["count"][kind] == 2 and facts["colour"][kind] == facts["role"][kind] == -1


def test_log_likelihood_is_the_sum_of_the_named_facts():
    torch.manual_seed(0)
    model = refl_matcher.Matcher()
    said = model(torch.rand(1, 3, 32, 32) * 2 - 1)
    facts = refl_matcher.wanted_facts(world.request(PROMPT))
    total = 0.0
    for name, wanted in facts.items():
        for place, value in enumerate(wanted.flatten().tolist()):
            if value != -1:
                total += float(said[name].flatten(0, -2)[place, value].detach())
    found = refl_matcher.log_likelihood(said, {name: value[None] for name, value in facts.items()})
    assert float(found.detach()) == pytest.approx(total, abs=1e-4)


needs_weights = pytest.mark.skipif(not refl_matcher.FILE.is_file(), reason="the matching model is not there")


@needs_weights
def test_matching_model_tells_true_captions_from_swapped_ones():
    """On scenes that its training never drew, held-out combinations among them."""
    reward, rng = open_reward("itm", "pixelworld"), Random("other scenes")
    hits = []
    for _ in range(60):
        scene = world.sample_scene(rng, "action", seen=False, adorned=False)
        pictures = torch.from_numpy((data.pictures([scene]) + 1) / 2)
        others = [
            world.Scene(scene.target, scene.environment, scene.action, scene.subject),
            world._exchange(scene, 0, 1),
        ]
        texts = [world.caption(s) for s in (scene, *others)]
        found = reward(pictures.expand(3, -1, -1, -1), texts)
        hits.append(float(found[0]) > float(found[1:].max()))
    assert np.mean(hits) > 0.9


@needs_weights
def test_matching_model_has_a_gradient_and_takes_pictures_of_any_enlargement():
    reward = open_reward("itm", "pixelworld")
    scene = world.sample_scene(Random(2), "action", adorned=False)
    small = torch.from_numpy((data.pictures([scene]) + 1) / 2).requires_grad_()
    large = small.detach().repeat_interleave(4, -1).repeat_interleave(4, -2)
    value = reward(small, [world.caption(scene)])
    assert torch.allclose(value, reward(large, [world.caption(scene)]), atol=1e-4)
    value.sum().backward()
    direction = small.grad / small.grad.norm()
    with torch.no_grad():
        ahead, behind = (reward(small + s * 0.01 * direction, [world.caption(scene)]) for s in (1, -1))
    assert float((ahead - behind) / 0.02) == pytest.approx(float(small.grad.norm()), rel=0.05)
    with pytest.raises(InterplayError, match="squares of a multiple of 32"):
        reward(torch.rand(1, 3, 48, 64), [PROMPT])


def test_weights_that_do_not_fit_are_said_in_a_sentence(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "x.safetensors"
    save_file({"stem.weight": torch.zeros(2)}, str(file))
    with pytest.raises(InterplayError, match="cannot be read"):
        refl_matcher.load_matcher(file)
    with pytest.raises(InterplayError, match="cannot be read"):
        refl_matcher.load_matcher(tmp_path / "none.safetensors")


# --- BLIP and BLIP-2 --------------------------------------------------------------------------------------------------


class _Images:
    size = {"height": 32, "width": 32}
    image_mean, image_std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


class _Loaded:
    """As ``rewards.loading.Loaded``, with words by their length instead of a tokenizer."""

    images = _Images()

    def __init__(self, model: nn.Module, kind: str, start: int) -> None:
        self.model, self.kind, self.start = model.eval().requires_grad_(False), kind, start

    def tokens(self, texts):
        rows = [[self.start, *(5 + len(w) for w in t.split())] for t in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([r + [1] * (longest - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
        return {"input_ids": ids, "attention_mask": mask}


VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 8}  # fmt: skip
QFORMER = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
           "num_attention_heads": 2, "encoder_hidden_size": 16, "cross_attention_frequency": 1}  # fmt: skip


def _loud(model: nn.Module) -> nn.Module:
    """Weights so large that a picture makes a difference."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=0.3)
    return model


def small(kind: str, reward: str) -> _Loaded:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "blip":
        text = {"vocab_size": 60, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 24,
                "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": 2,
                "sep_token_id": 3, "projection_dim": 8}  # fmt: skip
        config = transformers.BlipConfig(
            text_config=text, vision_config=VISION, projection_dim=8, image_text_hidden_size=8
        )
        names = {"likelihood": "BlipForConditionalGeneration"}
        model = getattr(transformers, names.get(reward, "BlipForImageTextRetrieval"))(config)
        return _Loaded(_loud(model), kind, 2)
    text = {"model_type": "opt", "vocab_size": 60, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "bos_token_id": 2,
            "pad_token_id": 1}  # fmt: skip
    qformer = {**QFORMER, "use_qformer_text_input": reward != "likelihood"}
    queries = {"num_query_tokens": 4, "image_text_hidden_size": 8, "image_token_index": 59}
    config = transformers.Blip2Config(vision_config=VISION, qformer_config=qformer, text_config=text, **queries)
    names = {"likelihood": "Blip2ForConditionalGeneration"}
    model = getattr(transformers, names.get(reward, "Blip2ForImageTextRetrieval"))(config)
    return _Loaded(_loud(model), kind, 2)


@pytest.mark.parametrize("kind", ["blip", "blip-2"])
@pytest.mark.parametrize("name", ["itm", "itc", "likelihood"])
def test_gradient_to_the_picture(kind, name):
    reward = model_reward(name, small(kind, name))
    pictures = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
    texts = ["a red robot and a box", "cat"]
    values = reward(pictures, texts)
    assert values.shape == (2,) and values.dtype == torch.float32
    (gradient,) = torch.autograd.grad(values[0], pictures, retain_graph=True)
    assert gradient[0].abs().max() > 1e-8 and gradient[1].abs().max() == 0
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (reward(pictures + s * 0.02 * direction, texts)[0] for s in (1, -1))
    assert float((ahead - behind) / 0.04) == pytest.approx(float(gradient.norm()), rel=0.1, abs=2e-6)


@pytest.mark.parametrize("kind", ["blip", "blip-2"])
def test_likelihood_is_the_models_own_loss(kind):
    """Its cross-entropy of the prompt as a label, one prompt at a time, less that of a grey picture."""
    loaded = small(kind, "likelihood")
    reward = model_reward("likelihood", loaded)
    pictures, texts = torch.rand(2, 3, 32, 32), ["a red robot and a box", "cat"]
    found = reward(pictures, texts)
    for row, text in enumerate(texts):
        values = []
        for picture in (pictures[row : row + 1], torch.full((1, 3, 32, 32), 0.5)):
            pixels, tokens = prepared(loaded, picture), loaded.tokens([text])
            if kind == "blip-2":
                first = torch.full((1, 4), 59)
                ids = torch.cat([first, tokens["input_ids"]], 1)
                labels = torch.cat([torch.full((1, 4), -100), tokens["input_ids"]], 1)
                labels[:, 4] = -100
                out = loaded.model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
            else:
                labels = tokens["input_ids"]
                out = loaded.model(pixel_values=pixels, **tokens)
            loss = nn.functional.cross_entropy(out.logits[0, :-1], labels[0, 1:], ignore_index=-100)
            values.append(-float(loss))
        assert float(found[row]) == pytest.approx(values[0] - values[1], abs=1e-4)


def test_pictures_are_prepared_as_by_the_processor():
    transformers = pytest.importorskip("transformers")
    try:
        processor = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    except ImportError as error:
        pytest.skip(str(error))
    from PIL import Image

    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (64, 64), mode="bicubic").clamp(0, 1)
    picture = (smooth * 255).round() / 255
    loaded = small("blip", "itm")
    loaded.images = processor
    image = Image.fromarray((picture[0] * 255).byte().permute(1, 2, 0).numpy())
    wanted = torch.as_tensor(np.asarray(processor(images=[image], return_tensors="np")["pixel_values"]))
    assert (prepared(loaded, picture) - wanted).abs().max() < 0.03


def test_a_mix_of_rewards():
    one = GradientReward("one", 1.0, lambda pictures, prompts: pictures.mean((1, 2, 3)))
    two = GradientReward("two", 0.0, lambda pictures, prompts: -pictures.mean((1, 2, 3)))
    mix = weighted([(one, 3.0), (two, 1.0)])
    pictures = torch.rand(2, 3, 4, 4)
    assert mix.margin == 0.75 and mix.name == "3 one + 1 two"
    assert torch.allclose(mix(pictures, ["a", "b"]), 0.5 * pictures.mean((1, 2, 3)))
    assert weighted([(one, 0.2)]) is one
    with pytest.raises(InterplayError, match="above zero"):
        weighted([(one, 0.0)])
    with pytest.raises(InterplayError, match="1 pictures and 2 prompts"):
        one(torch.rand(1, 3, 4, 4), ["a", "b"])


def test_rewards_that_there_are_not():
    with pytest.raises(InterplayError, match="no gradient reward 'tifa'"):
        open_reward("tifa", "pixelworld")
    with pytest.raises(InterplayError, match=r"no config\.json"):
        open_reward("itm", "/nowhere")
