"""A reward run's folder: settings, metrics, checkpoints that are whole or not there, and the optimiser they belong to.

Nothing random is kept: every random choice is made from the run's seed and the step's number, so that a run that was
ended anywhere goes on to the last bit as if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InterplayError

logger = logging.getLogger(__name__)

SETTINGS, METRICS, STATES = "settings.json", "metrics.jsonl", "state"


class Stopped(InterplayError):
    """A run that ended itself; what it had is saved. status: of the command."""

    status = 3


class Workers:
    """The processes that ``accelerate launch`` started, or the one there is."""

    def __init__(self) -> None:
        self.accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator
            except ModuleNotFoundError as error:
                raise InterplayError(
                    'Training on several processes needs accelerate; run pip install "interplay[demo]".'
                ) from error
            self.accelerator = Accelerator(cpu=not torch.cuda.is_available())

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.accelerator.process_index if self.accelerator else 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes if self.accelerator else 1

    def share(self, total: int) -> range:
        """This process's part of the numbers below ``total``."""
        if total % self.count:
            raise InterplayError(
                f"A batch of {total} cannot be split over {self.count} processes; make it a multiple of {self.count}."
            )
        return range(self.rank, total, self.count)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return self.accelerator.reduce(value, "mean") if self.accelerator else value

    def mean_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over processes, in one message."""
        if self.accelerator is None:
            return
        with torch.no_grad():
            for p in parameters:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            flat = self.mean(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
            for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad = part.view_as(p)

    def wait(self) -> None:
        """Until all are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


@dataclass
class State:
    """What a checkpoint holds. best: highest validation; waited: validations since; first: the first validation."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    first: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Run:
    """A run's folder, its optimiser and its moving average.

    parameters: what is trained, in an order that stays. rate: learning rate after ``warm`` steps. ema: decay a step of
    the average that is handed out, 0 for none.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        parameters: Sequence[nn.Parameter],
        rate: float,
        clip: float = 1.0,
        warm: int = 0,
        ema: float = 0.0,
        resume: bool = False,
    ) -> None:
        self.out, self.parameters = out, list(parameters)
        self.rate, self.clip, self.warm, self.ema = rate, clip, warm, ema
        if not self.parameters:
            raise InterplayError("There is nothing to train: the model has no attention layers that take a LoRA.")
        self.workers = Workers()
        self.state = State()
        self.optimiser = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.999), weight_decay=1e-2)
        self.average = [p.detach().clone() for p in self.parameters] if ema else []
        if self.workers.rank == 0:
            _settle(out, settings, resume)
        self.workers.wait()
        last = latest(out) if resume else None
        if last is not None:
            self._load(last)
            self._forget_later()

    def _forget_later(self) -> None:
        """Lines of steps after the checkpoint will be written again."""
        file = self.out / METRICS
        if self.workers.rank == 0 and file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self.state.step]
            half = file.with_suffix(".tmp")
            half.write_text("".join(kept), encoding="utf-8")
            half.replace(file)

    # --- steps --------------------------------------------------------------------------------------------------------

    def advance(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Take the step that the gradients ask for. losses: of this step, for the log, averaged over processes.

        Raises:
            Stopped: a loss or a gradient is not finite; the parameters are those of the last checkpoint again.
        """
        self.workers.mean_gradients(self.parameters)
        means = {name: float(self.workers.mean(value.detach().float())) for name, value in losses.items()}
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.clip if self.clip else math.inf))
        bad = [name for name, value in (*means.items(), ("gradient", norm)) if not math.isfinite(value)]
        if bad:
            step = self.state.step + 1
            back = self.go_back()
            raise Stopped(
                f"Training stopped at step {step}, because the {bad[0]} is not finite; the LoRA of step {back} is kept"
                ": lower the learning rate or use float32."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * (min(1.0, (self.state.step + 1) / self.warm) if self.warm else 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.state.step += 1
        if self.ema:
            decay = min(self.ema, (1 + self.state.step) / (10 + self.state.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list[Tensor](self.parameters), 1 - decay)
        return {**means, "gradient": norm}

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the metrics."""
        if self.workers.rank == 0:
            with open(self.out / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.step, **_rounded(line)}) + "\n")

    def averaged(self) -> Any:
        """While open, the parameters are their moving average (nothing changes where there is none)."""
        return _Averaged(self)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, keep: int = 2) -> Path:
        """Write ``state/step_N``, whole or not at all, and remove all but the last ``keep`` and the best."""
        folder = self.out / STATES / f"step_{self.state.step}"
        if self.workers.rank == 0:
            half = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            tensors = {"parameters": [p.detach().cpu() for p in self.parameters], "average": self.average}
            torch.save({**tensors, "optimiser": self.optimiser.state_dict()}, half / "tensors.pt")
            (half / "meta.json").write_text(json.dumps(vars(self.state), indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            half.replace(folder)
            kept = {self.state.best_step, *_steps(self.out)[-keep:]}
            for step in _steps(self.out):
                if step not in kept:
                    shutil.rmtree(self.out / STATES / f"step_{step}")
        self.workers.wait()
        return folder

    def go_back(self, step: int | None = None) -> int:
        """Take the parameters of a checkpoint (the last one) again; returns its step, 0 where there is none."""
        steps = _steps(self.out)
        if not steps:
            return 0
        self._load(self.out / STATES / f"step_{step if step in steps else steps[-1]}")
        return self.state.step

    def _load(self, folder: Path) -> None:
        try:
            held = torch.load(folder / "tensors.pt", weights_only=True, map_location="cpu")
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RuntimeError) as error:
            raise InterplayError(
                f"The checkpoint {folder} cannot be read ({type(error).__name__}); delete that folder to go on from "
                "the one before."
            ) from error
        shapes = [tuple(p.shape) for p in self.parameters]
        if [tuple(p.shape) for p in held["parameters"]] != shapes:
            raise InterplayError(f"The checkpoint {folder} is of another model or another rank; choose another folder.")
        with torch.no_grad():
            for p, value in zip(self.parameters, held["parameters"], strict=True):
                p.copy_(value)
        self.average = [value.to(self.parameters[0].device) for value in held["average"]]
        self.optimiser.load_state_dict(held["optimiser"])
        self.state = State(**meta)


class _Averaged:
    def __init__(self, run: Run) -> None:
        self.run, self.own = run, list[Tensor]()

    def __enter__(self) -> None:
        if self.run.average:
            self.own = [p.detach().clone() for p in self.run.parameters]
            self._set(self.run.average)

    def __exit__(self, *error: object) -> None:
        if self.run.average:
            self._set(self.own)

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(self.run.parameters, values, strict=True):
                p.copy_(value)


def latest(out: Path) -> Path | None:
    """The last checkpoint of a run."""
    steps = _steps(out)
    return out / STATES / f"step_{steps[-1]}" if steps else None


def _steps(out: Path) -> list[int]:
    found = (out / STATES).glob("step_*") if (out / STATES).is_dir() else ()
    return sorted(int(p.name[5:]) for p in found if p.name[5:].isdigit() and (p / "meta.json").is_file())


def _settle(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Write the settings down, or hold those of a run that is to go on against them."""
    plain = json.loads(json.dumps(dict(settings), default=str))
    file = out / SETTINGS
    if file.is_file():
        if not resume:
            raise InterplayError(f"There is a run in {out} already; resume it or choose another folder.")
        theirs = json.loads(file.read_text(encoding="utf-8"))
        differing = [k for k in plain if k not in ("steps", "rounds") and theirs.get(k) != plain[k]]
        if differing:
            k = differing[0]
            raise InterplayError(
                f"The run in {out} has {k} {theirs.get(k)!r}, not {plain[k]!r}; resume it with its own settings or "
                "choose another folder."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InterplayError(f"The folder {out} cannot be written ({error.strerror}); choose another.") from None


def _rounded(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}


def loop(run: Run, steps: int, save_every: int, body: Callable[[int], None]) -> None:
    """Call ``body`` with every step that is left; save every so many steps, at the end, and when interrupted.

    Ctrl-C waits for the end of the step that is under way, so that what is saved is whole; a second one does not wait.
    """
    with _Deferred() as asked:
        try:
            while run.state.step < steps:
                body(run.state.step)
                if asked.to_stop:
                    raise KeyboardInterrupt
                if run.state.step % save_every == 0 and run.state.step < steps:
                    run.save()
        except Stopped:
            raise
        except BaseException as error:  # Ctrl-C, ComfyUI's interrupt, validation's verdict: what was learned is kept
            if run.workers.count == 1 and not isinstance(error, InterplayError):
                run.optimiser.zero_grad(set_to_none=True)
                run.save()
            raise
        run.save()


class _Deferred:
    """Remembers the first Ctrl-C (or SIGTERM) instead of raising in the middle of a step."""

    def __enter__(self) -> _Deferred:
        self.to_stop, self.before = False, dict[int, Any]()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._asked)
        return self

    def _asked(self, number: int, frame: Any) -> None:
        if self.to_stop:
            raise KeyboardInterrupt
        self.to_stop = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
