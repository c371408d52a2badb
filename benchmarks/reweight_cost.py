"""What re-weighting adds to the cross-attention of one sampling step (prompt and negative), on full-size U-Nets.

Counted on meta tensors in fp16 with ComfyUI's classes and the pack's own layer, so it needs neither weights nor a GPU.
Cross-attention is its four projections and two products; "all operations" also counts every number that an elementwise
operation or a reduction writes or reads, softmax included, for both sides alike.

    COMFYUI_PATH=... python benchmarks/reweight_cost.py
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from cost import CASES, COMFY_SD15, COMFY_SDXL, LENGTH
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

VIEWS = ("view", "reshape", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "permute", "t.", "detach",
         "alias", "empty", "_to_copy", "clone", "copy", "split", "unbind", "index", "arange", "lift", "repeat", "mm",
         "bmm", "addmm", "cat", "scalar_tensor", "zeros")  # fmt: skip


class Elementwise(TorchDispatchMode):
    """Counts numbers that elementwise operations and reductions go through."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__
        if not name.startswith(VIEWS):
            sizes = [x.numel() for x in (*args, out) if isinstance(x, Tensor)]
            self.total += max(sizes, default=0) * (3 if "softmax" in name else 1)
        return out


def explicit(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, attn_precision: Any = None, **named: Any
) -> Tensor:
    """Plain attention in the open, so that what a fused kernel does inside is counted as well."""
    qs, ks, vs = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return ((qs @ ks.transpose(-1, -2) * qs.shape[-1] ** -0.5).softmax(-1) @ vs).transpose(1, 2).flatten(2)


def adapter(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """Another pack's replace patch, plain."""
    return explicit(q, k, v, options["n_heads"])


def measure(call: Any) -> tuple[int, int]:
    """Matrix products, and all operations, of a call."""
    with FlopCounterMode(display=False) as products, Elementwise() as other:
        call()
    return products.get_total_flops(), products.get_total_flops() + other.total


def case(model: str, height: int, width: int) -> list[tuple[str, float, float]]:
    """(situation, ratio of products, ratio of all operations) for one U-Net and latent."""
    from interplay.guidance.painting import enter_comfyui

    enter_comfyui()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from interplay.guidance.hosts.comfyui import modulation as host
    from interplay.guidance.hosts.comfyui.attention import with_exact_attention
    from interplay.guidance.modulation import Binding, modulation

    settings = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False}
    settings |= {"use_spatial_transformer": True, "use_checkpoint": False}
    settings |= COMFY_SDXL if model == "SDXL" else COMFY_SD15
    meta, half = torch.device("meta"), torch.float16
    unet = UNetModel(**settings, dtype=half, device=meta, operations=comfy.ops.disable_weight_init).eval()
    unet.requires_grad_(False)
    masks = torch.zeros(2, height, width)
    masks[0, :, : width // 2], masks[1, :, width // 2 :] = 1, 1
    objects = ((Binding(masks[0], (2, 3), 2.0), Binding(masks[1], (7, 8), 2.0)),)
    ours = host.ReweightPatch(objects, "", modulation("RealignDiff (recommended)"))
    z = torch.empty(2, 4, height, width, dtype=half, device=meta)
    context = torch.empty(2, LENGTH, settings["context_dim"], dtype=half, device=meta)
    y = torch.empty(2, 2816, dtype=half, device=meta) if model == "SDXL" else None
    found: list[tuple[Any, Tensor, tuple[int, int]]] = []
    shape: list[tuple[int, int]] = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.register_forward_pre_hook(lambda m, args: found.append((m, args[0], shape[-1])))
        elif type(module).__name__ == "SpatialTransformer":
            module.register_forward_pre_hook(lambda m, args: shape.append(tuple(args[0].shape[-2:])))
    with torch.no_grad():
        time = torch.empty(2, device=meta)
        unet(z, time, context=context, y=y, transformer_options=with_exact_attention({}))

    def whole(marked: dict[int, int] | None, chunks: int, before: Any = None) -> tuple[int, int]:
        """All cross-attentions of one step; marked None: plain."""
        step = host.Step(ours, (0.5, 0.0), marked or {}, chunks, 1, (height, width))

        def call() -> None:
            for attn, x, grid in found:
                x, text = x[:chunks], context[:chunks]
                q, k, v = attn.to_q(x), attn.to_k(text), attn.to_v(text)
                options = {"n_heads": attn.heads, "activations_shape": [chunks, 0, *grid]}
                if marked is None:
                    out = (before or adapter)(q, k, v, options)
                else:
                    out = host.Layer(step, 0.5, False, before)(q, k, v, options)
                attn.to_out(out)

        with torch.no_grad(), patch.object(host, "optimized_attention", explicit):
            whole_plan = {g: ours.plan(1, g, LENGTH, meta) for g in {g for _, _, g in found}}  # made once a run
            assert whole_plan
            return measure(call)

    plain, alone = whole(None, 2), whole(None, 1)
    rows = [("prompt and negative in one batch", whole({0: LENGTH}, 2), plain)]
    apart = tuple(a + b for a, b in zip(whole({0: LENGTH}, 1), alone, strict=True))
    rows.append(("one after the other", apart, plain))
    rows.append(("around another pack's patch", whole({0: LENGTH}, 2, adapter), whole(None, 2, adapter)))
    return [(name, a[0] / b[0], a[1] / b[1]) for name, a, b in rows]


def main() -> None:
    print("| model | latent | | matrix products | all operations |\n|---|---|---|---|---|")
    for model, height, width in CASES:
        for name, products, every in case(model, height, width):
            print(f"| {model} | {width}x{height} | {name} | ×{products:.3f} | ×{every:.3f} |")


if __name__ == "__main__":
    main()
