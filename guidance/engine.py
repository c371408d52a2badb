"""The guided step: everything between a host's attention maps and the moved latent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InterplayError
from .graph import TokenGraph
from .losses import TERMS, MapBundle, Term
from .maps import above_mean, gaussian_blur, scaled_kernel
from .presets import GuidanceConfig
from .record import GuideReport, StepNotes, StepRecord
from .selection import Selector
from .update import combine, decay, displacement, norms, restore_std, step_factor

__all__ = ["Capture", "Guide", "GuideReport", "GuidedMaps", "StepRecord"]

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
class _Evaluation:
    """One cond at one z: the maps as a leaf of their own, so that all losses cost one backward through the model."""

    guided: GuidedMaps
    leaf: Tensor
    terms: dict[str, Term]
    has_previous: bool


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
        self._images: int | None = None
        self._finished = False

    def active(self, progress: float) -> bool:
        """Whether a step at this share of the schedule (0 = first step) is to be guided."""
        return self.config.strength > 0 and bool(self._terms(progress)) and not self._finished

    def _terms(self, progress: float) -> tuple[str, ...]:
        """The terms whose window this step lies in."""
        windows = {name: self.config.window(name) for name in self.config.terms}
        return tuple(n for n, (start, end) in windows.items() if start - EPSILON <= progress < end - EPSILON)

    def _awaited(self, progress: float) -> bool:
        """True if a term's window is still to come."""
        windows = (self.config.window(name) for name in self.config.terms)
        return any(progress + EPSILON < start < end for start, end in windows)

    def step(self, z: Tensor, progress: float, capture: Capture) -> Tensor:
        """Move z so that the losses fall; z itself when this step is not to be guided.

        z: (B, C, h, w), the network-space latent (unit variance), fp32 for choice. capture: called with a leaf of z's
        shape that requires grad, once per iteration (once more after a gradient that is not finite); runs the model's
        conditional pass and returns the maps of each guided cond. Opens gradients and leaves inference mode by itself.
        Returns a detached tensor of z's dtype. Raises InterplayError when z is not finite.
        """
        if not self.active(progress):
            return z
        if not bool(torch.isfinite(z).all()):
            raise InterplayError(
                f"The latent holds values that are not finite at {progress:.0%} of the schedule; "
                "try another sampler, a lower CFG, or a VAE and model in fp32."
            )
        with torch.inference_mode(False), torch.enable_grad():
            dtype = z.dtype
            fine = z.detach().clone().to(torch.promote_types(dtype, torch.float32))
            return self._guide(fine, progress, capture).to(dtype)

    # --- one step ---------------------------------------------------------------------------------------------------

    def _guide(self, z: Tensor, progress: float, capture: Capture) -> Tensor:
        self._begin(z)
        moving = ~self._off
        notes = StepNotes(progress, self.config.terms)
        history: list[Tensor] = []
        evaluations: list[_Evaluation] = []
        due = self._due(progress)
        for iteration in range(1 + max((self.config.refine_iterations[i] for i in due), default=0)):
            leaf = z.clone().requires_grad_()
            evaluations = self._evaluate(capture(leaf), progress)
            names, reached = self._table(evaluations, leaf)
            notes.measured(names, reached)
            over = self._over_target(names, reached)
            moving = self._still_moving(moving, over, reached, history, iteration, progress, evaluations)
            if not names or (self.config.targets and not bool(moving.any())):
                break
            live = over if self.config.skip_met else self._available(names, over)
            weights = self._selector.choose(live, reached, moving)
            gradient = self._finite_gradient(leaf, evaluations, weights, capture, progress)
            z = self._move(z, gradient, progress, notes)
        self._refined.update(due)  # not before: after an error (memory, an interrupt) the step may be tried again
        self._remember(evaluations)
        notes.close(self.report)
        self._finish()
        return z

    def _begin(self, z: Tensor) -> None:
        batch = z.shape[0]
        if self._images is None:
            self._images = batch
            self._off = torch.zeros(batch, dtype=torch.bool, device=z.device)
            self._awake = torch.zeros(batch, len(self.config.terms), dtype=torch.bool, device=z.device)
            self._off_at = torch.full((batch,), float("nan"), dtype=torch.float64, device=z.device)
            self._scale = torch.full((batch,), self.config.loss_scale, dtype=z.dtype, device=z.device)
            self.report.off_at = [None] * batch
            self.report.moved = [0.0] * batch
        if self._images != batch:
            raise ValueError(f"the batch changed from {self._images} to {batch} images; use a new Guide for each run")

    def _due(self, progress: float) -> list[int]:
        """Places of ``refine_at`` to serve now: each once, at the first step to reach it."""
        places = enumerate(self.config.refine_at)
        return [i for i, at in places if at <= progress + EPSILON and i not in self._refined]

    # --- measuring --------------------------------------------------------------------------------------------------

    def _evaluate(self, captured: Sequence[GuidedMaps], progress: float) -> list[_Evaluation]:
        self.report.forwards += 1
        evaluations = []
        for guided in captured:
            leaf = guided.maps.detach().clone().requires_grad_()
            previous = self._previous_maps(guided)
            bundle = self._smooth(leaf, previous)
            found = {name: TERMS[name](bundle, guided.graph, self.config) for name in self._terms(progress)}
            terms = {name: term for name, term in found.items() if term is not None}
            evaluations.append(_Evaluation(guided, leaf, terms, previous is not None))
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
        seen = [m for m in (maps, previous) if m is not None]
        if not self.config.keep_ground:
            seen = [above_mean(m) for m in seen]
        return MapBundle(*(gaussian_blur(m, *kernel, literal) for m in seen for kernel in (narrow, wide)))

    def _table(self, evaluations: list[_Evaluation], z: Tensor) -> tuple[tuple[str, ...], Tensor]:
        """The terms that have pairs, and (B, K) progress of every term: the worst over the conds, 0 without pairs."""
        names, columns = [], []
        for name in self.config.terms:
            found = [e.terms[name].progress.to(z) for e in evaluations if name in e.terms]
            names += [name] * bool(found)
            columns.append(
                torch.stack(found).amax(0) if found else torch.zeros(z.shape[0], dtype=z.dtype, device=z.device)
            )
        return tuple(names), torch.stack(columns, 1)

    def _available(self, names: Sequence[str], like: Tensor) -> Tensor:
        usable = torch.tensor([name in names for name in self.config.terms], device=like.device)
        return usable.expand(like.shape[0], -1)

    def _over_target(self, names: Sequence[str], reached: Tensor) -> Tensor:
        """(B, K) which terms have pairs, woke and are not yet reached; progress that is not a number is not reached."""
        targets, wake = (self._limits(reached, limits) for limits in (self.config.targets, self.config.wake))
        self._awake = self._awake | ~(reached <= wake)
        return self._available(names, reached) & ~(reached <= targets) & self._awake

    def _limits(self, like: Tensor, limits: Sequence[tuple[str, float]]) -> Tensor:
        named = dict(limits)
        return torch.tensor([named.get(name, -1.0) for name in self.config.terms]).to(like)

    def _still_moving(
        self,
        moving: Tensor,
        over: Tensor,
        reached: Tensor,
        history: list[Tensor],
        iteration: int,
        progress: float,
        evaluations: list[_Evaluation],
    ) -> Tensor:
        """(B,) early stop and off-switch. No image is switched off while terms may lack pairs for want of t+1 maps."""
        config = self.config
        if not config.targets:
            return moving
        complete = not config.use_previous or all(e.has_previous for e in evaluations)
        if config.off_switch and complete and evaluations and not self._awaited(progress):
            done = moving & ~over.any(1)
            self._off = self._off | done
            self._off_at = torch.where(done, progress, self._off_at)
        if config.off_switch or (config.early_stop and iteration > 0):
            moving = moving & over.any(1)
        history.append(reached.sum(1))
        if config.early_stop and len(history) > 2:
            moving = moving & ((history[-1] - history[-3]).abs() >= STANDSTILL * history[-3])
        return moving

    # --- moving -----------------------------------------------------------------------------------------------------

    def _move(self, z: Tensor, gradient: Tensor, progress: float, notes: StepNotes) -> Tensor:
        config = self.config
        size = config.strength * config.step * decay(progress) * self._factor
        delta = displacement(z, gradient, size, config.step_rule, config.norm_cap)
        moved = restore_std(z + delta, z) if config.restore_std else z + delta
        still = (delta == 0).flatten(1).all(1).reshape(-1, *[1] * (z.ndim - 1))
        moved = torch.where(still, z, moved)
        notes.moved((norms(moved - z) / norms(z).clamp_min(torch.finfo(z.dtype).tiny)).flatten())
        return moved

    def _finite_gradient(
        self, leaf: Tensor, evaluations: list[_Evaluation], weights: Tensor, capture: Capture, progress: float
    ) -> Tensor:
        """The gradient; where it is not finite once more with half the loss scale, then left out (zero) and counted."""
        gradient = self._gradient(leaf, evaluations, weights)
        bad = ~torch.isfinite(gradient).flatten(1).all(1)
        if not bool(bad.any()):
            return gradient
        self._scale = torch.where(bad, self._scale / 2, self._scale)
        self.report.retries += 1
        shape = (-1, *[1] * (leaf.ndim - 1))
        again = leaf.detach().clone().requires_grad_()
        second = self._gradient(again, self._evaluate(capture(again), progress), weights)
        gradient = torch.where(bad.reshape(shape), second, gradient)
        lost = ~torch.isfinite(gradient).flatten(1).all(1)
        count = int(lost.sum())
        if count:
            self.report.nonfinite += count
            logger.warning("Interplay left out %d update(s) whose gradient was not finite", count)
        return torch.where(lost.reshape(shape), torch.zeros_like(gradient), gradient)

    def _gradient(self, leaf: Tensor, evaluations: list[_Evaluation], weights: Tensor) -> Tensor:
        """dL/dz in one backward, seeded with dL/dmaps; exactly zero for images without a selected term."""
        shape = (-1, *[1] * (leaf.ndim - 1))
        outputs, seeds = [], []
        for evaluation in evaluations:
            if evaluation.terms:
                seed = self._map_gradient(evaluation, weights) * evaluation.guided.weight
                outputs.append(evaluation.guided.maps)
                seeds.append(seed * self._scale.to(seed).reshape(-1, 1, 1, 1))
        (gradient,) = torch.autograd.grad(outputs, leaf, seeds)
        gradient = gradient / self._scale.reshape(shape)
        return torch.where(weights.any(1).reshape(shape), gradient, torch.zeros_like(gradient))

    def _map_gradient(self, evaluation: _Evaluation, weights: Tensor) -> Tensor:
        """(B, J, H, W): gradient of the selected losses with respect to the maps."""
        factors = dict(self.config.weights)
        share = {
            name: weights[:, k].to(evaluation.leaf.dtype) * factors.get(name, 1.0)
            for k, name in enumerate(self.config.terms)
            if name in evaluation.terms
        }
        losses = {name: evaluation.terms[name].loss for name in share}
        if self.config.selection != "combined":
            total = torch.stack([(share[name] * losses[name]).sum() for name in share]).sum()
            return torch.autograd.grad(total, evaluation.leaf)[0]
        gradients = {
            name: torch.autograd.grad(losses[name].sum(), evaluation.leaf, retain_graph=True)[0] for name in share
        }
        return combine(gradients, share)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _remember(self, evaluations: list[_Evaluation]) -> None:
        """Keep the last forward's maps as t+1 of the next step: word columns only, detached."""
        for e in evaluations:
            self._previous[e.guided.key] = GuidedMaps(e.guided.key, e.guided.graph, e.leaf.detach(), e.guided.weight)

    def _finish(self) -> None:
        if self.config.off_switch:
            self.report.off_at = [None if p != p else p for p in self._off_at.tolist()]
            self._finished = all(p is not None for p in self.report.off_at)
