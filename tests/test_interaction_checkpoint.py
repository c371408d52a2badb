"""CLIP and VAE of full size out of a training file and out of a checkpoint, with random weights, inside ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interaction_reference import random_state
from torch import Tensor

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
TOY = {"channels": 32, "mult": (1, 2), "layers": 1, "width": 768, "slots": 30}
DDCONFIG = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def executor() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def text_encoder() -> Any:
    """CLIP ViT-L's text model as transformers has it: the independent reading of the same weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        eos_token_id=49407, bos_token_id=49406, pad_token_id=49407, hidden_act="quick_gelu",
    )  # fmt: skip
    return CLIPTextModel(config).eval()


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    torch.manual_seed(1)
    made = AutoencoderKL(ddconfig=DDCONFIG, embed_dim=4).eval()
    for parameter in made.parameters():  # as made, the host leaves them unset
        torch.nn.init.normal_(parameter, std=1.0 if parameter.ndim < 2 else 1.0 / parameter[0].numel() ** 0.5)
    return made


@pytest.fixture(scope="module")
def files(text_encoder: Any, autoencoder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("whole")
    unet = random_state(5, **TOY)
    named = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in text_encoder.state_dict().items()}
    clip = {f"transformer.{key}": value.clone() for key, value in named.items()}
    vae = {key: value.clone() for key, value in autoencoder.state_dict().items()}
    nested = {"model": unet, "text_encoder": clip, "autoencoder": vae, "diffusion": {}, "config_dict": {}}
    torch.save(nested, folder / "training.pth")
    flat: dict[str, Tensor] = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    flat |= {f"cond_stage_model.{key}": value for key, value in clip.items()}
    flat |= {f"first_stage_model.{key}": value for key, value in vae.items()}
    save_file({k: v.contiguous() for k, v in flat.items()}, folder / "checkpoint.safetensors")
    return {"training": folder / "training.pth", "checkpoint": folder / "checkpoint.safetensors"}


@pytest.mark.parametrize("form", ["training", "checkpoint"])
def test_clip_and_vae_come_along(form: str, files: dict[str, Path], text_encoder: Any, autoencoder: Any) -> None:
    from interplay.guidance.hosts.comfyui.interaction import phrase_feature
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    loaded = load(files[form])
    assert loaded.clip is not None and loaded.vae is not None and "has no CLIP" not in loaded.report
    tokens = loaded.clip.tokenize("a red robot")
    ids = torch.tensor([[t[0] for t in tokens["l"][0]]])
    theirs = text_encoder(ids)
    ours = loaded.clip.encode_from_tokens_scheduled(tokens)[0][0]
    scale = float(theirs.last_hidden_state.abs().max())
    assert float((ours.float() - theirs.last_hidden_state).abs().max()) < 2e-2 * scale
    pooled = phrase_feature(loaded.clip, "a red robot")
    assert float((pooled - theirs.pooler_output[0]).abs().max()) < 2e-2 * float(theirs.pooler_output.abs().max())
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    picture = loaded.vae.decode(latent)[0]
    wanted = ((autoencoder.decode(latent)[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1)
    assert picture.shape == (32, 32, 3) and float((picture.float() - wanted).abs().max()) < 2e-2
