"""The files of RAM, RAM++ and Tag2Text: told apart, checked key by key, converted once to half-precision safetensors.

The published .pth files hold two moments of the optimiser beside the weights, and halves that tagging does not need.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InterplayError
from ..interaction.unpickle import read_torch
from .ram import SHAPES, Ram, RamShape, Tag2Text, build

log = logging.getLogger(__name__)

HALF = ".fp16.safetensors"
MADE_BY = "interplay tagger"
_BUFFERS = ("relative_position_index", "attn_mask", "position_ids")
_TEXT = ("tag_encoder.", "text_decoder.")
_TIED = "text_decoder.cls.predictions.decoder.bias"  # the same tensor as ...predictions.bias


def converted_path(path: Path) -> Path:
    """Where the conversion of a published file lies."""
    return path if path.name.endswith(".safetensors") else path.with_name(path.stem + HALF)


def open_model(path: Path, shape: RamShape | None = None, dtype: torch.dtype = torch.float32) -> Ram | Tag2Text:
    """The network of a file, in evaluation mode and frozen, on the CPU.

    A .pth file is read once; from then on the file that was written beside it is, to the same weights. shape: for files
    that are not of a published size, the published size of its kind otherwise.

    Raises:
        InterplayError: the file is damaged, no such model, or of another shape.
    """
    half = converted_path(path)
    if half.is_file() and (half == path or not path.is_file() or half.stat().st_mtime >= path.stat().st_mtime):
        tensors, kind = _read_half(half)
    else:
        tensors, kind = _read_published(path)
        tensors = _halved(known(tensors, shape or SHAPES[kind], path.name), path.name)
        _write_half(tensors, kind, half)
    shape = shape or SHAPES[kind]
    if shape.kind != kind:
        raise InterplayError(f"'{path.name}' is a {kind} model and not {shape.kind}; choose another file.")
    return assemble(tensors, shape, path.name, dtype)


def assemble(tensors: Mapping[str, Tensor], shape: RamShape, name: str, dtype: torch.dtype) -> Ram | Tag2Text:
    """The network with these weights; every key and shape has to fit.

    Raises:
        InterplayError: one does not.
    """
    with torch.device("meta"):
        model = build(shape)
    known(tensors, shape, name)
    ready = {key: tensors[key].to(dtype) for key in model.state_dict()}
    model.load_state_dict(ready, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def known(tensors: Mapping[str, Tensor], shape: RamShape, name: str) -> dict[str, Tensor]:
    """The weights that a network of this shape has, checked key by key; others are left out with a note in the log.

    Raises:
        InterplayError: one is missing or of another shape.
    """
    expected = keys_of(shape)
    missing, over = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise InterplayError(
            f"{name} has {len(missing)} of {len(expected)} weights too few, such as {missing[0]}; download it again."
        )
    if over:
        log.warning("'%s' holds %d weights that are not used, such as '%s'.", name, len(over), over[0])
    for key, wanted in expected.items():
        if tuple(tensors[key].shape) != wanted:
            raise InterplayError(
                f"'{key}' in '{name}' is {tuple(tensors[key].shape)} and should be {wanted}; choose a file of the "
                "published size (384 pixels, Swin-L for RAM and RAM++, Swin-B for Tag2Text)."
            )
    return {key: tensors[key] for key in expected}


def keys_of(shape: RamShape) -> dict[str, tuple[int, ...]]:
    """Key names and shapes of what a file of a model has to hold."""
    with torch.device("meta"):
        model = build(shape)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# --- the published files ----------------------------------------------------------------------------------------------


def _read_published(path: Path) -> tuple[dict[str, Tensor], str]:
    content = read_torch(path)
    inner = content.get("model", content) if isinstance(content, Mapping) else {}
    if isinstance(inner, Mapping) and isinstance(inner.get("state_dict"), Mapping):
        inner = inner["state_dict"]
    return own_weights(inner if isinstance(inner, Mapping) else {}, path.name)


def own_weights(content: Mapping[Any, Any], name: str) -> tuple[dict[str, Tensor], str]:
    """The weights that tagging (and Tag2Text's captions) need, by the names of ``ram``, and the model's kind.

    Raises:
        InterplayError: these are not the weights of RAM, RAM++ or Tag2Text.
    """
    tensors = {
        str(key).replace("vision_multi", "tagging_head"): value
        for key, value in content.items()
        if isinstance(value, Tensor) and not str(key).endswith(_BUFFERS)
    }
    tensors.pop(_TIED, None)
    kind = _kind(tensors, name)
    if kind == "tag2text":
        words = tensors.get("text_decoder.bert.embeddings.word_embeddings.weight")
        if words is not None:
            tensors.setdefault("text_decoder.cls.predictions.decoder.weight", words)  # tied in BERT
        return _with_tied(tensors), kind
    return {key: value for key, value in tensors.items() if not key.startswith(_TEXT)}, kind


def _with_tied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tag2Text's encoder shares its lowest layers with the tagging head; a file may hold either's copy."""
    for key, value in list(tensors.items()):
        if key.startswith("tagging_head."):
            tensors.setdefault(key.replace("tagging_head.", "tag_encoder."), value)
    return tensors


def _kind(tensors: Mapping[str, Tensor], name: str) -> str:
    if not any(key.startswith("tagging_head.") for key in tensors):
        raise InterplayError(
            f"'{name}' is none of RAM, RAM++ and Tag2Text (it has no tagging_head); choose ram_swin_large_14m.pth, "
            "ram_plus_swin_large_14m.pth or tag2text_swin_14m.pth."
        )
    if "reweight_scale" in tensors:
        return "ram_plus"
    return "ram" if "image_proj.weight" in tensors else "tag2text"


# --- the converted file -----------------------------------------------------------------------------------------------


def _read_half(path: Path) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            kind = str((file.metadata() or {}).get("kind", ""))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise InterplayError(f"'{path.name}' is damaged ({error}); delete it and download the model again.") from error
    return (tensors, kind) if kind in SHAPES else own_weights(tensors, path.name)


def _halved(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    half = {key: value.detach().to(torch.float16).contiguous().clone() for key, value in tensors.items()}
    for key, value in half.items():
        if not bool(torch.isfinite(value).all()):
            what = "is not finite" if not bool(torch.isfinite(tensors[key]).all()) else "does not fit half precision"
            raise InterplayError(f"The weight '{key}' of '{name}' {what}; download the file again.")
    return half


def _write_half(half: Mapping[str, Tensor], kind: str, path: Path) -> None:
    """Write the conversion; a folder that cannot be written to costs time at every start, and no more."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(dict(half), str(part), {"format": "pt", "made_by": MADE_BY, "kind": kind})
        part.replace(path)
        log.info("Wrote %s; the .pth file beside it is not needed any more.", path.name)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        log.warning("%s could not be written (%s): the .pth file will be read again every time.", path.name, error)
