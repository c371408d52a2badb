"""From gradients to a moved latent: step size, norm cap, standard deviation, and many losses in one map gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def decay(progress: float) -> float:
    """sqrt(1 - progress / 2): CONFORM's and Attend-and-Excite's factor, 1 at the start, 0.707 at the end."""
    return math.sqrt(1.0 - 0.5 * progress)


def step_factor(reference_steps: int | None, steps: int | None) -> float:
    """Factor that keeps the total displacement when a run has another step count than the one ``step`` is meant for.

    Bounded to 1/4 ... 4: a run of three steps cannot take the strides of fifty.
    """
    if reference_steps is None or steps is None:
        return 1.0
    return min(4.0, max(0.25, reference_steps / steps))


def norms(x: Tensor) -> Tensor:
    """(B, ...) -> (B, 1, ...): the Euclidean norm of each image, shaped to broadcast."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.ndim - 1))


def displacement(z: Tensor, gradient: Tensor, size: float, rule: str, cap: float | None = None) -> Tensor:
    """How far to move z (B, C, h, w), each image by itself.

    rule "gradient": -size * gradient; "relative": size * |z| down the gradient's direction, nothing where it is 0.
    cap: greatest length as a share of |z|.
    """
    if rule == "relative":
        length = norms(gradient)
        tiny = torch.finfo(gradient.dtype).tiny
        delta = gradient / length.clamp_min(tiny) * (-size * norms(z))
    else:
        delta = -size * gradient
    if cap is None:
        return delta
    limit, length = cap * norms(z), norms(delta)
    return torch.where(length > limit, delta * (limit / length.clamp_min(torch.finfo(delta.dtype).tiny)), delta)


def restore_std(moved: Tensor, before: Tensor) -> Tensor:
    """``moved`` with the standard deviation of each image's channels as it was in ``before``; means stay moved."""
    mean = moved.mean((-2, -1), keepdim=True)
    now = moved.std((-2, -1), keepdim=True, unbiased=False)
    then = before.std((-2, -1), keepdim=True, unbiased=False)
    factor = torch.where(now > 0, then / now.clamp_min(torch.finfo(now.dtype).tiny), torch.ones_like(now))
    return mean + (moved - mean) * factor


def combine(gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], first: str = "C") -> Tensor:
    """Several losses' gradients with respect to the maps (B, J, H, W) as one, so that one backward serves all.

    Every gradient is brought to the mean norm of those present, times its weight (B,); what opposes ``first`` in the
    others is projected out (PCGrad, one-sided), and they are added. Each image by itself.
    """
    lengths = {name: norms(g) for name, g in gradients.items()}
    present = {name: (length > 0).to(length.dtype) for name, length in lengths.items()}
    count = torch.stack(list(present.values())).sum(0).clamp_min(1.0)
    mean = torch.stack([lengths[n] * present[n] for n in lengths]).sum(0) / count
    parts = {}
    for name, g in gradients.items():
        tiny = torch.finfo(g.dtype).tiny
        weight = weights[name].to(g.dtype).reshape(lengths[name].shape)
        parts[name] = g / lengths[name].clamp_min(tiny) * (weight * mean)
    if first in parts:
        lead = parts[first]
        square = lead.pow(2).flatten(1).sum(1).reshape(lengths[first].shape)
        for name in parts:
            if name != first:
                dot = (parts[name] * lead).flatten(1).sum(1).reshape(square.shape)
                against = torch.where(dot < 0, dot / square.clamp_min(torch.finfo(dot.dtype).tiny), 0.0)
                parts[name] = parts[name] - against * lead
    return torch.stack(list(parts.values())).sum(0)
