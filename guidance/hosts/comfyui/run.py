"""One guided sampling run: the sampler's stand-in model, its steps, and what was done."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ....errors import InterplayError
from ...engine import Guide, GuideReport
from ...graph import TokenGraph
from ...presets import GuidanceConfig
from .conditioning import KEY, NO_GRAPH, PromptGraph
from .families import check_latent, check_model
from .passes import GuidedPass, guided_conds
from .steps import COPIES, REBUILDS, StepTracker, name_of

log = logging.getLogger(__name__)


class GuidedRun:
    """State of one run; made in OUTER_SAMPLE, gone with it.

    mode: "latent" or "denoised". guider: the host's; latent: what sampling starts from; sigmas: the schedule.
    InterplayError when something does not fit, before the host has loaded a model or spent a step.
    """

    def __init__(
        self, config: GuidanceConfig, seed: int, mode: str, guider: Any, latent: Tensor, sampler: Any, sigmas: Tensor
    ) -> None:
        check_model(guider.model_patcher)
        check_latent(latent, guider.model_patcher)
        self.graphs = token_graphs(guider)
        self.config, self.guider, self._sampler = config, guider, sampler
        if not hasattr(sampler, "sampler_function"):
            raise InterplayError(
                f"The sampler {type(sampler).__name__} does not work as ComfyUI's own do, so its latent cannot be "
                "guided: choose another sampler."
            )
        name = name_of(sampler.sampler_function)
        churn = float(getattr(sampler, "extra_options", {}).get("s_churn", 0.0))
        self.tracker = StepTracker([float(s) for s in sigmas], name, churn)
        self.mode = mode
        if mode == "latent" and name in REBUILDS:
            log.info("Interplay: %s makes its latent anew at each step, so the denoised picture is shifted.", name)
            self.mode = "denoised"
        self.in_callback = self.mode == "latent" and name in COPIES
        self.guide = Guide(config, seed, self.tracker.count)
        self.shift: Tensor | None = None  # "denoised": this step's move, in network space
        self.one_by_one = self.given_up = False  # after the memory ran out once, twice
        if _unseen_kernels(guider.model_options):
            log.warning(
                "Interplay: another node replaces the model's attention while Sage or Flash attention is on, which may "
                "have no gradient; start ComfyUI without them if guidance has little effect."
            )

    def sampler(self) -> Any:
        """A shallow copy of the sampler whose function is given a stand-in for its model."""
        guided = copy.copy(self._sampler)
        guided.sampler_function = self._guided(self._sampler.sampler_function)
        return guided

    def _guided(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def sample(model: Any, x: Tensor, *args: Any, callback: Any = None, **kwargs: Any) -> Tensor:
            stand_in = GuidedModel(model, self)

            def report(state: dict[str, Any]) -> None:
                if self.in_callback:
                    stand_in.move_state(state)
                self.tracker.reported()
                if callback is not None:
                    callback(state)

            return function(stand_in, x, *args, callback=report, **kwargs)

        return functools.update_wrapper(sample, function) if hasattr(function, "__name__") else sample

    def move(self, model: Any, x: Tensor, sigma: Tensor, extra_args: dict[str, Any], step: int) -> Tensor | None:
        """This step's move in network space, (B, C, h, w) fp32; None when the step is not guided. Leaves x alone."""
        progress = step / self.tracker.count
        if self.given_up or not self.guide.active(progress):
            return None
        if "multigpu_clones" in extra_args.get("model_options", {}):
            raise InterplayError("Guidance runs on one GPU only: leave out the node that spreads the model over more.")
        place = GuidedPass(self.guider, model, x, sigma, extra_args, self.graphs)
        place.one_by_one = self.one_by_one
        try:
            return self.guide.step(place.z, progress, place.capture) - place.z
        except Exception as error:
            if not _out_of_memory(error):
                raise
        comfy.model_management.soft_empty_cache()
        if self.one_by_one or x.shape[0] == 1:
            self.given_up = True
            log.warning(
                "Interplay: the memory does not suffice to guide at %d %% of the schedule, so the rest of this run is "
                "not guided; make the picture smaller or close other programs.",
                100 * progress,
            )
            return None
        self.one_by_one = True
        log.warning("Interplay: the memory does not suffice to guide %d images at once; one by one now.", x.shape[0])
        return self.move(model, x, sigma, extra_args, step)

    def finish(self) -> GuideReport:
        """Tell the log what was done, and warn when nothing was."""
        report = self.guide.report
        if report.guided_steps:
            log.info("Interplay: %s", report.summary())
        elif self.given_up:
            pass  # said already
        elif report.idle_steps:
            log.warning(
                "Interplay moved nothing in this run: the prompt '%s' gives no loss to lower, or its attention was on "
                "target already.",
                next(iter(self.graphs.values())).prompt[:60],
            )
        else:
            log.warning(
                "Interplay guided no step of this run: none of its %d steps lies between %.0f %% and %.0f %% of the "
                "schedule while the prompt is in use.",
                self.tracker.count,
                100 * self.config.start,
                100 * self.config.end,
            )
        return report


class GuidedModel:
    """Stands in for the sampler's model: moves the sampler's latent in place, then calls on."""

    def __init__(self, model: Any, run: GuidedRun) -> None:
        self._model, self._run = model, run
        self._args: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **extra_args: Any) -> Tensor:
        run = self._run
        self._args = extra_args
        step = run.tracker.step(float(sigma.flatten()[0]))
        if step is not None and not run.in_callback:
            delta = run.move(self._model, x, sigma, extra_args, step)
            if run.mode == "latent" and delta is not None:
                x.add_((delta / self._scale(x, sigma)).to(x.dtype))
            run.shift = delta
        out = self._model(x, sigma, *args, **extra_args)
        if run.mode == "denoised" and run.shift is not None:
            variance = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
            out = out + (run.shift * variance * self._scale(x, sigma)).to(out.dtype)
        return out

    def move_state(self, state: dict[str, Any]) -> None:
        """For samplers that give the model copies: move the latent that the callback shows, in network space."""
        run = self._run
        step, z = int(state["i"]), state["x"]
        sigma = torch.full((z.shape[0],), run.tracker.sigmas[step], device=z.device, dtype=torch.float32)
        delta = run.move(self._model, z / self._scale(z, sigma), sigma, self._args, step)
        if delta is not None:
            z.add_(delta.to(z.dtype))

    def _scale(self, x: Tensor, sigma: Tensor) -> Tensor:
        ones = torch.ones((x.shape[0], *[1] * (x.ndim - 1)), device=x.device, dtype=torch.float32)
        return self._run.guider.inner_model.model_sampling.calculate_input(sigma, ones)


def token_graphs(guider: Any) -> dict[Any, TokenGraph]:
    """The words of each guided cond by its uuid. InterplayError when there are none, or those of another prompt."""
    conds = guided_conds(guider.conds)
    if not conds:
        raise InterplayError(NO_GRAPH)
    graphs = {}
    for cond in conds:
        carried: PromptGraph = cond[KEY]
        prompts, tokens = cond["cross_attn"].shape[:2]
        if tokens != carried.length or prompts != 1:
            raise InterplayError(
                f"The conditioning has {prompts} prompt(s) of {tokens} tokens but its hypergraph belongs to one of "
                f"{carried.length} ('{carried.prompt[:60]}'): do not join other prompts to it."
            )
        graphs[cond["uuid"]] = carried.token_graph()
    return graphs


def _unseen_kernels(model_options: dict[str, Any]) -> bool:
    """Whether a replaced attention could call a kernel without a derivative past our own choice of kernel."""
    replaced = model_options.get("transformer_options", {}).get("patches_replace", {})
    manager = comfy.model_management
    fast = manager.sage_attention_enabled() or manager.flash_attention_enabled()
    return fast and any(replaced.get(kind) for kind in ("attn1", "attn2"))


def _out_of_memory(error: Exception) -> bool:
    known = getattr(comfy.model_management, "is_oom", None)
    return bool(known(error)) if known is not None else isinstance(error, torch.cuda.OutOfMemoryError)
