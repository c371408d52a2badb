"""DiffusionITM through ComfyUI's own models: errors of every parametrisation, against a plain call of the network."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import comfy_tiny  # noqa: E402
from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.rewards.itm_settings import itm_preset  # noqa: E402

pytestmark = pytest.mark.comfy
ONE = {"prune": False, "stop": 0.0, "noise": "shared", "metric": "mse"}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def latents(count: int = 2):
    return {"samples": torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(4))}


def with_sampling(model, kind: str):
    """The model with another parametrisation, patched in as ComfyUI's ModelSampling nodes do."""
    import comfy.model_sampling as ms

    bases = {
        "eps": (ms.ModelSamplingDiscrete, ms.EPS),
        "v": (ms.ModelSamplingDiscrete, ms.V_PREDICTION),
        "flow": (ms.ModelSamplingDiscreteFlow, ms.CONST),
    }[kind]
    sampling = type("Sampling", bases, {})(model.model.model_config)
    if kind == "flow":
        sampling.set_parameters(shift=3.0)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched, sampling


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_errors_are_those_of_what_the_network_predicts(kind):
    """The network itself is asked, with inputs made from the definitions of the three parametrisations."""
    from interplay.guidance.hosts.comfyui.itm import score_latents

    model, sampling = with_sampling(comfy_tiny.build(), kind)
    latent, text, empty = latents(), comfy_tiny.text(1), comfy_tiny.text(2)
    contrast = comfy_tiny.text(3)
    settings = itm_preset("fast", steps=(250.0, 700.0), normalise="on", **ONE)
    found = score_latents(model, text, latent, settings, empty, [("another", contrast)]).scores
    clean = latent["samples"] * model.model.latent_format.scale_factor
    for index, t in enumerate((250.0, 700.0)):
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(index)).expand_as(clean)
        if kind == "flow":
            share = 1 - (1 - t / 999.0)
            sigma = 3.0 * share / (1 + 2.0 * share)
            x, target, step = (1 - sigma) * clean + sigma * noise, noise - clean, sigma * 1000
        else:
            sigma = float(sampling.sigmas[int(t)])
            alpha = 1 / (1 + sigma**2) ** 0.5
            x, step = alpha * clean + sigma * alpha * noise, t
            target = noise if kind == "eps" else alpha * noise - sigma * alpha * clean
        for cond, column in ((text, 0), (contrast, 1), (empty, None)):
            context = cond[0][0].expand(2, -1, -1)
            said = model.model.diffusion_model(x, torch.full((2,), step), context=context)
            expected = (said - target).square().mean((1, 2, 3)).double()
            got = found.empty[:, index] if column is None else found.errors[:, column, index]
            torch.testing.assert_close(got, expected, rtol=2e-3, atol=1e-5)


def test_guidance_and_cfg_play_no_part():
    from interplay.guidance.hosts.comfyui.guidance import patch_model
    from interplay.guidance.hosts.comfyui.itm import score_latents

    model, settings = comfy_tiny.build(), itm_preset("fast", levels=2, **ONE)
    plain = score_latents(model, comfy_tiny.guided_text(), latents(), settings, comfy_tiny.text(2)).scores
    guided = patch_model(model, comfy_tiny.settings())
    found = score_latents(guided, comfy_tiny.guided_text(), latents(), settings, comfy_tiny.text(2)).scores
    torch.testing.assert_close(found.errors, plain.errors)


def test_a_mask_in_pixels_scores_a_region():
    from interplay.guidance.hosts.comfyui.itm import score_latents

    settings = itm_preset("fast", levels=2, space="eps", normalise="off", **ONE)
    model = comfy_tiny.build()
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1.0
    half = score_latents(model, comfy_tiny.text(), latents(), settings, mask=mask).scores
    other = score_latents(model, comfy_tiny.text(), latents(), settings, mask=1 - mask).scores
    whole = score_latents(model, comfy_tiny.text(), latents(), settings).scores
    torch.testing.assert_close((half.errors + other.errors) / 2, whole.errors, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(half.errors, whole.errors)


def test_pixelworld_prefers_the_caption_of_a_true_picture_and_swaps_come_from_the_hypergraph():
    from interplay.guidance.hosts.comfyui.conditioning import encode
    from interplay.guidance.hosts.comfyui.itm import encode_text, score_latents, swapped_conditionings
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld
    from interplay.guidance.pixelworld.render import enlarge, render
    from interplay.guidance.pixelworld.world import Scene, Thing
    from interplay.parsing import parse

    model, clip, vae = load_pixelworld()
    prompt = "a red robot carrying a blue box in the forest"
    scene = Scene(Thing("robot", "red"), "forest", "carrying", Thing("box", "blue"), x=4)
    other = Scene(Thing("cat", "green"), "desert", x=4)
    pixels = [torch.from_numpy(enlarge(render(s)[0])).float() / 255 for s in (other, scene)]
    latent = {"samples": vae.encode(torch.stack(pixels))}
    positive = encode(clip, prompt, parse(prompt))
    contrasts = swapped_conditionings(clip, positive)
    assert next(name for name, _ in contrasts) == "a blue box carrying a red robot in the forest"
    found = score_latents(model, positive, latent, itm_preset("fast"), encode_text(clip, ""), contrasts)
    assert found.texts[0] == prompt and len(found.texts) == 1 + len(contrasts)
    assert found.scores.ranking() == [1, 0]
    assert found.scores.heat.shape == (2, 16, 16)


def test_what_does_not_fit_is_said():
    from interplay.guidance.hosts.comfyui.itm import score_latents

    latent = {"samples": torch.full((1, 4, 16, 16), float("nan"))}
    with pytest.raises(InterplayError, match="NaN"):
        score_latents(comfy_tiny.build(), comfy_tiny.text(), latent, itm_preset("fast"))
    with pytest.raises(InterplayError, match="empty prompt"):
        score_latents(comfy_tiny.build(), comfy_tiny.text(), latents(), itm_preset("fast", normalise="on"))
    part = comfy_tiny.text(1, start_percent=0.5)
    with pytest.raises(InterplayError, match="a part of the steps"):
        score_latents(comfy_tiny.build(), part, latents(), itm_preset("fast"))
