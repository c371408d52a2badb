"""Contrastive LoRAs inside ComfyUI: captions with negatives, pictures, and the run on its MODEL, CLIP and VAE."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....errors import InterplayError
from ...pixelworld.render import enlarge, render
from ...training.contrast import ContrastSettings, Material
from ...training.latents import encoded, network_hash
from ...training.learner import Levels
from ...training.negatives import OPS, Negative, hard_positives, negatives
from ...training.negatives_llm import Answers, endpoint_ask, llm_negatives, with_model
from ...training.negatives_order import order_perturbations
from ...training.records import Record, read_records
from ...training.train_negatives import CURVES, SAMPLES, Job, train
from .refl import LAST, ModelTrainee, with_lora
from .refl_run import _base, _places, lines

logger = logging.getLogger(__name__)

SOURCES = ("PixelWorld scenes", "text", "folder")
MAKERS = ("rules", "language model, then rules", "COCO-Order (evaluation only)")


@dataclass(frozen=True)
class CaptionSet:
    """Captions with their negatives. images: (N, H, W, 3) in their order, where they came with pictures."""

    records: tuple[Record, ...]
    images: Tensor | None = None

    def to_json(self) -> str:
        """One object a line, as captions.jsonl has it."""
        rows = []
        for r in self.records:
            row = {"image": r.image, "caption": r.caption, "negatives": r.negatives, "positives": r.positives}
            rows.append(json.dumps(row, ensure_ascii=False))
        return "\n".join(rows)


def caption_set(
    source: str,
    text: str,
    folder: str,
    scenes: int,
    limit: int,
    ops: str,
    mixed: bool,
    positives: bool,
    seed: int,
    maker: str = MAKERS[0],
) -> CaptionSet:
    """Captions of a source (see SOURCES), each with up to ``limit`` negatives of a maker (see MAKERS); those that came
    with negatives of their own keep them, too. ops: names of OPS, separated by commas.
    """
    wanted = [op.strip() for op in ops.split(",") if op.strip()] or list(OPS)
    if source == SOURCES[0]:
        from ...training.pixelworld import pixelworld_records

        if maker != MAKERS[0]:
            raise InterplayError("PixelWorld's captions get their negatives by the rules; choose the maker 'rules'.")
        made, drawn = pixelworld_records(scenes, seed)
        pictures = torch.stack([torch.from_numpy(enlarge(render(scene)[0])).float() / 255 for scene in drawn])
        return CaptionSet(tuple(made), pictures)
    written = source == SOURCES[1]
    found = [Record("", line) for line in lines(text)] if written else read_records(_folder(folder))
    if not found:
        raise InterplayError("There are no captions; write one a line.")
    if maker == MAKERS[2]:
        return CaptionSet(
            tuple(replace(r, negatives=tuple(order_perturbations(r.caption, seed).values())) for r in found)
        )
    offered = _model_offers(wanted) if maker == MAKERS[1] else None
    out = []
    for record in found:
        fresh = negatives(record.caption, wanted, limit, mixed, seed)
        fresh = with_model(fresh, offered(record.caption), limit) if offered else fresh
        same = hard_positives(record.caption) if positives else []
        out.append(
            replace(
                record,
                negatives=tuple(dict.fromkeys((*record.negatives, *(n.text for n in fresh)))),
                positives=tuple(dict.fromkeys((*record.positives, *same))),
            )
        )
    return CaptionSet(tuple(out))


def _model_offers(ops: Sequence[str]) -> Callable[[str], list[Negative]]:
    """What the language model of the environment makes of a caption; its answers are kept in the output folder."""
    ask, model = endpoint_ask()
    kept = Answers(Path(folder_paths.get_output_directory()) / "interplay_training" / "answers")
    return lambda caption: [n for n in llm_negatives(caption, ask, kept, model) if n.op in ops]


def _folder(name: str) -> Path:
    """A path, or a name below ComfyUI's input folder."""
    if not name.strip():
        raise InterplayError("Name the folder or file of the training data, or choose another source.")
    place = Path(name.strip()).expanduser()
    return place if place.is_absolute() else Path(folder_paths.get_input_directory()) / place


class ModelLearner(ModelTrainee):
    """See ``training.learner.Learner``; all else is as the reward trainers see ComfyUI's models."""

    def levels(self, u: Tensor) -> Levels:
        """See Learner."""
        rungs = [self._rung(float(share) * LAST) for share in u.cpu()]
        name, signal, noise = (
            torch.tensor([getattr(r, key) for r in rungs], dtype=torch.float32, device=self.device())
            for key in ("name", "signal", "noise")
        )
        return Levels.of(self._kind(), name, signal, noise)

    def denoise(self, x: Tensor, levels: Any, condition: Any) -> Tensor:  # type: ignore[override]
        """See Learner."""
        return super().denoise(x, levels, condition)

    def _kind(self) -> str:
        if isinstance(self.sampling, comfy.model_sampling.CONST):
            return "flow"
        return "v" if isinstance(self.sampling, comfy.model_sampling.V_PREDICTION) else "eps"


@dataclass(frozen=True)
class Wishes:
    """The trainer node's widgets that are no settings of the loop. prompts: to draw on the way, one a line; side: of
    pictures from a folder, in pixels; check: captions to draw and read at each validation.
    """

    name: str
    rank: int
    targets: str
    resume: bool
    prompts: str
    side: int
    check: int = 0


@dataclass(frozen=True)
class Trained:
    """MODEL with the LoRA, its file and tensors, losses, pictures of before and after, the curves, a report."""

    model: Any
    path: str
    lora: dict[str, Tensor]
    losses: dict[str, list[float]]
    pictures: Tensor
    curves: Tensor
    report: str


def train_lora(
    model: Any,
    clip: Any,
    vae: Any,
    captions: CaptionSet,
    images: Tensor | None,
    wishes: Wishes,
    settings: ContrastSettings,
) -> Trained:
    """Train and save to models/loras; the model itself is left as it was.

    Raises:
        InterplayError: data, models or settings do not fit.
        Tripped: the model was running away; the last good LoRA is in models/loras.
    """
    out, target = _places(wishes.name)
    latents = _latents(model, vae, captions, images, wishes.side, out)
    prompts = lines(wishes.prompts)
    texts = {t for r in captions.records for t in (r.caption, *r.negatives, *r.positives)}
    scale = int(vae.spacial_compression_encode()) if hasattr(vae, "spacial_compression_encode") else 8
    size = (latents.shape[-2] * scale, latents.shape[-1] * scale)
    learner = ModelLearner(model, clip, vae, [*sorted(texts), *prompts], size)
    kept = _Kept(settings.steps)
    with learner.opened(wishes.rank, wishes.targets, settings.seed):
        assert learner.lora is not None
        layers = len(learner.lora.own)

        def verify(file: Path) -> None:
            """Into models/loras, and back through the host's own reader."""
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.with_name(target.name + ".tmp")
            half.write_bytes(file.read_bytes())
            half.replace(target)
            with torch.inference_mode():
                with_lora(model, comfy.utils.load_torch_file(str(target), safe_load=True), 1.0, layers)

        job = Job(
            learner,
            learner.lora,
            Material(captions.records, latents),
            prompts=prompts,
            checked=wishes.check,
            base=_base(model),
            verify=verify,
            report=kept.step,
        )
        outcome = train(job, settings, out, wishes.resume)
    state = comfy.utils.load_torch_file(str(target), safe_load=True)
    report = json.dumps(
        {
            "objective": settings.objective,
            "steps": outcome.steps,
            "kept": outcome.kept,
            "why it ended": outcome.why,
            "lora": target.name,
            "layers": layers,
            "validations": list(outcome.validations),
        },
        indent=1,
    )
    return Trained(
        with_lora(model, state, 1.0, layers),
        str(target),
        state,
        {"loss": kept.losses},
        _strips(out / SAMPLES),
        _picture(out / CURVES),
        report,
    )


class _Kept:
    """Progress for the host's bar, whose hook raises when the user interrupts; and the losses."""

    def __init__(self, steps: int) -> None:
        self.bar = comfy.utils.ProgressBar(steps)
        self.losses: list[float] = []

    def step(self, step: int, steps: int, figures: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.losses.append(float(figures["loss"]))
        self.bar.update_absolute(step, steps)


def _latents(model: Any, vae: Any, captions: CaptionSet, images: Tensor | None, side: int, out: Path) -> Tensor:
    """(N, C, h, w) as the network sees them."""
    given = images if images is not None else captions.images
    if given is not None:
        if len(given) != len(captions.records):
            raise InterplayError(
                f"There are {len(given)} pictures and {len(captions.records)} captions; give one caption for each."
            )
        with torch.inference_mode():
            parts = [vae.encode(part[..., :3]) for part in given.split(16)]
    elif not captions.records[0].image:
        raise InterplayError("The captions came without pictures; connect images, one for each caption in order.")
    else:
        key = f"{network_hash(vae.first_stage_model)}_{side}"
        found = encoded(captions.records, lambda pictures: _encode(vae, pictures, side), key, out / "cache")
        parts = [found]
    with torch.inference_mode():
        seen = model.model.process_latent_in(torch.cat([p.float().cpu() for p in parts]))
    with torch.inference_mode(False):
        return seen.clone()


def _encode(vae: Any, pictures: Sequence[Any], side: int) -> Tensor:
    """The middle square of each picture, at this side."""
    import numpy as np
    from PIL import Image

    squares = []
    for picture in pictures:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        square = picture.crop((left, top, left + short, top + short))
        small = square.resize((side, side), Image.Resampling.BICUBIC)
        squares.append(torch.from_numpy(np.asarray(small, dtype=np.float32) / 255))
    with torch.inference_mode():
        found: Tensor = vae.encode(torch.stack(squares))
    return found


def _picture(file: Path) -> Tensor:
    """A picture as IMAGE (1, H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        array = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array)[None]


def _strips(folder: Path) -> Tensor:
    """The first and the last strip of sample pictures, one below the other; an empty picture where there is none."""
    files = sorted(folder.glob("step_*.png")) if folder.is_dir() else []
    if not files:
        return torch.zeros(1, 8, 8, 3)
    return torch.cat([_picture(file) for file in dict.fromkeys((files[0], files[-1]))], 1)
