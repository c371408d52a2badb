"""Reward feedback learning: a LoRA is trained by the gradient of a reward on what the model is about to draw.

The loop is ImageReward's (Xu et al. 2023, arXiv 2304.05977, algorithm 1), which RealignDiff (arXiv 2305.19599) takes
over: walk down from pure noise without a gradient to a random late step, estimate the clean picture there with one, and
raise its reward. RealignDiff's equation 5 prints the loss with the wrong sign; see ``FORMS``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InterplayError
from ..presets import preset
from .ghosts import ghost_loss
from .refl_model import (
    Rung,
    Trainee,
    conditions,
    crop,
    draw,
    noise_like,
    noise_of,
    seed_of,
    shuffled,
    stacked,
    twice_instead_of_kept,
    walk,
)
from .refl_state import Run, Stopped, loop
from .refl_watch import Watch, validate
from .twins import Lesson, Negatives, draw_points, lessons, negatives_by_rule, paired, twin_losses

logger = logging.getLogger(__name__)

FORMS = ("margin", "literal")
PRETRAIN = ("anchor", "images", "none")
LITERAL = (
    "RealignDiff's equation 5 as printed minimises lambda * ReLU(R), which lowers the reward R of the pictures and has "
    "no gradient where R is below 0; 'margin' minimises lambda * ReLU(m - R), as ImageReward's code does."
)


class Reward(Protocol):
    """A reward with a gradient to the picture. The margin is 1 for a probability or a cosine, 0 for a log-likelihood,
    2 for ImageReward's z-scores.
    """

    @property
    def name(self) -> str:
        """For tables."""

    @property
    def margin(self) -> float:
        """Above it a picture is good enough."""

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Pictures (B, 3, H, W), about [0, 1], and their prompts to rewards (B,), higher is better."""


@dataclass(frozen=True)
class ReflSettings:
    """Settings of a run. The defaults are ImageReward's where the paper or its code has one.

    steps: optimiser steps. batch: prompts a step over all processes; micro: of these at once in each (0: all).
    ladder: steps of the walk; first, last: the range of steps at which the picture is read, last included, counted from
    the noisiest (0). carry: earlier steps, drawn at random, that carry a gradient as well (0 is ReFL). cfg: guidance
    scale of the walk (1: none). eta: 1 ancestral as DDPM, 0 DDIM. form: one of FORMS. margin: of the loss, None for the
    reward's own. weight: lambda. pretrain: "images" (noise error on given pictures), "anchor" (distance to the model
    without its LoRA, needs no data) or "none". rate: AdamW's, constant after ``warm`` steps. clip: of the gradient's
    norm. ema: decay of the moving average that is handed out (0: none). checkpoint: run blocks twice instead of keeping
    them. decode_crop: side in latent pixels of the part that is decoded, 0 for the whole. validate_every, patience:
    validations without a better caption reward until the run ends (0: never). save_every: steps.

    twins: pictures that a prompt and its twin each draw on from one place, at a step from ``first`` to ``last``; see
    the module ``twins`` (0: none, the gradient goes through the reward). points: such places. stride: of their steps
    from the third on. push: how far estimates are moved, in what sets the twins apart. sharp: how much a better lead
    counts. balance: the least share of pictures that show the rarer twin.

    guide: name of a preset of guidance that moves the walks and the ends of twins as it would move a drawing ("":
    none), for a LoRA that is to work under that guidance.

    ghosts: weight of the error where a part of a picture that was drawn stands in it a second time; see the module
    ``ghosts`` (0: none).
    """

    steps: int = 100
    batch: int = 4
    micro: int = 0
    ladder: int = 40
    first: int = 30
    last: int = 39
    carry: int = 0
    cfg: float = 1.0
    eta: float = 1.0
    form: str = "margin"
    margin: float | None = None
    weight: float = 1e-3
    pretrain: str = "anchor"
    pretrain_weight: float = 1e-3
    rate: float = 1e-4
    warm: int = 0
    clip: float = 1.0
    ema: float = 0.0
    checkpoint: bool = False
    decode_crop: int = 0
    validate_every: int = 25
    validate_steps: int = 25
    validate_cfg: float = 5.0
    patience: int = 0
    save_every: int = 25
    seed: int = 0
    twins: int = 0
    points: int = 512
    stride: int = 3
    push: float = 2.0
    sharp: float = 7.0
    balance: float = 0.1
    ghosts: float = 0.0
    guide: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "ladder", "validate_every", "validate_steps", "save_every", "points", "stride"):
            if getattr(self, name) < 1:
                raise InterplayError(f"{name} is {getattr(self, name)}; give a number of at least 1.")
        amounts = ("eta", "weight", "pretrain_weight", "clip", "push", "sharp", "ghosts")
        for name in ("micro", "carry", "decode_crop", "patience", "warm", "twins", *amounts):
            if not getattr(self, name) >= 0:
                raise InterplayError(f"{name} is {getattr(self, name)}; give a number of 0 or more.")
        if not 0 < self.rate < 1:
            raise InterplayError(f"The learning rate is {self.rate}; 1e-4 is a good start for a LoRA.")
        if not 0 <= self.first <= self.last < self.ladder:
            raise InterplayError(
                f"Steps {self.first} to {self.last} do not lie on a ladder of {self.ladder}; give 0 <= first <= last < "
                "ladder."
            )
        if self.guide:
            preset(self.guide)  # an unknown name is said now
        if self.form not in FORMS:
            raise InterplayError(f"The loss form is one of {', '.join(FORMS)}, not '{self.form}'.")
        if self.pretrain not in PRETRAIN:
            raise InterplayError(f"The pre-training term is one of {', '.join(PRETRAIN)}, not '{self.pretrain}'.")
        if not 0 <= self.balance < 0.5:
            raise InterplayError(f"balance is {self.balance}; give a share from 0 to less than 0.5, such as 0.1.")
        if self.twins and (self.form == "literal" or self.pretrain == "images"):
            raise InterplayError("Twins are held by the anchor and have no loss form; use them with neither.")


def reward_loss(rewards: Tensor, form: str, margin: float, weight: float) -> Tensor:
    """The loss on rewards (B,): "margin" is weight * ReLU(margin - R), "literal" RealignDiff's printed
    weight * ReLU(R), which is only here so that one can see what it does (see LITERAL).
    """
    return weight * (F.relu(margin - rewards) if form == "margin" else F.relu(rewards)).mean()


@dataclass(frozen=True)
class Examples:
    """Pictures with captions for the pre-training term: clean latents (N, C, h, w) as the network sees them."""

    latents: Tensor
    captions: Sequence[str]


def pretrain_loss(model: Trainee, kind: str, said: Any, clean: Tensor, rung: Rung, noise: Tensor) -> Tensor:
    """The pre-training term at a noise level of each row: the error of the predicted noise, against the true noise
    ("images"), or against what the model without its LoRA predicts ("anchor"). clean, noise: (B, C, h, w).
    """
    x = rung.signal * clean + rung.noise * noise
    said_noise = noise_of(x, model.denoise(x, rung, said), rung)
    if kind == "images":
        return F.mse_loss(said_noise.float(), noise.float())
    with torch.no_grad(), model.adapter_off():
        before = noise_of(x, model.denoise(x, rung, said), rung)
    return F.mse_loss(said_noise.float(), before.float())


@dataclass(frozen=True)
class Step:
    """What a step draws its randomness from."""

    settings: ReflSettings
    number: int

    def stop(self) -> int:
        """The step of the ladder at which the picture is read: one for the whole batch, as in ImageReward."""
        s = self.settings
        return s.first + seed_of(s.seed, "stop", self.number) % (s.last - s.first + 1)

    def carried(self, stop: int) -> frozenset[int]:
        """The earlier steps that carry a gradient as well."""
        g = torch.Generator().manual_seed(seed_of(self.settings.seed, "carry", self.number))
        return frozenset(torch.randperm(stop, generator=g)[: self.settings.carry].tolist())

    def names(self, what: str, rows: Sequence[int], *more: object) -> list[tuple[object, ...]]:
        """Names of one noise for each row of the batch."""
        return [(self.settings.seed, what, self.number, row, *more) for row in rows]

    def prompts(self, prompts: Sequence[str], rows: Sequence[int]) -> list[str]:
        """The prompts of these rows: a new order for every pass through all of them."""
        turns = [self.number * self.settings.batch + row for row in rows]
        return [prompts[shuffled(turn, len(prompts), self.settings.seed, "order")] for turn in turns]


def refl_losses(
    model: Trainee,
    reward: Reward,
    prompts: Sequence[str],
    settings: ReflSettings,
    number: int,
    rows: Sequence[int] | None = None,
    examples: Examples | None = None,
) -> dict[str, Tensor]:
    """The losses of step ``number`` on ``rows`` of its batch: "loss" (with a gradient), "reward", "reward_loss",
    "pretrain". Everything random depends on the settings' seed, the step and the row alone.
    """
    step, rows = Step(settings, number), list(range(settings.batch)) if rows is None else list(rows)
    texts, stop, rungs = step.prompts(prompts, rows), step.stop(), model.ladder(settings.ladder)
    said = conditions(model, texts, settings.cfg)

    def fresh(i: int) -> Tensor:
        return noise_like(model, step.names("fresh", rows, i))

    with twice_instead_of_kept(model.heavy(), settings.checkpoint):
        start = noise_like(model, step.names("start", rows))
        clean = walk(model, said, rungs, stop, start, settings.eta, fresh, step.carried(stop))
        part = crop(clean, settings.decode_crop or None, (settings.seed, "crop", number))
        pictures = model.decode(part).clamp(0.0, 1.0)
        rewards = reward(pictures, texts)
        margin = reward.margin if settings.margin is None else settings.margin
        raised = reward_loss(rewards, settings.form, margin, settings.weight)
        losses = {"reward": rewards.mean().detach(), "reward_loss": raised.detach()}
        loss = raised
        if settings.pretrain != "none" and settings.pretrain_weight:
            kept = _pretrain(model, step, rows, said.prompts, clean.detach(), examples)
            losses["pretrain"] = kept.detach()
            loss = loss + settings.pretrain_weight * kept
        if settings.ghosts:
            ghosts = ghost_loss(model, texts, clean.detach(), step.names("ghost", rows), own=True)
            losses["ghosts"] = ghosts.detach()
            loss = loss + settings.ghosts * ghosts
    return {"loss": loss, **losses}


def _pretrain(
    model: Trainee, step: Step, rows: Sequence[int], said: Any, clean: Tensor, examples: Examples | None
) -> Tensor:
    """On given pictures, or on what the model itself is about to draw."""
    settings, number = step.settings, step.number
    if settings.pretrain == "images":
        if examples is None or not len(examples.captions):
            raise InterplayError(
                "The pre-training term 'images' needs pictures with captions; give some or use 'anchor'."
            )
        picked = [seed_of(settings.seed, "example", number, row) % len(examples.captions) for row in rows]
        clean = examples.latents[picked].to(model.device())
        said = model.condition([examples.captions[i] for i in picked])
    levels = [seed_of(settings.seed, "level", number, row) % 10_000 / 10_000 for row in rows]
    rung = stacked([model.random_rung(level) for level in levels], model.device())
    return pretrain_loss(model, settings.pretrain, said, clean, rung, noise_like(model, step.names("pretrain", rows)))


@dataclass(frozen=True)
class ReflJob:
    """What to train on. prompts: for training. watch: what the run is measured by, on prompts it is not trained on.
    report: called after each step with its figures; sample: called with a step and validation pictures. For twins
    ``reward`` needs no gradient, ``negatives`` gives a prompt's twins, and drawn is called while points are drawn.
    """

    model: Trainee
    reward: Reward
    prompts: Sequence[str]
    watch: Watch | None = None
    examples: Examples | None = None
    report: Callable[[int, int, Mapping[str, float]], None] | None = None
    sample: Callable[[int, Tensor], None] | None = None
    drawn: Callable[[int, int, Mapping[str, float]], None] | None = None
    negatives: Negatives = negatives_by_rule


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its steps, the step whose LoRA is in the model now, why it ended, and the validations."""

    steps: int
    kept: int
    why: str
    validations: Sequence[Mapping[str, float]]


def train_refl(job: ReflJob, settings: ReflSettings, out: Path, resume: bool = False) -> Outcome:
    """Train the LoRA that is in ``job.model``. It is left with the best validated LoRA, or the last where there is no
    validation.

    Raises:
        InterplayError: settings or data do not fit.
        Stopped: something was not finite, or the literal form did what it does.
    """
    if not job.prompts:
        raise InterplayError("There are no prompts to train on; give at least one.")
    if settings.form == "literal":
        logger.warning(LITERAL)
        settings = replace(settings, patience=settings.patience or 1)
    pairs = paired(job.prompts, job.negatives) if settings.twins else []
    run = Run(
        out,
        {"trainer": "refl", "reward": job.reward.name, "prompts": len(job.prompts), **asdict(settings)},
        job.model.parameters(),
        settings.rate,
        settings.clip,
        settings.warm,
        settings.ema,
        resume,
    )
    rows = run.workers.share(settings.batch)
    try:
        if run.state.step == 0 and not run.state.first:
            _validate(job, settings, run)
        learnt = _lessons(job, pairs, settings, run, out) if settings.twins else []

        def body(number: int) -> None:
            _step(job, settings, run, rows, number, learnt)
            if run.state.step % settings.validate_every == 0:
                _validate(job, settings, run)

        loop(run, settings.steps, settings.save_every, body)
        why = "all steps done"
    except Enough as enough:
        why = str(enough)
    kept = take_best(job.watch is not None, run)
    return Outcome(run.state.step, kept, why, run.state.notes.get("validations", []))


class Enough(Exception):
    """Validation says that it is time to end."""


def _lessons(
    job: ReflJob, pairs: Sequence[tuple[str, list[str]]], settings: ReflSettings, run: Run, out: Path
) -> list[Lesson]:
    """What twins teach; drawn by the first process, read by all."""
    if run.workers.rank == 0:
        draw_points(job.model, job.reward, job.reward.name, pairs, settings, out, job.drawn)
    run.workers.wait()
    points = draw_points(job.model, job.reward, job.reward.name, pairs, settings, out)
    return lessons(points, settings.sharp, settings.balance)


def _step(
    job: ReflJob, settings: ReflSettings, run: Run, rows: Sequence[int], number: int, learnt: Sequence[Lesson]
) -> None:
    """Gradients of all rows, a few at a time, and the optimiser's step."""
    size = settings.micro or len(rows)
    totals: dict[str, Tensor] = {}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if settings.twins:
            with twice_instead_of_kept(job.model.heavy(), settings.checkpoint):
                losses = twin_losses(job.model, learnt, settings, number, part)
        else:
            losses = refl_losses(job.model, job.reward, job.prompts, settings, number, part, job.examples)
        share = len(part) / len(rows)
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.detach() * share
    figures = run.advance(totals)
    run.log(figures)
    if job.report is not None:
        job.report(run.state.step, settings.steps, figures)


def _validate(job: ReflJob, settings: ReflSettings, run: Run) -> None:
    """Measure on the prompts set apart, keep what is best, and end where it is time to."""
    if job.watch is None:
        return

    def paint(prompts: Sequence[str], names: Sequence[Sequence[object]]) -> Tensor:
        steps, cfg = settings.validate_steps, settings.validate_cfg
        return job.model.decode(draw(job.model, prompts, names, steps, cfg)).clamp(0.0, 1.0)

    with run.averaged(), torch.no_grad():
        why = validate(job.watch, job.reward, paint, run, settings.patience, job.sample)
    if why:
        if settings.form == "literal":
            back = run.go_back(run.state.best_step)
            raise Stopped(f"Training stopped itself (the LoRA of step {back} is kept): {LITERAL}")
        raise Enough(why)


def take_best(watched: bool, run: Run) -> int:
    """Leave the model with the best validated LoRA."""
    best = run.state.best_step if watched else run.state.step
    if best != run.state.step:
        step, notes = run.state.step, run.state.notes
        run.go_back(best)
        run.state.step, run.state.notes = step, notes
    if run.average:
        with torch.no_grad():
            for p, value in zip(run.parameters, run.average, strict=True):
                p.copy_(value)
    return best
