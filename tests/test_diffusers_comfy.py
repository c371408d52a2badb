"""Both hosts on the same weights: the same maps, the same gradients, the same pictures."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from guidance_cases import gentle as preset
from interplay.parsing import parse

pytestmark = pytest.mark.comfy

PROMPT = "a white dog plays with a ginger cat in a forest"
LENGTH, WIDTH = 77, 24
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}
TIMES = (999, 880, 760, 640, 520, 400, 280, 160, 40)
CONFIG = preset("SHY", off_switch=False, early_stop=False, cycle=("C", "A"), end=0.5, step=0.03)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    made = UNet2DConditionModel(**UNET).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "attn2.to_q" in name or "attn2.to_k" in name:
                parameter.mul_(4.0)
    return made


@pytest.fixture(scope="module")
def comfy_model(unet):
    """The same weights as ComfyUI's own classes, inference tensors as after a real load."""
    from interplay.guidance.hosts.comfyui.pixelworld import _load_model

    with torch.inference_mode():
        return _load_model(UNET, {k: v.clone() for k, v in unet.state_dict().items()})


@pytest.fixture(scope="module")
def table():
    import comfy
    from interplay.parsing.tokens import align_plain
    from transformers import CLIPTokenizer

    folder = Path(next(iter(comfy.__path__))) / "sd1_tokenizer"
    return align_plain(PROMPT, CLIPTokenizer.from_pretrained(str(folder)))


@pytest.fixture(scope="module")
def words(table):
    from interplay.guidance.graph import token_graph

    return token_graph(parse(PROMPT), table)


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, LENGTH, WIDTH, generator=generator), torch.randn(1, LENGTH, WIDTH, generator=generator)


def test_maps_and_gradients_are_the_same(unet, comfy_model, words):
    from interplay.guidance.hosts.comfyui import capture as comfy_capture
    from interplay.guidance.hosts.comfyui.passes import gradient_region
    from interplay.guidance.hosts.diffusers import capture

    generator = torch.Generator().manual_seed(2)
    z, t = torch.randn(2, 4, 12, 20, generator=generator), torch.tensor([601.0, 601.0])
    text = texts()[0].expand(2, -1, -1)
    seed = torch.randn(2, len(words.words), 12, 20, generator=generator)
    leaf = z.clone().requires_grad_()
    reader = capture.Reader(capture.guided_layers(unet, 12, 20), words, stop=True)
    with reader.reading(), capture.frozen(unet), contextlib.suppress(capture.LastLayerReached):
        unet(leaf, t, encoder_hidden_states=text)
    ours = reader.maps()
    gradient = torch.autograd.grad((ours * seed).sum(), leaf)[0]

    network, other = comfy_model.model.diffusion_model, z.clone().requires_grad_()
    found = comfy_capture.MapCapture(comfy_capture.guided_layers(network, 12, 20), words, 2)
    with gradient_region(network), found.hooked(), contextlib.suppress(comfy_capture.PassComplete):
        network(other, t, context=text)
    theirs = found.maps()
    with torch.inference_mode(False):
        comfy_gradient = torch.autograd.grad((theirs * seed).sum(), other)[0]
    assert ours.std() > 1e-4 and gradient.abs().max() > 1e-5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient, comfy_gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def diffusers_picture(unet, words, noise, config):
    from interplay.guidance.hosts.diffusers.guidance import guided

    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace"
    )
    pipe = StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    scheduler.set_timesteps(timesteps=list(TIMES))
    first = float(scheduler.sigmas[0])
    positive, negative = (text.expand(noise.shape[0], -1, -1) for text in texts())
    with guided(pipe, config, words) as session:
        latents = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            latents=noise * (1 + first**2) ** 0.5 / float(scheduler.init_noise_sigma),  # ComfyUI's start
            timesteps=list(TIMES),
            guidance_scale=4.0,
            height=16,
            width=16,
            output_type="latent",
        ).images
    return latents, session.reports[0]


def comfyui_picture(model, table, noise, config):
    import comfy.sample
    import comfy.samplers
    from interplay.guidance.hosts.comfyui.conditioning import attach
    from interplay.guidance.hosts.comfyui.guidance import patch_model

    reports = []
    with torch.inference_mode():
        positive, negative = ([[text.clone(), {}]] for text in texts())
        patched = patch_model(model, config, on_report=reports.append)
        sampling = model.get_model_object("model_sampling")
        sigmas = torch.cat([sampling.sigmas[list(TIMES)], torch.zeros(1)])
        out = comfy.sample.sample_custom(
            patched,
            noise,
            4.0,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            attach(positive, parse(PROMPT), {"l": table}),
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )
        return model.model.process_latent_in(out).clone(), reports[0]


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 4, 12, 20)])
def test_pictures_are_the_same_plain_and_guided(unet, comfy_model, table, words, shape):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    pictures = {}
    for name, config in (("plain", preset("SHY", strength=0.0)), ("guided", CONFIG)):
        ours, report = diffusers_picture(unet, words, noise, config)
        theirs, other = comfyui_picture(comfy_model, table, noise, config)
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-3 * float(ours.std()))
        pictures[name] = ours
        assert report.guided_steps == other.guided_steps == (0 if name == "plain" else 5)
        for step, same in zip(report.steps, other.steps, strict=True):
            assert step.progress == pytest.approx(same.progress) and step.curve.keys() == same.curve.keys()
            for term, rows in step.curve.items():
                torch.testing.assert_close(torch.tensor(rows), torch.tensor(same.curve[term]), rtol=1e-3, atol=1e-4)
    assert (pictures["guided"] - pictures["plain"]).abs().max() > 0.05
