"""Interactions with boxes in diffusers pipelines: boxes that are given, or that the model's own attention shows while
it samples, after which it goes on with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from ...graph import TokenGraph
from ...interaction.layout import Layout
from ...interaction.network import Grounding, InteractionNet, Schedule
from .capture import Reader, guided_layers
from .guidance import pipeline_graph
from .interaction import Fusing, fused
from .schedule import position

Find = Callable[[Layout, Tensor, TokenGraph], Layout]
"""(layout without boxes, word maps (J, H, W), their words) -> layout with boxes, as ``layout_maps.from_maps``."""


@dataclass(frozen=True)
class Look:
    """When to look at the attention, in shares of the schedule: the maps of the steps from ``start`` to ``end`` are
    averaged (at least those of the last step before ``end``), boxes made of them by ``find``, and the fusers set to
    work from ``end``.
    """

    find: Find
    start: float = 0.2
    end: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end < 1.0:
            raise InterplayError(
                f"Attention cannot be looked at from {self.start:g} to {self.end:g} of the schedule; give a start and "
                "a greater end, both from 0 to 1."
            )


def phrase_features(pipeline: Any, phrases: Sequence[str]) -> Tensor:
    """(N, D): the end token's state of each phrase, not projected, which is what InteractDiffusion was trained on.

    Of SDXL's two text encoders: that of CLIP-L, and behind it the projected one of CLIP-G.
    """
    first = _read(pipeline.tokenizer, pipeline.text_encoder, phrases).pooler_output.float()
    second = getattr(pipeline, "text_encoder_2", None)
    if second is None:
        return first
    projected = _read(pipeline.tokenizer_2, second, phrases).text_embeds.float()
    return torch.cat([first, projected.to(first.device)], -1)


def _read(tokenizer: Any, encoder: Any, phrases: Sequence[str]) -> Any:
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(list(phrases), max_length=tokenizer.model_max_length, **options).input_ids
    with torch.no_grad():
        return encoder(ids.to(encoder.device))


def grounding(pipeline: Any, net: InteractionNet, layouts: Sequence[Layout | None]) -> Grounding:
    """Interactions of several pictures, as the tokenizer takes them; None stands for a picture without any.

    Raises:
        InterplayError: a picture has more than fit, or a box is missing.
    """
    tokenizer = net.position_net
    shape = (len(layouts), tokenizer.slots)
    device = tokenizer.null_positive_feature.device
    mask, boxes = torch.zeros(shape, device=device), torch.zeros(2, *shape, 4, device=device)
    features = torch.zeros(3, *shape, tokenizer.width, device=device)
    for i, layout in enumerate(layouts):
        interactions = layout.interactions if layout else ()
        if len(interactions) > tokenizer.slots:
            raise InterplayError(
                f"There are {len(interactions)} interactions and this model takes {tokenizer.slots}: leave some out."
            )
        for slot, interaction in enumerate(interactions):
            assert layout is not None
            names = [layout.things[interaction.subject].name, interaction.action]
            names.append(layout.things[interaction.object].name)
            features[:, i, slot] = phrase_features(pipeline, names).to(device)
            boxes[:, i, slot] = torch.tensor(layout.boxes(interaction)[:2], device=device)
            mask[i, slot] = 1.0
    return Grounding(features[0], features[1], features[2], boxes[0], boxes[1], mask)


@contextmanager
def grounded(
    pipeline: Any,
    net: InteractionNet,
    prompts: Sequence[str],
    layouts: Sequence[Layout | None],
    schedule: Schedule | None = None,
    look: Look | None = None,
) -> Iterator[Grounded]:
    """Inside, the pipeline's call with ``prompts`` (one picture each) paints ``layouts``; the unconditional rows see
    null tokens. Guidance goes on top: enter this context first, ``guided`` inside it.

    schedule: when the fusers act. look: boxes are not given but taken from the attention; the steps before are plain.
    Yields ``Grounded``, whose ``layouts`` are those that were painted.
    """
    state = Grounded(pipeline, net, prompts, layouts, schedule or Schedule(), look)
    unet = pipeline.unet
    forward, own = unet.forward, unet.__dict__.get("forward")
    unet.forward = state.around(forward)
    try:
        with fused(unet, net, state.fusing):
            yield state
    finally:
        if own is None:
            del unet.forward
        else:
            unet.forward = own


class Grounded:
    """The state of ``grounded``: which tokens the rows of a call see."""

    def __init__(
        self,
        pipeline: Any,
        net: InteractionNet,
        prompts: Sequence[str],
        layouts: Sequence[Layout | None],
        schedule: Schedule,
        look: Look | None,
    ) -> None:
        if len(prompts) != len(layouts):
            raise InterplayError(f"There are {len(layouts)} layouts for {len(prompts)} prompts; give one for each.")
        self.pipeline, self.net, self.schedule, self.look = pipeline, net, schedule, look
        self.prompts, self.layouts, self.wanted = tuple(prompts), tuple(layouts), tuple(layouts)
        alone = {"device": pipeline.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        encoded = [pipeline.encode_prompt(prompt, **alone)[0] for prompt in self.prompts]
        self.texts = torch.cat(encoded).detach()
        with torch.no_grad():
            self.null = net.position_net.null_tokens().to(pipeline.unet.dtype)
        self.fusing = Fusing(self.null, 0.0)
        self.tokens = self._tokens() if look is None else None
        self._sum: list[Tensor] | None = None

    def _tokens(self) -> Tensor:
        """(B, 3N, D) of the layouts."""
        with torch.no_grad():
            return self.net.position_net(grounding(self.pipeline, self.net, self.layouts)).to(self.null.dtype)

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The U-Net's forward with the fusers set for its rows."""
        signature = inspect.signature(type(self.pipeline.unet).forward)

        def grounded_forward(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(self.pipeline.unet, *args, **kwargs).arguments
            index, count = position(self.pipeline.scheduler, call["timestep"])
            progress, whole = index / count, not torch.is_grad_enabled()
            if index == 0 and self.look is not None:  # another picture begins
                self.tokens = self._sum = None
            if self.look is not None and whole and self.tokens is None:
                if progress < self.look.end:
                    wanted = progress >= self.look.start or (index + 1) / count >= self.look.end
                    return self._looking(forward, call, args, kwargs, wanted)
                self._found()
            self._set(call["encoder_hidden_states"], progress)
            return forward(*args, **kwargs)

        return grounded_forward

    def _set(self, text: Tensor, progress: float) -> None:
        if self.tokens is None:
            self.fusing.scale = 0.0
            return
        self.fusing.scale = self.schedule.scale(progress)
        rows, pictures = text.shape[0], len(self.prompts)
        copies = rows // pictures
        if self.pipeline.do_classifier_free_guidance and copies * pictures == rows and copies % 2 == 0:
            half = self.tokens.repeat_interleave(copies // 2, 0)
            self.fusing.tokens = torch.cat([self.null.expand(len(half), -1, -1), half])
        else:  # a part of the conditional rows, which guidance asks for: told apart by their texts
            distance = (text[:, None].float() - self.texts[None].float()).abs().amax((2, 3))
            self.fusing.tokens = self.tokens[distance.argmin(1)]

    def _looking(self, forward: Callable[..., Any], call: dict[str, Any], args: Any, kwargs: Any, wanted: bool) -> Any:
        """A plain step, whose maps are kept when they are wanted."""
        self.fusing.scale = 0.0
        if not wanted:
            return forward(*args, **kwargs)
        layers = guided_layers(self.pipeline.unet, *call["sample"].shape[-2:])
        first = call["sample"].shape[0] - len(self.prompts)
        with ExitStack() as stack:
            readers = [
                stack.enter_context(Reader(layers, self._graph(i), slice(first + i, first + i + 1)).reading())
                for i in range(len(self.prompts))
            ]
            out = forward(*args, **kwargs)
        maps = [reader.maps()[0] for reader in readers]
        self._sum = maps if self._sum is None else [a + b for a, b in zip(self._sum, maps, strict=True)]
        return out

    def _graph(self, picture: int) -> TokenGraph:
        return pipeline_graph(self.pipeline, self.prompts[picture])

    def _found(self) -> None:
        """Boxes of the maps seen so far."""
        assert self.look is not None
        if self._sum is None:
            raise InterplayError("No step came before the look's end; sample more steps or let it end later.")
        find = self.look.find
        self.layouts = tuple(
            layout and find(layout, maps, self._graph(i))
            for i, (layout, maps) in enumerate(zip(self.wanted, self._sum, strict=True))
        )
        self.tokens = self._tokens()
