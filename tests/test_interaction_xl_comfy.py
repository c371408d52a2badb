"""InteractDiffusion for SDXL inside ComfyUI, on a small random model, against the second implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from interaction_reference import XL, interactions, random_state, tokenize, unet
from interplay.errors import InterplayError
from test_interaction_comfy import save
from test_interaction_core import close, fusers_only, grounding
from torch import Tensor

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True, scope="module")
def executor() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(11, **XL)


def painted(loaded: Any, x: Tensor, t: Tensor, context: Tensor, y: Tensor, tokens: Tensor | None) -> Tensor:
    from interplay.guidance.hosts.comfyui.interaction import FuserPatch, Gate, GroundingParameters

    options: dict[str, Any] = {"sigmas": torch.ones(1)}
    if tokens is not None:
        patch = FuserPatch(loaded.interact.patcher.model, GroundingParameters(tokens, Gate(1.0)))
        options["patches"] = {"middle_patch": [patch]}
    return loaded.model.model.diffusion_model(x, t, context, y=y, transformer_options=options)


@pytest.mark.parametrize("form", ["flat", "fusers on a connected model"])
def test_sdxl_paints_as_the_reference_in_every_mode(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui.interaction_loader import load

    loaded = load(save(state, tmp_path), "fp32")
    if form != "flat":
        alone = save(fusers_only(state), tmp_path, "fusers.safetensors")
        with pytest.raises(InterplayError, match="connect an SDXL model"):
            load(alone)
        loaded = load(alone, "fp32", model=loaded.model)
    x, t = torch.randn(2, 4, 8, 12), torch.tensor([700.0, 30.0])
    context, y, given = torch.randn(2, 5, 2048), torch.randn(2, 64), interactions(2048)
    interact = loaded.interact
    ours = {"off": None, "null": interact.null_tokens, "boxes": interact.tokenizer(grounding(given, interact.slots))}
    theirs = {"off": None, "null": tokenize(state, []), "boxes": tokenize(state, given)}
    wanted = {}
    for mode in ours:
        wanted[mode] = unet(state, x, t, context, theirs[mode], heads=0, y=y)
        close(painted(loaded, x, t, context, y, ours[mode]), wanted[mode])
    assert float((wanted["null"] - wanted["off"]).abs().max()) > 0.01
    assert float((wanted["boxes"] - wanted["null"]).abs().max()) > 0.003


def test_interactions_of_sdxl_and_sd1_do_not_mix(state: dict[str, Tensor], tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui.interaction_loader import load
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    with pytest.raises(InterplayError, match="connect an SDXL model"):
        load(save(fusers_only(state), tmp_path), model=load_pixelworld()[0])


def small_sdxl_clip(folder: Path) -> Any:
    """ComfyUI's pair of SDXL's text encoders, small, behind the host's own CLIP object."""
    import comfy.model_patcher
    import comfy.sd1_clip
    import comfy.sdxl_clip
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld

    clip = load_pixelworld()[1].clone()
    sizes = {"intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 77,
             "eos_token_id": 49407, "hidden_act": "gelu", "vocab_size": 49408, "model_type": "clip_text_model",
             "layer_norm_eps": 1e-5, "projection_dim": 24}  # fmt: skip
    model = comfy.sdxl_clip.SDXLClipModel.__new__(comfy.sdxl_clip.SDXLClipModel)
    torch.nn.Module.__init__(model)
    for name, width in (("clip_l", 16), ("clip_g", 24)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**sizes, "hidden_size": width}), encoding="utf-8")
        options: dict[str, Any] = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        setattr(model, name, comfy.sd1_clip.SDClipModel(device="cpu", textmodel_json_config=str(path), **options))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    cpu = torch.device("cpu")
    clip.cond_stage_model = model
    clip.patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    clip.tokenizer = comfy.sdxl_clip.SDXLTokenizer()
    return clip


def test_phrases_are_read_by_both_encoders(tmp_path: Path) -> None:
    """CLIP-L's end state before its projection, CLIP-G's behind it, as transformers reads the same weights."""
    from interplay.guidance.hosts.comfyui.interaction import phrase_feature
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    clip = small_sdxl_clip(tmp_path)
    found = phrase_feature(clip, "a red robot")
    ids = torch.tensor([[token for token, _ in clip.tokenize("a red robot")["l"][0]]])
    end = int((ids[0] == 49407).nonzero()[0])
    wanted = []
    for name in ("clip_l", "clip_g"):
        ours = getattr(clip.cond_stage_model, name).transformer
        config = CLIPTextConfig(**json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")))
        with torch.inference_mode(False):
            theirs = CLIPTextModelWithProjection(config).eval()
            weights = {k: v.detach().clone() for k, v in ours.state_dict().items()}
            if name == "clip_l":
                weights.pop("text_projection.weight")
            named = {k: v for k, v in weights.items() if k in theirs.state_dict()}
            assert len(named) > 30
            theirs.load_state_dict(named, strict=False)
        out = theirs(ids[:, : end + 1])
        wanted.append(out.last_hidden_state[0, end] if name == "clip_l" else out.text_embeds[0])
    close(found, torch.cat(wanted), 1e-4)
    again = clip.encode_from_tokens(clip.tokenize("a red robot"), return_pooled=True)[1]
    close(again[0].float(), wanted[1], 1e-4)  # nothing is left behind in the encoders' settings


def test_a_clip_with_one_encoder_is_told(state: dict[str, Tensor], tmp_path: Path) -> None:
    from interplay.guidance.hosts.comfyui.interaction import phrase_feature, phrases_of
    from interplay.guidance.hosts.comfyui.interaction_loader import load
    from interplay.guidance.hosts.comfyui.pixelworld import load_pixelworld
    from interplay.guidance.interaction.layout import from_text

    clip = small_sdxl_clip(tmp_path)
    clip.cond_stage_model.clip_l = None
    with pytest.raises(InterplayError, match="only one of SDXL's two"):
        phrase_feature(clip, "a red robot")
    loaded = load(save(state, tmp_path), "fp32")
    with pytest.raises(InterplayError, match="take 2048"):
        phrases_of(loaded.interact, load_pixelworld()[1], from_text("cat | chases | dog"))
