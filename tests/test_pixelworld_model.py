"""PixelWorld's weights in diffusers, its autoencoder's short cut, and its training."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld  # noqa: E402
from interplay.guidance.pixelworld import (  # noqa: E402
    autoencoder,
    data,
    evaluate,
    network,
    train,
    train_autoencoder,
    train_unet,
    weights_dir,
    world,
)
from interplay.guidance.pixelworld.detect import judge  # noqa: E402


@pytest.fixture(scope="module")
def pipeline():
    torch.set_num_threads(1)
    return load_pixelworld()


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    rng = Random(seed)
    return torch.from_numpy(data.pictures([world.sample_scene(rng) for _ in range(n)]))


def enlarged(small: torch.Tensor) -> torch.Tensor:
    return small.repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_the_short_cut_through_the_autoencoder_is_the_whole_autoencoder(pipeline):
    small = pictures(2)
    with torch.inference_mode():
        z = autoencoder.encode_small(pipeline.vae, small)
        torch.testing.assert_close(z, pipeline.vae.encode(enlarged(small)).latent_dist.mean, atol=1e-4, rtol=1e-4)
        short = enlarged(autoencoder.decode_small(pipeline.vae, z))
        torch.testing.assert_close(short, pipeline.vae.decode(z).sample, atol=1e-4, rtol=1e-4)


def test_latents_have_unit_variance_after_sd15s_scaling_factor(pipeline):
    with torch.inference_mode():
        z = autoencoder.encode_small(pipeline.vae, pictures(64)) * 0.18215
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert z.mean((0, 2, 3)).abs().max() < 0.2 and (z.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_normalising_latents_leaves_the_pictures_alone():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**autoencoder.CONFIG)
    vae.requires_grad_(False)
    autoencoder.prepare(vae)
    small = pictures(4)
    z = autoencoder.encode_small(vae, small)
    before = autoencoder.decode_small(vae, z)
    autoencoder.normalise(vae, z.mean((0, 2, 3)), z.std((0, 2, 3)))
    latents = autoencoder.encode_small(vae, small)
    torch.testing.assert_close(autoencoder.decode_small(vae, latents), before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latents.std((0, 2, 3)) * 0.18215, torch.ones(4), atol=1e-4, rtol=1e-4)


def test_the_stock_loader_needs_nothing_of_ours():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(weights_dir()), local_files_only=True)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.vae_scale_factor * pipeline.unet.config.sample_size == 128


def test_the_detector_reads_pictures_after_the_autoencoder_also_with_noisy_latents(pipeline):
    rng, noise = Random(3), torch.Generator().manual_seed(0)
    scenes = [world.sample_scene(rng, seen=False) for _ in range(60)]
    with torch.inference_mode():
        z = autoencoder.encode_small(pipeline.vae, torch.from_numpy(data.pictures(scenes)))
        for spread in (0.0, 0.1):
            disturbed = z + spread / 0.18215 * torch.randn(z.shape, generator=noise)
            images = (autoencoder.decode_small(pipeline.vae, disturbed) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            right = [judge(scene, image.numpy()).all_right for scene, image in zip(scenes, images, strict=True)]
            assert np.mean(right) >= 0.98


def test_our_token_ids_are_those_of_clips_tokenizer(pipeline):
    rng = Random(4)
    captions = ["", *(world.caption(world.sample_scene(rng), rng) for _ in range(40))]
    vocabulary = data.vocabulary(weights_dir() / "tokenizer" / "vocab.json")
    theirs = pipeline.tokenizer(captions, padding="max_length", truncation=True)["input_ids"]
    assert theirs == [data.token_ids(caption, vocabulary) for caption in captions]


def test_words_that_training_never_met_share_one_row_and_known_words_have_their_own(pipeline):
    table = pipeline.text_encoder.get_input_embeddings().weight
    lexicon = train_unet.Lexicon()
    known = torch.tensor(sorted(lexicon.rows))
    unknown = torch.ones(len(table), dtype=torch.bool)
    unknown[known] = False
    assert table.shape == (49408, 64) and (table[unknown] == table[unknown][0]).all()
    assert len(torch.unique(table[known], dim=0)) == len(known)


def test_the_stock_pipeline_draws_128_pixels_and_repeats_itself(pipeline):
    prompt = "a red robot in the forest"
    first, second = (next(evaluate.draw(pipeline, [prompt], seed=1, steps=2)) for _ in range(2))
    other = next(evaluate.draw(pipeline, [prompt], seed=2, steps=2))
    assert first.shape == (128, 128, 3) and np.array_equal(first, second) and not np.array_equal(first, other)


def test_plain_samples_show_what_was_asked_for(pipeline):
    prompts = world.PROMPT_SETS["one object"](6, seed=5)
    images = evaluate.draw(pipeline, prompts, seed=0, steps=20)
    verdicts = [judge(prompt, image) for prompt, image in zip(prompts, images, strict=True)]
    assert sum(v.objects_right for v in verdicts) >= 4


def test_maps_of_nouns_and_colours_find_their_objects(pipeline):
    before = dict(pipeline.unet.attn_processors)
    figures = evaluate.attention(pipeline, 8, seed=0)
    assert figures["nouns"]["value"] >= 0.8 and figures["colours"]["value"] >= 0.9
    assert {k: type(v) for k, v in pipeline.unet.attn_processors.items()} == {k: type(v) for k, v in before.items()}


def test_watched_attention_computes_what_the_plain_one_does_and_its_maps_sum_to_one(pipeline):
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 64, generator=generator)
    before, t = pipeline.unet.attn_processors, torch.tensor([500, 20])
    with torch.inference_mode():
        plain = pipeline.unet(x, t, context).sample
        noise, fine, coarse = network.Watched(pipeline.unet)(x, t, context)
    pipeline.unet.set_attn_processor(before)
    torch.testing.assert_close(noise, plain, atol=1e-5, rtol=1e-5)
    assert fine.shape == (2, 256, 77) and coarse.shape == (2, 64, 77)
    torch.testing.assert_close(fine.sum(-1), torch.ones(2, 256))


def test_the_attention_loss_is_the_log_of_the_share_inside():
    maps = torch.zeros(1, 4, 77)
    maps[0, :, 1] = torch.tensor([0.6, 0.2, 0.1, 0.1])
    maps[0, :, 2] = 0.25
    masks = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]])
    regions = torch.full((1, 77), -1)
    regions[0, 1], regions[0, 2] = 0, 1
    expected = -(np.log(0.8 + 1e-4) + np.log(0.25 + 1e-4)) / 2
    assert network.attention_loss(maps, masks, regions, torch.ones(1)).item() == pytest.approx(expected, abs=1e-5)


def test_the_noise_schedule_is_stable_diffusions(pipeline):
    torch.testing.assert_close(network.alphas(), pipeline.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-6)


def test_auc_agrees_with_counting_pairs():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    assert evaluate.auc(scores, truth) == pytest.approx(np.mean(pairs))


def test_wilsons_interval_on_a_textbook_case():
    figure = evaluate.share([True] * 8 + [False] * 2)
    assert (figure["low"], figure["high"]) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))


def test_training_goes_on_where_it_stopped(tmp_path: Path):
    first = train_unet.Settings(tmp_path, minutes=1e-4, batch=2, compile=False, processes=1)
    train_unet.train_unet(first)
    before = torch.load(tmp_path / "unet.pt", weights_only=True)
    train_unet.train_unet(first)  # its time is spent: nothing more happens
    again = torch.load(tmp_path / "unet.pt", weights_only=True)
    run = train_unet.Run(first, rank=0)
    run.advance()
    run.save()
    after = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert before["step"] == again["step"] >= 1 and after["step"] == before["step"] + 1
    assert after["optimiser"]["state"][0]["step"] == after["step"]  # Adam's memory was kept, too
    name = "0.conv_in.weight"
    assert torch.equal(before["model"][name], again["model"][name])
    assert not torch.equal(before["model"][name], after["model"][name])
    assert not torch.equal(after["model"][name], after["ema"][name])


def test_the_decoder_learns_and_the_encoder_stays(tmp_path: Path):
    vae = train_autoencoder.train_decoder(tmp_path / "autoencoder.pt", minutes=0.03, batch=2)
    fresh, z = train_autoencoder.with_encoder(), torch.randn(1, 4, 16, 16)
    small = pictures(2)
    with torch.inference_mode():
        torch.testing.assert_close(autoencoder.encode_small(vae, small), autoencoder.encode_small(fresh, small))
        assert not torch.allclose(autoencoder.decode_small(vae, z), autoencoder.decode_small(fresh, z))
        whole, short = vae.decode(z).sample, enlarged(autoencoder.decode_small(vae, z))
    torch.testing.assert_close(whole, short, atol=1e-4, rtol=1e-4)


def test_the_command_trains_exports_and_resumes(tmp_path: Path, capsys):
    common = ["pixelworld", "--out", str(tmp_path / "run")]
    quick = ["--minutes", "0.0001", "--decoder-minutes", "0.0001", "--batch", "2", "--processes", "1", "--no-compile"]
    assert train.main([*common, "--resume"]) == 2 and "no run to resume" in capsys.readouterr().err
    assert train.main([*common, *quick]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert weights_dir(folder) == folder
    others = {"captioner", "fusers"}  # trained by commands of their own
    shipped = [p.relative_to(weights_dir()) for p in weights_dir().rglob("*.*")]
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} == {
        p.as_posix() for p in shipped if p.parts[0] not in others
    }
    assert train.main([*common, *quick]) == 2 and "add --resume" in capsys.readouterr().err
    assert train.main([*common, "--resume", "--no-compile"]) == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["batch"] == 2
    assert train.main([*common, "--minutes", "0"]) == 2 and "--minutes is 0.0" in capsys.readouterr().err


def test_export_before_any_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(InterplayError, match=r"no autoencoder.pt"):
        train.export_run(tmp_path)
