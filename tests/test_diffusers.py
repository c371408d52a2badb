"""Guidance in diffusers pipelines, on a tiny random Stable Diffusion 1.x."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from guidance_cases import gentle as preset
from interplay.errors import InterplayError
from interplay.guidance.engine import Guide, GuidedMaps
from interplay.guidance.graph import EdgeTokens, TokenGraph, TokenWord, VertexTokens
from interplay.guidance.hosts.diffusers import capture, maps, schedule
from interplay.guidance.hosts.diffusers.guidance import guided
from interplay.guidance.maps import word_maps

LENGTH = 77
WORDS = ("white", "dog", "plays", "ginger", "cat", "forest")
PLACES = ((2,), (3,), (4,), (7,), (8, 9), (12,))
GRAPH = TokenGraph(
    words=tuple(TokenWord(t, p) for t, p in zip(WORDS, PLACES, strict=True)),
    vertices=(VertexTokens((0, 1), 1), VertexTokens((3, 4), 4), VertexTokens((5,), 5, environment=True)),
    edges=(EdgeTokens((2,), (0, 1)),),
    length=LENGTH,
)
SIGNED = preset("SHY", off_switch=False, early_stop=False, cycle=("C", "A"), end=0.5, step=0.03)


def tiny_unet(seed: int = 0, **changes) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    settings = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "sample_size": 16,
    }
    unet = UNet2DConditionModel(**{**settings, **changes})
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_q" in name or "attn2.to_k" in name:
                parameter.mul_(4.0)  # sharp maps, so that gradients are far from rounding
    return unet.eval()


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)


def tiny_pipeline(scheduler=None, dtype=torch.float32, **changes) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        tiny_vae(), None, None, tiny_unet(**changes), scheduler or ddim(), None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def ddim():
    return diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)


def inputs(batch: int = 1, height: int = 16, width: int = 16, cfg: float = 5.0, steps: int = 6, dtype=torch.float32):
    noise = torch.Generator().manual_seed(7)
    text = torch.randn(1, LENGTH, 24, generator=noise).expand(batch, -1, -1)
    return {
        "prompt_embeds": text.to(dtype),
        "negative_prompt_embeds": torch.randn(1, LENGTH, 24, generator=noise).expand(batch, -1, -1).to(dtype),
        "latents": torch.randn(batch, 4, height, width, generator=noise).to(dtype),
        "height": 16,  # given latents decide the size
        "width": 16,
        "guidance_scale": cfg,
        "num_inference_steps": steps,
        "output_type": "latent",
    }


def sample(pipe, generator_seed: int = 3, **kwargs) -> torch.Tensor:
    return pipe(**inputs(**kwargs), generator=torch.Generator().manual_seed(generator_seed)).images


def full_forward_capture(unet, t, text, graph, added=None):
    """An independent way to the maps: the whole forward, every probability explicitly, no truncation."""

    def read(z):
        kept = {}
        hooks = []
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                hooks.append(module.to_q.register_forward_hook(lambda m, i, o, n=name: kept.update({n: [o]})))
                hooks.append(module.to_k.register_forward_hook(lambda m, i, o, n=name: kept[n].append(o)))
        unet(z.to(text.dtype), t, encoder_hidden_states=text, added_cond_kwargs=added)
        for hook in hooks:
            hook.remove()
        cells = z.shape[-2] * z.shape[-1]
        layers = []
        for name, pair in kept.items():
            if pair[0].shape[1] != cells:
                continue
            q, k = (x.unflatten(-1, (unet.get_submodule(name).heads, -1)).transpose(1, 2).float() for x in pair)
            p = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            layers.append(p.mean(1)[..., list(graph.positions)].transpose(1, 2))
        columns = torch.stack(layers).mean(0)
        return [GuidedMaps(0, graph, word_maps(columns, graph, z.shape[-2], z.shape[-1]))]

    return read


SCHEDULERS = {
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "DDPM": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "PNDM": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "PNDM with Runge-Kutta": (diffusers.PNDMScheduler, {}),
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "DPM2": (diffusers.KDPM2DiscreteScheduler, {}),
    "DPM++ 2M": (diffusers.DPMSolverMultistepScheduler, {}),
    "DPM++ single step": (diffusers.DPMSolverSinglestepScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
    "DEIS": (diffusers.DEISMultistepScheduler, {}),
    "LCM": (diffusers.LCMScheduler, {}),
}


def moves_by_hand(pipe, steps: int = 6, cfg: float = 5.0):
    """A plain rewrite of the sampling loop that moves its own latents. Yields what the loop ends with."""
    given = inputs(steps=steps, cfg=cfg)
    scheduler, unet = copy.deepcopy(pipe.scheduler), pipe.unet
    scheduler.set_timesteps(steps)
    latents = given["latents"] * scheduler.init_noise_sigma
    text = torch.cat([given["negative_prompt_embeds"], given["prompt_embeds"]])
    guide = Guide(SIGNED, steps=steps)
    generator = torch.Generator().manual_seed(3)
    extra = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    moved = []
    distinct = list(dict.fromkeys(scheduler.timesteps.tolist()))
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.scale_model_input(latents, t)
            progress = distinct.index(t.item()) / len(distinct)
            if guide.active(progress) and not schedule.is_second_evaluation(scheduler):
                new = guide.step(z, progress, full_forward_capture(unet, t, given["prompt_embeds"], GRAPH))
                factor = float(latents.norm() / z.norm())
                latents = latents + factor * (new - z)
                moved.append((float(t), (new - z).norm() / z.norm()))
                if getattr(scheduler, "last_sample", None) is not None:
                    scheduler.last_sample = None
                z = scheduler.scale_model_input(latents, t)
            noise = unet(torch.cat([z] * 2), t, encoder_hidden_states=text).sample
            empty, wanted = noise.chunk(2)
            latents = scheduler.step(empty + cfg * (wanted - empty), t, latents, **extra).prev_sample
    return latents, moved


@pytest.mark.parametrize("name", SCHEDULERS)
def test_guided_sampling_equals_a_loop_that_moves_its_own_latents(name):
    kind, settings = SCHEDULERS[name]
    scheduler = kind(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)
    pipe = tiny_pipeline(scheduler)
    expected, moved = moves_by_hand(pipe)
    plain = sample(pipe)
    with guided(pipe, SIGNED, GRAPH) as session:
        picture = sample(pipe)
    assert session.guided_steps == len(moved) >= 2
    assert (plain - picture).abs().max() > 20 * (picture - expected).abs().max()
    torch.testing.assert_close(picture, expected, rtol=2e-3, atol=2e-3 * float(expected.std()))


@pytest.mark.parametrize("name", ["Heun", "DPM2", "DPM++ single step", "PNDM", "PNDM with Runge-Kutta", "UniPC"])
def test_a_second_evaluation_is_told_from_a_first_one(name):
    """A first evaluation hands on a move of its sample; a second one starts from elsewhere. Found by trial."""
    kind, settings = SCHEDULERS[name]
    scheduler = kind(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)
    scheduler.set_timesteps(8)
    torch.manual_seed(0)
    latents, firsts = torch.randn(1, 4, 8, 8), 0
    for t in scheduler.timesteps:
        noise = torch.randn(1, 4, 8, 8)
        second, trial = schedule.is_second_evaluation(scheduler), copy.deepcopy(scheduler)
        if not second:
            schedule.forget_prediction(scheduler)
            schedule.forget_prediction(trial)
        away = trial.step(noise, t, latents + 10.0).prev_sample
        latents = scheduler.step(noise, t, latents).prev_sample
        kept = float((away - latents).mean()) / 10.0
        firsts += not second
        if not second and t != scheduler.timesteps[-1]:
            assert kept > 0.3, f"the move at {t} is lost"
    assert 6 <= firsts <= 9 or name == "DPM++ single step"


def test_truncated_gradient_equals_the_full_one_to_the_bit():
    unet, given = tiny_unet(), inputs(batch=2)
    t, text = torch.tensor(601), given["prompt_embeds"]
    seen = {}

    def gradient(stop):
        z = given["latents"].clone().requires_grad_()
        reader = capture.Reader(capture.guided_layers(unet, 16, 16), GRAPH, stop=stop)
        ended = False
        with reader.reading():
            try:
                unet(z, t, encoder_hidden_states=text)
                ended = True
            except capture.LastLayerReached:
                pass
        seen[stop] = ended
        return reader.maps().square().sum(), z

    losses = {stop: gradient(stop) for stop in (True, False)}
    grads = {stop: torch.autograd.grad(loss, z)[0] for stop, (loss, z) in losses.items()}
    assert seen == {True: False, False: True}  # the truncated forward did not reach the end
    assert torch.equal(grads[True], grads[False])
    reference = full_forward_capture(unet, t, text, GRAPH)(given["latents"])[0].maps
    torch.testing.assert_close(losses[True][0], reference.square().sum())


@pytest.mark.parametrize("cfg", [5.0, 1.0])
def test_strength_zero_and_the_picture_after_guidance_are_bit_identical(cfg):
    pipe = tiny_pipeline()
    plain = sample(pipe, cfg=cfg)
    with guided(pipe, preset("SHY", strength=0.0), GRAPH):
        off = sample(pipe, cfg=cfg)
    with guided(pipe, SIGNED, GRAPH):
        on = sample(pipe, cfg=cfg)
    after = sample(pipe, cfg=cfg)
    assert torch.equal(plain, off) and torch.equal(plain, after)
    assert (plain - on).abs().max() > 0.01


def trace(pipe) -> tuple:
    """All that guidance could leave behind."""
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in pipe.unet.modules()
    )
    asking = [p.requires_grad for p in pipe.unet.parameters()]
    own = sorted(pipe.scheduler.__dict__), sorted(pipe.unet.__dict__), sorted(pipe.__dict__)
    grads = [p.grad is None for p in pipe.unet.parameters()]
    return hooks, asking, own, grads


@pytest.mark.parametrize("ending", ["success", "error", "interrupt"])
def test_the_pipeline_is_left_as_it_was_found(ending):
    pipe = tiny_pipeline()
    sample(pipe)  # some attributes appear with the first call
    before = trace(pipe)
    kinds = {"error": RuntimeError, "interrupt": KeyboardInterrupt}

    def stop_at_two(pipeline, step, t, tensors):
        if step == 2 and ending != "success":
            raise kinds[ending]("stop")
        return tensors

    def run():
        with guided(pipe, SIGNED, GRAPH), maps.watched(pipe, GRAPH):
            assert trace(pipe) != before
            pipe(**inputs(), callback_on_step_end=stop_at_two)

    if ending == "success":
        run()
    else:
        with pytest.raises(kinds[ending]):
            run()
    assert trace(pipe) == before


def test_an_error_inside_the_guided_pass_leaves_nothing_behind():
    pipe = tiny_pipeline()
    sample(pipe)
    before = trace(pipe)
    with pytest.raises(InterplayError, match="aligned to 77 tokens"), guided(pipe, SIGNED, GRAPH):
        given = inputs()
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            given[name] = given[name][:, :20]
        pipe(**given)
    assert trace(pipe) == before


def test_a_batch_is_guided_as_its_images_one_by_one():
    pipe = tiny_pipeline()
    with guided(pipe, SIGNED, GRAPH):
        together = sample(pipe, batch=3)
        given = inputs(batch=3)
        for i in range(3):
            one = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
            torch.testing.assert_close(pipe(**one).images, together[i : i + 1], rtol=1e-3, atol=1e-4)


def test_two_prompts_each_follow_their_own_graph():
    other = TokenGraph(GRAPH.words, (VertexTokens((0, 4), 4), VertexTokens((1, 5), 5)), (), LENGTH)
    pipe, given = tiny_pipeline(), inputs(batch=2)
    with guided(pipe, SIGNED, [GRAPH, other]) as session:
        both = pipe(**given).images
    assert len(session.reports) == 2
    for i, graph in enumerate((GRAPH, other)):
        one = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        with guided(pipe, SIGNED, graph):
            torch.testing.assert_close(pipe(**one).images, both[i : i + 1], rtol=1e-3, atol=1e-4)


def test_non_square_latents_and_no_cfg():
    pipe = tiny_pipeline()
    for height, width, cfg in ((16, 24, 1.0), (14, 10, 5.0)):
        plain = sample(pipe, height=height, width=width, cfg=cfg)
        with guided(pipe, SIGNED, GRAPH) as session:
            moved = sample(pipe, height=height, width=width, cfg=cfg)
        assert session.guided_steps == 3
        assert moved.shape == (1, 4, height, width) and (moved - plain).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_single_precision(dtype):
    results = {}
    for kind in (torch.float32, dtype):
        pipe = tiny_pipeline(dtype=kind)
        plain = sample(pipe, dtype=kind)
        with guided(pipe, SIGNED, GRAPH) as session:
            picture = sample(pipe, dtype=kind)
        assert session.reports[0].nonfinite == 0 and picture.dtype == kind
        results[kind] = (picture - plain).float().flatten()
    assert torch.cosine_similarity(results[torch.float32], results[dtype], dim=0) > 0.95


def test_each_picture_starts_afresh_inside_one_context():
    pipe = tiny_pipeline()
    with guided(pipe, SIGNED, GRAPH) as session:
        first, report = sample(pipe), session.reports[0]
        second = sample(pipe)
    assert torch.equal(first, second)
    assert session.reports[0] is not report and session.reports[0].to_dict() == report.to_dict()


def test_sampling_inside_inference_mode_gives_the_same_picture():
    pipe = tiny_pipeline()
    with guided(pipe, SIGNED, GRAPH):
        expected = sample(pipe)
        with torch.inference_mode():
            picture = sample(pipe)
    assert torch.equal(expected, picture.clone())


def test_sdxl_pipelines_are_guided_through_their_added_conditions():
    torch.manual_seed(2)
    unet = tiny_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=40
    )
    pipe = StableDiffusionXLPipeline(
        tiny_vae(), None, None, None, None, unet, diffusers.EulerDiscreteScheduler(), add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    given = inputs()
    given["pooled_prompt_embeds"] = torch.randn(1, 16)
    given["negative_pooled_prompt_embeds"] = torch.randn(1, 16)
    plain = pipe(**given).images
    with guided(pipe, SIGNED, GRAPH) as session:
        moved = pipe(**given).images
    assert session.guided_steps == 3 and (moved - plain).abs().max() > 0.01
    assert torch.equal(plain, pipe(**given).images)


def test_watching_sees_the_maps_of_the_ordinary_calls_and_changes_nothing():
    pipe, given = tiny_pipeline(), inputs(steps=3)
    plain = pipe(**given).images
    with maps.watched(pipe, GRAPH) as watch:
        assert torch.equal(plain, pipe(**given).images)
    assert watch.steps == 3 and watch.maps.shape == (1, 6, 16, 16)
    with maps.watched(pipe, GRAPH, window=(0.0, 0.1)) as watch:
        pipe(**given)
    pipe.scheduler.set_timesteps(3)
    with torch.no_grad():
        read = full_forward_capture(pipe.unet, pipe.scheduler.timesteps[0], given["prompt_embeds"], GRAPH)
        first = read(given["latents"])
    torch.testing.assert_close(watch.maps, first[0].maps, rtol=1e-4, atol=1e-6)


def test_guided_layers_are_the_coarse_level_of_a_full_size_unet_and_the_fine_one_of_a_small_one():
    blocks = [layer.name.split(".attentions")[0] for layer in capture.guided_layers(tiny_unet(), 16, 16)]
    assert blocks == ["down_blocks.0", "up_blocks.1", "up_blocks.1"]
    with torch.device("meta"):
        sd15 = UNet2DConditionModel(cross_attention_dim=768)
    layers = capture.guided_layers(sd15, 64, 64)
    assert [x.grid for x in layers] == [(16, 16)] * 5
    assert [x.name.split(".attentions")[0] for x in layers] == ["down_blocks.2"] * 2 + ["up_blocks.1"] * 3
    assert {x.grid for x in capture.guided_layers(sd15, 96, 72)} == {(24, 18)}


def test_grids_are_those_of_the_real_forward_for_odd_sizes():
    unet = tiny_unet(
        block_out_channels=(16, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )
    layers = capture.cross_attention_layers(unet, 11, 18)
    seen = []
    hooks = [
        x.attention.to_q.register_forward_hook(lambda m, i, o, n=x.name: seen.append((n, o.shape[1]))) for x in layers
    ]
    with torch.no_grad():
        unet(torch.zeros(1, 4, 11, 18), 5, torch.zeros(1, LENGTH, 24))
    for hook in hooks:
        hook.remove()
    assert seen == [(x.name, x.grid[0] * x.grid[1]) for x in layers]


def test_only_guided_steps_run_under_gradient_and_only_up_to_the_last_wanted_layer():
    pipe, calls = tiny_pipeline(), []
    block = pipe.unet.conv_out  # never reached by a truncated pass

    def seen(kind):
        return lambda module, inputs: calls.append((kind, torch.is_grad_enabled()))

    hooks = [pipe.unet.register_forward_pre_hook(seen("start")), block.register_forward_pre_hook(seen("end"))]
    with guided(pipe, preset("SHY", end=0.3, off_switch=False), GRAPH) as session:
        sample(pipe, steps=10)
    for hook in hooks:
        hook.remove()
    assert session.guided_steps == 3
    assert calls.count(("start", True)) == session.reports[0].forwards == 3
    assert calls.count(("end", True)) == 0
    assert calls.count(("end", False)) == 10


def parts(pipe) -> dict:
    return {
        "vae": pipe.vae,
        "text_encoder": None,
        "tokenizer": None,
        "scheduler": pipe.scheduler,
        "safety_checker": None,
    }


def test_image_to_image_counts_progress_from_its_own_first_step():
    base = tiny_pipeline()
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **parts(base), unet=base.unet, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    given = inputs(steps=8)
    picture = given.pop("latents")  # four channels: taken as latents
    del given["height"], given["width"]

    def drawn():
        return pipe(**given, image=picture, strength=0.5, generator=torch.Generator().manual_seed(1)).images

    plain = drawn()
    with guided(pipe, SIGNED, GRAPH) as session:
        moved = drawn()
    assert [step.progress for step in session.reports[0].steps] == [0.0, 0.25]
    assert (moved - plain).abs().max() > 0.003 and torch.equal(plain, drawn())


def test_an_inpainting_unet_has_only_its_latent_channels_moved():
    base = tiny_pipeline(in_channels=9)
    pipe = diffusers.StableDiffusionInpaintPipeline(
        **parts(base), unet=base.unet, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0
    seen = []

    def drawn():
        given = inputs(steps=4)
        generator = torch.Generator().manual_seed(1)
        return pipe(**given, image=torch.zeros(1, 3, 16, 16), mask_image=mask, generator=generator).images

    plain = drawn()
    with guided(pipe, SIGNED, GRAPH) as session:
        hook = pipe.unet.conv_in.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone()))
        moved = drawn()
        hook.remove()
    assert session.guided_steps == 2 and (moved - plain).abs().max() > 0.003
    guidance_pass, ordinary = seen[0], seen[1]
    assert guidance_pass.shape[0] == 1 and ordinary.shape[0] == 2
    assert not torch.equal(guidance_pass[:, :4], ordinary[1:, :4])
    assert torch.equal(guidance_pass[:, 4:], ordinary[1:, 4:])


def test_what_cannot_be_guided_is_said_in_one_sentence(caplog):
    pipe = tiny_pipeline()
    with pytest.raises(InterplayError, match="no guidance preset"), guided(pipe, "nonsense", GRAPH):
        pass
    with pytest.raises(InterplayError, match="one hypergraph for each prompt"), guided(pipe, SIGNED, [GRAPH, GRAPH]):
        sample(pipe, batch=3)
    pipe.vae, kept = pipe.vae, pipe.unet
    pipe.unet = pipe.vae
    with pytest.raises(InterplayError, match="UNet2DConditionModel"), guided(pipe, SIGNED, GRAPH):
        pass
    pipe.unet = kept
    with pytest.raises(InterplayError, match="scheduler was changed"), guided(pipe, SIGNED, GRAPH):
        pipe.scheduler = ddim()
        sample(pipe)
    bad = inputs()
    bad["latents"] = bad["latents"] * float("nan")
    with pytest.raises(InterplayError, match="not finite"), guided(pipe, SIGNED, GRAPH):
        pipe(**bad)
    lonely = TokenGraph((TokenWord("dog", (2,)),), (VertexTokens((0,), 0),), (), LENGTH)
    with caplog.at_level(logging.WARNING), guided(pipe, SIGNED, lonely):
        sample(pipe)
    assert "guided none of the steps" in caplog.text
