"""A reward training run inside ComfyUI: from a node's widgets to a LoRA that the host's own loader reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....errors import InterplayError
from ...rewards import caption, matching, pixelworld_caption
from ...training.lora import save
from ...training.raft import RaftJob, RaftSettings, train_raft
from ...training.refl import Examples, Outcome, ReflJob, ReflSettings, train_refl
from ...training.refl_options import as_image
from ...training.refl_rewards import KINDS, GradientReward, model_reward, pixelworld_reward
from ...training.refl_watch import Score, Watch
from ...training.twins import negatives_by_rule
from .refl import ModelTrainee, with_lora
from .scores import CAPTIONERS, ENCODERS, MATCHERS, PIXELWORLD, choices, opened

METHODS = ("refl", "raft", "twins")
CAPTION = "caption"
NO_UNUSED = UNGUIDED = "none"
EMA = 0.95  # of the LoRA that is handed out


@dataclass(frozen=True)
class Judges:
    """Models that rewards read pictures with: names in models/interplay, or PixelWorld."""

    matcher: str
    captioner: str
    encoder: str


@dataclass(frozen=True)
class Wishes:
    """The node's widgets. prompts, watch_prompts: one a line. size: of the pictures in pixels."""

    method: str
    prompts: str
    watch_prompts: str
    reward: str
    judges: Judges
    judge: str
    unused: str
    name: str
    size: tuple[int, int]
    rank: int
    targets: str
    resume: bool
    pretrain_captions: str = ""


@dataclass(frozen=True)
class Trained:
    """What the node gives: MODEL with the LoRA, its file, tensors and losses, validation pictures (B, H, W, 3) of
    before and after, a report.
    """

    model: Any
    path: str
    lora: dict[str, Tensor]
    losses: dict[str, list[float]]
    pictures: Tensor
    report: str


def judges_of(widgets: dict[str, Any]) -> Judges:
    """Takes the three widgets out."""
    return Judges(*(widgets.pop(name) for name in ("matcher", "captioner", "encoder")))


def guide_of(widgets: dict[str, Any]) -> str:
    """Takes the widget out: the name of a preset, or "" for none."""
    found: str = widgets.pop("guide", UNGUIDED)
    return "" if found == UNGUIDED else found


def from_widgets(widgets: dict[str, Any]) -> tuple[Wishes, ReflSettings | RaftSettings]:
    """The node's widgets as what they mean."""
    w = dict(widgets)
    wishes = Wishes(
        size=(w.pop("height"), w.pop("width")),
        judges=judges_of(w),
        pretrain_captions=w.pop("captions", ""),
        watch_prompts=w.pop("validation_prompts"),
        name=w.pop("lora_name"),
        **{name: w.pop(name) for name in _PLAIN},
    )
    shared = {
        "rate": w.pop("learning_rate"),
        "validate_cfg": w.pop("validation_cfg"),
        "checkpoint": w.pop("checkpointing"),
        "save_every": w["validate_every"],
        "ema": EMA,
        "guide": guide_of(w),
        **{name: w.pop(name) for name in ("steps", "batch", "seed", "validate_every", "patience")},
    }
    twins: dict[str, Any] = {name: w.pop(name) for name in ("points", "push") if name in w}
    if wishes.method == "raft":
        found = {"pictures": w["pictures"], "draw_batch": w["batch_of_pictures"], "draw_cfg": shared["validate_cfg"]}
        return wishes, RaftSettings(**found, **shared, ghosts=w.get("ghosts", 0.0))
    pictures, _ = w.pop("pictures"), w.pop("batch_of_pictures")
    if wishes.method == "twins":
        w |= {"twins": pictures, **twins}
    return wishes, ReflSettings(weight=w.pop("reward_weight"), eta=0.0, **w, **shared)


_PLAIN = (
    "method",
    "prompts",
    "reward",
    "judge",
    "unused",
    "rank",
    "targets",
    "resume",
)


def matchers() -> list[str]:
    """Models that match picture and text."""
    return choices(MATCHERS, PIXELWORLD)


def captioners() -> list[str]:
    """Models that write captions."""
    return choices(CAPTIONERS, PIXELWORLD)


def encoders() -> list[str]:
    """Models that compare captions."""
    return choices(ENCODERS, PIXELWORLD)


def lines(text: str) -> list[str]:
    """The lines of a text field that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def train(
    model: Any,
    clip: Any,
    vae: Any,
    wishes: Wishes,
    settings: ReflSettings | RaftSettings,
    images: Tensor | None = None,
) -> Trained:
    """Train and save; the model itself is left as it was.

    Raises:
        InterplayError: prompts, models or settings do not fit, or the run stopped itself.
    """
    prompts, watched = lines(wishes.prompts), lines(wishes.watch_prompts)
    if not prompts or not watched:
        raise InterplayError("Give prompts to train on and other prompts to validate with, one a line.")
    captions = lines(wishes.pretrain_captions)
    twins = {prompt: negatives_by_rule(prompt) for prompt in prompts} if wishes.method == "twins" else {}
    texts = [*prompts, *watched, *captions, *(twin for found in twins.values() for twin in found)]
    trainee = ModelTrainee(model, clip, vae, texts, wishes.size)
    out, target = _places(wishes.name)
    kept = _Kept(settings)
    watch = _watch(wishes, watched)
    with trainee.opened(wishes.rank, wishes.targets, settings.seed):
        if isinstance(settings, RaftSettings):
            score = score_by(wishes.judge, wishes.judges)
            job = RaftJob(trainee, score, wishes.judge, prompts, watch, kept.step, kept.drawn, kept.sample)
            outcome = train_raft(job, settings, out, wishes.resume)
        else:
            reward, examples = _trained(wishes), _examples(model, vae, images, captions)
            told = (kept.step, kept.sample, kept.drawn)
            refl = ReflJob(trainee, reward, prompts, watch, examples, *told, lambda prompt: twins[prompt])
            outcome = train_refl(refl, settings, out, wishes.resume)
        assert trainee.lora is not None
        lora, layers = trainee.lora, len(trainee.lora.own)
        state = lora.state("comfy")
        save(lora, target, "comfy", _base(model), trainer=wishes.method, step=outcome.kept)
    read = comfy.utils.load_torch_file(str(target), safe_load=True)
    patched = with_lora(model, read, 1.0, layers)
    report = _report(wishes, outcome, target)
    (out / "report.json").write_text(report, encoding="utf-8")
    return Trained(patched, str(target), state, {"loss": kept.losses}, kept.pictures(), report)


class _Kept:
    """Progress for the host's bar, losses, and the first and last validation pictures."""

    def __init__(self, settings: ReflSettings | RaftSettings) -> None:
        rounds = settings.rounds if isinstance(settings, RaftSettings) else 1
        self.bar = comfy.utils.ProgressBar(settings.steps * rounds)
        self.losses: list[float] = []
        self.seen: dict[int, Tensor] = {}

    def step(self, step: int, steps: int, figures: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.losses.append(float(figures["loss"]))
        self.bar.update_absolute(step, steps)

    def drawn(self, done: int, planned: int, figures: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, planned)

    def sample(self, step: int, pictures: Tensor) -> None:
        first = min(self.seen, default=step)
        shown = pictures.detach().float().cpu().movedim(1, -1).contiguous()
        self.seen = {k: v for k, v in self.seen.items() if k == first} | {step: shown}

    def pictures(self) -> Tensor:
        """Before, then after."""
        return torch.cat(list(self.seen.values())) if self.seen else torch.zeros(1, 8, 8, 3)


def _places(name: str) -> tuple[Path, Path]:
    """The run's folder and the LoRA's file, from a name without tricks."""
    clean = re.sub(r"[^\w.-]+", "_", name.strip())
    if not clean.strip("._"):
        raise InterplayError("The LoRA has no name; give one, such as my_refl_lora.")
    out = Path(folder_paths.get_output_directory()) / "interplay_training" / clean
    return out, Path(folder_paths.get_folder_paths("loras")[0]) / f"{clean}.safetensors"


def _base(model: Any) -> str:
    return "sdxl_base_v1-0" if "SDXL" in type(model.model).__name__ else "sd_v1"


def _trained(wishes: Wishes) -> GradientReward:
    """The reward that trains. Twins only look at it, so that the caption reward will do."""
    if wishes.reward != CAPTION:
        return _reward(wishes.reward, wishes.judges)
    if wishes.method != "twins":
        raise InterplayError("The caption reward has no gradient; choose itm or likelihood, or the method 'twins'.")
    return GradientReward(CAPTION, 1.0, score_by(CAPTION, wishes.judges))


def _reward(kind: str, judges: Judges) -> GradientReward:
    """The gradient reward of a kind, by the model that was chosen."""
    place = judges.captioner if kind == "likelihood" else judges.matcher
    if place == PIXELWORLD:
        return pixelworld_reward(kind)
    loader: Callable[..., Any] = caption.load_captioner if kind == "likelihood" else matching.load_matcher
    managed = opened(place, f"the reward '{kind}'", loader)

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return model_reward(kind, managed.ready())(pictures, prompts)

    return replace(model_reward(kind, managed.loaded), measure=measure)


def score_by(kind: str, judges: Judges) -> Score:
    """A reward without a gradient, for judging."""
    if kind in KINDS:
        reward = _reward(kind, judges)
        return lambda pictures, prompts: reward(pictures, prompts).detach()
    if PIXELWORLD in (judges.captioner, judges.encoder):
        if judges.captioner != judges.encoder:
            raise InterplayError("PixelWorld's captioner and encoder go together; choose PixelWorld for both.")
        return pixelworld_caption.caption_reward
    write = opened(judges.captioner, "captions", caption.load_captioner)
    read = opened(judges.encoder, "comparing captions", caption.load_encoder)

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            said = caption.captions(write.ready())([as_image(picture) for picture in pictures])
            readings = caption.compare(said, prompts, caption.sentence_encoder(read.ready()))
        return torch.tensor([float(r.value or 0.0) for r in readings])

    return score


def _watch(wishes: Wishes, prompts: Sequence[str]) -> Watch:
    if wishes.unused == wishes.judge:
        raise InterplayError(f"The reward '{wishes.unused}' judges already; let another one watch, or none.")
    judge = score_by(wishes.judge, wishes.judges)
    unused = None if wishes.unused == NO_UNUSED else score_by(wishes.unused, wishes.judges)
    return Watch(prompts, judge, wishes.judge, unused, f"{wishes.unused}, unused", batch=4)


def _examples(model: Any, vae: Any, images: Tensor | None, captions: Sequence[str]) -> Examples | None:
    """Latents as the network sees them, with their captions."""
    if images is None:
        return None
    if len(images) != len(captions):
        raise InterplayError(
            f"There are {len(images)} pictures and {len(captions)} captions; give one a line for each."
        )
    with torch.inference_mode():
        latents = model.model.process_latent_in(vae.encode(images[..., :3]))
    with torch.inference_mode(False):
        return Examples(latents.float().cpu().clone(), list(captions))


def _report(wishes: Wishes, outcome: Outcome, target: Path) -> str:
    """JSON: what was trained on, how it ended, every validation."""
    return json.dumps(
        {
            "trainer": wishes.method,
            "reward": wishes.judge if wishes.method == "raft" else wishes.reward,
            "steps": outcome.steps,
            "kept": outcome.kept,
            "why it ended": outcome.why,
            "lora": target.name,
            "validations": list(outcome.validations),
        },
        indent=1,
    )
