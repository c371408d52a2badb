"""Reward ranked fine-tuning (Dong et al. 2023, arXiv 2304.06767): draw several pictures a prompt, keep those that the
true reward likes best, train the LoRA on them as on any pictures; repeat.

It needs no gradient of the reward, so it takes RealignDiff's caption reward as it stands. The authors' own public code
does this: ten pictures a prompt, two rounds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InterplayError
from ..presets import preset
from .ghosts import ghost_loss
from .refl import Enough, Outcome, take_best
from .refl_model import Trainee, draw, noise_like, noise_of, seed_of, stacked, twice_instead_of_kept
from .refl_options import as_image
from .refl_state import Run, loop
from .refl_watch import Score, Watch, validate

logger = logging.getLogger(__name__)

WINNERS = "winners"
DRAWN = ("pictures", "winners", "draw_steps", "draw_cfg", "seed", "guide")
"""Settings that a drawn batch depends on."""


@dataclass(frozen=True)
class RaftSettings:
    """Settings of a run.

    rounds: of drawing and training. pictures: drawn for each prompt; winners: the best of these are taken. keep:
    winners are used only where their reward is at least this, or None; best: share of the winners, the best of all
    prompts, that are used. spread: winners whose reward is above their prompt's lowest by no more than this are left
    out, because they teach nothing (0 keeps all).
    draw_steps, draw_cfg: of DDIM. draw_batch: pictures at once. steps: optimiser steps of each round. batch: winners a
    step over all processes. dropout: share of empty captions. low, high: range of noise levels in training, shares of
    the schedule. clean: 0 for the usual noise error; above, the error of the clean picture, weighted by min(1, clean *
    signal^2 / noise^2), which counts the noisy levels where a picture's plan is made. Others as in ``ReflSettings``,
    ``ghosts`` and ``guide`` among them.
    """

    rounds: int = 1
    pictures: int = 4
    winners: int = 1
    keep: float | None = None
    best: float = 1.0
    spread: float = 0.0
    draw_steps: int = 25
    draw_cfg: float = 5.0
    draw_batch: int = 8
    steps: int = 200
    batch: int = 8
    dropout: float = 0.1
    low: float = 0.0
    high: float = 1.0
    clean: float = 0.0
    rate: float = 1e-4
    warm: int = 0
    clip: float = 1.0
    ema: float = 0.0
    checkpoint: bool = False
    validate_every: int = 50
    validate_steps: int = 25
    validate_cfg: float = 5.0
    patience: int = 0
    save_every: int = 50
    seed: int = 0
    ghosts: float = 0.0
    guide: str = ""

    def __post_init__(self) -> None:
        for name in ("rounds", "draw_steps", "draw_batch", "steps", "batch", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise InterplayError(f"{name} is {getattr(self, name)}; give a number of at least 1.")
        if self.pictures < 2:
            raise InterplayError(f"Best of {self.pictures} is no choice; draw at least 2 pictures a prompt.")
        if not 1 <= self.winners < self.pictures:
            raise InterplayError(
                f"{self.winners} winners of {self.pictures} pictures are no choice; take at least 1 and fewer than are "
                "drawn."
            )
        if not 0 < self.rate < 1:
            raise InterplayError(f"The learning rate is {self.rate}; 1e-4 is a good start for a LoRA.")
        if not self.clean >= 0:
            raise InterplayError(f"clean is {self.clean}; give 0 for the noise error, or a weight such as 20.")
        if self.guide:
            preset(self.guide)  # an unknown name is said now
        if not self.ghosts >= 0:
            raise InterplayError(f"ghosts is {self.ghosts}; give a number of 0 or more.")
        if not 0 < self.best <= 1 or not 0 <= self.dropout < 1 or not 0 <= self.low < self.high <= 1:
            raise InterplayError("Give shares in order: 0 < best <= 1, 0 <= dropout < 1, 0 <= low < high <= 1.")


@dataclass(frozen=True)
class Winner:
    """One of a prompt's best pictures: its latent as the network sees it, the rewards of all that were drawn for the
    prompt, and its own place among these, 0 for the best.
    """

    prompt: str
    latent: Tensor
    rewards: tuple[float, ...]
    place: int = 0

    @property
    def reward(self) -> float:
        """Of the winner."""
        return sorted(self.rewards, reverse=True)[self.place]


def choose(winners: Sequence[Winner], settings: RaftSettings) -> list[Winner]:
    """Those to train on, the best first.

    Raises:
        InterplayError: none is left.
    """
    found = [w for w in winners if settings.keep is None or w.reward >= settings.keep]
    found = [w for w in found if not settings.spread or w.reward - min(w.rewards) > settings.spread]
    found = sorted(found, key=lambda w: -w.reward)[: max(1, round(settings.best * len(winners)))]
    if not found:
        top = max(w.reward for w in winners)
        raise InterplayError(
            f"No picture is good enough to learn from (the best reward is {top:.3g}); lower 'keep' or 'spread', or "
            "draw more pictures."
        )
    return found


def draw_winners(
    model: Trainee,
    score: Score,
    prompts: Sequence[str],
    settings: RaftSettings,
    turn: int,
    out: Path,
    tell: Any = None,
    tie: Score | None = None,
    judged: str = "",
) -> list[Winner]:
    """The winners of every prompt, best first; ``out`` keeps each batch, so that an ended run draws it only once.

    tie: another reward, which puts pictures of the same ``score`` in order (the caption reward of several is often 1).
    judged: names of the rewards; what was drawn is only taken again where these, the settings and the size agree.

    Raises:
        InterplayError: ``out`` holds what was drawn of other prompts or in another way, or a reward is not finite.
    """
    folder = out / WINNERS / f"round_{turn}"
    folder.mkdir(parents=True, exist_ok=True)
    each = max(1, settings.draw_batch // settings.pictures)
    how = {name: getattr(settings, name) for name in DRAWN} | {"judged": judged, "shape": list(model.shape)}
    winners: list[Winner] = []
    for start in range(0, len(prompts), each):
        part = list(prompts[start : start + each])
        file = folder / f"{start:06d}.pt"
        if file.is_file():
            held = torch.load(file, weights_only=True)
            if held["prompts"] != part or held.get("how") != how:
                raise InterplayError(
                    f"{file} holds pictures of other prompts, rewards, sizes or settings; choose another folder "
                    "(in ComfyUI: another name), or start anew without resuming."
                )
        else:
            held = {"how": how} | _draw_part(model, [score, *([tie] if tie else [])], part, settings, turn, start)
            torch.save(held, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)
        rows = zip(held["prompts"], held["latents"], held["rewards"].tolist(), strict=True)
        for prompt, latents, rewards in rows:
            winners += [Winner(prompt, latent, tuple(rewards), place) for place, latent in enumerate(latents)]
        if tell is not None:
            tell(start + len(part), len(prompts), {"reward": max(held["rewards"][-1].tolist())})
    return winners


@torch.no_grad()
def _draw_part(
    model: Trainee, scores: Sequence[Score], prompts: Sequence[str], settings: RaftSettings, turn: int, start: int
) -> dict[str, Any]:
    """Winners of some prompts: latents (B, winners, C, h, w), the best first, rewards (B, n) of all their pictures.
    scores: the one that counts, and one between equals.
    """
    texts = [prompt for prompt in prompts for _ in range(settings.pictures)]
    n = settings.pictures
    names = [(settings.seed, "raft", turn, start + i // n, i % n) for i in range(len(texts))]
    latents, rewards = [], []
    for i in range(0, len(texts), settings.draw_batch):
        part = slice(i, i + settings.draw_batch)
        made = draw(model, texts[part], names[part], settings.draw_steps, settings.draw_cfg, settings.guide)
        pictures = model.decode(made).clamp(0.0, 1.0)
        rewards.append(torch.stack([score(pictures, texts[part]).float().cpu() for score in scores]))
        latents.append(made.float().cpu())
    tables = torch.cat(rewards, 1).view(len(scores), len(prompts), settings.pictures)
    if not bool(torch.isfinite(tables).all()):
        raise InterplayError("The reward of a picture is not finite; look at the pictures, or use another reward.")
    table = tables[0]
    order = tables[-1].sort(stable=True, dim=1, descending=True).indices
    best = order.gather(1, table.gather(1, order).sort(stable=True, dim=1, descending=True).indices)
    best = best[:, : settings.winners]
    rows = torch.arange(len(prompts))[:, None] * settings.pictures + best
    return {"prompts": list(prompts), "latents": torch.cat(latents)[rows], "rewards": table}


@torch.no_grad()
def write_data(
    paint: Callable[[Tensor], Tensor],
    winners: Sequence[Winner],
    folder: Path,
    negatives: Callable[[str], Sequence[str]],
) -> Path:
    """The pictures of winners as training data that any trainer takes: PNG files and ``captions.jsonl``, with the
    negatives of each prompt. paint: latents (B, C, h, w) to pictures (B, 3, H, W) in [0, 1]. Returns that file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, winner in enumerate(winners):
        name = f"{number:05d}.png"
        as_image(paint(winner.latent[None])[0]).save(folder / name)
        record = {"image": name, "caption": winner.prompt, "negatives": list(negatives(winner.prompt))}
        lines.append(json.dumps(record, ensure_ascii=False))
    file = folder / "captions.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def raft_loss(
    model: Trainee, winners: Sequence[Winner], settings: RaftSettings, number: int, rows: Sequence[int]
) -> Tensor:
    """The error on winners, each at a noise level of its own; see ``RaftSettings.clean``."""
    keys = [(settings.seed, "raft step", number, row) for row in rows]
    picked = [winners[seed_of(*key, "which") % len(winners)] for key in keys]
    dropped = [seed_of(*key, "drop") % 10_000 < settings.dropout * 10_000 for key in keys]
    texts = ["" if drop else winner.prompt for winner, drop in zip(picked, dropped, strict=True)]
    within = [seed_of(*key, "level") % 10_000 / 10_000 for key in keys]
    levels = [(row + part) / settings.batch for row, part in zip(rows, within, strict=True)]
    span = settings.high - settings.low
    rung = stacked([model.random_rung(settings.low + span * level) for level in levels], model.device())
    noise = noise_like(model, [(*key, "noise") for key in keys])
    clean = torch.stack([winner.latent for winner in picked]).to(noise.device)
    x = rung.signal * clean + rung.noise * noise
    found = model.denoise(x, rung, model.condition(texts))
    if settings.clean:
        weight = (settings.clean * (rung.signal / rung.noise) ** 2).clamp(max=1.0)
        loss = (weight * (found.float() - clean.float()).square()).mean()
    else:
        loss = F.mse_loss(noise_of(x, found, rung).float(), noise.float())
    if settings.ghosts:
        loss = loss + settings.ghosts * ghost_loss(model, texts, clean, [(*key, "ghost") for key in keys])
    return loss


@dataclass(frozen=True)
class RaftJob:
    """What to train on. score: the true reward, of pictures (B, 3, H, W) in [0, 1] and prompts, to (B,); tie: another
    one, between pictures that it likes as much.
    """

    model: Trainee
    score: Score
    score_name: str
    prompts: Sequence[str]
    watch: Watch | None = None
    report: Callable[[int, int, Mapping[str, float]], None] | None = None
    drawn: Callable[[int, int, Mapping[str, float]], None] | None = None
    sample: Callable[[int, Tensor], None] | None = None
    tie: Score | None = None
    tie_name: str = "none"


def train_raft(job: RaftJob, settings: RaftSettings, out: Path, resume: bool = False) -> Outcome:
    """Draw, choose and train; the model is left with the best validated LoRA, or the last without validation.

    Raises:
        InterplayError: settings or data do not fit, or no picture is worth learning from.
        Stopped: something was not finite.
    """
    if not job.prompts:
        raise InterplayError("There are no prompts to draw; give at least one.")
    names = {"trainer": "raft", "reward": job.score_name, "tie": job.tie_name}
    plain = {**names, "prompts": len(job.prompts), **asdict(settings)}
    run = Run(out, plain, job.model.parameters(), settings.rate, settings.clip, settings.warm, settings.ema, resume)
    rows = run.workers.share(settings.batch)
    why = "all steps done"
    try:
        if run.state.step == 0 and not run.state.first:
            _validate(job, settings, run)
        first = run.state.step // settings.steps
        for turn in range(first, settings.rounds):
            _round(job, settings, run, rows, turn, out)
    except Enough as enough:
        why = str(enough)
    kept = take_best(job.watch is not None, run)
    return Outcome(run.state.step, kept, why, run.state.notes.get("validations", []))


def _round(job: RaftJob, settings: RaftSettings, run: Run, rows: Sequence[int], turn: int, out: Path) -> None:
    """Draw with the LoRA as it was when the round began, then train."""
    winners = _winners(job, settings, run, turn, out)
    end = (turn + 1) * settings.steps

    def body(number: int) -> None:
        with twice_instead_of_kept(job.model.heavy(), settings.checkpoint):
            loss = raft_loss(job.model, winners, settings, number, rows)
            loss.backward()
        figures = run.advance({"loss": loss})
        run.log(figures)
        if job.report is not None:
            job.report(run.state.step, settings.rounds * settings.steps, figures)
        if run.state.step % settings.validate_every == 0:
            _validate(job, settings, run)

    loop(run, end, settings.save_every, body)


def _winners(job: RaftJob, settings: RaftSettings, run: Run, turn: int, out: Path) -> list[Winner]:
    """Of this round; drawn by the first process, read by all."""
    judged = f"{job.score_name}, {job.tie_name}"
    if run.workers.rank == 0:
        draw_winners(job.model, job.score, job.prompts, settings, turn, out, job.drawn, job.tie, judged)
    run.workers.wait()
    found = draw_winners(job.model, job.score, job.prompts, settings, turn, out, judged=judged)
    used, first = choose(found, settings), [w for w in found if w.place == 0]
    line = {
        "round": turn,
        "prompts": len(first),
        "used": len(used),
        "mean reward": sum(sum(w.rewards) for w in first) / sum(len(w.rewards) for w in first),
        "winners' mean reward": sum(w.reward for w in used) / len(used),
    }
    if run.workers.rank == 0:
        records = [{"prompt": w.prompt, "rewards": [round(r, 5) for r in w.rewards]} for w in first]
        text = "\n".join(map(json.dumps, records)) + "\n"
        (out / WINNERS / f"round_{turn}.jsonl").write_text(text, encoding="utf-8")
    run.log(line)
    logger.info("round %d: %d of %d winners are used", turn + 1, len(used), len(found))
    return used


def _validate(job: RaftJob, settings: RaftSettings, run: Run) -> None:
    if job.watch is None:
        return

    def paint(prompts: Sequence[str], names: Sequence[Sequence[object]]) -> Tensor:
        steps, cfg = settings.validate_steps, settings.validate_cfg
        return job.model.decode(draw(job.model, prompts, names, steps, cfg)).clamp(0.0, 1.0)

    with run.averaged(), torch.no_grad():
        why = validate(job.watch, job.score, paint, run, settings.patience, job.sample)
    if why:
        raise Enough(why)
