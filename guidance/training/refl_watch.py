"""Keeping an eye on a reward run: pictures of other prompts, scored by other rewards than those of the training.

The reward that is trained rises whatever happens. So a run is judged by the true reward (the caption reward), and a
second reward that takes no part in it tells whether pictures became better or only better liked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .refl_state import Run

logger = logging.getLogger(__name__)

Score = Callable[[Tensor, Sequence[str]], Tensor]
Paint = Callable[[Sequence[str], Sequence[Sequence[object]]], Tensor]


@dataclass(frozen=True)
class Watch:
    """What a run is measured by. prompts: set apart; seed: of their noise, the same at every validation.

    judge: the reward that decides which checkpoint is best. unused: a reward that takes no part in training or choice;
    where it falls below its first value by more than ``alarm`` standard errors of the paired differences while the
    trained reward rises, the run ends. batch: pictures drawn at once.
    """

    prompts: Sequence[str]
    judge: Score
    judge_name: str = "caption"
    unused: Score | None = None
    unused_name: str = "unused"
    seed: int = 0
    alarm: float = 2.0
    batch: int = 8


def validate(
    watch: Watch,
    reward: Score,
    paint: Paint,
    run: Run,
    patience: int,
    sample: Callable[[int, Tensor], None] | None = None,
) -> str:
    """Measure; returns why the run is to end, or "". Saves the checkpoint where it is the best so far."""
    found: dict[str, list[Tensor]] = {}
    scores: dict[str, Score] = {"trained": reward, watch.judge_name: watch.judge}
    if watch.unused is not None:
        scores[watch.unused_name] = watch.unused
    for start in range(0, len(watch.prompts), watch.batch):
        prompts = list(watch.prompts[start : start + watch.batch])
        pictures = paint(prompts, [("validation", watch.seed, start + i) for i in range(len(prompts))])
        if sample is not None and start == 0:
            sample(run.state.step, pictures)
        for name, score in scores.items():
            found.setdefault(name, []).append(score(pictures, prompts).detach().float().cpu())
    rows = {name: torch.cat(parts) for name, parts in found.items()}
    state = run.state
    if not state.first:
        state.first = {name: float(values.mean()) for name, values in rows.items()}
        state.notes["first_rows"] = {name: values.tolist() for name, values in rows.items()}
    line = {name: float(values.mean()) for name, values in rows.items()}
    state.notes.setdefault("validations", []).append({"step": state.step, **line})
    run.log({"validation": True, **line})
    judged = line[watch.judge_name]
    state.waited += 1
    if state.best is None or judged > state.best:
        state.best, state.best_step, state.waited = judged, state.step, 0
    run.save()
    return _verdict(watch, rows, state, patience)


def _verdict(watch: Watch, rows: dict[str, Tensor], state: Any, patience: int) -> str:
    if watch.unused is not None and watch.unused_name in state.notes["first_rows"]:
        rise = float(rows["trained"].mean()) - state.first["trained"]
        fall = torch.tensor(state.notes["first_rows"][watch.unused_name]) - rows[watch.unused_name]
        error = float(fall.std()) / math.sqrt(len(fall)) if len(fall) > 1 else math.inf
        if rise > 0 and float(fall.mean()) > watch.alarm * error:
            return (
                f"reward hacking: the trained reward rose by {rise:.3g} while '{watch.unused_name}', which takes no "
                f"part in training, fell by {float(fall.mean()):.3g}"
            )
    if patience and state.waited >= patience:
        return f"no better '{watch.judge_name}' in {state.waited} validations"
    return ""
