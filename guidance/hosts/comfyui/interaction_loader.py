"""InteractDiffusion files as ComfyUI's MODEL, CLIP and VAE, and as fusers under ComfyUI's memory management."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....errors import InterplayError
from ...interaction.build import build, check_fits, compare_base, describe
from ...interaction.files import SUFFIXES, load_parts, save_parts
from ...interaction.keys import CLIP2_PREFIX, CLIP_PREFIX, VAE_PREFIX, Parts
from ...interaction.network import Schedule
from ...pixelworld.fusers import PATH, fusers_file
from .interaction import HostFusers, InteractDiffusion, with_null_tokens
from .pixelworld import load_pixelworld

logger = logging.getLogger(__name__)
FOLDERS = ("diffusion_models", "checkpoints", "gligen")
DTYPES = {
    "default": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
WITHOUT_BOXES = ("off", "null tokens")
BUNDLED = "PixelWorld (bundled)"


@dataclass(frozen=True)
class Loaded:
    """What the loader gives: ``clip`` and ``vae`` are None when the file has none."""

    model: Any
    interact: InteractDiffusion
    clip: Any
    vae: Any
    report: str


def list_files() -> list[str]:
    """``BUNDLED``, then 'folder/name' of everything that could be an InteractDiffusion file."""
    found = [BUNDLED]
    for folder in FOLDERS:
        names = folder_paths.get_filename_list(folder)
        found += [f"{folder}/{name}" for name in names if Path(name).suffix.lower() in SUFFIXES]
    for root in folder_paths.get_folder_paths("diffusers"):
        found += [f"diffusers/{p.parent.name}" for p in sorted(Path(root).glob("*/model_index.json"))]
    return list(dict.fromkeys(found))


def find_file(entry: str) -> Path:
    """The path of an entry of ``list_files``. InterplayError when it is not there."""
    if entry == BUNDLED:
        return fusers_file()
    folder, _, name = entry.partition("/")
    if folder == "diffusers":
        for root in folder_paths.get_folder_paths("diffusers"):
            path = Path(root) / name
            if name and path.resolve().parent == Path(root).resolve() and path.is_dir():
                return path
    elif folder in FOLDERS and (found := folder_paths.get_full_path(folder, name)) is not None:
        return Path(found)
    raise InterplayError(
        f"There is no model '{entry}': refresh the list, or put an InteractDiffusion file into models/diffusion_models."
    )


def load(path: Path, dtype: str = "default", model: Any = None, without_boxes: str = "off") -> Loaded:
    """Load a file or a folder of diffusers.

    model: a ModelPatcher of SD1.x whose U-Net is used in place of the file's own. dtype: of ``DTYPES``.
    without_boxes: what a prompt without interactions sees, of ``WITHOUT_BOXES``. The bundled file brings PixelWorld
    along where no model is connected.
    InterplayError says what is wrong with a file, or that fusers without a base need ``model``.
    """
    for name, value, options in (("dtype", dtype, DTYPES), ("mode", without_boxes, WITHOUT_BOXES)):
        if value not in options:
            raise InterplayError(f"There is no {name} called '{value}'; choose one of {', '.join(options)}.")
    parts = load_parts(path)
    world = load_pixelworld() if model is None and path == PATH else None
    model = world[0] if world else model
    if model is None and not parts.base:
        raise InterplayError(
            f"'{path.name}' holds fusers only, without a U-Net of its own: connect an {_kind(parts)} model to 'model'."
        )
    lines = [f"file: {path.name}", *describe(parts)]
    if model is not None:
        base = unet_state(model)
        check_fits(parts, base)
        lines.append(compare_base(parts, base))
    else:
        check_fits(parts, parts.base)
        model = load_base(parts, DTYPES[dtype], path.name)
        lines.append(
            f"By the authors' training code the base is {_kind(parts)} itself: without boxes or null tokens this "
            "equals it."
        )
    lines.append(f"base weights: {model.model_dtype()}")
    interact = make_interact(parts, model, DTYPES[dtype])
    patched = model if without_boxes == "off" else with_null_tokens(model, interact, Schedule())
    clip, vae = world[1:] if world else (load_clip(parts), load_vae(parts))
    missing = [name for name, part in (("CLIP", clip), ("VAE", vae)) if part is None]
    if missing:
        lines.append(f"The file has no {' and no '.join(missing)}: take the {_kind(parts)} checkpoint's.")
    return Loaded(patched, interact, clip, vae, "\n".join(lines))


def _kind(parts: Parts) -> str:
    return "SDXL" if parts.xl else "SD1.x"


def unet_state(model: Any) -> dict[str, Tensor]:
    """A model's U-Net tensors under LDM names. InterplayError when it is no U-Net."""
    network = getattr(model.model, "diffusion_model", None)
    state = network.state_dict() if network is not None else {}
    if "input_blocks.0.0.weight" not in state:
        raise InterplayError(
            "InteractDiffusion needs an SD1.x or SDXL model and the one connected is "
            f"{type(model.model).__name__}: connect another."
        )
    return state


def load_base(parts: Parts, dtype: torch.dtype | None, name: str) -> Any:
    """The file's own U-Net as a ModelPatcher; sizes that ComfyUI does not know are built from their tensors."""
    options = {"dtype": dtype} if dtype is not None else {}
    if parts.heads == 8 or parts.xl:
        model = comfy.sd.load_diffusion_model_state_dict(dict(parts.base), model_options=options)
        if model is not None:
            return model
    return _load_small(parts, dtype, name)


def _load_small(parts: Parts, dtype: torch.dtype | None, name: str) -> Any:
    config = comfy.model_detection.detect_unet_config(parts.base, "")
    if config is None or config.get("context_dim") != parts.width:
        raise InterplayError(
            f"The U-Net in '{name}' is not one that ComfyUI knows: connect an {_kind(parts)} model to 'model'."
        )
    manager = comfy.model_management
    device, offload = manager.get_torch_device(), manager.unet_offload_device()
    count = sum(t.numel() for t in parts.base.values())
    weights = dtype or manager.unet_dtype(device=device, model_params=count)
    family = comfy.supported_models.SDXL(config) if parts.xl else comfy.supported_models.SD15(config)
    if not parts.xl:
        family.unet_config["num_heads"] = parts.heads  # SD15 itself insists on eight
    family.set_inference_dtype(weights, manager.unet_manual_cast(weights, device))
    model = family.get_model(parts.base, "")
    model.load_model_weights(dict(parts.base), "")
    return _patcher()(model.to(offload), load_device=device, offload_device=offload)


def _patcher() -> Any:
    """The host's own choice of model patcher; older versions have one only."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def make_interact(parts: Parts, model: Any, dtype: torch.dtype | None = None) -> InteractDiffusion:
    """Fusers under ComfyUI's management and the tokenizer beside them, for ``model`` (ModelPatcher)."""
    net = build(parts, comfy.ops.manual_cast, dtype).requires_grad_(False)
    manager = comfy.model_management
    with torch.no_grad():
        null = net.position_net.null_tokens()
    fusers = HostFusers(net.fusers, null, parts.blocks)
    patcher = _patcher()(fusers, load_device=manager.get_torch_device(), offload_device=manager.unet_offload_device())
    sampling = model.get_model_object("model_sampling")
    return InteractDiffusion(patcher, net.position_net, null, sampling, widths=parts.widths)


def load_clip(parts: Parts) -> Any:
    """The file's text encoder (for SDXL both), or None."""
    if not parts.clip:
        return None
    states = [_stripped(parts.clip, (CLIP_PREFIX, "transformer."))]
    if parts.clip2:
        states.append(_stripped(parts.clip2, (CLIP2_PREFIX,)))
    folders = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.load_text_encoder_state_dicts(states, embedding_directory=folders)


def load_vae(parts: Parts) -> Any:
    """The file's VAE, or None."""
    if not parts.vae:
        return None
    vae = comfy.sd.VAE(sd=_stripped(parts.vae, (VAE_PREFIX,)))
    vae.throw_exception_if_invalid()
    return vae


def _stripped(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    out = {}
    for key, value in tensors.items():
        for prefix in prefixes:
            key = key.removeprefix(prefix)
        out[key] = value
    return out


def convert(path: Path, name: str) -> Path:
    """Write a file's content as ``name``.safetensors beside it and return where; InterplayError when that exists."""
    if path == PATH:
        raise InterplayError("PixelWorld's interactions are a safetensors file already: leave 'convert_to' empty.")
    target = path.parent / f"{Path(name).stem}.safetensors"
    save_parts(load_parts(path), target)
    logger.info("Wrote %s.", target)
    return target
