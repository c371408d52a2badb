"""What a guidance pass costs on full-size models: FLOPs against a plain forward, and the bytes that autograd keeps.

Counted on meta tensors in fp16 with the hosts' own code, so it needs neither weights nor a GPU. Attention is counted as
the flash kernel that GPUs run (its backward makes the probabilities again).

    python benchmarks/cost.py [--host diffusers|comfyui|all] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from interplay.guidance.graph import EdgeTokens, TokenGraph, TokenWord, VertexTokens
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30
LENGTH = 77
WORDS = {"white": 2, "dog": 3, "plays": 4, "ginger": 7, "cat": 8, "forest": 11}
GRAPH = TokenGraph(
    words=tuple(TokenWord(text, (place,)) for text, place in WORDS.items()),
    vertices=(VertexTokens((0, 1), 1), VertexTokens((3, 4), 4), VertexTokens((5,), 5, environment=True)),
    edges=(EdgeTokens((2,), (0, 1)),),
    length=LENGTH,
)
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
COMFY_SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
COMFY_SDXL = {
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "channel_mult": [1, 2, 4],
    "num_heads": -1,
    "num_head_channels": 64,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
CASES = (("SD1.5", 64, 64), ("SD1.5", 96, 96), ("SD1.5", 64, 96), ("SDXL", 128, 128))


@dataclass(frozen=True)
class Cost:
    """One case. forward, backward: of the guidance pass, as shares of one plain forward with one row. kept: GiB that
    autograd keeps between them, without weights. whole_*: the same for a forward that is not truncated."""

    host: str
    model: str
    height: int
    width: int
    layers: int
    plain_gflop: float
    forward: float
    backward: float
    kept: float
    whole_forward: float
    whole_kept: float


def flash(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, *rest: Any, **named: Any
) -> Tensor:
    """``scaled_dot_product_attention`` as the flash kernel; PyTorch itself takes the plain one for meta tensors."""
    assert attn_mask is None and not rest, "the counted attentions have no mask"
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, dropout_p, False, scale=named.get("scale")
    )[0]
    return out


@contextmanager
def kept_bytes(weights: Iterator[Tensor]) -> Iterator[dict[int, Any]]:
    """Storages that autograd saves inside, each once, without those of the weights."""
    free = {w.untyped_storage()._cdata for w in weights}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in free:
            kept[storage._cdata] = storage  # holding it keeps its address from being given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def flops(call: Callable[[], Any]) -> tuple[int, Any]:
    """Floating point operations of a call (2 for a multiply-add), and what it returned."""
    with FlopCounterMode(display=False) as counter:
        out = call()
    return counter.get_total_flops(), out


def count(host: str, model: str, unet: Any, layers: int, z: Tensor, plain: Any, capture: Any, whole: Any) -> Cost:
    """Count one case. plain: z -> picture; capture, whole: z -> word maps, truncated or not."""
    with torch.no_grad():
        base, _ = flops(lambda: plain(z))

    def guided(function: Any) -> tuple[int, int, float]:
        leaf = z.float().requires_grad_()
        with kept_bytes(unet.parameters()) as kept:
            forward, maps = flops(lambda: function(leaf))
        size = sum(storage.nbytes() for storage in kept.values()) / GIB
        backward, _ = flops(lambda: torch.autograd.grad(maps, leaf, torch.ones_like(maps)))
        return forward, backward, size

    forward, backward, kept = guided(capture)
    whole_forward, _, whole_kept = guided(whole)
    size = tuple(z.shape[-2:])
    shares = (forward / base, backward / base, kept, whole_forward / base, whole_kept)
    return Cost(host, model, *size, layers, base / 1e9, *(round(s, 4) for s in shares))


def diffusers_cost(model: str, height: int, width: int) -> Cost:
    """The diffusers host's own capture on a meta U-Net."""
    from diffusers import UNet2DConditionModel
    from interplay.guidance.hosts.diffusers.capture import Reader, capturing, frozen, guided_layers

    with torch.device("meta"):
        unet = UNet2DConditionModel(**(SDXL if model == "SDXL" else SD15)).half().eval()
        z = torch.empty(1, 4, height, width, dtype=torch.float16)
        call = {
            "timestep": torch.tensor(500),
            "encoder_hidden_states": torch.empty(1, LENGTH, unet.config.cross_attention_dim),
        }
        call["encoder_hidden_states"] = call["encoder_hidden_states"].half()
        if model == "SDXL":
            call["added_cond_kwargs"] = {
                "text_embeds": torch.empty(1, 1280).half(),
                "time_ids": torch.empty(1, 6).half(),
            }
    layers = guided_layers(unet, height, width)
    truncated = capturing(unet, {**call, "sample": z}, GRAPH, 0)

    def whole(leaf: Tensor) -> Tensor:
        reader = Reader(layers, GRAPH)
        with reader.reading():
            unet(leaf.half(), **call)
        return reader.maps()

    with patch("torch.nn.functional.scaled_dot_product_attention", flash), frozen(unet):
        return count(
            "diffusers", model, unet, len(layers), z, lambda x: unet(x, **call), lambda x: truncated(x)[0].maps, whole
        )


def comfyui_cost(model: str, height: int, width: int) -> Cost:
    """The ComfyUI host's own gradient region and capture on a meta U-Net of ComfyUI's classes."""
    from interplay.guidance.painting import enter_comfyui

    enter_comfyui()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from interplay.guidance.hosts.comfyui.attention import with_exact_attention
    from interplay.guidance.hosts.comfyui.capture import MapCapture, PassComplete, guided_layers
    from interplay.guidance.hosts.comfyui.passes import gradient_region

    settings = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False}
    settings |= {"use_spatial_transformer": True, "use_checkpoint": False}
    settings |= COMFY_SDXL if model == "SDXL" else COMFY_SD15
    meta = torch.device("meta")
    unet = UNetModel(**settings, dtype=torch.float16, device=meta, operations=comfy.ops.disable_weight_init).eval()
    unet.requires_grad_(False)
    z = torch.empty(1, 4, height, width, dtype=torch.float16, device=meta)
    t, context = (
        torch.empty(1, device=meta),
        torch.empty(1, LENGTH, settings["context_dim"], dtype=z.dtype, device=meta),
    )
    y = torch.empty(1, 2816, dtype=z.dtype, device=meta) if model == "SDXL" else None
    layers = guided_layers(unet, height, width)

    def forward(x: Tensor) -> Tensor:
        return unet(x.half(), t, context=context, y=y, transformer_options=with_exact_attention({}))

    def captured(leaf: Tensor, stop: bool) -> Tensor:
        capture = MapCapture(layers, GRAPH, 1)
        with gradient_region(unet), capture.hooked(stop), contextlib.suppress(PassComplete):
            forward(leaf)
        return capture.maps()

    with patch("torch.nn.functional.scaled_dot_product_attention", flash):
        return count(
            "ComfyUI", model, unet, len(layers), z, forward, lambda x: captured(x, True), lambda x: captured(x, False)
        )


HOSTS = {"diffusers": diffusers_cost, "comfyui": comfyui_cost}


def table(costs: list[Cost]) -> str:
    """A Markdown table."""
    head = "| host | model | latent | maps | plain forward | pass forward | backward | kept | whole forward, kept |"
    lines = [head, "|" + "---|" * 9]
    for c in costs:
        lines.append(
            f"| {c.host} | {c.model} | {c.width}x{c.height} | {c.layers} layers | {c.plain_gflop:.0f} GFLOP "
            f"| {c.forward:.3f} | {c.backward:.3f} | {c.kept:.2f} GiB | {c.whole_forward:.3f}, {c.whole_kept:.2f} GiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="all", choices=[*HOSTS, "all"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    hosts = list(HOSTS) if args.host == "all" else [args.host]
    costs = [HOSTS[host](*case) for host in hosts for case in CASES]
    print(table(costs))
    if args.json:
        args.json.write_text(json.dumps([asdict(c) for c in costs], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
