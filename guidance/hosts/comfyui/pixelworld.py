"""PixelWorld as ComfyUI's MODEL, CLIP and VAE, made of ComfyUI's own classes from the same files that diffusers
reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import torch

from ....errors import InterplayError
from ...pixelworld import weights_dir

Tensors = dict[str, torch.Tensor]
_UNET, _VAE, _TEXT = "unet", "vae", "text_encoder"


def load_pixelworld(folder: Path | None = None) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Load MODEL, CLIP and VAE.

    Args:
        folder: other weights of the same layout; by default the ones that come with the pack.

    Raises:
        InterplayError: weights are missing or damaged.
    """
    path = weights_dir(folder)
    return _load_model(*_read(path, _UNET)), _load_clip(*_read(path, _TEXT)), _load_vae(*_read(path, _VAE))


def _read(path: Path, part: str) -> tuple[dict[str, Any], Tensors]:
    """A part's configuration and tensors."""
    config = json.loads((path / part / "config.json").read_text(encoding="utf-8"))
    (file,) = (path / part).glob("*.safetensors")
    return config, comfy.utils.load_torch_file(str(file), safe_load=True)


def _load_model(config: dict[str, Any], state: Tensors) -> comfy.model_patcher.ModelPatcher:
    """The U-Net as an SD1.5 model of its own size."""
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    levels = len(channels)
    load_device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=load_device, model_params=sum(t.numel() for t in state.values()))
    unet_config: dict[str, Any] = {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [layers] * levels,
        "transformer_depth": [1] * (layers * levels),
        "transformer_depth_output": [1] * ((layers + 1) * levels),
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "context_dim": config["cross_attention_dim"],
        "adm_in_channels": None,
        "legacy": False,
        "use_checkpoint": False,
        "dtype": dtype,
    }
    names = comfy.utils.unet_to_diffusers(unet_config)
    family = comfy.supported_models.SD15(unet_config)
    family.unet_config["num_heads"] = config["attention_head_dim"]  # SD15 itself insists on eight
    family.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, load_device))
    model = comfy.model_base.BaseModel(family, device=comfy.model_management.unet_offload_device())
    missing = set(names) - set(state) if not set(state) <= set(names) else set()
    result = model.diffusion_model.load_state_dict({names[k]: v for k, v in state.items() if k in names}, strict=False)
    if missing or result.missing_keys or result.unexpected_keys:
        raise InterplayError("PixelWorld's U-Net does not fit this ComfyUI; update Interplay.")
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device, comfy.model_management.unet_offload_device())


def _load_clip(config: dict[str, Any], state: Tensors) -> comfy.sd.CLIP:
    """The text encoder with CLIP's tokenizer, taking the last layer as SD1 does."""
    size = config["hidden_size"]

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            options = {"return_projected_pooled": False, "model_options": model_options or {}}
            super().__init__(device=device, dtype=dtype, textmodel_json_config=dict(config), **options)

    class Model(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Encoder)

    class Words(comfy.sd1_clip.SDTokenizer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(embedding_size=size, **kwargs)

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(tokenizer=Words, **kwargs)

    count = sum(t.numel() for t in state.values())
    clip = comfy.sd.CLIP(SimpleNamespace(params={}, clip=Model, tokenizer=Tokenizer), parameters=count)
    # The file has no text projection; only pooled outputs use it, which SD1 ignores, but unset memory could hold NaN.
    state = {**state, "text_projection.weight": torch.eye(size)}
    missing, _ = clip.load_sd(state)
    if [key for key in missing if "logit_scale" not in key]:
        raise InterplayError("PixelWorld's text encoder does not fit this ComfyUI; update Interplay.")
    return clip


def _load_vae(config: dict[str, Any], state: Tensors) -> comfy.sd.VAE:
    """The autoencoder. ComfyUI's encoder starts with fewer channels, so its entrance is rewritten; see below."""
    channels = config["block_out_channels"]
    base = 32
    structure = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": base,
        "ch_mult": [c // base for c in channels],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"ddconfig": structure, "embed_dim": config["latent_channels"]}
    vae = comfy.sd.VAE(sd=_narrow_entrance(state, base, channels[0]), config={"params": params}, dtype=torch.float32)
    vae.throw_exception_if_invalid()
    return vae


def _narrow_entrance(state: Tensors, base: int, width: int) -> Tensors:
    """Let the first convolution have ``base`` channels and the first block widen them to ``width``.

    Exact, because PixelWorld's first convolution writes to its first three channels only and the block's residual
    branch is zero.
    """
    first = "encoder.down_blocks.0.resnets.0."
    weight = state["encoder.conv_in.weight"]
    if weight[base:].any() or state[first + "conv2.weight"].any() or state[first + "conv2.bias"].any():
        raise InterplayError(
            "PixelWorld's autoencoder has weights that ComfyUI's layout cannot hold; train it with this version."
        )
    changed = {
        "encoder.conv_in.weight": weight[:base],
        "encoder.conv_in.bias": state["encoder.conv_in.bias"][:base],
        first + "norm1.weight": state[first + "norm1.weight"][:base],
        first + "norm1.bias": state[first + "norm1.bias"][:base],
        first + "conv1.weight": state[first + "conv1.weight"][:, :base].contiguous(),
        first + "conv_shortcut.weight": torch.eye(width, base, dtype=weight.dtype)[:, :, None, None],
        first + "conv_shortcut.bias": torch.zeros(width, dtype=weight.dtype),
    }
    return {**state, **changed}
