"""RAFT's first half inside ComfyUI: pictures of each prompt, the best by a reward, as training data for any trainer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ....errors import InterplayError
from ...training.raft import WINNERS, RaftSettings, Winner, choose, draw_winners
from .refl import ModelTrainee
from .refl_run import NO_UNUSED, Judges, _places, guide_of, judges_of, lines, score_by

EVERYTHING = -1000.0  # of the lowest reward that is kept: none is below


@dataclass(frozen=True)
class Wishes:
    """The node's widgets that are no settings. prompts: one a line; size: of the pictures in pixels, height first."""

    prompts: str
    judge: str
    tie: str
    judges: Judges
    size: tuple[int, int]
    name: str
    resume: bool


@dataclass(frozen=True)
class Drawn:
    """The winners (N, H, W, 3), their captions, one a line in the same order, and a report."""

    images: Tensor
    captions: str
    report: str


def from_widgets(widgets: dict[str, Any]) -> tuple[Wishes, RaftSettings]:
    """The node's widgets as what they mean."""
    w = dict(widgets)
    judges, size = judges_of(w), (w.pop("height"), w.pop("width"))
    wishes = Wishes(judges=judges, size=size, **{n: w.pop(n) for n in ("prompts", "judge", "tie", "name", "resume")})
    names = {"steps": "draw_steps", "cfg": "draw_cfg", "batch_of_pictures": "draw_batch"}
    keep, guide = w.pop("keep"), guide_of(w)
    rest = {names.get(key, key): value for key, value in w.items()}
    return wishes, RaftSettings(keep=keep if keep > EVERYTHING else None, guide=guide, **rest)


def draw_best(model: Any, clip: Any, vae: Any, wishes: Wishes, settings: RaftSettings) -> Drawn:
    """Draw, judge, choose. What is drawn lies in output/interplay_training/NAME until the node runs without resume.

    Raises:
        InterplayError: there are no prompts, or no picture is good enough.
    """
    prompts = lines(wishes.prompts)
    if not prompts:
        raise InterplayError("There are no prompts to draw; write one a line.")
    if wishes.tie == wishes.judge:
        raise InterplayError(f"The reward '{wishes.tie}' judges already; choose another 'tie', or none.")
    score = score_by(wishes.judge, wishes.judges)
    tie = None if wishes.tie == NO_UNUSED else score_by(wishes.tie, wishes.judges)
    trainee = ModelTrainee(model, clip, vae, prompts, wishes.size)
    out, _ = _places(wishes.name)
    if not wishes.resume:
        shutil.rmtree(out / WINNERS, ignore_errors=True)
    bar = comfy.utils.ProgressBar(len(prompts))

    def tell(done: int, planned: int, figures: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, planned)

    trainee.load()
    judged = f"{wishes.judge}, {wishes.tie}"
    drawn = draw_winners(trainee, score, prompts, settings, 0, out, tell, tie, judged)
    used = choose(drawn, settings)
    return Drawn(_painted(trainee, used, settings.draw_batch), "\n".join(w.prompt for w in used), _report(drawn, used))


@torch.no_grad()
def _painted(trainee: ModelTrainee, winners: list[Winner], batch: int) -> Tensor:
    parts = [winners[i : i + batch] for i in range(0, len(winners), batch)]
    latents = (torch.stack([w.latent for w in part]).to(trainee.device()) for part in parts)
    pictures = [trainee.decode(each).clamp(0.0, 1.0).float().cpu().movedim(1, -1) for each in latents]
    return torch.cat(pictures).contiguous()


def _report(drawn: list[Winner], used: list[Winner]) -> str:
    """JSON: how many were drawn and used, and every prompt's rewards."""
    first = [w for w in drawn if w.place == 0]
    every = [reward for w in first for reward in w.rewards]
    return json.dumps(
        {
            "pictures": len(every),
            "winners used": len(used),
            "prompts used": len({w.prompt for w in used}),
            "mean reward": round(sum(every) / len(every), 5),
            "mean reward of winners": round(sum(w.reward for w in used) / len(used), 5),
            "rewards": [{"prompt": w.prompt, "rewards": [round(r, 5) for r in w.rewards]} for w in first],
        },
        indent=1,
        ensure_ascii=False,
    )
