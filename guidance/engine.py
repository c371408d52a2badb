"""The guided step: everything between a host's attention maps and the moved latent."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InterplayError
from .graph import TokenGraph
from .losses import TERMS, MapBundle, Term
from .maps import gaussian_blur, scaled_kernel
from .presets import GuidanceConfig
from .selection import Selector
from .update import combine, decay, displacement, norms, restore_std, step_factor

logger = logging.getLogger(__name__)

EPSILON = 1e-6  # progress is a quotient of small integers; 10/50 must count as 0.2
STANDSTILL = 0.01  # a refinement ends when the summed progress changed by less than this share over two iterations


@dataclass
class GuidedMaps:
    """What a host captured for one guided cond.

    key: names the cond across steps (its t+1 maps are found by it); graph: its words; maps: (B, J, H, W) probabilities
    with their autograd graph down to z; weight: share of this cond in the loss.
    """

    key: Hashable
    graph: TokenGraph
    maps: Tensor
    weight: float = 1.0


Capture = Callable[[Tensor], Sequence[GuidedMaps]]


@dataclass
class StepRecord:
    """One guided step. curve: term -> progress of each image, at each iteration (a row is measured before its move)."""

    progress: float
    iterations: int = 0
    curve: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass
class GuideReport:
    """What guidance did in one run; ``off_at``: progress at which each image was left alone, None = never."""

    preset: str = ""
    guided_steps: int = 0
    iterations: int = 0
    forwards: int = 0
    idle_steps: int = 0
    retries: int = 0
    nonfinite: int = 0
    off_at: list[float | None] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; progress that is not a number becomes None."""
        steps = [
            {
                "progress": step.progress,
                "iterations": step.iterations,
                "curve": {
                    name: [[p if math.isfinite(p) else None for p in row] for row in rows]
                    for name, rows in step.curve.items()
                },
            }
            for step in self.steps
        ]
        names = ("preset", "guided_steps", "iterations", "forwards", "idle_steps", "retries", "nonfinite")
        plain = {name: getattr(self, name) for name in names}
        return {**plain, "off_at": list(self.off_at), "moved": list(self.moved), "steps": steps}

    def summary(self) -> str:
        """One line for people."""
        if not self.guided_steps:
            return f"{self.preset}: no step was guided."
        parts = [f"{self.guided_steps} guided steps, {self.iterations} iterations"]
        for name in TERMS:
            rows = [row for step in self.steps for row in step.curve.get(name, [])]
            if rows:
                parts.append(f"{name} {_mean(rows[0]):.2f} → {_mean(rows[-1]):.2f}")
        done = [p for p in self.off_at if p is not None]
        if done:
            parts.append(f"{len(done)} of {len(self.off_at)} images on target by {max(done):.0%} of the schedule")
        if self.moved:
            parts.append(f"moved {100 * _mean(self.moved):.1f} % of |z| in all")
        if self.nonfinite:
            parts.append(f"{self.nonfinite} updates left out because their gradient was not finite")
        return f"{self.preset}: {'; '.join(parts)}."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass
class _Evaluation:
    """One cond at one z: the maps as a leaf of their own, so that all losses cost one backward through the model."""

    guided: GuidedMaps
    leaf: Tensor
    terms: dict[str, Term]


class Guide:
    """Guides one sampling run. Make a new one for each run.

    config: settings; seed: of the "random" schedule; steps: the run's step count, for
    ``GuidanceConfig.reference_steps``.
    """

    def __init__(self, config: GuidanceConfig, seed: int = 0, steps: int | None = None) -> None:
        self.config = config
        self.report = GuideReport(preset=config.preset)
        self._factor = step_factor(config.reference_steps, steps)
        self._selector = Selector(config.selection, config.terms, config.cycle, seed)
        self._previous: dict[Hashable, GuidedMaps] = {}
        self._refined: set[int] = set()
        self._off: Tensor | None = None  # (B,) images that need no more guidance
        self._scale: Tensor | None = None  # (B,) loss scale
        self._finished = False

    def active(self, progress: float) -> bool:
        """Whether a step at this share of the schedule (0 = first step) is to be guided."""
        config = self.config
        inside = config.start - EPSILON <= progress < config.end - EPSILON
        return config.strength > 0 and inside and not self._finished

    def step(self, z: Tensor, progress: float, capture: Capture) -> Tensor:
        """Move z so that the losses fall; z itself when this step is not to be guided.

        z: (B, C, h, w), the network-space latent (unit variance), fp32 for choice. capture: called with a leaf of z's
        shape that requires grad, once per iteration; runs the model's conditional pass and returns the maps of each
        guided cond. Opens gradients and leaves inference mode by itself. Returns a detached tensor of z's dtype.
        Raises InterplayError when z is not finite.
        """
        if not self.active(progress):
            return z
        if not bool(torch.isfinite(z).all()):
            raise InterplayError(
                f"The latent holds values that are not finite at {progress:.0%} of the schedule; "
                "try another sampler, a lower CFG, or a VAE and model in fp32."
            )
        with torch.inference_mode(False), torch.enable_grad():
            return self._guide(z.detach().clone(), progress, capture)

    # --- one step ---------------------------------------------------------------------------------------------------

    def _guide(self, z: Tensor, progress: float, capture: Capture) -> Tensor:
        dtype = z.dtype
        z = z.to(torch.promote_types(dtype, torch.float32))
        off = self._begin(z)
        moving, record = ~off, StepRecord(progress)
        history: list[Tensor] = []
        extra = self._refinement(progress)
        evaluations: list[_Evaluation] = []
        for iteration in range(1 + extra):
            leaf = z.clone().requires_grad_()
            evaluations = self._evaluate(capture(leaf))
            self.report.forwards += 1
            available, reached = self._table(evaluations, leaf)
            self._note(record, available, reached)
            moving = self._still_moving(moving, available, reached, history, iteration, progress, evaluations)
            if not bool(moving.any()):
                break
            z = self._move(z, leaf, evaluations, available, reached, moving, progress, capture)
            record.iterations += 1
        self._remember(evaluations)
        self._close(record)
        return z.to(dtype)

    def _begin(self, z: Tensor) -> Tensor:
        if self._off is None or self._scale is None:
            self._off = torch.zeros(z.shape[0], dtype=torch.bool, device=z.device)
            self._scale = torch.full((z.shape[0],), self.config.loss_scale, dtype=z.dtype, device=z.device)
            self.report.off_at = [None] * z.shape[0]
            self.report.moved = [0.0] * z.shape[0]
        if self._off.shape[0] != z.shape[0]:
            raise ValueError(f"the batch changed from {self._off.shape[0]} to {z.shape[0]} images; use a Guide per run")
        return self._off

    def _refinement(self, progress: float) -> int:
        """Additional iterations due now: each place of ``refine_at`` is served once, at the first step to reach it."""
        due = [i for i, at in enumerate(self.config.refine_at) if at <= progress + EPSILON and i not in self._refined]
        self._refined.update(due)
        return max((self.config.refine_iterations[i] for i in due), default=0)

    def _evaluate(self, captured: Sequence[GuidedMaps]) -> list[_Evaluation]:
        evaluations = []
        for guided in captured:
            leaf = guided.maps.detach().clone().requires_grad_()
            bundle = self._smooth(leaf, self._previous_maps(guided))
            terms = {}
            for name in self.config.terms:
                term = TERMS[name](bundle, guided.graph, self.config)
                if term is not None:
                    terms[name] = term
            evaluations.append(_Evaluation(guided, leaf, terms))
        return evaluations

    def _previous_maps(self, guided: GuidedMaps) -> Tensor | None:
        before = self._previous.get(guided.key) if self.config.use_previous else None
        if before is None or before.graph != guided.graph or before.maps.shape != guided.maps.shape:
            return None
        return before.maps

    def _smooth(self, maps: Tensor, previous: Tensor | None) -> MapBundle:
        narrow, wide = self.config.kernel_narrow, self.config.kernel_wide
        literal = self.config.literal_blur
        if not literal:
            narrow, wide = (scaled_kernel(*kernel, *maps.shape[-2:]) for kernel in (narrow, wide))
        return MapBundle(
            gaussian_blur(maps, *narrow, literal),
            gaussian_blur(maps, *wide, literal),
            None if previous is None else gaussian_blur(previous, *narrow, literal),
            None if previous is None else gaussian_blur(previous, *wide, literal),
        )

    def _table(self, evaluations: list[_Evaluation], z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K) which terms have pairs, and their progress: the worst over the conds."""
        available = torch.zeros(z.shape[0], len(self.config.terms), dtype=torch.bool, device=z.device)
        reached = torch.zeros(z.shape[0], len(self.config.terms), dtype=z.dtype, device=z.device)
        for k, name in enumerate(self.config.terms):
            found = [e.terms[name].progress.to(reached) for e in evaluations if name in e.terms]
            if found:
                available[:, k] = True
                reached[:, k] = torch.stack(found).amax(0)
        return available, reached

    def _over_target(self, available: Tensor, reached: Tensor) -> Tensor:
        targets = dict(self.config.targets)
        limits = torch.tensor([targets.get(name, -1.0) for name in self.config.terms]).to(reached)
        return available & ~(reached <= limits)  # not a number counts as over

    def _still_moving(
        self,
        moving: Tensor,
        available: Tensor,
        reached: Tensor,
        history: list[Tensor],
        iteration: int,
        progress: float,
        evaluations: list[_Evaluation],
    ) -> Tensor:
        """Early stop and off-switch. An image whose losses lack pairs for want of t+1 maps is not switched off."""
        config = self.config
        if not config.targets:
            return moving & available.any(1)
        over = self._over_target(available, reached).any(1)
        complete = not config.use_previous or all(self._previous_maps(e.guided) is not None for e in evaluations)
        if config.off_switch and complete:
            self._switch_off(moving & ~over & available.any(1), progress)
        if config.off_switch or (config.early_stop and iteration > 0):
            moving = moving & over
        history.append(torch.where(available, reached, torch.zeros_like(reached)).sum(1))
        if config.early_stop and len(history) > 2:
            moving = moving & ((history[-1] - history[-3]).abs() >= STANDSTILL * history[-3])
        return moving & available.any(1)

    def _switch_off(self, now: Tensor, progress: float) -> None:
        assert self._off is not None
        self._off = self._off | now
        for image in now.nonzero().flatten().tolist():
            self.report.off_at[image] = progress
        self._finished = bool(self._off.all())

    # --- one iteration ----------------------------------------------------------------------------------------------

    def _move(
        self,
        z: Tensor,
        leaf: Tensor,
        evaluations: list[_Evaluation],
        available: Tensor,
        reached: Tensor,
        moving: Tensor,
        progress: float,
        capture: Capture,
    ) -> Tensor:
        live = self._over_target(available, reached) if self.config.skip_met else available
        weights = self._selector.choose(live, reached, moving)
        gradient = self._gradient(leaf, evaluations, weights)
        bad = ~torch.isfinite(gradient).flatten(1).all(1)
        if bool(bad.any()):
            gradient = self._retry(z, gradient, bad, weights, capture)
        config = self.config
        size = config.strength * config.step * decay(progress) * self._factor
        delta = displacement(z, gradient, size, config.step_rule, config.norm_cap)
        moved = restore_std(z + delta, z) if config.restore_std else z + delta
        touched = (delta != 0).flatten(1).any(1)
        share = (norms(moved - z) / norms(z).clamp_min(torch.finfo(z.dtype).tiny)).flatten()
        for image, value in enumerate(torch.where(touched, share, torch.zeros_like(share)).tolist()):
            self.report.moved[image] += value
        return torch.where(touched.reshape(-1, *[1] * (z.ndim - 1)), moved, z)

    def _retry(self, z: Tensor, gradient: Tensor, bad: Tensor, weights: Tensor, capture: Capture) -> Tensor:
        """Half the loss scale for the images concerned, once more; what is still not finite is left out and counted."""
        assert self._scale is not None
        self._scale = torch.where(bad, self._scale / 2, self._scale)
        self.report.retries += 1
        self.report.forwards += 1
        leaf = z.clone().requires_grad_()
        again = self._gradient(leaf, self._evaluate(capture(leaf)), weights)
        shape = (-1, *[1] * (z.ndim - 1))
        gradient = torch.where(bad.reshape(shape), again, gradient)
        lost = ~torch.isfinite(gradient).flatten(1).all(1)
        if bool(lost.any()):
            self.report.nonfinite += int(lost.sum())
            logger.warning("Interplay left out %d update(s) whose gradient was not finite", int(lost.sum()))
            gradient = torch.where(lost.reshape(shape), torch.zeros_like(gradient), gradient)
        return gradient

    def _gradient(self, leaf: Tensor, evaluations: list[_Evaluation], weights: Tensor) -> Tensor:
        """dL/dz in one backward, seeded with dL/dmaps; exactly zero for images without a selected term."""
        assert self._scale is not None
        outputs, seeds = [], []
        for evaluation in evaluations:
            if evaluation.terms and evaluation.guided.maps.requires_grad:
                seed = self._map_gradient(evaluation, weights) * evaluation.guided.weight
                outputs.append(evaluation.guided.maps)
                seeds.append(seed * self._scale.to(seed).reshape(-1, 1, 1, 1))
        if not outputs:
            return torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(outputs, leaf, seeds)
        gradient = gradient / self._scale.reshape(-1, *[1] * (leaf.ndim - 1))
        chosen = weights.any(1).reshape(-1, *[1] * (leaf.ndim - 1))
        return torch.where(chosen, gradient, torch.zeros_like(gradient))

    def _map_gradient(self, evaluation: _Evaluation, weights: Tensor) -> Tensor:
        """(B, J, H, W): gradient of the selected losses with respect to the maps."""
        factors = dict(self.config.weights)
        share = {
            name: weights[:, k].to(evaluation.leaf.dtype) * factors.get(name, 1.0)
            for k, name in enumerate(self.config.terms)
            if name in evaluation.terms
        }
        if self.config.selection != "combined":
            total = torch.stack([(share[name] * evaluation.terms[name].loss).sum() for name in share]).sum()
            return torch.autograd.grad(total, evaluation.leaf)[0]
        gradients = {}
        for name in share:
            loss = evaluation.terms[name].loss.sum()
            gradients[name] = torch.autograd.grad(loss, evaluation.leaf, retain_graph=True)[0]
        return combine(gradients, share)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _note(self, record: StepRecord, available: Tensor, reached: Tensor) -> None:
        usable, rows = available.any(0).tolist(), reached.t().tolist()
        for k, name in enumerate(self.config.terms):
            if usable[k]:
                record.curve.setdefault(name, []).append(rows[k])

    def _remember(self, evaluations: list[_Evaluation]) -> None:
        """Keep the last forward's maps as t+1 of the next step: word columns only, detached."""
        for e in evaluations:
            self._previous[e.guided.key] = GuidedMaps(e.guided.key, e.guided.graph, e.leaf.detach(), e.guided.weight)

    def _close(self, record: StepRecord) -> None:
        report = self.report
        report.steps.append(record)
        report.iterations += record.iterations
        if record.iterations:
            report.guided_steps += 1
        else:
            report.idle_steps += 1
