"""Which models and latents can be guided, said in one sentence when they cannot."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ....errors import InterplayError

COMPILED = "OptimizedModule"  # what torch.compile makes of a module
COMPILE_WRAPPER = "torch.compile"


def check_model(model: Any) -> None:
    """InterplayError unless ``model`` (ModelPatcher) is a Stable Diffusion 1.x, 2.x or SDXL that is not compiled."""
    network = model.get_model_object("diffusion_model")
    if _is_compiled(model, network):
        raise InterplayError(
            "The model is compiled with torch.compile, which hides its attention: leave that node out to guide it."
        )
    unet = isinstance(network, UNetModel) and not any(isinstance(m, SpatialVideoTransformer) for m in network.modules())
    if not unet:
        raise InterplayError(
            f"Guidance works with Stable Diffusion 1.x, 2.x and SDXL, not with {type(model.model).__name__}: load one "
            "of those."
        )


def _is_compiled(model: Any, network: Any) -> bool:
    patches = [network, *getattr(model, "object_patches", {}).values()]
    wrappers = [key for by_key in getattr(model, "wrappers", {}).values() for key, found in by_key.items() if found]
    return COMPILE_WRAPPER in wrappers or any(type(patch).__name__ == COMPILED for patch in patches)


def is_large(model: Any) -> bool:
    """SDXL and its kin, whose coarse levels hold many transformer blocks."""
    return bool(getattr(model.model, "adm_channels", 0))


def check_latent(latent: Tensor, model: Any) -> None:
    """InterplayError unless a latent (B, C, h, w) fits the model and is finite."""
    channels = model.get_model_object("latent_format").latent_channels
    if getattr(latent, "is_nested", False) or latent.ndim != 4 or latent.shape[1] != channels:
        raise InterplayError(
            f"A latent of shape {tuple(latent.shape)} does not fit this model, which takes (batch, {channels}, height, "
            "width): make it with 'Empty Latent Image' or encode a picture with this model's VAE."
        )
    if not bool(torch.isfinite(latent).all()):
        raise InterplayError(
            "The latent to start from holds NaN or infinite values: encode the picture again, with the VAE in fp32."
        )
