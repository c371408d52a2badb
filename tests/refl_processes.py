"""Run by ``accelerate launch``: a short run of ReFL, of ReFL on twins, or of RAFT, on the tiny model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import conftest  # noqa: F401  (makes the package known where it is not installed)
import torch
from interplay.guidance.training.raft import RaftJob, RaftSettings, train_raft
from interplay.guidance.training.refl import ReflJob, ReflSettings, train_refl
from interplay.guidance.training.refl_watch import Watch
from refl_cases import TinyTrainee, Wanted

PROMPTS = ("red", "blue", "green")


def run(kind: str, out: Path) -> TinyTrainee:
    """Train with settings that both sides share."""
    torch.set_default_dtype(torch.float64)
    model, watch = TinyTrainee(), Watch(PROMPTS, Wanted(), "judge")
    if kind == "refl":
        settings = ReflSettings(
            steps=3, batch=4, ladder=6, first=2, last=4, carry=1, rate=3e-2, weight=1.0, validate_every=2, save_every=2
        )
        train_refl(ReflJob(model, Wanted(), PROMPTS, watch), settings, out)
    elif kind == "twins":
        settings = ReflSettings(
            steps=3, batch=4, ladder=6, first=0, last=2, rate=3e-2, weight=1.0, validate_every=2, twins=2, points=6
        )
        job = ReflJob(model, Wanted(), PROMPTS, watch, negatives=lambda p: [q for q in PROMPTS if q != p])
        train_refl(job, settings, out)
    else:
        raft = RaftSettings(pictures=2, draw_steps=4, draw_cfg=2.0, steps=3, batch=4, rate=3e-2, validate_every=2)
        train_raft(RaftJob(model, Wanted(), "wanted", PROMPTS, watch), raft, out)
    return model


if __name__ == "__main__":
    where = Path(sys.argv[2])
    trained = run(sys.argv[1], where)
    rank = int(os.environ.get("RANK", "0"))
    torch.save([p.detach() for p in trained.parameters()], where / f"process_{rank}.pt")
