"""A gradient through ComfyUI's layers that never keeps a weight.

Weights of a loaded checkpoint are inference tensors (they cannot be saved for backward); they may be cast, dequantised,
patched by a LoRA or copied into a shared buffer at every call, so whatever autograd kept of them could be stale or gone
by the time of the backward pass. Each layer that owns weights therefore runs as the host runs it, without a graph, and
is asked again in the backward pass: it fetches its weight itself both times. Casts, weight functions, offloading and
quantisation stay the host's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from ....errors import InterplayError

PLAIN = (Tensor, nn.Parameter)  # tensor subclasses (quantised, GGUF) must never be re-viewed by their storage
OWNERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, comfy.ops.CastWeightBiasOp)


def normal(tensor: Tensor) -> Tensor:
    """The same memory as an ordinary tensor, if ``tensor`` is a plain inference tensor; anything else as it is."""
    if type(tensor) not in PLAIN or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_map_tensors(v, change) for v in value)
    return value


def _wants_grad(values: Any) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif type(value) in (list, tuple) and _wants_grad(value):
            return True
    return False


class OrdinaryInputs(TorchFunctionMode):
    """Operations that are recorded see copies of inference tensors (timesteps, contexts, what other nodes cached).

    A copy, not an alias: nothing is known about who else writes to that memory before the backward pass.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_grad_enabled() and _wants_grad((*args, *kwargs.values())):
            args = _map_tensors(tuple(args), _copied)
            kwargs = {k: _map_tensors(v, _copied) for k, v in kwargs.items()}
        return func(*args, **kwargs)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone() if type(tensor) in PLAIN and tensor.is_inference() else tensor


@contextlib.contextmanager
def recompute(network: nn.Module) -> Iterator[None]:
    """While open, every layer of ``network`` that owns weights is asked again in the backward pass.

    The backward pass must happen while it is open or after; the layers themselves are as before once it closes. Must be
    entered outside inference mode. Only gradients to inputs exist: no weight ever gets one.
    """
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for module in network.modules():
            if isinstance(module, OWNERS) and not isinstance(module, nn.Embedding):
                own = module.__dict__.get("forward")
                changed.append((module, own))
                layer = _Layer(module, module.forward, own is None and _is_linear(module))
                module.forward = layer.run  # type: ignore[method-assign]
        yield
    finally:
        for module, own in changed:
            if own is None:
                del module.forward
            else:
                module.forward = own  # type: ignore[method-assign]


def _is_linear(module: nn.Module) -> bool:
    """Whether the gradient to a layer's input does not depend on that input, so that it need not be kept."""
    quantised = isinstance(module, comfy.ops.CastWeightBiasOp) and hasattr(module, "in_features")
    return quantised or isinstance(module, (nn.Linear, nn.Conv2d))


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    forward: Callable[..., Any]  # the module's own, or what another node put there
    linear: bool  # the gradient does not depend on the input

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or not x.requires_grad:
            return self.plain(x, *args, **kwargs)
        return _Recompute.apply(x, self, args, kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """As the host runs it: buffers that it keeps between calls can only be written in inference mode."""
        with torch.inference_mode():
            out = self.forward(*args, **kwargs)
        return _map_tensors(out, normal)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Layer, args: Any, kwargs: Any) -> Tensor:
        ctx.layer, ctx.call = layer, (args, kwargs)
        ctx.like = (x.shape, x.dtype, x.device)
        if not layer.linear:
            ctx.save_for_backward(x)
        return layer.plain(x, *args, **kwargs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        layer, (args, kwargs) = ctx.layer, ctx.call
        shape, dtype, device = ctx.like
        if layer.linear:
            found = _transposed(layer, shape, dtype, device, grads[0], args, kwargs)
            if found is not None:
                return found, None, None, None
            x = torch.zeros(shape, dtype=dtype, device=device)
        else:
            (x,) = ctx.saved_tensors
        return _replayed(layer, x, grads[0], args, kwargs), None, None, None


class _Transpose(TorchFunctionMode):
    """Meets the one linear or conv2d call of a layer and takes the transposed product with the weight fetched there."""

    def __init__(self, x: Tensor, grad: Tensor) -> None:
        super().__init__()
        self.x, self.grad = x, grad
        self.out: Tensor | None = None
        self.found: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        weight = _plain(args[1]) if func in (F.linear, F.conv2d) and len(args) > 1 and args[0] is self.x else None
        if weight is not None:
            self.found = self._product(func, weight, *args[2:], **kwargs)
            self.out = torch.empty((), dtype=self.grad.dtype, device=self.grad.device).expand(self.grad.shape)
            return self.out
        return func(*args, **kwargs)

    def _product(self, func: Any, weight: Tensor, bias: Any = None, *layout: Any, **named: Any) -> Tensor:
        if func is F.linear:
            return self.grad @ weight.to(self.grad.dtype)
        return conv2d_input(self.x.shape, weight, self.grad, *layout, **named)


def _plain(weight: Tensor) -> Tensor | None:
    """The weight as an ordinary tensor, dequantised where it is quantised; None for what is not known."""
    if type(weight) in PLAIN:
        return weight
    if type(weight).dequantize is Tensor.dequantize:
        return None
    values = weight.dequantize()
    return values if type(values) in PLAIN else None


def _transposed(
    layer: _Layer, shape: Any, dtype: Any, device: Any, grad: Tensor, args: Any, kwargs: Any
) -> Tensor | None:
    """The gradient of a linear layer without its forward product; None when the layer is more than one such call."""
    with _dequantised(layer.module), torch.inference_mode():
        x = torch.empty((), dtype=dtype, device=device).expand(shape)
        with _Transpose(x, grad) as mode:
            out = layer.forward(x, *args, **kwargs)
    return None if mode.found is None or out is not mode.out else normal(mode.found)


class _Replay(TorchFunctionMode):
    """What touches the tracked input is recorded, on ordinary views of weights; the rest runs as the host runs it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _wants_grad((*args, *kwargs.values())):
            return func(*args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            return func(*_map_tensors(tuple(args), normal), **{k: _map_tensors(v, normal) for k, v in kwargs.items()})


def _replayed(layer: _Layer, x: Tensor, grad: Tensor, args: Any, kwargs: Any) -> Tensor:
    """The layer once more with its input tracked, and at once its vector-Jacobian product."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().requires_grad_()
    with _dequantised(layer.module), torch.inference_mode(), _Replay():
        out = layer.forward(x, *args, **kwargs)
    if not isinstance(out, Tensor) or not out.requires_grad:
        kind = f"{type(layer.module).__module__}.{type(layer.module).__name__}"
        raise InterplayError(
            f"The model's layer {kind} gives no gradient, so the picture cannot be guided: load the model in another "
            "weight format, or leave out the node that replaced this layer."
        )
    with torch.inference_mode(False):
        return torch.autograd.grad(out, x, grad)[0]


@contextlib.contextmanager
def _dequantised(module: nn.Module) -> Iterator[None]:
    """A quantised layer multiplies quantised inputs, which has no derivative: ask it for its dequantised path."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)):
        yield
        return
    own = module.__dict__.get("comfy_force_cast_weights")
    module.comfy_force_cast_weights = True  # type: ignore[assignment]
    try:
        yield
    finally:
        if own is None:
            del module.comfy_force_cast_weights
        else:
            module.comfy_force_cast_weights = own
