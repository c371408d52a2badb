"""Re-weighting attention modulation in diffusers pipelines whose U-Net is a ``UNet2DConditionModel``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ....errors import InterplayError
from ...modulation import Binding, ModulationConfig, Plan, active, attend, attend_self, lambda_t, plan, wanted
from .capture import cross_attention_layers
from .guidance import _check

STOCK = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor")  # what they compute is softmax(q k) v alone


@contextmanager
def reweighted(
    pipeline: Any,
    images: Sequence[Sequence[Binding]],
    config: ModulationConfig,
    words: Sequence[Sequence[int]] = (),
    length: int = 77,
) -> Iterator[Reweighting]:
    """Inside, the pipeline's own call re-weights the attention of its prompts' rows; after it all is as it was.

    images: bindings for each picture of the call, which may be empty; of one picture for all of them. words: positions
    of all words of each picture's prompt, for background "segment". length: tokens of the conditioning. Works with any
    scheduler, batch, size and precision, inside or around ``guided``, whose own passes are left alone.

    Raises:
        InterplayError: the pipeline has no U-Net that can be re-weighted, or pictures and objects do not fit.

    Example:
        >>> with reweighted(pipe, [[Binding(mask, (2, 3), 2.0)]], modulation("RealignDiff (recommended)")):
        ...     image = pipe("a red robot", generator=generator).images[0]
    """
    _check(pipeline, [None])  # type: ignore[list-item]
    session = Reweighting(pipeline, tuple(map(tuple, images)), config, tuple(map(tuple, words)), length)
    if config.strength == 0 and config.self_strength == 0:
        yield session
        return
    with session.installed():
        yield session


class Reweighting:
    """The state of ``reweighted``. steps: U-Net calls that were re-weighted."""

    def __init__(
        self,
        pipeline: Any,
        images: tuple[tuple[Binding, ...], ...],
        config: ModulationConfig,
        words: tuple[tuple[int, ...], ...],
        length: int,
    ) -> None:
        self.pipeline, self.images, self.config, self.words, self.length = pipeline, images, config, words, length
        self.steps = 0
        self.strength = self.self_strength = 0.0
        self.start = 0  # the first of the prompts' rows in this call
        self.rows = 0
        self.latent = (0, 0)
        self._plans: dict[tuple[int, int], Plan] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Our attention processors, around those that are there."""
        unet = self.pipeline.unet
        attentions = [b for m in unet.modules() for b in (getattr(m, "attn1", None), getattr(m, "attn2", None)) if b]
        if not any(getattr(attention, "is_cross_attention", False) for attention in attentions):
            raise InterplayError(f"{type(unet).__name__} has no text cross-attention to re-weight; use another U-Net.")
        with ExitStack() as stack:
            stack.callback(unet.register_forward_pre_hook(self._before_unet, with_kwargs=True).remove)
            for attention in attentions:
                before = attention.processor
                stack.callback(setattr, attention, "processor", before)
                attention.processor = _Processor(self, before)
            yield

    def _before_unet(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = inspect.signature(type(unet).forward).bind(unet, *args, **kwargs).arguments
        sample, t = call["sample"], call["timestep"]
        t = float(t.flatten()[0]) if isinstance(t, Tensor) else float(t)
        copies = 2 if self.pipeline.do_classifier_free_guidance else 1
        count = len(self.images)
        rows, rest = divmod(sample.shape[0], copies)
        # guidance asks the U-Net about single prompts in between; only whole batches are a sampler's
        ours = not rest and (rows == count or count == 1)
        on = ours and active(t, self.config) and any(self.images)
        self.strength = lambda_t(t, self.config) if on else 0.0
        self.self_strength = lambda_t(t, self.config, self.config.self_strength) if on else 0.0
        self.start, self.rows, self.steps = rows * (copies - 1), rows, self.steps + bool(on)
        latent = tuple(sample.shape[-2:])
        if latent != self.latent:
            self.latent, self._plans = latent, {}
            self.grids = {id(layer.attention): layer.grid for layer in cross_attention_layers(unet, *latent)}

    def plan(self, pixels: int, device: Any) -> tuple[Plan, tuple[int, int]] | None:
        """The plan of a layer with so many queries; None where no layer is to be re-weighted."""
        grid = next((g for g in self.grids.values() if g[0] * g[1] == pixels), None)
        if grid is None or not wanted(grid, self.latent, self.config):
            return None
        if grid not in self._plans:
            images = self.images * self.rows if len(self.images) == 1 else self.images
            words = self.words * self.rows if len(self.words) == 1 else self.words or ((),) * self.rows
            parts = [plan([image], grid, self.length, self.config, w) for image, w in zip(images, words, strict=True)]
            fields = Plan.__dataclass_fields__
            self._plans[grid] = Plan(*(torch.cat([getattr(p, name) for p in parts]) for name in fields)).to(device)
        return self._plans[grid], grid


class _Processor:
    """One layer: what was there before, and re-weighting in the prompts' rows."""

    def __init__(self, session: Reweighting, before: Any) -> None:
        self.session, self.before = session, before

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        session, crossing = self.session, encoder_hidden_states is not None
        strength = session.strength if crossing else session.self_strength
        found = session.plan(hidden_states.shape[1], hidden_states.device) if strength else None
        if found is None:
            out: Tensor = self.before(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
            return out
        rows = slice(session.start, session.start + session.rows)
        text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        h = hidden_states[rows]
        context = h if text is None else text[rows]
        q, k, v = attn.to_q(h), attn.to_k(context), attn.to_v(context)
        act = attend if crossing else attend_self
        if type(self.before).__name__ in STOCK and not isinstance(encoder_hidden_states, tuple):
            ours = attn.to_out[0](act(q, k, v, attn.heads, found[0], strength, session.config))
            if session.start == 0:
                return ours
            rest = self.before(attn, hidden_states[: session.start], _cut(text, session.start), *args, **kwargs)
            return torch.cat([rest, ours])
        # an adapter: what it adds is kept, and the change of the text's share goes on top
        out = self.before(attn, hidden_states, encoder_hidden_states, *args, **kwargs).clone()
        moved = act(q, k, v, attn.heads, found[0], strength, session.config, change=True)
        out[rows] += attn.to_out[0](moved) - attn.to_out[0](torch.zeros_like(moved[:1, :1]))
        return out


def _cut(text: Tensor | None, rows: int) -> Tensor | None:
    return None if text is None else text[:rows]
