"""ReFL on twins: a prompt and its negative are drawn on from the same noisy latents, and rewards say which way to go.

A reward's gradient in a picture leads to sharper or deceiving pictures sooner than to another plan, and a caption has
no gradient at all. Here pictures are drawn to their ends instead. For the Gaussian noise of diffusion the gradient of
the expected reward with respect to the clean estimate at x_t is, but for a factor, the covariance of reward and picture
among the ends of x_t; on that ground, a policy gradient as in DDPO (arXiv 2305.13301), the ends are weighed here.

For a prompt c and its twin n (the same words, another meaning) with ends x0_k of both from one x_t, and leads
l_k = R(x0_k, c) - R(x0_k, n):

    d = (sum_k softmax(s l)_k x0_k - sum_k softmax(-s l)_k x0_k) / 2

is what sets a picture of c apart from one of n here. The LoRA learns D(x_t, c) + push d and D(x_t, n) - push d, where D
is the model as it was. What both prompts have in common cancels out, noise included: only their difference is learnt.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InterplayError
from .ghosts import ghost_loss
from .refl_model import (
    Conditions,
    Rung,
    Trainee,
    conditions,
    descend,
    guided,
    noise_like,
    seed_of,
    shuffled,
    stacked,
    steered,
)

if TYPE_CHECKING:
    from .refl import ReflSettings

logger = logging.getLogger(__name__)

POINTS = "points"
HOLD_MOST = 25.0
"""The most that a row of ``hold`` weighs: errors of the noise at low noise are large numbers for the same picture."""

Score = Callable[[Tensor, Sequence[str]], Tensor]
Negatives = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Point:
    """Noisy latents of a walk, from pure noise to where twins part, (J, C, h, w), and the ends of both, (2 K, C, h, w),
    those of the prompt first, with their leads (2 K,).
    """

    prompt: str
    twin: str
    walk: Tensor
    ends: Tensor
    leads: Tensor


@dataclass(frozen=True)
class Lesson:
    """A point as it is learnt from: ``apart`` (C, h, w) is the d of this module, ``clean`` an end of the prompt."""

    prompt: str
    twin: str
    walk: Tensor
    apart: Tensor
    clean: Tensor


def negatives_by_rule(prompt: str) -> list[str]:
    """The same words the wrong way round."""
    from .negatives import negatives

    return [n.text for n in negatives(prompt, ops=("swap_attr", "swap_role"), mixed=True)]


def paired(prompts: Sequence[str], negatives: Negatives) -> list[tuple[str, list[str]]]:
    """Prompts with their twins; those without one are left out.

    Raises:
        InterplayError: none has a twin.
    """
    found = [(prompt, list(dict.fromkeys(negatives(prompt)))) for prompt in prompts]
    pairs = [(prompt, twins) for prompt, twins in found if twins]
    if not pairs:
        raise InterplayError(
            "No prompt has a twin, which says the same words of other things (a red cup and a blue box: a blue cup and "
            "a red box); give prompts with two different things, or use ReFL without twins."
        )
    if len(pairs) < len(found):
        logger.info("%d of %d prompts have no twin and are left out", len(found) - len(pairs), len(found))
    return pairs


def draw_points(
    model: Trainee,
    score: Score,
    judged: str,
    pairs: Sequence[tuple[str, Sequence[str]]],
    settings: ReflSettings,
    out: Path,
    tell: Callable[[int, int, Mapping[str, float]], None] | None = None,
) -> list[Point]:
    """Walks and their ends by the model without its LoRA; ``out`` keeps each batch, so that an ended run draws it once.

    Raises:
        InterplayError: ``out`` holds points of other prompts or settings, or a reward is not finite.
    """
    folder = out / POINTS
    folder.mkdir(parents=True, exist_ok=True)
    how = {name: getattr(settings, name) for name in _DRAWN} | {"judged": judged, "shape": list(model.shape)}
    points: list[Point] = []
    for start in range(0, settings.points, settings.batch):
        rows = list(range(start, min(start + settings.batch, settings.points)))
        texts = [_twins(pairs, settings.seed, row) for row in rows]
        file = folder / f"{start:06d}.pt"
        if file.is_file():
            held = torch.load(file, weights_only=True)
            if held["texts"] != [list(pair) for pair in texts] or held["how"] != how:
                raise InterplayError(f"{file} holds points of other prompts or settings; choose another folder.")
        else:
            held = {"how": how, "texts": [list(pair) for pair in texts]}
            with torch.no_grad(), model.adapter_off():
                held |= _draw_part(model, score, texts, settings, rows)
            torch.save(held, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)
        tables = zip(held["texts"], held["walks"], held["ends"], held["leads"], strict=True)
        points += [Point(prompt, twin, walk, ends, leads) for (prompt, twin), walk, ends, leads in tables]
        if tell is not None:
            tell(len(points), settings.points, {"lead": float(held["leads"].abs().mean())})
    return points


_DRAWN = ("ladder", "first", "last", "cfg", "eta", "twins", "stride", "seed", "batch", "guide")


def _twins(pairs: Sequence[tuple[str, Sequence[str]]], seed: int, row: int) -> tuple[str, str]:
    """The prompt and the twin of a point: a new order for every pass through all prompts."""
    prompt, twins = pairs[shuffled(row, len(pairs), seed, "point order")]
    return prompt, twins[seed_of(seed, "twin", row) % len(twins)]


def _draw_part(
    model: Trainee, score: Score, texts: Sequence[tuple[str, str]], settings: ReflSettings, rows: Sequence[int]
) -> dict[str, Any]:
    """The points of some rows. Twins part at one rung for the whole batch, as ReFL reads at one."""
    span = settings.last - settings.first + 1
    fork = settings.first + seed_of(settings.seed, "fork", rows[0]) % span
    rungs, own = model.ladder(settings.ladder), [prompt for prompt, _ in texts]
    said = conditions(model, own, settings.cfg, settings.guide, settings.ladder)
    x = noise_like(model, [(settings.seed, "point", row) for row in rows]) * rungs[0].noise
    walk = [x]
    for i in range(fork):
        fresh = noise_like(model, [(settings.seed, "point", row, i) for row in rows]) if settings.eta else None
        x = steered(x, rungs, i, said)
        x = descend(x, guided(model, x, rungs[i], said), rungs[i], rungs[i + 1], settings.eta, fresh)
        walk.append(x)
    ends, leads = [], []
    keys = [(i, side, k) for i in range(len(rows)) for side in (0, 1) for k in range(settings.twins)]
    for part in _parts(keys, settings.batch):  # pictures of one prompt side by side, which guidance takes at once
        said = conditions(model, [texts[i][side] for i, side, _ in part], settings.cfg, settings.guide, settings.ladder)
        names = [(settings.seed, "end", rows[i], side, k) for i, side, k in part]
        end = go_on(model, said, rungs, fork, x[[i for i, *_ in part]], settings.stride, names)
        pictures = model.decode(end).clamp(0.0, 1.0)
        both = [score(pictures, [texts[i][side] for i, *_ in part]).float().cpu() for side in (0, 1)]
        ends.append(end.half().cpu())
        leads.append(both[0] - both[1])
    lead = torch.cat(leads).view(len(rows), -1)
    if not bool(torch.isfinite(lead).all()):
        raise InterplayError("The reward of a picture is not finite; look at the pictures, or use another reward.")
    drawn = torch.cat(ends).unflatten(0, (len(rows), -1))
    return {"walks": torch.stack(walk, 1).float().cpu(), "ends": drawn, "leads": lead}


def _parts(keys: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def go_on(
    model: Trainee,
    said: Conditions,
    rungs: Sequence[Rung],
    fork: int,
    x: Tensor,
    stride: int,
    names: Sequence[Sequence[object]],
) -> Tensor:
    """An end of x at rung ``fork``: two ancestral steps, which set ends apart, then DDIM on every ``stride``-th rung.
    names: of the fresh noise of each row. Returns clean latents.
    """
    last = len(rungs) - 1
    way = [i for i in (fork, fork + 1, fork + 2) if i < last] or [fork]
    while way[-1] < last:
        way.append(min(way[-1] + stride, last))
    for step, (here, there) in enumerate(itertools.pairwise(way)):
        x = steered(x, rungs, here, said)
        clean = guided(model, x, rungs[here], said)
        fresh = noise_like(model, [(*name, step) for name in names])
        x = descend(x, clean, rungs[here], rungs[there], 1.0 if step < 2 else 0.0, fresh)
    return guided(model, x, rungs[last], said)


def apart(ends: Tensor, leads: Tensor, sharp: float) -> Tensor:
    """The d of this module, (C, h, w). ends: (K, C, h, w); leads: (K,), in units in which ``sharp`` makes sense."""

    def mean(sign: float) -> Tensor:
        return torch.einsum("k,kchw->chw", (sign * sharp * leads).softmax(0), ends)

    return (mean(1.0) - mean(-1.0)) / 2


def lessons(points: Sequence[Point], sharp: float, balance: float) -> list[Lesson]:
    """What there is to learn. Leads count in units of their spread over all points, so that ``sharp`` suits any reward.
    Points whose ends are nearly all the prompt's, or all the twin's, have nothing to tell apart and are left out.

    Raises:
        InterplayError: no point is left.
    """
    spread = torch.cat([point.leads for point in points]).square().mean().sqrt().clamp(min=1e-8)
    found = []
    for point in points:
        leads, ends = (point.leads / spread).float(), point.ends.float()
        share = float(torch.sigmoid(sharp * leads).mean())
        if min(share, 1.0 - share) >= balance:
            best = ends[int(leads.argmax())]
            found.append(Lesson(point.prompt, point.twin, point.walk.float(), apart(ends, leads, sharp), best))
    if not found:
        raise InterplayError(
            "The pictures of no prompt and its twin differ for the reward; draw more points, let twins part at an "
            "earlier step, or use another reward."
        )
    logger.info("%d of %d points have something to tell apart", len(found), len(points))
    return found


def twin_losses(
    model: Trainee, learnt: Sequence[Lesson], settings: ReflSettings, number: int, rows: Sequence[int]
) -> dict[str, Tensor]:
    """The losses of step ``number`` on ``rows`` of its batch: "loss" (with a gradient), "twins" (squared error of both
    estimates), "untaught" (what that would be without the LoRA), "pretrain" (squared change where nothing should
    change: of the empty prompt in the same place, or of the prompt at low noise, in turn) and "ghosts".
    """
    turns = [number * settings.batch + row for row in rows]
    picked = [learnt[shuffled(turn, len(learnt), settings.seed, "lessons")] for turn in turns]
    rungs = model.ladder(settings.ladder)
    at = [seed_of(settings.seed, "rung", number, row) % len(one.walk) for row, one in zip(rows, picked, strict=True)]
    x = torch.stack([one.walk[i] for one, i in zip(picked, at, strict=True)]).to(model.device())
    here = stacked([rungs[i] for i in at], model.device())
    wanted = settings.push * torch.stack([one.apart for one in picked]).to(x)
    changes = [
        change(model, x, here, [getattr(one, name) for one in picked]) - sign * wanted
        for name, sign in (("prompt", 1.0), ("twin", -1.0))
    ]
    error = torch.stack([each.square().mean() for each in changes]).mean()
    loss, losses = settings.weight * error, {"twins": error.detach(), "untaught": wanted.square().mean()}
    if settings.pretrain != "none" and settings.pretrain_weight:
        held = _hold(model, picked, x, at, settings, number, rows)
        loss, losses["pretrain"] = loss + settings.pretrain_weight * held, held.detach()
    if settings.ghosts:
        ends = torch.stack([one.clean for one in picked]).to(x)
        names = [(settings.seed, "ghost", number, row) for row in rows]
        ghosts = ghost_loss(model, [one.prompt for one in picked], ends, names, own=True)
        loss, losses["ghosts"] = loss + settings.ghosts * ghosts, ghosts.detach()
    return {"loss": loss, **losses}


def change(model: Trainee, x: Tensor, rung: Rung, texts: Sequence[str]) -> Tensor:
    """What the LoRA changes of the estimate, (B, C, h, w), with a gradient."""
    said = model.condition(list(texts))
    with torch.no_grad(), model.adapter_off():
        before = model.denoise(x, rung, said).float()
    return model.denoise(x, rung, said).float() - before


def _hold(
    model: Trainee,
    picked: Sequence[Lesson],
    x: Tensor,
    at: Sequence[int],
    settings: ReflSettings,
    number: int,
    rows: Sequence[int],
) -> Tensor:
    """Even rows: the empty prompt where twins are told apart. Odd rows: the prompt in the quieter half of the ladder,
    on an end of its own, weighed as errors of the noise are.
    """
    rungs, half = model.ladder(settings.ladder), settings.ladder // 2
    quiet = [half + seed_of(settings.seed, "quiet", number, row) % (settings.ladder - half) for row in rows]
    levels = [q if row % 2 else i for row, q, i in zip(rows, quiet, at, strict=True)]
    rung = stacked([rungs[i] for i in levels], x.device)
    noise = noise_like(model, [(settings.seed, "hold", number, row) for row in rows])
    ends = torch.stack([one.clean for one in picked]).to(x)
    odd = torch.tensor([row % 2 for row in rows], device=x.device).view(-1, 1, 1, 1)
    latents = torch.where(odd == 1, rung.signal * ends + rung.noise * noise, x)
    texts = [one.prompt if row % 2 else "" for one, row in zip(picked, rows, strict=True)]
    weight = (rung.signal / rung.noise).square().clamp(1.0, HOLD_MOST)
    return (weight * change(model, latents, rung, texts).square()).mean()
