"""One step of a contrastive LoRA: which pictures, noises and captions, and the errors they give.

Every random choice depends on the run's seed, the step and the row alone: a run goes on bit for bit, and a batch is the
same however many processes share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InterplayError
from .ghosts import GHOSTS_FROM, errors, once_each, with_ghosts
from .learner import SPACES, Learner, Levels
from .objectives import OBJECTIVES, Constants, Mean, Terms, active, calibrated, check_clip, loss
from .records import Record
from .refl_model import seed_of
from .tripwire import STRAY

CONTRAST_SPACES = ("same", "clean")


@dataclass(frozen=True)
class ContrastSettings:
    """Settings of a run.

    objective: one of OBJECTIVES. steps: optimiser steps; batch: pictures a step over all processes; micro: of these
    at once in each (0: all). rate: AdamW's, reached after ``warm`` steps; over the last share ``fade`` of the run
    it falls to zero. k: margin = mean + k spreads of the frozen model's L_n - L_c, measured on ``calibrate``
    samples. eta, kappa, rho: weights of hinge, anchor and L_c (softneg_guarded). clip: lambda. anchor_every: steps
    from anchor to anchor, which weighs as many times as much. watch_every: steps from one look of the tripwire to
    the next (eq. 2 is watched at every step). look_first: negatives run once without a graph, and only the active
    ones again with one: saves time where under a third of them are active, and costs time where nearly all are.
    dropout: share of empty captions (``noneg``). low, high: range of the noise axis, 0 clean, 1 pure noise; lean:
    below 1 more of the pictures are noisy (share low + (high - low) v^lean of an even v). min_snr: gamma of min-SNR
    weighting, 0 for none; snr_power: the weight is min(SNR, gamma)^snr_power / SNR. space: errors of what the model
    predicts ("native") or of the noise ("eps"). contrast_from: negatives count at noise above this share only;
    contrast_until: and only in this first share of the run, what is left of it heals what they pushed aside;
    contrast_rest: they also rest while the tripwire sees L_c above so many times the frozen model's (0: never);
    contrast_space: L_n - L_c of the hinge and of the preference is measured like the other errors ("same"), or as
    an error of the clean picture ("clean"), which has about the same size at all high noise. hold_below: below this
    share of noise the model is held to what it predicts without the LoRA, and pictures teach nothing: pictures that a
    model has drawn itself then teach their plan and not their blemishes. ghosts: weight of the error where a part of
    the picture stands in it a second time (see the module ``ghosts``; 0: none). ema: decay of the average that is
    handed out (0: none). checkpoint: run blocks twice instead of keeping them. tripwire: see there; stray: how many
    times the frozen model's L_c may be before it ends the run.
    held_out: share of the records that are only validated on; draws: noises for each of at most ``held_out_most``
    of them. patience: validations without a better one until the run ends (0: never).
    """

    objective: str = "contrast_hinge"
    steps: int = 1000
    batch: int = 4
    micro: int = 0
    rate: float = 1e-4
    fade: float = 0.0
    warm: int = 10
    clip_norm: float = 1.0
    k: float = 1.0
    calibrate: int = 256
    eta: float = 1.0
    kappa: float = 1.0
    rho: float = 0.5
    clip: float = 1.0
    anchor_every: int = 1
    watch_every: int = 1
    look_first: bool = True
    dropout: float = 0.1
    low: float = 0.1
    high: float = 0.9
    lean: float = 1.0
    min_snr: float = 0.0
    snr_power: float = 1.0
    space: str = "native"
    contrast_from: float = 0.0
    contrast_until: float = 1.0
    contrast_rest: float = 0.0
    contrast_space: str = "same"
    hold_below: float = 0.0
    ghosts: float = 0.0
    ema: float = 0.0
    checkpoint: bool = False
    tripwire: bool = True
    stray: float = STRAY
    held_out: float = 0.1
    held_out_most: int = 32
    draws: int = 4
    validate_every: int = 100
    patience: int = 0
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InterplayError(f"The objective is one of {', '.join(OBJECTIVES)}, not '{self.objective}'.")
        counts = ("steps", "batch", "calibrate", "anchor_every", "watch_every", "draws", "validate_every", "save_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise InterplayError(f"{name} is {getattr(self, name)}; give a number of at least 1.")
        for name in ("micro", "warm", "clip_norm", "k", "eta", "kappa", "rho", "min_snr", "patience", "ghosts"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InterplayError(f"{name} is {getattr(self, name)}; give a number of 0 or more.")
        if not 0 < self.rate < 1:
            raise InterplayError(f"The learning rate is {self.rate}; 1e-4 is a good start for a LoRA.")
        if not 0 < self.low < self.high < 1 or not 0 <= self.dropout < 1 or not 0 <= self.held_out < 1:
            raise InterplayError("Give shares in order: 0 < low < high < 1, 0 <= dropout < 1, 0 <= held_out < 1.")
        if not 0 < self.lean <= 4 or not 0 < self.snr_power <= 1:
            raise InterplayError(
                f"lean is {self.lean} and snr_power {self.snr_power}; give more than 0, and at most 4 and at most 1."
            )
        if not 0 <= self.contrast_from < self.high or not 0 < self.contrast_until <= 1:
            raise InterplayError(
                f"Negatives from {self.contrast_from} of the noise and until {self.contrast_until} of the run leave "
                "none; give 0 <= contrast_from < high and 0 < contrast_until <= 1."
            )
        if self.contrast_rest and not (self.contrast_rest > 1 and self.tripwire):
            raise InterplayError(
                f"contrast_rest is {self.contrast_rest}; give 0, or with the tripwire a number above 1 such as 1.05."
            )
        if not 1 < self.stray <= 2:
            raise InterplayError(f"stray is {self.stray}; give more than 1 and at most 2, such as 1.15.")
        if not 0 <= self.hold_below < self.high:
            raise InterplayError(f"hold_below is {self.hold_below}; give 0 for none, or less than high ({self.high}).")
        if self.contrast_space not in CONTRAST_SPACES:
            raise InterplayError(f"contrast_space is one of {', '.join(CONTRAST_SPACES)}, not '{self.contrast_space}'.")
        if not 0 <= self.fade <= 1:
            raise InterplayError(f"fade is {self.fade}; give the share of the run, 0 to 1, in which the rate falls.")
        if not 0 <= self.ema < 1:
            raise InterplayError(f"The EMA's decay is {self.ema}; give 0 for none, or a number such as 0.99.")
        if self.space not in SPACES:
            raise InterplayError(f"The space of the error is one of {', '.join(SPACES)}, not '{self.space}'.")
        if self.objective == "softneg_raw" and not self.tripwire:
            raise InterplayError("softneg_raw is eq. 2, which has no lower bound; it runs with the tripwire only.")
        check_clip(self.objective, self.clip)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, but for the warm-up."""
        return self.rate * (min(1.0, (self.steps - step) / (self.fade * self.steps)) if self.fade else 1.0)


@dataclass(frozen=True)
class Material:
    """Records and the clean latents of their pictures, (N, C, h, w), as the network sees them."""

    records: Sequence[Record]
    latents: Tensor

    def split(self, share: float, most: int, seed: int) -> tuple[Material, Material]:
        """For training, and at most ``most`` that are only validated on; which, depends on the captions alone, so that
        pictures with one caption stay together.
        """
        wanted = min(most, int(share * len(self.records)))
        captions = dict.fromkeys(r.caption for r in self.records)
        ranked = sorted(captions, key=lambda caption: seed_of(seed, "held out", caption))
        apart: set[str] = set()
        count = 0
        for caption in ranked if wanted else ():
            size = sum(r.caption == caption for r in self.records)
            if count + size > wanted:
                continue
            apart.add(caption)
            count += size
        return self._only([r.caption not in apart for r in self.records]), self._only(
            [r.caption in apart for r in self.records]
        )

    def _only(self, keep: Sequence[bool]) -> Material:
        index = [i for i, kept in enumerate(keep) if kept]
        return Material([self.records[i] for i in index], self.latents[index])


@dataclass(frozen=True)
class Batch:
    """Rows of one step. has: which rows have a negative that counts at their noise (the others repeat their caption
    there, or have one that is not used); weight: of the record; held: which rows are held to the frozen model;
    haunted: numbers of the rows that have a ghost, and ghosts, the clean latents of these with it.
    """

    clean: Tensor
    noise: Tensor
    levels: Levels
    captions: list[str]
    negatives: list[str]
    has: Tensor
    weight: Tensor
    held: Tensor
    haunted: Tensor | None = None
    ghosts: Tensor | None = None

    @property
    def noised(self) -> Tensor:
        """x at the batch's levels."""
        return self.levels.signal * self.clean + self.levels.noise * self.noise

    def without(self) -> Batch:
        """The same where no negative counts."""
        return replace(self, has=torch.zeros_like(self.has))


def make_batch(
    model: Learner, data: Material, s: ContrastSettings, what: str, number: int, rows: Sequence[int]
) -> Batch:
    """Rows of step ``number``: the records in a new order every time through, negatives by turns, noise levels spread
    evenly over the batch.
    """
    records, latents, noise, shares, captions, negatives = [], [], [], [], [], []
    total = s.batch if what == "train" else len(rows)
    for row in rows:
        epoch, place = divmod(number * s.batch + row, len(data.records))
        order = torch.randperm(len(data.records), generator=_generator(s.seed, what, "order", epoch))
        record = data.records[int(order[place])]
        records.append(record)
        latents.append(data.latents[int(order[place])])
        g = _generator(s.seed, what, number, row)
        even = (row % total + float(torch.rand((), generator=g))) / total
        shares.append(s.low + (s.high - s.low) * even**s.lean)
        noise.append(torch.randn(data.latents.shape[1:], generator=g))
        pick, drop = int(torch.randint(0, 2**31, (), generator=g)), float(torch.rand((), generator=g))
        said, coin = (record.caption, *record.positives), pick >> 16  # the low bits choose the negative
        caption = said[0] if len(said) == 1 or coin % 2 else said[1 + coin // 2 % (len(said) - 1)]
        dropped = what == "train" and OBJECTIVES[s.objective].dropout and drop < s.dropout
        captions.append("" if dropped else caption)
        negatives.append(record.negatives[pick % len(record.negatives)] if record.negatives else caption)
    device = model.device()
    weight = torch.tensor([r.weight for r in records], device=device)
    told = [bool(r.negatives) and u >= max(s.contrast_from, s.hold_below) for r, u in zip(records, shares, strict=True)]
    has = torch.tensor(told, device=device)
    held = torch.tensor([u < s.hold_below for u in shares], device=device)
    levels = model.levels(torch.tensor(shares, device=device))
    clean, fresh = torch.stack(latents).to(device).float(), torch.stack(noise).to(device)
    batch = Batch(clean, fresh, levels, captions, negatives, has, weight, held)
    if not s.ghosts or what != "train":
        return batch
    least = max(GHOSTS_FROM, s.hold_below)
    haunted = [i for i, u in enumerate(shares) if u >= least and once_each(captions[i])]
    if not haunted:
        return batch
    ghosts = with_ghosts(clean[haunted], [(s.seed, "ghost", number, rows[i]) for i in haunted])
    return replace(batch, haunted=torch.tensor(haunted, device=device), ghosts=ghosts)


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*names))


def predict(model: Learner, batch: Batch, texts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The estimates (B, C, h, w) under several texts, in one call, a row for each picture and text."""
    count = len(texts)
    said = [text for rows in texts.values() for text in rows]
    found = model.denoise(batch.noised.repeat(count, 1, 1, 1), batch.levels.repeat(count), model.condition(said))
    return dict(zip(texts, found.float().chunk(count), strict=True))


def terms(
    model: Learner, batch: Batch, s: ContrastSettings, k: Constants, number: int, mean: Mean, rest: bool = False
) -> tuple[Terms, Tensor]:
    """The errors that the objective, and the tripwire where it looks, need in step ``number``, and which rows'
    negatives are active. The frozen model runs without a graph, and so do inactive negatives with ``s.look_first``.
    """
    kind, empty = OBJECTIVES[s.objective], [""] * len(batch.captions)
    if rest or (s.contrast_until < 1 and number >= s.contrast_until * s.steps):  # the same on all processes
        kind, batch = replace(kind, negatives="", needs=tuple(n for n in kind.needs if n == "u")), batch.without()
    anchored, holding = kind.anchor and number % s.anchor_every == 0, s.hold_below > 0
    watched = s.tripwire and (kind.null or number % s.watch_every == 0)
    weight = _weight(batch.levels, s)
    texts = {"c": batch.captions, "n": batch.negatives, "u": empty}

    def error(found: Tensor, target: Tensor = batch.clean) -> Tensor:
        return (found - target).square().flatten(1).mean(1) * weight

    def asked(names: set[str]) -> dict[str, Tensor]:
        chosen = {name: text for name, text in texts.items() if name in names}
        return predict(model, batch, chosen) if chosen else {}

    apart = kind.negatives == "some" and s.look_first
    wanted = {"c"} | ({"u"} if anchored or kind.null else set())
    own = asked(wanted)
    with torch.no_grad():
        others = asked(({"u"} if watched else set()) - wanted | ({"n"} if apart else set()))
        with model.adapter_off():
            compared = (*(("c", "u") if watched else ()), *(("u",) if anchored else ()), *(("c",) if holding else ()))
            frozen = asked({*kind.needs, *compared})
    found = {name: error(value) for name, value in {**others, **own}.items()}
    if kind.negatives and not apart:
        found["n"] = _with_gradient(model, batch, batch.has, weight, found["c"].detach())
    reference = {f"{name}_ref": error(value) for name, value in frozen.items()}
    on, pull = torch.zeros_like(batch.has), _contrast_weight(batch.levels, s) / weight
    if "n" in found:
        on = active(s.objective, found["c"].detach(), found["n"].detach(), batch.has, k, mean, pull)
    if apart:
        found["n"] = _with_gradient(model, batch, on, weight, found["n"])
    anchor = error(own["u"], frozen["u"]) * s.anchor_every if anchored else None
    hold = error(own["c"], frozen["c"]) if holding else None
    return Terms(has=batch.has, pull=pull, anchor=anchor, held=batch.held, hold=hold, **found, **reference), on


def _with_gradient(model: Learner, batch: Batch, on: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """L_n (B,) with a gradient in the active rows; ``known`` in the others."""
    index = on.nonzero().flatten()
    if not len(index):
        return known
    said = model.condition([batch.negatives[i] for i in index.tolist()])
    levels = batch.levels.rows(index)
    x = levels.signal * batch.clean[index] + levels.noise * batch.noise[index]
    estimate = model.denoise(x, levels, said).float()
    again = (estimate - batch.clean[index]).square().flatten(1).mean(1) * weight[index]
    return known.index_put((index,), again)


def _ghosts(model: Learner, batch: Batch) -> Tensor:
    """Errors (B,) of the rows that have a ghost, see ``ghosts.errors``; 0 in the others."""
    found = torch.zeros(len(batch.captions), device=batch.clean.device)
    index = batch.haunted
    if index is None or batch.ghosts is None:
        return found
    said = model.condition([batch.captions[i] for i in index.tolist()])
    pictures = batch.ghosts, batch.noise[index], batch.clean[index]
    return found.index_put((index,), errors(model, batch.levels.rows(index), said, *pictures))


def _weight(levels: Levels, s: ContrastSettings) -> Tensor:
    """Of the clean picture's squared error, (B,): the space's, times min(SNR, gamma)^power / SNR (Hang et al. 2023,
    arXiv 2303.09556, where the power is 1) or 1.
    """
    snr = (levels.signal / levels.noise).flatten().square()
    return levels.weight(s.space) * (snr.clamp(max=s.min_snr) ** s.snr_power / snr if s.min_snr else 1.0)


def _contrast_weight(levels: Levels, s: ContrastSettings) -> Tensor:
    """The same for L_n - L_c where two captions are held against each other."""
    weight = _weight(levels, s)
    return torch.ones_like(weight) if s.contrast_space == "clean" else weight


@dataclass(frozen=True)
class Losses:
    """loss: a scalar with a gradient; figures: means for the log."""

    loss: Tensor
    figures: dict[str, Tensor]


def step_losses(
    model: Learner,
    data: Material,
    s: ContrastSettings,
    k: Constants,
    number: int,
    rows: Sequence[int],
    mean: Any = None,
    rest: bool = False,
) -> Losses:
    """The losses of these rows of a step. mean: of a (B,) tensor over all processes; the own rows' where None. rest:
    without negatives.
    """
    over = mean or Tensor.mean
    batch = make_batch(model, data, s, "train", number, rows)
    found, on = terms(model, batch, s, k, number, over, rest)
    per_row = loss(s.objective, found, k, on)
    figures = {"active": on.float().mean()}
    if s.ghosts:
        ghosts = _ghosts(model, batch)
        per_row = per_row + s.ghosts * ghosts
        figures["ghosts"] = ghosts.mean()
    per_row = per_row * batch.weight
    figures["loss"] = per_row.mean()
    for name in ("c", "n", "u", "c_ref", "u_ref", "anchor"):
        value = getattr(found, name)
        if value is not None:
            figures[f"L_{name}" if name != "anchor" else name] = value.mean()
    return Losses(per_row.mean(), {name: value.detach() for name, value in figures.items()})


@torch.no_grad()
def calibrate(model: Learner, data: Material, s: ContrastSettings) -> Constants:
    """Constants of the frozen model on ``s.calibrate`` samples."""
    gaps, nulls = [], []
    size = max(1, s.micro or s.batch)
    with model.adapter_off():
        for number in range(-(-s.calibrate // size)):
            rows = list(range(number * size, min((number + 1) * size, s.calibrate)))
            batch = make_batch(model, data, s, "calibrate", 0, rows)
            texts = {"c": batch.captions, "n": batch.negatives, "u": [""] * len(rows)}
            found = {
                name: (value - batch.clean).square().flatten(1).mean(1)
                for name, value in predict(model, batch, texts).items()
            }
            gaps.append(((found["n"] - found["c"]) * _contrast_weight(batch.levels, s))[batch.has])
            nulls.append((found["u"] - found["c"]) * _weight(batch.levels, s))
    if not OBJECTIVES[s.objective].negatives:
        gaps = gaps if sum(map(len, gaps)) > 1 else nulls
    elif sum(map(len, gaps)) < 2:
        raise InterplayError(
            f"The objective {s.objective} needs captions with negatives; make some with `interplay train negatives`."
        )
    weights = {"eta": s.eta, "kappa": s.kappa, "rho": s.rho, "clip": s.clip}
    return calibrated(torch.cat(gaps), torch.cat(nulls), s.k, **weights)


@torch.no_grad()
def held_out_margin(model: Learner, data: Material, s: ContrastSettings, k: Constants) -> dict[str, float]:
    """On records that are not trained on, always with the same noise: margin, the mean of L_n - L_c in spreads of the
    frozen model's; wins, the share of pictures whose mean L_n is above L_c; and L_c.
    """
    gaps, right = [], []
    for first in range(0, len(data.records), max(1, s.batch)):
        part = Material(data.records[first : first + s.batch], data.latents[first : first + s.batch])
        keep = [i for i, r in enumerate(part.records) if r.negatives]
        if not keep:
            continue
        rows = [(i, draw) for i in keep for draw in range(s.draws)]
        g = [_generator(s.seed, "validate", first + i, draw) for i, draw in rows]
        low = max(s.low, s.contrast_from)
        shares = [low + (s.high - low) * (draw + 0.5) / s.draws for _, draw in rows]
        noise = torch.stack([torch.randn(part.latents.shape[1:], generator=each) for each in g]).to(model.device())
        clean = torch.stack([part.latents[i] for i, _ in rows]).to(model.device()).float()
        negatives = [part.records[i].negatives[draw % len(part.records[i].negatives)] for i, draw in rows]
        captions = [part.records[i].caption for i, _ in rows]
        levels = model.levels(torch.tensor(shares, device=model.device()))
        ones = torch.ones(len(rows), device=model.device())
        batch = Batch(clean, noise, levels, captions, negatives, ones.bool(), ones, ~ones.bool())
        found = predict(model, batch, {"c": captions, "n": negatives})
        each = {name: (value - clean).square().flatten(1).mean(1) for name, value in found.items()}
        gaps.append(((each["n"] - each["c"]) * _contrast_weight(levels, s)).view(len(keep), -1).mean(1))
        right.append((each["c"] * _weight(levels, s)).view(len(keep), -1).mean(1))
    if not gaps:
        return {}
    gap = torch.cat(gaps)
    return {
        "margin": float(gap.mean()) / k.spread,
        "wins": float((gap > 0).float().mean()),
        "held_out_L_c": float(torch.cat(right).mean()),
    }
