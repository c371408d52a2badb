"""Write trained parts as a diffusers pipeline folder: half-precision safetensors, CLIP's tokenizer, SD's schedule, a
manifest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from . import MANIFEST, autoencoder, file_digest, network

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _save(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: value.detach().half().contiguous() for key, value in tensors.items()}
    save_file(half, folder / name, {"format": "pt"})


def _text_state(state: dict[str, Tensor], rows: dict[int, int]) -> dict[str, Tensor]:
    """The trained text encoder under the names of CLIP's files, with a full embedding table.

    Every id that training did not meet gets the row of the unknown word.
    """
    named = {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}
    named = {key: value for key, value in named.items() if not key.endswith("position_ids")}
    key = "text_model.embeddings.token_embedding.weight"
    table = named[key][:1].repeat(network.TEXT["vocab_size"], 1)
    for token, row in rows.items():
        table[token] = named[key][row]
    return {**named, key: table}


def export(
    folder: Path,
    unet: dict[str, Tensor],
    text: dict[str, Tensor],
    vae: dict[str, Tensor],
    rows: dict[int, int],
    tokenizer: Path,
) -> None:
    """Write the pipeline folder.

    Args:
        folder: where to; existing files are replaced.
        unet, text, vae: state dicts under diffusers' and transformers' names.
        rows: token id to row of the trained, small embedding table (row 0 is the unknown word).
        tokenizer: folder with CLIP's tokenizer files.
    """
    channels = [len(unet[f"down_blocks.{i}.resnets.0.conv2.bias"]) for i in range(2)]
    version = "0.31.0"  # the oldest diffusers that is supported reads this
    _save(folder / "unet", "diffusion_pytorch_model.safetensors", unet)
    _write(
        folder / "unet" / "config.json",
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": version, **network.unet(channels)},
    )
    _save(folder / "vae", "diffusion_pytorch_model.safetensors", vae)
    _write(
        folder / "vae" / "config.json",
        {"_class_name": "AutoencoderKL", "_diffusers_version": version, **autoencoder.CONFIG},
    )
    _save(folder / "text_encoder", "model.safetensors", _text_state(text, rows))
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "torch_dtype": "float32",
        **network.TEXT,
    }
    _write(folder / "text_encoder" / "config.json", config)
    scheduler = {"_class_name": "DDIMScheduler", "_diffusers_version": version, **network.SCHEDULE}
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        if (folder / "tokenizer" / name).resolve() != (tokenizer / name).resolve():
            shutil.copyfile(tokenizer / name, folder / "tokenizer" / name)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": version,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write(folder / "model_index.json", index)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    _write(folder / MANIFEST, {p.relative_to(folder).as_posix(): file_digest(p) for p in files})
