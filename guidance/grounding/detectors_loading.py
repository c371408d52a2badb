"""Opening models of transformers from local folders, with one sentence where that fails."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import InterplayError
from ..rewards.loading import _quiet

MINIMUM = {"Sam3Model": "5.0", "Sam2Model": "4.56", "Florence2ForConditionalGeneration": "4.56"}
"""The first transformers that has a class, where that is later than the 4.50 that this pack asks for."""


def transformers_class(name: str) -> Any:
    """A class of transformers. InterplayError says that there is no transformers, that it is too old, or what keeps it
    from importing the class (a torchvision that does not fit torch, mostly).
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise InterplayError(f"This model needs transformers ({error}); install it with pip.") from error
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        return getattr(library, name)
    except AttributeError:
        needed = MINIMUM.get(name, "4.50")
        raise InterplayError(
            f"transformers {library.__version__} has no {name}; update it to {needed} or later, or take another model."
        ) from None
    except (ImportError, RuntimeError) as error:
        cause = _root(error)
        raise InterplayError(f"transformers cannot load {name}: {cause}; mend that package and start again.") from error
    finally:
        logger.setLevel(level)


def _root(error: BaseException) -> BaseException:
    """What really went wrong: transformers puts its own sentence around it."""
    inner = error.__cause__ or error.__context__
    return _root(inner) if inner is not None and inner is not error else error


def open_part(name: str, folder: Path, **options: Any) -> Any:
    """``name``.from_pretrained of a local folder; nothing is downloaded. InterplayError when that fails."""
    cls = transformers_class(name)
    try:
        with _quiet():
            return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # transformers raises whatever its files and packages raise
        raise InterplayError(
            f"{folder.name} cannot be opened as {name} ({str(_root(error)).splitlines()[0]}); put all its files there."
        ) from error


def open_model(name: str, folder: Path, dtype: torch.dtype) -> nn.Module:
    """A model in evaluation mode and frozen, on the CPU. InterplayError when weights are missing."""
    model, told = open_part(name, folder, output_loading_info=True)
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        raise InterplayError(
            f"{folder.name} lacks {len(missing)} weights, such as {missing[0]}; put the published files there."
        )
    module: nn.Module = model.to(dtype).eval().requires_grad_(False)
    return module


def to_pillow(image: Tensor) -> Image.Image:
    """(H, W, 3) in 0..1 as an RGB picture."""
    return Image.fromarray((image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def tensor(values: Any) -> Tensor:
    """What image processors return, a tensor or an array or a list of one."""
    if isinstance(values, Tensor):
        return values
    return torch.as_tensor(np.asarray(values))


def size_of(values: Any) -> tuple[int, int]:
    """(height, width) of the first picture, from "original_sizes" and the like."""
    first: Sequence[Any] = tensor(values)[0].tolist()
    return int(first[0]), int(first[1])


def corners(boxes: Tensor) -> Tensor:
    """(n, 4) centre x, centre y, width, height -> x0, y0, x1, y1."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def resized(masks: Tensor, height: int, width: int) -> Tensor:
    """(n, h, w) -> (n, H, W), bilinear between pixel centres, fp32."""
    return torch.nn.functional.interpolate(
        masks[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]
