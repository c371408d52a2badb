"""The run of a contrastive LoRA, from calibration to a file that was read back: see ``train``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InterplayError
from .contrast import ContrastSettings, Material, calibrate, held_out_margin, step_losses
from .drawing import draw, drawn_apart, plot, save_strip
from .learner import Learner
from .lora import Lora, save
from .objectives import Constants
from .records import data_hash
from .refl_model import twice_instead_of_kept
from .refl_state import METRICS, Run, Stopped
from .tripwire import Tripwire

logger = logging.getLogger(__name__)

FILE, CURVES, SAMPLES = "lora.safetensors", "loss.png", "samples"


class Tripped(Stopped):
    """The tripwire ended the run; the LoRA of the last good checkpoint is in the model and in the file."""


class _Enough(Exception):
    """Validation says that it is time to end."""


@dataclass(frozen=True)
class Job:
    """What to train on. lora: the adapters in the model; prompts: for sample pictures; check: a measure of drawing
    (a share, higher is better) taken at every validation; checked: without one, so many of the captions that are
    only validated on are drawn and read by the frozen model (see ``drawing.drawn_apart``); about: goes into the
    file's metadata; verify: told the file once it is written, raises where a reader does not take all of it;
    report: called after every step.
    """

    model: Learner
    lora: Lora
    data: Material
    prompts: Sequence[str] = ()
    check: Callable[[], float] | None = None
    checked: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    base: str = "sd_v1"
    verify: Callable[[Path], None] | None = None
    report: Callable[[int, int, Mapping[str, float]], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps taken, the step whose LoRA was kept, why it ended, its file, what was measured."""

    steps: int
    kept: int
    why: str
    file: Path
    validations: Sequence[Mapping[str, float]]


def train(job: Job, settings: ContrastSettings, out: Path, resume: bool = False) -> Outcome:
    """Train the LoRA in ``job.model`` and write ``OUT/lora.safetensors``; the model is left with what was written.

    Settings, metrics.jsonl, loss.png, samples and state/step_N lie beside it. An interrupt saves and raises again.

    Raises:
        InterplayError: settings or data do not fit.
        Tripped: the model was running away; the last good LoRA was written.
    """
    training, apart = job.data.split(settings.held_out, settings.held_out_most, settings.seed)
    if not training.records:
        raise InterplayError("There is nothing to train on; give at least one picture with a caption.")
    plain = {"trainer": "negatives", "data": data_hash(job.data.records), "rank": job.lora.rank, **asdict(settings)}
    parameters = job.model.parameters()
    run = Run(out, plain, parameters, settings.rate, settings.clip_norm, settings.warm, settings.ema, resume)
    trainer = _Trainer(job, settings, run, training, apart)
    try:
        why = trainer.steps()
    except Stopped as stopped:
        kept = trainer.finish(run.state.step)
        raise Tripped(f"{stopped} It is in {kept}.") from None
    except BaseException:
        trainer.interrupted()
        raise
    kept_step = trainer.take_best()
    file = trainer.finish(kept_step)
    if run.state.step and not kept_step:
        why += "; no validation was better than the model as it was, so this LoRA changes nothing"
        logger.warning("Training with %s ended: %s.", settings.objective, why)
    return Outcome(run.state.step, kept_step, why, file, run.state.notes.get("validations", []))


class _Trainer:
    def __init__(self, job: Job, s: ContrastSettings, run: Run, training: Material, apart: Material) -> None:
        self.job, self.s, self.run, self.training, self.apart = job, s, run, training, apart
        self.rows = run.workers.share(s.batch)
        notes = run.state.notes
        if "constants" not in notes:
            notes["constants"] = asdict(calibrate(job.model, training, s))
            run.log({"constants": notes["constants"]})
        self.k = Constants(**notes["constants"])

    @property
    def wire(self) -> Tripwire:
        """On what the run's state holds, which changes when a checkpoint is loaded."""
        return Tripwire(self.run.state.notes.setdefault("tripwire", {}), self.s.stray)

    def steps(self) -> str:
        """All steps that are left; returns why they ended."""
        run, s = self.run, self.s
        try:
            if run.state.step % s.validate_every == 0:  # at the start, and where a run was ended just before it
                self.validate()
            if run.state.step == 0:
                self.save()
            while run.state.step < s.steps:
                self.step()
                if run.state.step % s.validate_every == 0:
                    self.validate()
                if run.state.step % s.save_every == 0:
                    self.save()
            self.validate()
        except _Enough as enough:
            self.save()
            return str(enough)
        self.save()
        return "all steps done"

    def mean(self, values: Tensor) -> Tensor:
        """Over the rows of all processes."""
        return self.run.workers.mean(values.mean())

    def step(self) -> None:
        """Gradients of this process's rows, a few at a time; the tripwire; the optimiser's step."""
        run, s, began = self.run, self.s, time.monotonic()
        size, totals = s.micro or len(self.rows), dict[str, Tensor]()
        rest = bool(s.contrast_rest) and self.wire.ratio("c") > s.contrast_rest
        for start in range(0, len(self.rows), size):
            part = self.rows[start : start + size]
            with twice_instead_of_kept(self.job.model.heavy(), s.checkpoint):
                found = step_losses(self.job.model, self.training, s, self.k, run.state.step, part, self.mean, rest)
                (found.loss * (len(part) / len(self.rows))).backward()
            for name, value in found.figures.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value * (len(part) / len(self.rows))
        self.watch({name: float(run.workers.mean(value)) for name, value in totals.items()})
        run.rate = s.rate_at(run.state.step)
        figures = run.advance(totals)
        figures["lr"] = float(run.optimiser.param_groups[0]["lr"])
        seconds = max(time.monotonic() - began, 1e-9)
        run.log({**figures, "images_per_second": s.batch / seconds})
        if self.job.report is not None:
            self.job.report(run.state.step, s.steps, figures)

    def watch(self, means: Mapping[str, float]) -> None:
        """End the run where it runs away."""
        if not self.s.tripwire:
            return
        values = {key: means[f"L_{key}"] for key in ("c", "c_ref", "u", "u_ref") if f"L_{key}" in means}
        if self.s.objective == "noneg" and self.s.dropout:
            values = {key: v for key, v in values.items() if key.startswith("c")}  # it is trained without captions, too
        alarm = self.wire.see(values) if "c_ref" in values else ""  # else it does not look at this step
        if alarm:
            at = self.run.state.step
            self.run.optimiser.zero_grad(set_to_none=True)
            back = self.run.go_back()
            self.run.log({"tripwire": alarm, "stopped_at": at})
            raise Tripped(
                f"Training with {self.s.objective} was stopped at step {at} of {self.s.steps}, because {alarm}; the "
                f"LoRA of step {back} is kept."
            )

    def validate(self) -> None:
        """The held-out margin, the check of drawing, sample pictures; keeps what is best and ends where it is time."""
        run, s = self.run, self.s
        with run.averaged(), torch.no_grad():
            line = held_out_margin(self.job.model, self.apart, s, self.k) if self.apart.records else {}
            if self.job.check is not None:
                line["drawn"] = float(self.job.check())
            elif self.job.checked:
                line |= self.drawn()
            if self.job.prompts and run.workers.rank == 0:
                pictures = draw(self.job.model, self.job.prompts, s.seed)
                save_strip(pictures, run.out / SAMPLES / f"step_{run.state.step:06d}.png")
        state = run.state
        if not line or any(v["step"] == state.step for v in state.notes.get("validations", ())):
            return
        state.notes.setdefault("validations", []).append({"step": state.step, **line})
        run.log({"validation": True, **line})
        score = self.worth(line)
        state.waited += 1
        if state.best is None or score > state.best:
            state.best, state.best_step, state.waited = score, state.step, 0
            self.save()
        if s.patience and state.waited >= s.patience:
            raise _Enough(f"no better validation in {state.waited} of them")

    def drawn(self) -> dict[str, float]:
        """The check of drawing without a judge; nothing where no caption that is set apart has a negative."""
        told = [r for r in self.apart.records if r.negatives][: self.job.checked]
        if not told:
            return {}
        low = max(self.s.low, self.s.contrast_from)
        captions, negatives = [r.caption for r in told], [r.negatives for r in told]
        return {"drawn": drawn_apart(self.job.model, captions, negatives, self.s.seed, low, self.s.high)}

    def worth(self, line: Mapping[str, float]) -> float:
        """What a validation is worth: captions told apart, up to the margin that is asked for and not beyond, the error
        under the right caption against that of the first validation, and right pictures.
        """
        if "wins" not in line:
            return 2 * line.get("drawn", 0.0)
        first = next(v for v in self.run.state.notes["validations"] if "wins" in v)
        asked = max(self.k.margin / self.k.spread, 1e-6)
        better = 1 - line["held_out_L_c"] / max(first["held_out_L_c"], 1e-12)
        return line["wins"] + min(line["margin"] / asked, 1.0) + 10 * better + 2 * line.get("drawn", 0.0)

    def save(self) -> None:
        """A checkpoint, unless the model is on its way off: what a tripped run goes back to is always a good one."""
        if not self.s.tripwire or self.wire.healthy:
            self.run.save()

    def interrupted(self) -> None:
        """Nothing that was learned is lost."""
        run = self.run
        if run.state.step and run.workers.count == 1:
            run.optimiser.zero_grad(set_to_none=True)
            self.save()
            self.finish(run.state.step)

    def take_best(self) -> int:
        """Leave the model with the best validated LoRA, or the last where there was no validation."""
        run = self.run
        best = run.state.best_step if run.state.best is not None else run.state.step
        if best != run.state.step:
            step, notes = run.state.step, run.state.notes
            run.go_back(best)
            run.state.step, run.state.notes = step, notes
        return best

    def finish(self, kept: int) -> Path:
        """Write the LoRA, its average where there is one, and the curves."""
        run, job = self.run, self.job
        file = run.out / FILE
        if run.average:
            with torch.no_grad():
                for p, value in zip(run.parameters, run.average, strict=True):
                    p.copy_(value)
        if run.workers.rank == 0:
            about = {"objective": self.s.objective, "step": kept, "constants": asdict(self.k), **job.about}
            save(job.lora, file, base=job.base, data=data_hash(job.data.records), **about)
            if job.verify is not None:
                job.verify(file)
            plot(run.out / METRICS, run.out / CURVES)
        run.workers.wait()
        return file
