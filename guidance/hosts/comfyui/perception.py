"""Detectors and segmenters under ComfyUI's memory management: one model on the device at a time, and none kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ...grounding import detectors_pixelworld
from ...grounding.detectors import Box, Found, Wanted, collect, wanted_things
from ...grounding.detectors_open import DETECTORS, SEGMENTERS
from ...grounding.objects import ObjectsBatch, PictureObjects
from ...grounding.objects_text import Verdicts

FOLDER = "interplay"
PIXELWORLD = detectors_pixelworld.NAME
BOXES = "boxes as masks"
WORKING = 1 << 30  # bytes to keep free for what a model computes

KNOWN_DETECTORS = {
    "grounding-dino-tiny": "IDEA-Research/grounding-dino-tiny (0.7 GB)",
    "grounding-dino-base": "IDEA-Research/grounding-dino-base (0.9 GB)",
    "sam3": "facebook/sam3 (3.4 GB, ask for access)",
    "Florence-2-base": "florence-community/Florence-2-base (0.5 GB)",
    "Florence-2-large": "florence-community/Florence-2-large (1.6 GB)",
}
KNOWN_SEGMENTERS = {
    "sam-vit-base": "facebook/sam-vit-base (0.4 GB)",
    "sam-vit-large": "facebook/sam-vit-large (1.2 GB)",
    "sam-vit-huge": "facebook/sam-vit-huge (2.6 GB)",
    "sam2.1-hiera-tiny": "facebook/sam2.1-hiera-tiny (0.2 GB)",
    "sam2.1-hiera-small": "facebook/sam2.1-hiera-small (0.2 GB)",
    "sam2.1-hiera-large": "facebook/sam2.1-hiera-large (0.9 GB)",
}
KNOWN = {**KNOWN_DETECTORS, **KNOWN_SEGMENTERS}


def _roots() -> list[Path]:
    """``models/interplay``, which users can move in extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def _kind(folder: Path) -> str:
    """``model_type`` of a folder's configuration, "" where it cannot be read."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError):
        return ""


def _found(kinds: Sequence[str]) -> list[str]:
    folders = [p.parent for root in _roots() for p in sorted(root.glob("*/config.json"))]
    return [folder.name for folder in folders if _kind(folder) in kinds and folder.name not in KNOWN]


def detectors() -> list[str]:
    """What a node offers to find things with."""
    return list(dict.fromkeys([PIXELWORLD, *KNOWN_DETECTORS, *_found(list(DETECTORS))]))


def segmenters() -> list[str]:
    """What a node offers to make masks of boxes with."""
    return list(dict.fromkeys([BOXES, *KNOWN_SEGMENTERS, *_found(list(SEGMENTERS))]))


def place(name: str, role: str) -> Path:
    """The folder of a model. InterplayError when it is not there."""
    roots = _roots()
    for root in roots:
        if name and (root / name / "config.json").is_file():
            return root / name
    what = f"the files of huggingface.co/{KNOWN[name]}" if name in KNOWN else "a transformers model"
    raise InterplayError(f"The model {name} for {role} is missing; put {what} into {roots[0] / name}.")


class _Holder(nn.Module):
    """What the host's patcher writes its own attributes on; models of transformers would not have them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@contextmanager
def on_device(patcher: Any) -> Iterator[torch.device]:
    """Load a model through the host, and give its room back afterwards."""
    comfy.model_management.load_models_gpu([patcher], memory_required=WORKING, force_full_load=True)
    try:
        yield patcher.load_device
    finally:
        loaded = comfy.model_management.current_loaded_models
        for entry in [e for e in loaded if e.model is patcher]:
            entry.model_unload()
            loaded.remove(entry)
        comfy.model_management.soft_empty_cache()


@dataclass
class Perception:
    """What looks at pictures during one run of a node. Models stay in ordinary memory until the run ends, and are on
    the device only while they look.
    """

    detector: str = PIXELWORLD
    segmenter: str = BOXES
    threshold: float = 0.3
    instances: str = "joined"
    _open: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """InterplayError when a model is missing or of the wrong kind, before anything is drawn."""
        if self.detector != PIXELWORLD:
            self._opener(self.detector, "finding things", DETECTORS)
        if self.segmenter != BOXES:
            self._opener(self.segmenter, "masks", SEGMENTERS)

    def all_tags(self, images: Tensor) -> list[tuple[str, ...]]:
        """What an IMAGE shows, named without being asked for. InterplayError for detectors that cannot do so."""
        if self.detector != PIXELWORLD:
            raise InterplayError("There is nothing to look for: connect a hypergraph, or name things in 'tags'.")
        return [tuple(detectors_pixelworld.tags(image)) for image in images[..., :3].cpu()]

    def look(
        self, images: Tensor, graph: Hypergraph | None, tags: Sequence[Sequence[str]], verdicts: Sequence[Verdicts]
    ) -> ObjectsBatch:
        """The objects of each picture of an IMAGE (B, H, W, C): first all are searched, then all masks are made."""
        rgb = images[..., :3].detach().float().cpu()
        things = [wanted_things(graph, names, said) for names, said in zip(tags, verdicts, strict=True)]
        bar = comfy.utils.ProgressBar(2 * len(rgb))
        found = list[list[Found]]()
        with self._finder() as find:
            for image, wanted in zip(rgb, things, strict=True):
                comfy.model_management.throw_exception_if_processing_interrupted()
                found.append(find(image, wanted) if wanted else [])
                bar.update(1)
        pictures = list[PictureObjects]()
        with self._masker(any(item.mask is None for one in found for item in one)) as segment:
            for image, wanted, items in zip(rgb, things, found, strict=True):
                comfy.model_management.throw_exception_if_processing_interrupted()
                seen = collect(image, wanted, items, segment, self.instances)
                pictures.append(detectors_pixelworld.with_acts(image, seen) if self.detector == PIXELWORLD else seen)
                bar.update(1)
        return ObjectsBatch(tuple(pictures), rgb.shape[1], rgb.shape[2], graph.prompt if graph else "")

    @contextmanager
    def _finder(self) -> Iterator[Callable[[Tensor, Sequence[Wanted]], list[Found]]]:
        if self.detector == PIXELWORLD:
            yield detectors_pixelworld.find
            return
        opened, patcher = self._opened(self.detector, "finding things", DETECTORS)
        with on_device(patcher) as device:
            yield lambda image, things: opened.find(image, things, device, self.threshold)

    @contextmanager
    def _masker(self, needed: bool) -> Iterator[Callable[[Tensor, Sequence[Box]], Tensor] | None]:
        if self.segmenter == BOXES or not needed:
            yield None
            return
        opened, patcher = self._opened(self.segmenter, "masks", SEGMENTERS)
        with on_device(patcher) as device:
            yield lambda image, boxes: opened.masks(image, boxes, device)

    def _opened(self, name: str, role: str, table: dict[str, Callable[..., Any]]) -> tuple[Any, Any]:
        if name not in self._open:
            opened = self._opener(name, role, table)()
            manager = comfy.model_management
            devices = {"load_device": manager.get_torch_device(), "offload_device": manager.unet_offload_device()}
            self._open[name] = (opened, comfy.model_patcher.ModelPatcher(_Holder(opened.model), **devices))
        return self._open[name]

    def _opener(self, name: str, role: str, table: dict[str, Callable[..., Any]]) -> Callable[[], Any]:
        folder = place(name, role)
        kind = _kind(folder)
        if kind not in table:
            raise InterplayError(f"The model {name} is of the kind '{kind}'; for {role} use one of {', '.join(table)}.")
        half = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
        return lambda: table[kind](folder, torch.float16 if half else torch.float32)
