"""Scorers under ComfyUI's memory management: models of transformers from ``models/interplay``, and the pack's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import nn

from ....errors import InterplayError
from ...grounding import llm_http
from ...rewards import answers, caption, clip, matching, pixelworld, pixelworld_caption, vqa
from ...rewards.alignment import Batch, gather
from ...rewards.loading import Loaded
from ...rewards.questions_json import SCHEMA, asker
from ...rewards.questions_llm import llm_asker
from ...rewards.scorer import Reading, Scorer

FOLDER = "interplay"
PIXELWORLD = "PixelWorld"
NONE = "none"
KEPT = 3  # models that stay in memory for the next run
PART = 8  # pictures between two looks at the Cancel button
WORKING = 1 << 30  # bytes to keep free for what a model computes

CAPTIONERS = {
    "blip2-opt-2.7b": "Salesforce/blip2-opt-2.7b (15 GB)",
    "blip2-flan-t5-xl": "Salesforce/blip2-flan-t5-xl (16 GB)",
    "blip-image-captioning-large": "Salesforce/blip-image-captioning-large (1.9 GB)",
    "blip-image-captioning-base": "Salesforce/blip-image-captioning-base (1 GB)",
    "Florence-2-base": "florence-community/Florence-2-base (0.5 GB)",
    "Florence-2-large": "florence-community/Florence-2-large (1.6 GB)",
    "Qwen3-VL-2B-Instruct": "Qwen/Qwen3-VL-2B-Instruct (4.3 GB)",
}
ENCODERS = {
    "blip2-itm-vit-g": "Salesforce/blip2-itm-vit-g (4.7 GB)",
    "clip-vit-large-patch14": "openai/clip-vit-large-patch14 (1.7 GB)",
    "all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2 (0.4 GB)",
}
CLIPS = {"clip-vit-large-patch14": "openai/clip-vit-large-patch14 (1.7 GB)"}
MATCHERS = {
    "blip2-itm-vit-g": "Salesforce/blip2-itm-vit-g (4.7 GB)",
    "blip-itm-base-coco": "Salesforce/blip-itm-base-coco (0.9 GB)",
}
ANSWERERS = {
    "blip-vqa-capfilt-large": "Salesforce/blip-vqa-capfilt-large (1.5 GB)",
    "blip-vqa-base": "Salesforce/blip-vqa-base (1.5 GB)",
    "Qwen3-VL-2B-Instruct": "Qwen/Qwen3-VL-2B-Instruct (4.3 GB)",
}
KNOWN = {**CAPTIONERS, **ENCODERS, **CLIPS, **MATCHERS, **ANSWERERS}


def register_folder() -> None:
    """``models/interplay``, which users can move in extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def choices(known: dict[str, str], *own: str) -> list[str]:
    """What a node offers: ``own``, the known models, and every other folder with a configuration."""
    found = [p.parent.name for root in folder_paths.get_folder_paths(FOLDER) for p in Path(root).glob("*/config.json")]
    return [*own, *known, *sorted({*found} - {*KNOWN})]


def place(name: str, role: str) -> str:
    """The folder of a model.

    Raises:
        InterplayError: it is not there.
    """
    roots = folder_paths.get_folder_paths(FOLDER)
    for root in roots:
        if (Path(root) / name / "config.json").is_file():
            return str(Path(root) / name)
    what = f"the files of huggingface.co/{KNOWN[name]}" if name in KNOWN else "its files"
    raise InterplayError(f"The model {name} for {role} is missing; put {what} into {Path(roots[0]) / name}.")


class _Holder(nn.Module):
    """What the host's patcher writes its own attributes on; models of transformers would not have them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@dataclass(frozen=True)
class Managed:
    """A model that the host moves to its device when it is needed, and away when others need the room."""

    model: Any
    patcher: Any

    @classmethod
    def of(cls, model: nn.Module) -> Managed:
        """Hand a model over to the host."""
        manager = comfy.model_management
        devices = {"load_device": manager.get_torch_device(), "offload_device": manager.unet_offload_device()}
        return cls(model, comfy.model_patcher.ModelPatcher(_Holder(model), **devices))

    def ready(self) -> Any:
        """The model, on the host's device."""
        comfy.model_management.load_models_gpu([self.patcher], memory_required=WORKING, force_full_load=True)
        return self.model


@dataclass(frozen=True)
class ManagedLoaded:
    """The same for a model of transformers with its processor."""

    loaded: Loaded
    managed: Managed

    def ready(self) -> Loaded:
        """Model and processor, on the host's device."""
        self.managed.ready()
        return replace(self.loaded, device=str(self.managed.patcher.load_device))


_open: OrderedDict[tuple[str, str], Any] = OrderedDict()


def _kept(key: tuple[str, str], make: Callable[[], Any]) -> Any:
    """An open model of an earlier run, or a new one; the oldest gives way."""
    if key not in _open:
        with torch.inference_mode(False):
            _open[key] = make()
    _open.move_to_end(key)
    while len(_open) > KEPT:
        _open.popitem(last=False)
    return _open[key]


def own_model() -> Any:
    """PixelWorld's caption model."""
    managed: Managed = _kept((PIXELWORLD, ""), lambda: Managed.of(pixelworld_caption.load_caption_model()))
    return managed.ready()


def opened(name: str, role: str, loader: Callable[..., Loaded]) -> ManagedLoaded:
    """A model of transformers from its folder; loader: one of the ``load_…`` of ``rewards``."""
    where = place(name, role)
    manager = comfy.model_management
    half = manager.should_use_fp16(manager.get_torch_device())
    dtype = torch.float16 if half else torch.float32

    def make() -> ManagedLoaded:
        loaded = loader(where, "cpu", dtype=dtype)
        return ManagedLoaded(loaded, Managed.of(loaded.model))

    found: ManagedLoaded = _kept((where, loader.__name__), make)
    return found


# --- scores -----------------------------------------------------------------------------------------------------------


def caption_readings(
    images: Sequence[Any],
    prompts: Sequence[str],
    captioner: str,
    encoder: str,
    style: caption.Style,
    said: Sequence[str] = (),
) -> list[Reading]:
    """Eq. 4 (see ``rewards.caption``). said: captions from elsewhere, so that no captioner is needed."""
    told = list(said) or describe(images, captioner, style)
    if len(told) != len(images):
        raise InterplayError(f"There are {len(told)} captions and {len(images)} pictures; give one a line for each.")
    if encoder == PIXELWORLD:
        model = own_model()
        pixelworld_caption.check(torch.empty(len(prompts)), prompts)
        return caption.compare(
            told, prompts, lambda t: model.embed(t, model.place.device), pixelworld_caption.DISTRACTORS
        )
    ready = opened(encoder, "comparing captions", caption.load_encoder).ready()
    return caption.noted(caption.compare(told, prompts, caption.sentence_encoder(ready)), ready, prompts, told)


def describe(images: Sequence[Any], captioner: str, style: caption.Style) -> list[str]:
    """A caption for each picture. PixelWorld's captioner names everything and knows one style."""
    if captioner == PIXELWORLD:
        model = own_model()
        return list(model.captions(pixelworld_caption.stacked(images).to(model.place.device)))
    say = caption.captions(opened(captioner, "captions", caption.load_captioner).ready(), style)
    out: list[str] = []
    for part in _parts(len(images)):
        out += say(images[part])
    return out


@dataclass(frozen=True)
class Wanted:
    """Which model reads each score, ``NONE`` for none; questions: where TIFA's come from."""

    clip: str = NONE
    matching: str = NONE
    vqascore: str = NONE
    tifa: str = NONE
    questions: answers.Asker = answers.questions_of


def alignment(images: Sequence[Any], prompts: Sequence[str], wanted: Wanted) -> Batch:
    """All wanted scores of a batch.

    Raises:
        InterplayError: nothing is wanted, or a model is missing.
    """
    makers = [make for name, make in _makers(wanted) if name != NONE]
    if not makers:
        raise InterplayError("Every score is set to none; choose a model for at least one of them.")
    bar, found = comfy.utils.ProgressBar(len(makers) * len(images)), dict[str, tuple[Scorer, list[Reading]]]()
    for make in makers:
        scorer, readings = make(), list[Reading]()
        for part in _parts(len(images)):
            readings += scorer.score(images[part], prompts[part])
            bar.update(part.stop - part.start)
        found[scorer.name] = (scorer, readings)
    return gather(prompts, found)


RULES, ENDPOINT = "rules", "endpoint"


def asker_of(maker: str, pasted: str | None) -> answers.Asker:
    """Where TIFA's questions come from: pasted JSON, else rules, or the endpoint that the environment names.

    Raises:
        InterplayError: the JSON cannot be used, or the environment names no endpoint.
    """
    if maker == ENDPOINT and not (pasted or "").strip():
        check = comfy.model_management.throw_exception_if_processing_interrupted
        endpoint = llm_http.endpoint_from_environment()
        return llm_asker(llm_http.chat(endpoint, check, SCHEMA, "questions"))
    return asker(pasted)


def save_csv(rows: str, name: str) -> str:
    """Write a table into the output folder, counting up; returns where to."""
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(name.strip(), folder_paths.get_output_directory())
    path = Path(folder) / f"{stem}_{counter:05}_.csv"
    path.write_text(rows, encoding="utf-8")
    return str(path)


def _makers(wanted: Wanted) -> list[tuple[str, Callable[[], Scorer]]]:
    return [
        (wanted.clip, lambda: _clip(wanted.clip)),
        (wanted.matching, lambda: _matching(wanted.matching)),
        (wanted.vqascore, lambda: matching.vqascore_on(_answering(wanted.vqascore), wanted.vqascore)),
        (wanted.tifa, lambda: _tifa(wanted)),
    ]


def _clip(name: str) -> Scorer:
    return clip.scorer_on(opened(name, "the CLIP score", clip.load_clip).ready(), name)


def _matching(name: str) -> Scorer:
    if name == PIXELWORLD:
        return pixelworld_caption.match_scorer(own_model())
    return matching.scorer_on(opened(name, "matching picture and text", matching.load_matcher).ready(), name)


def _answering(name: str) -> Loaded:
    return opened(name, "answering questions", vqa.load_vqa).ready()


def _tifa(wanted: Wanted) -> Scorer:
    if wanted.tifa == PIXELWORLD:
        return answers.scorer(pixelworld.answers, "PixelWorld's exact detector", wanted.questions)
    loaded = _answering(wanted.tifa)
    return answers.scorer(vqa.answerer(loaded), f"{type(loaded.model).__name__} of {wanted.tifa}", wanted.questions)


def _parts(count: int) -> Iterator[slice]:
    """Slices of a batch; cancelling takes effect between them."""
    for start in range(0, count, PART):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield slice(start, min(start + PART, count))
