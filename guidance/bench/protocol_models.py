"""The models that a protocol runs on, and what has to be said of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InterplayError

PIXELWORLD = "pixelworld"


@dataclass(frozen=True)
class Model:
    """name: as every row and table names it; weights: "random", "pixelworld" or "folder"; steps, cfg: how it is sampled
    where nothing else is asked for; load: makes the pipeline when it is needed.
    """

    name: str
    sha256: str
    weights: str
    steps: int
    cfg: float
    load: Callable[[], Any]

    @property
    def banner(self) -> str:
        """What stands over every table of this model; empty when its numbers are what they seem."""
        return banner(self.name, self.weights)


def banner(name: str, weights: str) -> str:
    """The warning for a kind of weights."""
    if weights == "random":
        return (
            f"RANDOM WEIGHTS: {name} was never trained and draws noise. These rows show that the machinery runs; "
            "their numbers say nothing about any method."
        )
    if weights == PIXELWORLD:
        return (
            f"{name.upper()}: made by the small model that comes with Interplay, not by Stable Diffusion. "
            "These rows cannot be compared with the published numbers."
        )
    return ""


def find_model(name: str, on: str = "auto", weights: Path | None = None) -> Model:
    """A model by name ("pixelworld", "random-sd15", "random-tiny") or by the folder of its diffusers pipeline.

    Raises:
        InterplayError: there is none.
    """
    from ..hosts.diffusers import models

    if name == PIXELWORLD:
        return _pixelworld(weights)
    if name in models.RANDOM:
        import torch

        digest = hashlib.sha256(f"{name} seed 0 torch {torch.__version__}".encode()).hexdigest()
        place = device(on)
        return Model(name, digest, "random", 50, 7.5, lambda: models.random_pipeline(name).to(place))
    folder = Path(name).expanduser()
    if not folder.exists():
        raise InterplayError(
            f"There is no model '{name}'; give the folder of a diffusers pipeline (such as {models.SD15} of "
            f"huggingface.co), or one of {', '.join((PIXELWORLD, *models.RANDOM))}."
        )
    return _folder(folder, device(on))


def _pixelworld(weights: Path | None) -> Model:
    from ..hosts.diffusers.pixelworld import load_pixelworld
    from .runner import model

    facts = model(weights)
    return Model(facts["name"], facts["sha256"], PIXELWORLD, 25, 5.0, lambda: load_pixelworld(folder=weights))


def _folder(folder: Path, on: str) -> Model:
    import torch

    from ..hosts.diffusers import models

    dtype = torch.float16 if on.startswith("cuda") else torch.float32
    digest = folder_digest(folder)
    return Model(folder.resolve().name, digest, "folder", 50, 7.5, lambda: models.open_folder(folder, dtype, on))


def folder_digest(folder: Path) -> str:
    """SHA-256 over the pipeline's description and the U-Net's weights: what makes two folders the same model."""
    digest = hashlib.sha256()
    for path in sorted(
        [*folder.glob("model_index.json"), *folder.glob("unet/*.safetensors"), *folder.glob("unet/*.bin")]
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def device(name: str) -> str:
    """A device by name; "auto" is the accelerator where there is one.

    Raises:
        InterplayError: there is no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InterplayError(f"The device '{name}' cannot be used ({reason}); use cpu, or leave it out.") from error
    return name
