"""Guidance inside diffusers pipelines whose U-Net is a ``UNet2DConditionModel`` (SD1.x, SD2.x, SDXL).

A pipeline keeps its latents in a local variable, so they cannot be moved where they lie. But two doors see them: the
U-Net is given them as network input z, and ``scheduler.step`` is given them as sample. Both are made to see the moved
latents, hence every scheduler takes its step from there, as if the pipeline had moved them itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from ....parsing import parse
from ....parsing.hypergraph import Hypergraph
from ....parsing.tokens import align_plain
from ...engine import Guide, GuideReport
from ...graph import TokenGraph, token_graph
from ...presets import GuidanceConfig, preset
from .capture import capturing, frozen, rows_of
from .schedule import forget_prediction, is_second_evaluation, network_scale, position

logger = logging.getLogger(__name__)

Graph = str | Hypergraph | TokenGraph


def pipeline_graph(pipeline: Any, graph: Graph) -> TokenGraph:
    """A prompt or its hypergraph, aligned to the pipeline's tokenizer (both of SDXL's give the same positions)."""
    if isinstance(graph, TokenGraph):
        return graph
    hypergraph = parse(graph) if isinstance(graph, str) else graph
    return token_graph(hypergraph, align_plain(hypergraph.prompt, pipeline.tokenizer))


@contextmanager
def guided(
    pipeline: Any, config: GuidanceConfig | str, graph: Graph | Sequence[Graph], seed: int = 0
) -> Iterator[GuidedSampling]:
    """Inside, the pipeline's own call samples with guidance; after it the pipeline is as it was.

    pipeline: any whose U-Net is a ``UNet2DConditionModel``; with any scheduler, batch, size and precision. config: a
    ``GuidanceConfig`` or the name of a preset; strength 0 touches nothing. graph: the prompt, its ``Hypergraph`` or its
    ``TokenGraph``; a sequence of them when the pipeline is called with as many prompts. seed: of random loss selection.

    Yields:
        ``GuidedSampling``, whose ``reports`` tell what was done to the last picture.

    Raises:
        InterplayError: the pipeline cannot be guided, or prompts and graphs do not fit.

    Example:
        >>> with guided(pipe, "SHY", prompt) as session:
        ...     image = pipe(prompt, generator=generator).images[0]
        >>> print(session.reports[0].summary())
    """
    config = preset(config) if isinstance(config, str) else config
    listed = [graph] if isinstance(graph, (str, Hypergraph, TokenGraph)) else list(graph)
    graphs = [pipeline_graph(pipeline, one) for one in listed]
    session = GuidedSampling(pipeline, config, graphs, seed)
    if config.strength == 0:
        yield session
        return
    with session.installed():
        yield session
    session.warn_if_idle()


class GuidedSampling:
    """The state of ``guided``: one ``Guide`` per prompt, renewed for every picture that the pipeline starts."""

    def __init__(self, pipeline: Any, config: GuidanceConfig, graphs: Sequence[TokenGraph], seed: int) -> None:
        self.pipeline, self.config, self.graphs, self.seed = pipeline, config, tuple(graphs), seed
        _check(pipeline, self.graphs)
        self.scheduler = pipeline.scheduler
        self.guides = [Guide(config, seed) for config in self._configs()]
        self._first: int | None = None  # place in the schedule where this picture began, and the last one seen
        self._last = -1
        self._move: Tensor | None = None  # what the coming scheduler step has to add to its sample
        self._inside = False

    def _configs(self) -> list[GuidanceConfig]:
        """The settings of each prompt; what is missing is given for each picture, and prompts are guided one by one."""
        names, count = self.config.presence, len(self.graphs)
        if len(names) != count:
            return [self.config] * count
        return [replace(self.config, presence=(own,)) for own in names]

    @property
    def reports(self) -> list[GuideReport]:
        """One report per prompt, of the last picture."""
        return [guide.report for guide in self.guides]

    @property
    def guided_steps(self) -> int:
        """Steps of the last picture in which at least one prompt's latents were guided."""
        return max(report.guided_steps for report in self.reports)

    def warn_if_idle(self) -> None:
        """Say so when pictures were made, but no step was guided."""
        if self._first is not None and self.guided_steps == 0:
            logger.warning("Interplay guided none of the steps: %s", self.reports[0].summary())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The two doors are ours inside."""
        unet, scheduler = self.pipeline.unet, self.scheduler
        step = scheduler.step
        own = scheduler.__dict__.get("step")
        with ExitStack() as stack:
            stack.enter_context(frozen(unet))
            stack.callback(unet.register_forward_pre_hook(self._before_unet, with_kwargs=True).remove)
            stack.callback(_restore_step, scheduler, own)
            scheduler.step = self._around_step(step)
            yield

    def _begin(self, index: int, count: int) -> None:
        """Another picture begins: nothing of the one before may leak into it."""
        steps = round(self.scheduler.num_inference_steps * (count - index) / count)
        self.guides = [Guide(config, self.seed, steps) for config in self._configs()]
        self._first, self._move = index, None

    def _before_unet(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:
            return None
        call = dict(inspect.signature(type(unet).forward).bind(unet, *args, **kwargs).arguments)
        call.pop("self")
        call.update(call.pop("kwargs", {}))
        progress = self._progress(call["timestep"])
        if progress is None or not any(guide.active(progress) for guide in self.guides):
            return None
        self._inside = True
        try:
            with torch.inference_mode(False), torch.no_grad():
                call["sample"] = self._moved(unet, call, progress)
        finally:
            self._inside = False
        return (), call

    def _progress(self, timestep: Any) -> float | None:
        """Fraction of this picture's schedule that is done; None for a call that must not be guided."""
        if self.pipeline.scheduler is not self.scheduler:
            raise InterplayError("The pipeline's scheduler was changed while it is guided; change it before guided().")
        index, count = position(self.scheduler, timestep)
        if is_second_evaluation(self.scheduler):
            return None
        if self._first is None or index <= self._last:
            self._begin(index, count)
        if self._move is not None:
            raise InterplayError("The pipeline calls its U-Net twice a step and cannot be guided; sample it plainly.")
        assert self._first is not None
        self._last = index
        return (index - self._first) / (count - self._first)

    def _moved(self, unet: Any, call: dict[str, Any], progress: float) -> Tensor:
        """The U-Net's input with every copy of the latents moved by the guides."""
        sample = call["sample"]
        cfg = bool(self.pipeline.do_classifier_free_guidance)
        copies = 2 if cfg else 1
        batch, rest = divmod(sample.shape[0], copies)
        if rest or batch % len(self.graphs):
            raise InterplayError(
                f"The U-Net was given {sample.shape[0]} rows for {len(self.graphs)} hypergraphs; "
                "give guided() one hypergraph for each prompt of the call."
            )
        start, channels = batch * (copies - 1), unet.config.out_channels  # inpainting U-Nets take more than they give
        per = batch // len(self.graphs)
        moves = []
        for i, (guide, graph) in enumerate(zip(self.guides, self.graphs, strict=True)):
            rows = slice(start + i * per, start + (i + 1) * per)
            part = rows_of(call, rows, sample.shape[0])
            z = part["sample"][:, :channels].float()
            if guide.active(progress):
                moves.append(guide.step(z, progress, capturing(unet, part, graph, i)) - z)
            else:
                moves.append(torch.zeros_like(z))
        move = torch.cat(moves)
        self._move = move * network_scale(self.scheduler, call["timestep"])
        moved = sample.to(torch.float32, copy=True)  # without CFG this is the pipeline's own latent
        moved[:, :channels] += move.repeat(copies, 1, 1, 1)
        return moved.to(sample.dtype)

    def _around_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(step)
        def moved_step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            move, self._move = self._move, None
            if move is not None:
                if move.shape != sample.shape:
                    raise InterplayError(
                        f"The scheduler steps {tuple(sample.shape)} latents where {tuple(move.shape)} were guided; "
                        "this kind of pipeline cannot be guided, sample it plainly."
                    )
                sample = (sample.float() + move).to(sample.dtype)
                forget_prediction(self.scheduler)
            return step(model_output, timestep, sample, *args, **kwargs)

        return moved_step


def _restore_step(scheduler: Any, own: Any) -> None:
    if own is None:
        scheduler.__dict__.pop("step", None)
    else:
        scheduler.step = own


def _check(pipeline: Any, graphs: Sequence[TokenGraph]) -> None:
    unet: Any = getattr(pipeline, "unet", None)
    name = type(pipeline).__name__
    if not graphs:
        raise InterplayError("Guidance needs a prompt or a hypergraph; none was given.")
    if hasattr(unet, "_orig_mod") or getattr(unet, "_compiled_call_impl", None) is not None:
        raise InterplayError("A compiled U-Net hides its attention; guide the pipeline without torch.compile.")
    if type(unet).__name__ != "UNet2DConditionModel" or not hasattr(type(pipeline), "do_classifier_free_guidance"):
        raise InterplayError(
            f"{name} cannot be guided: it has no UNet2DConditionModel; use a Stable Diffusion 1.x, 2.x or XL pipeline."
        )
    if hasattr(type(pipeline), "do_perturbed_attention_guidance"):
        raise InterplayError(f"{name} perturbs attention row by row; use the pipeline without PAG under guidance.")
    if any(parameter.is_inference() for parameter in unet.parameters()):
        raise InterplayError("The U-Net was loaded inside torch.inference_mode; load the pipeline outside it.")
