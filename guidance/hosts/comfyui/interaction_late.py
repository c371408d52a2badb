"""Interactions whose boxes the model's own attention shows while it samples: plain steps first, one look at the maps,
then the same run goes on with fusers. Nothing is sampled twice.

An OUTER_SAMPLE wrapper gives each run a place for its tokens, which travels in transformer_options; the conditioning
holds only the name of that place, so that runs and branches of a workflow know nothing of each other.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
import torch
from torch import Tensor

from ....errors import InterplayError
from ...graph import TokenGraph
from ...interaction.layout import Layout
from ...interaction.layout_maps import from_maps, moved_to
from ...interaction.network import Schedule
from ...interaction.prototypes import Rules, by_rule
from .interaction import Gate, GroundingParameters, InteractDiffusion, attached, gate, phrases_of, rows_for, tokens_of
from .passes import GuidedPass
from .run import token_graphs

LATE_KEY = "interplay_late_interactions"
WRAPPERS = comfy.patcher_extension.WrappersMP
Find = Callable[[Layout, Tensor, TokenGraph], Layout]


def finder(layout: Layout, threshold: float, rules: Rules | None) -> tuple[Layout, Find]:
    """What to ask of the maps: boxes around what they show or, with ``rules``, where to stand what rules arrange."""
    if rules is None:
        return layout, functools.partial(from_maps, threshold=threshold)
    return by_rule(layout, rules), moved_to


@dataclass
class LateRun:
    """One sampling run: its tokens (pictures, 3N, D) once the maps have been seen."""

    tokens: Tensor | None = None
    layouts: tuple[Layout, ...] = ()


class LateParameters(GroundingParameters):
    """What a cond sees: nothing until the run has found its boxes; then those, or null tokens for a negative."""

    def __init__(self, null: Tensor | None, gate: Gate, like: Tensor) -> None:
        super().__init__(like if null is None else null, gate)
        self.own = null is None

    def seen(self, like: Tensor, options: dict[str, Any]) -> tuple[Tensor, float] | None:
        run: LateRun | None = options.get(LATE_KEY)
        if run is None or run.tokens is None:
            return None
        found = super().seen(like, options)
        if found is None or not self.own:
            return found
        return rows_for(run.tokens.to(like.device, like.dtype), len(like)), found[1]


@dataclass(frozen=True)
class LatePatch:
    """What a patched model carries: settings. sigma: the noise level at which to look at the maps."""

    interact: InteractDiffusion
    layout: Layout
    phrases: tuple[Tensor, ...]
    find: Find
    sigma: float
    on_found: Callable[[tuple[Layout, ...]], None] | None = None

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """OUTER_SAMPLE: one run, with a stand-in for the sampler's model."""
        if not hasattr(sampler, "sampler_function"):
            raise InterplayError(
                f"The sampler {type(sampler).__name__} does not work as ComfyUI's own do, so its run cannot be looked "
                "into: choose another sampler."
            )
        run, guider = LateRun(), executor.class_obj
        function = sampler.sampler_function

        def sample(model: Any, *inner: Any, **named: Any) -> Tensor:
            return function(_StandIn(model, guider, self, run), *inner, **named)

        own = copy.copy(sampler)
        own.sampler_function = functools.update_wrapper(sample, function) if hasattr(function, "__name__") else sample
        out = executor(noise, latent, own, *args, **kwargs)
        if self.on_found is not None:
            self.on_found(run.layouts)
        return out

    def look(self, place: GuidedPass, run: LateRun) -> None:
        """Boxes and tokens for every picture, from the maps at this place of the run."""
        with torch.inference_mode(False), torch.no_grad():
            captured = place.capture(place.z)
        if not captured:
            raise InterplayError(
                "The prompt with the hypergraph is not in use where its attention was to be looked at: give it another "
                "range of steps."
            )
        maps, graph = captured[0].maps.detach().float().cpu(), captured[0].graph
        run.layouts = tuple(self.find(self.layout, picture, graph) for picture in maps)
        tokens = [tokens_of(self.interact, list(self.phrases), layout) for layout in run.layouts]
        run.tokens = torch.cat(tokens)


class _StandIn:
    """Stands in for the sampler's model: looks once, then hands the run's tokens on with every call."""

    def __init__(self, model: Any, guider: Any, patch: LatePatch, run: LateRun) -> None:
        self._model, self._guider, self._patch, self._run = model, guider, patch, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **extra_args: Any) -> Tensor:
        run, patch = self._run, self._patch
        if run.tokens is None and float(sigma.flatten()[0]) <= patch.sigma * (1 + 1e-6):
            graphs = token_graphs(self._guider)
            patch.look(GuidedPass(self._guider, self._model, x, sigma, extra_args, graphs), run)
        options = comfy.model_patcher.create_model_options_clone(extra_args.get("model_options") or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), LATE_KEY: run}
        return self._model(x, sigma, *args, **{**extra_args, "model_options": options})


def ground_late(
    model: Any,
    positive: list[list[Any]],
    negative: list[list[Any]],
    interact: InteractDiffusion,
    clip: Any,
    layout: Layout,
    find: Find,
    share: float = 0.3,
    schedule: Schedule | None = None,
    on_found: Callable[[tuple[Layout, ...]], None] | None = None,
) -> tuple[Any, list[list[Any]], list[list[Any]]]:
    """A clone of ``model`` and copies of both conditionings: the first ``share`` of the steps is plain, then the boxes
    that ``find`` makes of the maps act for as long as ``schedule`` says.

    InterplayError when the conditioning holds GLIGEN text boxes, or ``share`` leaves no steps before or after.
    """
    if not 0.0 < share < 1.0:
        raise InterplayError(f"The share of plain steps is {share:g}; give a number between 0 and 1.")
    phrases = tuple(phrases_of(interact, clip, layout))
    factor = gate(schedule or Schedule(), interact.sampling)
    sigma = float(interact.sampling.percent_to_sigma(share))
    patched = model.clone()
    patched.remove_wrappers_with_key(WRAPPERS.OUTER_SAMPLE, LATE_KEY)
    patch = LatePatch(interact, layout, phrases, find, sigma, on_found)
    patched.add_wrapper_with_key(WRAPPERS.OUTER_SAMPLE, LATE_KEY, patch.outer_sample)
    null = interact.null_tokens
    seen, unseen = LateParameters(None, factor, null), LateParameters(null, factor, null)
    return patched, attached(positive, interact, seen), attached(negative, interact, unseen)
