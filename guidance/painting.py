"""One picture, drawn plainly or with guidance, by whichever host there is: what the demo and the benchmarks ask for."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InterplayError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..parsing.hypergraph import Hypergraph
    from .graph import TokenGraph
    from .presets import GuidanceConfig

HOSTS = ("auto", "comfyui", "diffusers")
COMFYUI_NEEDS = ("torchvision", "torchsde", "einops", "aiohttp", "yaml", "av", "PIL", "psutil", "transformers")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """What to draw. ``config`` of strength 0 draws plainly. ``seed`` gives the same start noise in every host."""

    graph: Hypergraph
    config: GuidanceConfig
    seed: int = 0
    steps: int = 25
    cfg: float = 5.0


@dataclass(frozen=True)
class Painting:
    """A picture, the word maps (J, h, w) of its latent half-way through the noise schedule, and what guidance did."""

    image: Image
    maps: np.ndarray
    graph: TokenGraph
    report: dict[str, Any]
    summary: str
    seconds: float


class Painter(Protocol):
    """A host with PixelWorld loaded."""

    name: str

    def paint(self, task: Task, progress: Progress) -> Painting:
        """Draw one picture; ``progress`` is called with the steps done and their number."""


def comfyui_path() -> Path:
    """Where a ComfyUI is looked for: ``COMFYUI_PATH``, else where comfy-cli puts it."""
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI").expanduser()


def why_no_comfyui() -> str | None:
    """None when a ComfyUI can be used from this Python, else the reason, as half a sentence."""
    path = comfyui_path()
    if not (path / "comfy" / "sd.py").is_file():
        return f"there is no ComfyUI in {path}"
    missing = [name for name in COMFYUI_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return f"the ComfyUI in {path} needs {', '.join(missing)}, which this Python lacks"
    return None


def enter_comfyui() -> None:
    """Make ``import comfy`` work, on the CPU where there is no accelerator. Needed before anything imports it."""
    if "comfy.model_management" in sys.modules:
        return
    import torch

    path = str(comfyui_path())
    if path not in sys.path:
        sys.path.insert(0, path)
    arguments, sys.argv = sys.argv, [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = arguments


def find_painter(host: str = "auto") -> tuple[Painter, str]:
    """A host with PixelWorld loaded, and a sentence about the choice.

    Raises:
        InterplayError: the host that was asked for cannot be used, or none can, or PixelWorld's weights are missing.
    """
    if host not in HOSTS:
        raise InterplayError(f"There is no host '{host}'; choose one of {', '.join(HOSTS)}.")
    reason = None if host == "diffusers" else why_no_comfyui()
    if host != "diffusers" and reason is None:
        try:
            enter_comfyui()
            return _painter("comfyui"), f"through the ComfyUI in {comfyui_path()}"
        except ImportError as error:
            reason = f"the ComfyUI in {comfyui_path()} cannot be imported ({error})"
    if host == "comfyui":
        raise InterplayError(f"ComfyUI cannot be used: {reason}; set COMFYUI_PATH, or use --host diffusers.")
    if importlib.util.find_spec("diffusers") is None:
        because = f" and {reason}" if reason else ""
        raise InterplayError(f'diffusers is not installed{because}; run pip install "interplay[demo]".')
    why = f", because {reason}" if reason else ""
    return _painter("diffusers"), f"through diffusers{why}"


def _painter(host: str) -> Painter:
    module = importlib.import_module(f".hosts.{host}.painter", __package__)
    painter: Painter = module.PixelWorldPainter()
    return painter
