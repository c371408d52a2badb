"""Latents of training pictures, kept on disk so that a picture is encoded once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import InterplayError
from .records import Record

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

Encode = Callable[[Sequence["Image"]], Tensor]


def network_hash(network: nn.Module) -> str:
    """A short hash of a network's weights: every tensor's sum and size, enough to tell autoencoders apart."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {float(value.double().abs().sum()):.9e}".encode())
    return total.hexdigest()[:16]


def encoded(records: Sequence[Record], encode: Encode, key: str, folder: Path, batch: int = 8) -> Tensor:
    """The latents (N, C, h, w) of the records' pictures. key: names autoencoder and size; files whose content was seen
    under it are not encoded again.

    Raises:
        InterplayError: a picture can't be read, or a cache file can't be written.
    """
    from PIL import Image
    from safetensors.torch import load_file, save_file

    file = folder / f"latents_{key}.safetensors"
    known = load_file(str(file)) if file.is_file() else {}
    names = [_content(record) for record in records]
    missing = {name: record for name, record in zip(names, records, strict=True) if name not in known}
    todo = list(missing.items())
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        pictures = []
        for _, record in part:
            try:
                pictures.append(Image.open(record.image).convert("RGB"))
            except OSError as error:
                raise InterplayError(
                    f"The picture {record.image} cannot be read ({error}); remove or replace it."
                ) from error
        with torch.no_grad():
            found = encode(pictures).float().cpu()
        known |= {name: latent.contiguous() for (name, _), latent in zip(part, found, strict=True)}
    if todo:
        logger.info("encoded %d pictures, %d were at hand", len(todo), len(records) - len(todo))
        half = file.with_name(file.name + ".tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(known, str(half))
            half.replace(file)
        except OSError as error:
            raise InterplayError(f"The latents can't be kept in {folder} ({error.strerror}); choose another.") from None
    return torch.stack([known[name] for name in names])


def _content(record: Record) -> str:
    try:
        return hashlib.sha256(Path(record.image).read_bytes()).hexdigest()
    except OSError as error:
        raise InterplayError(f"The picture {record.image} cannot be read ({error}); remove or replace it.") from error
