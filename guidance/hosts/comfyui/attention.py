"""Exact attention inside the gradient: kernels without a derivative give a wrong gradient and no error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

OVERRIDE = "optimized_attention_override"


def with_exact_attention(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options in which attention is PyTorch's own.

    An override by another node is kept in front of it when a derivative passes through it, and left out when it only
    picks another kernel.
    """
    options = transformer_options.copy()
    options[OVERRIDE] = _Exact(transformer_options.get(OVERRIDE))
    return options


class _Exact:
    def __init__(self, previous: Callable[..., Tensor] | None) -> None:
        self.previous = previous
        self.passes: bool | None = None if previous is not None else False

    def __call__(self, func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.passes is None:
            self.passes = self._has_derivative(q, k, v, *args, **kwargs)
        if self.passes and self.previous is not None:
            return self.previous(attention_pytorch, q, k, v, *args, **kwargs)
        return attention_pytorch(q, k, v, *args, **kwargs)

    def _has_derivative(self, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> bool:
        assert self.previous is not None
        with torch.inference_mode(False), torch.enable_grad():
            probe = q.detach().clone().requires_grad_()
            try:
                out = self.previous(attention_pytorch, probe, k.detach(), v.detach(), *args, **kwargs)
                return out.requires_grad and torch.autograd.grad(out.sum(), probe, allow_unused=True)[0] is not None
            except RuntimeError:  # "no autograd formula was registered": a kernel, and the exact one stands in for it
                return False
