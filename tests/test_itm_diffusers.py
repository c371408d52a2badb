"""DiffusionITM through diffusers: against the scheduler's own noising, and the scorer's economy."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import numpy as np  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.hosts.diffusers.itm import _groups, bind, encode, itm_scorer, score_pictures  # noqa: E402
from interplay.guidance.hosts.diffusers.models import random_pipeline  # noqa: E402
from interplay.guidance.rewards.itm_settings import itm_preset  # noqa: E402
from PIL import Image  # noqa: E402
from tiny_sdxl import tiny_sdxl  # noqa: E402

ONE = {"prune": False, "stop": 0.0}


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline("random-tiny")


def picture(seed: int, size: tuple[int, int] = (128, 128)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_errors_are_those_of_the_scheduler_and_the_unet(pipeline, kind):
    from diffusers import DDPMScheduler

    before = pipeline.scheduler
    pipeline.scheduler = DDPMScheduler.from_config(before.config, prediction_type=kind)
    try:
        images = [picture(0), picture(1)]
        settings = itm_preset("fast", steps=(300.0, 800.0), noise="shared", metric="mse", normalise="on", **ONE)
        found = score_pictures(pipeline, images, ["a red cat", "a dog"], settings)
        clean = encode(pipeline, images)
        for index, t in enumerate((300, 800)):
            noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(index)).expand_as(clean)
            steps = torch.full((2,), t)
            noised = pipeline.scheduler.add_noise(clean, noise, steps)
            target = noise if kind == "epsilon" else pipeline.scheduler.get_velocity(clean, noise, steps)
            for text, column in (("a red cat", 0), ("a dog", 1), ("", None)):
                states = pipeline.encode_prompt(text, "cpu", 1, False)[0].expand(2, -1, -1)
                with torch.no_grad():
                    said = pipeline.unet(noised, t, encoder_hidden_states=states).sample
                expected = (said - target).square().mean((1, 2, 3)).double()
                got = found.empty[:, index] if column is None else found.errors[:, column, index]
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    finally:
        pipeline.scheduler = before


def test_pictures_become_the_mode_of_the_posterior_cropped_or_squashed(pipeline):
    wide = picture(3, (256, 128))
    cropped = wide.crop((64, 0, 192, 128))
    torch.testing.assert_close(encode(pipeline, [wide]), encode(pipeline, [cropped]))
    squashed = wide.resize((128, 128), Image.Resampling.BICUBIC)
    torch.testing.assert_close(encode(pipeline, [wide], "squash"), encode(pipeline, [squashed]))
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(encode(pipeline, [cropped]), mean, rtol=1e-4, atol=1e-4)


def test_texts_of_the_same_pictures_share_the_empty_text():
    groups = _groups(["x", "y", "x", "y", "z"], ["a", "a", "b", "b", "c"])
    assert groups == [(["a", "b"], [0, 1, 2, 3]), (["c"], [4])]


def test_the_scorer_gives_what_single_calls_give(pipeline):
    settings = itm_preset("fast", levels=2, low=0.3, noise="shared")
    scorer = itm_scorer(pipeline, settings)
    images, texts = [picture(0), picture(1), picture(0)], ["a red cat chasing a blue dog", "a dog", "a dog"]
    readings = scorer.score(images, texts)
    single = [scorer.score([i], [t])[0] for i, t in zip(images, texts, strict=True)]
    for together, alone in zip(readings, single, strict=True):
        assert together.value == pytest.approx(alone.value, abs=1e-4)
        assert together.parts.get("margin") == pytest.approx(alone.parts.get("margin"), abs=1e-4)
    assert "a blue dog chasing a red cat" in readings[0].notes["swapped"]
    whole = score_pictures(
        pipeline, [images[0]], ["a red cat chasing a blue dog", "a blue dog chasing a red cat"],
        itm_preset("fast", levels=2, low=0.3, noise="shared", normalise="on", **ONE),
    )  # fmt: skip
    assert readings[0].value == pytest.approx(float(whole.values()[0, 0]), abs=1e-4)
    assert readings[0].parts["margin"] <= float(whole.between_texts(0, 1).mean) + 1e-6


def test_other_pipelines_are_refused(pipeline):
    with pytest.raises(InterplayError, match=r"SD1\.x, SD2\.x and SDXL"):
        bind(object(), ["a"], (128, 128))


def test_sdxl_is_told_its_text_and_size():
    xl = tiny_sdxl()
    found = bind(xl, ["a red cat", ""], (128, 128))
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    level = found.level(400.0)
    (red, empty) = found.denoise(clean, level, [0, 1])
    embeds, _, pooled, _ = xl.encode_prompt("a red cat", device="cpu", do_classifier_free_guidance=False)
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]).expand(2, -1)
    with torch.no_grad():
        eps = xl.unet(clean, 400, embeds.expand(2, -1, -1),
                   added_cond_kwargs={"text_embeds": pooled.expand(2, -1), "time_ids": sizes}).sample  # fmt: skip
    torch.testing.assert_close(red, (clean - level.noise * eps) / level.signal, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(red, empty)
