"""PixelWorld as ComfyUI's MODEL, CLIP and VAE, against plain tensors from the files and against diffusers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.pixelworld import weights_dir  # noqa: E402
from interplay.guidance.pixelworld.detect import judge  # noqa: E402

pytestmark = pytest.mark.comfy
PROMPT = "a red robot carrying a blue box in the forest"

REFERENCE = """
import importlib.util, sys, torch
root, out = sys.argv[1:3]
spec = importlib.util.spec_from_file_location("interplay", root + "/__init__.py", submodule_search_locations=[root])
package = importlib.util.module_from_spec(spec)
sys.modules["interplay"] = package
spec.loader.exec_module(package)
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
torch.set_num_threads(1)
pipe = load_pixelworld()
g = torch.Generator().manual_seed(0)
x, image = torch.randn(2, 4, 16, 16, generator=g), torch.rand(1, 3, 128, 128, generator=g)
with torch.inference_mode():
    ids = pipe.tokenizer(sys.argv[3], padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = pipe.text_encoder(ids).last_hidden_state
    noise = pipe.unet(x, torch.tensor([500, 20]), text.expand(2, -1, -1)).sample
    decoded = (pipe.vae.decode(x / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    latent = pipe.vae.encode(image * 2 - 1).latent_dist.mean
found = {"ids": ids, "text": text, "noise": noise, "decoded": decoded, "latent": latent}
torch.save({"x": x, "image": image, **found}, out)
"""


@pytest.fixture(scope="module")
def parts():
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    return load_pixelworld()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """diffusers' results, from a process of its own: ComfyUI's folders shadow modules that it needs."""
    if subprocess.run([sys.executable, "-c", "import diffusers"], capture_output=True).returncode:
        pytest.skip("diffusers is not installed beside ComfyUI")
    out = tmp_path_factory.mktemp("reference") / "reference.pt"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", REFERENCE, str(root), str(out), PROMPT], check=True, timeout=300)
    return torch.load(out, weights_only=True)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def sample(parts, prompt: str, seed: int, steps: int = 20, cfg: float = 5.0):
    """What the stock nodes do: CLIPTextEncode twice, EmptyLatentImage, KSampler (ddim, normal), VAEDecode."""
    import comfy.sample

    model, clip, vae = parts
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))
    latent = torch.zeros(1, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, seed)
    options = {"disable_pbar": True, "seed": seed}
    samples = comfy.sample.sample(model, noise, steps, cfg, "ddim", "normal", positive, negative, latent, **options)
    return vae.decode(samples)[0].numpy()


def test_comfyui_sees_an_sd15_model_with_its_own_sizes(parts):
    import comfy.latent_formats
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    model, clip, vae = parts
    assert isinstance(model.model.diffusion_model, UNetModel)
    assert isinstance(model.model.latent_format, comfy.latent_formats.SD15)
    assert model.model.model_type.name == "EPS" and vae.latent_channels == 4
    tokens = clip.tokenize(PROMPT)["l"]
    assert len(tokens) == 1 and len(tokens[0]) == 77
    assert clip.encode_from_tokens(clip.tokenize(PROMPT)).shape == (1, 77, 64)


def test_no_weight_is_left_unset(parts):
    model, clip, vae = parts
    for module in (model.model, clip.cond_stage_model, vae.first_stage_model):
        assert all(torch.isfinite(p.float()).all() for p in module.parameters())


def test_text_encodings_are_those_of_diffusers(parts, reference):
    _, clip, _ = parts
    tokens = clip.tokenize(PROMPT)
    assert [[t[0] for t in row] for row in tokens["l"]] == reference["ids"].tolist()
    torch.testing.assert_close(clip.encode_from_tokens(tokens), reference["text"], atol=1e-4, rtol=1e-4)


def test_the_unet_predicts_what_diffusers_predicts(parts, reference):
    unet = parts[0].model.diffusion_model
    noise = unet(reference["x"], torch.tensor([500.0, 20.0]), reference["text"].expand(2, -1, -1))
    torch.testing.assert_close(noise, reference["noise"], atol=1e-4, rtol=1e-4)


def test_the_autoencoder_agrees_both_ways(parts, reference):
    vae = parts[2]
    decoded = vae.decode(reference["x"] / 0.18215).movedim(-1, 1)
    torch.testing.assert_close(decoded, reference["decoded"], atol=1e-4, rtol=1e-4)
    latent = vae.encode(reference["image"].movedim(1, -1))
    torch.testing.assert_close(latent, reference["latent"], atol=1e-3, rtol=1e-4)


def test_stock_sampling_draws_what_was_asked_for(parts):
    prompts = ["a red robot in the snow", "a yellow star in the forest", "a blue box in the desert"]
    images = [sample(parts, prompt, seed) for seed, prompt in enumerate(prompts)]
    assert images[0].shape == (128, 128, 3)
    assert sum(judge(prompt, image).objects_right for prompt, image in zip(prompts, images, strict=True)) >= 2


def test_damaged_weights_are_refused(tmp_path):
    import shutil

    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    shutil.copytree(weights_dir(), tmp_path / "weights")
    file = tmp_path / "weights" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InterplayError, match=r"is damaged; reinstall"):
        load_pixelworld(tmp_path / "weights")
