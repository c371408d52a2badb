"""Taggers under ComfyUI's memory management: RAM and its kin from ``models/rams``, others from ``models/interplay``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....errors import InterplayError
from ...grounding import llm_local, ram, ram_caption, tags_chat, tags_florence, tags_pixelworld
from ...grounding.detectors_florence import Florence2
from ...grounding.detectors_loading import to_pillow
from ...grounding.ram_files import converted_path, open_model
from ...grounding.tags import PictureTags, chosen, gathered, kept
from . import perception
from .scores import PIXELWORLD, Managed, _kept, opened

RAMS = "rams"
PART = 4  # pictures that RAM sees at once
RAM_FILES = {
    "RAM++": ("ram_plus_swin_large_14m", "xinyu1205/recognize-anything-plus-model", "3 GB"),
    "RAM": ("ram_swin_large_14m", "xinyu1205/recognize_anything_model", "5.6 GB"),
    "Tag2Text": ("tag2text_swin_14m", "spaces/xinyu1205/Recognize_Anything-Tag2Text", "4.5 GB"),
}
FLORENCES = {name: about for name, about in perception.KNOWN_DETECTORS.items() if name.startswith("Florence")}
VLMS = {
    "Qwen2.5-VL-3B-Instruct": "Qwen/Qwen2.5-VL-3B-Instruct (7.5 GB)",
    "SmolVLM-500M-Instruct": "HuggingFaceTB/SmolVLM-500M-Instruct (1 GB)",
}
_ENDINGS = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Wish:
    """threshold: 0 = as published; keep: one of ``tags.KEEP``; leave_out: names; caption: whether to write one."""

    threshold: float = 0.0
    keep: str = "all"
    leave_out: tuple[str, ...] = ()
    caption: bool = True


Look = Callable[[Tensor], list[PictureTags]]


def register_folders() -> None:
    """``models/rams`` and ``models/interplay``, which users can move in extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(RAMS, str(Path(folder_paths.models_dir) / RAMS))
    perception._roots()


def taggers() -> list[str]:
    """What a node offers: PixelWorld's detector, the known models, and what else of these kinds lies in the folders."""
    files = [
        path
        for root in _ram_roots()[: -len(perception._roots())]
        for path in sorted(root.glob("*"))
        if path.suffix in _ENDINGS
    ]
    known = {name for stem, _, _ in RAM_FILES.values() for name in (stem, converted_path(Path(stem + ".pth")).stem)}
    own = [path.name for path in files if path.stem not in known and not _converted_of(path, files)]
    folders = [
        path.parent.name
        for root in perception._roots()
        for path in sorted(root.glob("*/config.json"))
        if perception._kind(path.parent) in ("florence2", *llm_local.VISION)
    ]
    return list(dict.fromkeys([PIXELWORLD, *RAM_FILES, *FLORENCES, *VLMS, *own, *folders]))


def check(tagger: str) -> None:
    """InterplayError when a tagger's model is missing, before anything is drawn."""
    if tagger != PIXELWORLD and _ram_file(tagger) is None:
        _folder(tagger)


def tag(images: Tensor, tagger: str, wish: Wish | None = None) -> list[PictureTags]:
    """The tags of every picture of an IMAGE (B, H, W, C).

    Raises:
        InterplayError: the model is missing, of another kind or damaged.
    """
    wish = wish or Wish()
    look = _looker(tagger, wish)
    rgb = images[..., :3].detach().float().cpu()
    bar, found = comfy.utils.ProgressBar(len(rgb)), list[PictureTags]()
    for part in rgb.split(PART):
        comfy.model_management.throw_exception_if_processing_interrupted()
        found += look(part)
        bar.update(len(part))
    return [kept(_above(picture, tagger, wish), wish.keep, wish.leave_out) for picture in found]


def _above(picture: PictureTags, tagger: str, wish: Wish) -> PictureTags:
    """Without what is not surer than the threshold; RAM's classes have passed theirs."""
    names = [tag for tag in picture.tags if tag.score is None or tag.score > wish.threshold]
    caption = picture.caption if wish.caption else ""
    return PictureTags(tuple(names), caption)


def _looker(tagger: str, wish: Wish) -> Look:
    if tagger == PIXELWORLD:
        return lambda part: [tags_pixelworld.look(image) for image in part]
    path = _ram_file(tagger)
    if path is not None:
        return _ram_looker(path, wish)
    return _transformers_looker(tagger, wish)


# --- RAM, RAM++, Tag2Text ---------------------------------------------------------------------------------------------


def _ram_roots() -> list[Path]:
    folder_paths.add_model_folder_path(RAMS, str(Path(folder_paths.models_dir) / RAMS))
    return [*(Path(root) for root in folder_paths.get_folder_paths(RAMS)), *perception._roots()]


def _converted_of(path: Path, files: Sequence[Path]) -> bool:
    """Whether a file is the conversion of another one that is there as well."""
    return any(other != path and converted_path(other) == path for other in files)


def _ram_file(tagger: str) -> Path | None:
    """The file of RAM or its kin; None for a tagger of another sort. InterplayError when it is missing."""
    roots = _ram_roots()
    if tagger in RAM_FILES:
        stem, source, size = RAM_FILES[tagger]
        names = [stem + ".pth", stem + ".pt", converted_path(Path(stem + ".pth")).name, stem + ".safetensors"]
        found = [root / name for name in names for root in roots if (root / name).is_file()]
        if found:
            return found[0]
        raise InterplayError(
            f"The tagger {tagger} is missing; put {stem}.pth ({size}) of huggingface.co/{source} into {roots[0]}."
        )
    if Path(tagger).suffix not in _ENDINGS:
        return None
    for root in roots:
        if (root / tagger).is_file():
            return root / tagger
    raise InterplayError(f"There is no {tagger} in {roots[0]}; put it there or choose another tagger.")


def _ram_looker(path: Path, wish: Wish) -> Look:
    manager = comfy.model_management
    dtype = torch.float16 if manager.should_use_fp16(manager.get_torch_device()) else torch.float32
    held: Managed = _kept((str(path), "tags"), lambda: Managed.of(open_model(path, dtype=dtype)))

    def look(part: Tensor) -> list[PictureTags]:
        return ram_tags(held.ready(), [to_pillow(image) for image in part], wish)

    return look


def ram_tags(model: ram.Ram | ram.Tag2Text, pictures: Sequence[Any], wish: Wish) -> list[PictureTags]:
    """The tags of Pillow pictures, and Tag2Text's captions; those are written from the published thresholds' tags."""
    shape, seen = model.shape, ram.look(model, pictures)
    without = ram.TAG2TEXT_WITHOUT if shape.kind == "tag2text" else ()
    found = [chosen(scores, shape.tags, wish.threshold, without) for scores in seen.scores.tolist()]
    if not isinstance(model, ram.Tag2Text) or seen.features is None or not wish.caption:
        return [gathered(tags) for tags in found]
    order = {name: place for place, name in enumerate(shape.tags.names)}
    said = ram_caption.captions(
        model, seen.features, [sorted((t.name for t in tags), key=order.__getitem__) for tags in found]
    )
    return [gathered(tags, text) for tags, text in zip(found, said, strict=True)]


# --- models of transformers -------------------------------------------------------------------------------------------


def _transformers_looker(tagger: str, wish: Wish) -> Look:
    folder = _folder(tagger)
    if perception._kind(folder) == "florence2":
        return _florence_looker(folder, wish)
    if not _sees(folder):
        raise InterplayError(
            f"The model {tagger} does not see pictures; choose RAM, Florence-2 or a vision-language model as tagger."
        )
    held = opened(tagger, tags_chat.ROLE, tags_chat.load_vlm)

    def look(part: Tensor) -> list[PictureTags]:
        ready = held.ready()
        return [tags_chat.look(ready, to_pillow(image)) for image in part]

    return look


def _folder(tagger: str) -> Path:
    roots = perception._roots()
    for root in roots:
        if tagger and (root / tagger / "config.json").is_file():
            return root / tagger
    known = {**FLORENCES, **VLMS}
    what = f"the files of huggingface.co/{known[tagger]}" if tagger in known else "a model of transformers"
    raise InterplayError(f"The tagger {tagger} is missing; put {what} into {roots[0] / tagger}.")


def _sees(folder: Path) -> bool:
    """Whether a configuration has a part that sees."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InterplayError(f"config.json of {folder.name} cannot be read ({error}); download it again.") from error
    return "vision_config" in config or str(config.get("model_type")) in llm_local.VISION


def _florence_looker(folder: Path, wish: Wish) -> Look:
    manager = comfy.model_management
    dtype = torch.float16 if manager.should_use_fp16(manager.get_torch_device()) else torch.float32

    def make() -> tuple[Florence2, Managed]:
        florence = Florence2.open(folder, dtype)
        return florence, Managed.of(florence.model)

    florence, held = _kept((str(folder), "tags"), make)
    see = partial(tags_florence.look, florence, caption=wish.caption)

    def look(part: Tensor) -> list[PictureTags]:
        held.ready()
        return [see(to_pillow(image), held.patcher.load_device) for image in part]

    return look
