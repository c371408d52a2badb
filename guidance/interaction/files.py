"""From a file or folder to its parts, whichever of the published forms it has; and to a safetensors file of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InterplayError
from .keys import (
    CLIP2_PREFIX,
    CLIP_PREFIX,
    FUSER_KEYS,
    PLACE,
    PREFIX,
    TOKENIZER,
    TOKENIZER_KEYS,
    VAE_PREFIX,
    XL_HEAD,
    XL_WIDTH,
    Parts,
    Tensors,
    diffusers_to_ldm,
    joined,
    split,
)
from .unpickle import read_torch

NESTED, WEBUI, DIFFUSERS, FLAT, CHECKPOINT = "training file", "webui file", "diffusers", "flat LDM file", "checkpoint"
OWN = "interplay.interaction"
_POINTER = b"version https://git-lfs"
_TRAINING = ("opt", "iters", "scaler", "scheduler")
SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin")


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """The content of a weights file and its metadata. InterplayError when it is no such file or not whole."""
    if not path.is_file():
        raise InterplayError(f"There is no file '{path.name}' where it was listed: refresh the list of models.")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InterplayError(
                f"'{path.name}' is only a Git LFS pointer of a few bytes: download the weights themselves."
            )
    if path.suffix in (".safetensors", ".sft"):
        return _read_safetensors(path)
    return read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InterplayError(
            f"'{path.name}' is not a whole safetensors file, most likely because its download stopped half-way: "
            "download it again."
        ) from error


def load_parts(path: Path) -> Parts:
    """Read a file in any form, or a diffusers folder, and check it. InterplayError says what else the file is."""
    if path.is_dir():
        return _load_folder(path)
    content, metadata = read_file(path)
    return parts_of(content, path.name, metadata)


def parts_of(content: Any, name: str, metadata: Mapping[str, str] | None = None) -> Parts:
    """The parts of a file's content; ``name`` is for messages."""
    if not isinstance(content, Mapping):
        raise InterplayError(f"'{name}' holds no weights but one {type(content).__name__}: choose another file.")
    content, heads = _unwrapped(content), int((metadata or {}).get("heads", 8))
    model = content.get("model")
    if isinstance(model, Mapping):
        return _nested(content, name, heads)
    tensors = _tensors(content)
    _refuse(tensors, name)
    if any(key.startswith(PREFIX) for key in tensors):
        unet = {key[len(PREFIX) :]: value for key, value in tensors.items() if key.startswith(PREFIX)}
        clip = {key: value for key, value in tensors.items() if key.startswith(CLIP_PREFIX)}
        clip2 = {key: value for key, value in tensors.items() if key.startswith(CLIP2_PREFIX)}
        vae = {key: value for key, value in tensors.items() if key.startswith(VAE_PREFIX)}
        return replace(_parts(CHECKPOINT, unet, name, clip, vae, heads), clip2=clip2)
    if "conv_in.weight" in tensors:
        return _parts(DIFFUSERS, diffusers_to_ldm(tensors), name, heads=heads)
    form = FLAT if "input_blocks.0.0.weight" in tensors else WEBUI
    return _parts(form, tensors, name, heads=heads)


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = content.get("state_dict")
    return inner if isinstance(inner, Mapping) else content


def _tensors(content: Any) -> Tensors:
    if not isinstance(content, Mapping):
        return {}
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _nested(content: Mapping[str, Any], name: str, heads: int) -> Parts:
    unet = _tensors(content["model"])
    _refuse(unet, name)
    unet = {key.removeprefix(PREFIX): value for key, value in unet.items()}
    clip, vae = _tensors(content.get("text_encoder")), _tensors(content.get("autoencoder"))
    if not any(key.startswith(TOKENIZER) for key in unet):
        raise InterplayError(f"'{name}' is a training file whose model holds no interactions: choose another file.")
    notes: tuple[str, ...] = ()
    if any(key in content for key in _TRAINING):
        notes = ("The file also holds the state of a training run, which is not used and may be deleted.",)
    return _parts(NESTED, unet, name, clip, vae, heads, notes)


def _parts(
    form: str,
    unet: Tensors,
    name: str,
    clip: Tensors | None = None,
    vae: Tensors | None = None,
    heads: int = 8,
    notes: tuple[str, ...] = (),
) -> Parts:
    base, blocks, fusers, tokenizer = split(unet)
    parts = Parts(form, fusers, blocks, tokenizer, base if form != WEBUI else {}, clip or {}, vae or {}, heads, notes)
    _check(parts, name)
    if parts.xl:
        parts = replace(parts, head_width=XL_HEAD)
    if form == WEBUI and base:
        raise InterplayError(
            f"'{name}' holds {len(base)} tensors that belong neither to a fuser nor to the tokenizer, such as "
            f"'{next(iter(base))}': choose an InteractDiffusion file."
        )
    return parts


def _check(parts: Parts, name: str) -> None:
    """Every fuser and the tokenizer whole, and of widths that fit."""
    for block, fuser in zip(parts.blocks, parts.fusers, strict=True):
        wrong = (FUSER_KEYS | {PLACE} if parts.placed else FUSER_KEYS).symmetric_difference(fuser)
        if wrong:
            raise InterplayError(
                f"The fuser of {block} in '{name}' has {len(fuser)} tensors and not the {len(FUSER_KEYS)} expected "
                f"('{min(wrong)}' is odd): download the file again."
            )
        width = parts.base.get(f"{block}.norm.weight")
        if width is not None and width.shape != fuser["linear.bias"].shape:
            raise InterplayError(
                f"The fuser of {block} in '{name}' is {fuser['linear.bias'].shape[0]} wide and its block "
                f"{width.shape[0]}: the file mixes two models, choose another."
            )
    wrong = TOKENIZER_KEYS.symmetric_difference(parts.tokenizer)
    if wrong:
        raise InterplayError(
            f"The tokenizer in '{name}' has {len(parts.tokenizer)} tensors and not the {len(TOKENIZER_KEYS)} of "
            f"InteractDiffusion ('{min(wrong)}' is odd): choose an InteractDiffusion file."
        )
    if not parts.fusers:
        raise InterplayError(f"'{name}' holds a tokenizer and no fusers: download the file again.")
    context = {int(fuser["linear.weight"].shape[1]) for fuser in parts.fusers}
    if context != {parts.width}:
        raise InterplayError(
            f"The fusers in '{name}' take tokens {sorted(context)} wide and its tokenizer makes them {parts.width} "
            "wide: the file mixes two models, choose another."
        )


def _refuse(tensors: Mapping[str, Tensor], name: str) -> None:
    """Say what a file is that is no InteractDiffusion."""
    for kind, reason in _OTHERS:
        if kind(tensors):
            raise InterplayError(f"'{name}' {reason}.")


def _has(tensors: Mapping[str, Tensor], part: str) -> bool:
    return any(part in key for key in tensors)


def _context(tensors: Mapping[str, Tensor]) -> int:
    """The width of the prompt's features that the cross-attention takes; 0 when there is none."""
    return next((int(v.shape[1]) for k, v in tensors.items() if k.endswith("attn2.to_k.weight") and v.ndim == 2), 0)


def _is_lora(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("lora_") or "lora_up" in key or "lora_A" in key for key in tensors)


def _is_base(width: int) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda tensors: not _has(tensors, TOKENIZER) and _context(tensors) == width


def _is_gligen(tensors: Mapping[str, Tensor]) -> bool:
    return _has(tensors, "position_net.linears.") and not _has(tensors, "position_net.linear_action.")


_OTHERS: tuple[tuple[Callable[[Mapping[str, Tensor]], bool], str], ...] = (
    (lambda tensors: not tensors, "holds no tensors by name: choose an InteractDiffusion file"),
    (_is_lora, "is a LoRA: load it with 'Load LoRA' and choose an InteractDiffusion file here"),
    (
        _is_base(XL_WIDTH),
        "is an SDXL model without interactions: connect it to 'model' and choose an InteractDiffusion-XL file here",
    ),
    (_is_base(1024), "is an SD2.x model without interactions: InteractDiffusion needs SD1.x, choose another file"),
    (_is_gligen, "is GLIGEN for text boxes and knows no actions: load it with 'GLIGENLoader'"),
    (
        lambda tensors: not _has(tensors, TOKENIZER),
        "holds no interactions, only other weights: load it as a checkpoint and choose an InteractDiffusion file here",
    ),
)


def _load_folder(path: Path) -> Parts:
    """A folder of diffusers: unet/, and text_encoder/ and vae/ where they are."""
    if not (path / "model_index.json").is_file():
        raise InterplayError(f"The folder '{path.name}' has no model_index.json: choose a folder made for diffusers.")
    unet = _folder_weights(path / "unet")
    if unet is None:
        raise InterplayError(f"The folder '{path.name}' has no weights in unet/: download that part of it.")
    parts = parts_of(*unet)
    heads = _head_count(path / "unet" / "config.json")
    found = [_folder_weights(path / part) for part in ("text_encoder", "text_encoder_2", "vae")]
    clip, clip2, vae = (_tensors(part[0]) if part else {} for part in found)
    return replace(parts, form=f"{DIFFUSERS} folder", heads=heads, clip=clip, clip2=clip2, vae=vae)


def _head_count(config: Path) -> int:
    if not config.is_file():
        return 8
    heads = json.loads(config.read_text(encoding="utf-8")).get("attention_head_dim", 8)
    return int(heads[0] if isinstance(heads, list) else heads)


def _folder_weights(folder: Path) -> tuple[Any, str] | None:
    """The first weights of a folder, the whole-precision ones before variants, and their file's name.

    What was saved in several numbered files is put together.
    """
    files = sorted((p for p in folder.glob("*") if p.suffix in SUFFIXES), key=lambda p: (len(p.name), p.name))
    files.sort(key=lambda p: p.suffix != ".safetensors")
    if not files:
        return None
    name = f"{folder.parent.name}/{folder.name}/{files[0].name}"
    part = re.fullmatch(r"(.+)-\d+-of-(\d+)(\.\w+)", files[0].name)
    if part is None:
        return read_file(files[0])[0], name
    shards = [folder / f"{part[1]}-{i + 1:0{len(part[2])}}-of-{part[2]}{part[3]}" for i in range(int(part[2]))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise InterplayError(f"The folder '{folder.parent.name}' lacks {missing[0]} in {folder.name}/: download it.")
    return {key: value for shard in shards for key, value in read_file(shard)[0].items()}, name


def save_parts(parts: Parts, path: Path) -> None:
    """Write ``parts`` as one safetensors file: a checkpoint when there is a base, else fusers and tokenizer alone.

    Raises:
        InterplayError: ``path`` exists or does not end in .safetensors.
    """
    from safetensors.torch import save_file

    if path.suffix != ".safetensors" or path.exists():
        raise InterplayError(f"'{path.name}' must be a new file that ends in .safetensors: choose another name.")
    own = joined(parts.blocks, parts.fusers, parts.tokenizer)
    tensors: Tensors = {PREFIX + key: value for key, value in {**parts.base, **own}.items()} if parts.base else own
    tensors |= _prefixed(parts.clip, CLIP_PREFIX) | _prefixed(parts.vae, VAE_PREFIX)
    tensors |= _prefixed(parts.clip2, CLIP2_PREFIX)
    metadata = {"format": "pt", "made_by": OWN, "heads": str(parts.heads)}
    temporary = path.with_name(path.name + ".part")
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, str(temporary), metadata)
    temporary.replace(path)


def _prefixed(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key if key.startswith(prefix) else prefix + key: value for key, value in tensors.items()}
