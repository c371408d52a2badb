"""Networks from parts and back, and what there is to say about a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InterplayError
from .keys import Parts, Tensors, block_order, joined
from .network import InteractionNet


def build(parts: Parts, layers: Any = nn, dtype: torch.dtype | None = None, device: Any = None) -> InteractionNet:
    """The network of a file, with its weights. layers: where its fusers' layers come from (torch.nn or a host's).

    dtype: of the fusers, by default the file's; the gates and the tokenizer stay fp32.
    """
    wanted = dtype or parts.fusers[0]["linear.weight"].dtype
    net = InteractionNet(
        *(parts.widths, parts.width, parts.heads, parts.slots, parts.hidden, layers, parts.placed),
        *(parts.head_width, parts.rows),
        dtype=wanted,
        device=device,
    )
    for fuser, state in zip(net.fusers, parts.fusers, strict=True):
        fuser.load_state_dict(state)
        for name in ("alpha_attn", "alpha_dense"):
            setattr(fuser, name, nn.Parameter(state[name].detach().float().clone(), requires_grad=False))
    net.position_net.load_state_dict({key: value.float() for key, value in parts.tokenizer.items()})
    return net.eval()


def state_of(net: InteractionNet, blocks: tuple[str, ...]) -> Tensors:
    """A network's weights under the published names, for ``keys.split``: what a trained network is saved as."""
    fusers = [{k: v.detach().cpu() for k, v in fuser.state_dict().items()} for fuser in net.fusers]
    return joined(blocks, fusers, {k: v.detach().cpu() for k, v in net.position_net.state_dict().items()})


def attention_blocks(base: Mapping[str, Tensor]) -> dict[str, int]:
    """The transformer blocks of a U-Net under LDM names, in running order, with their widths."""
    found = {k[: -len(".norm.weight")]: int(v.shape[0]) for k, v in base.items() if _is_transformer(k, base)}
    return {block: found[block] for block in sorted(found, key=block_order)}


def fuser_places(base: Mapping[str, Tensor]) -> tuple[tuple[str, int], ...]:
    """(block, width) for each fuser that a U-Net takes: once for every layer of its transformer blocks."""
    layers: dict[str, int] = {}
    for key in base:
        if key.endswith(".attn2.to_k.weight"):
            block = key.partition(".transformer_blocks.")[0]
            layers[block] = layers.get(block, 0) + 1
    return tuple((block, width) for block, width in attention_blocks(base).items() for _ in range(layers[block]))


def _is_transformer(key: str, base: Mapping[str, Tensor]) -> bool:
    block = key.removesuffix(".norm.weight")
    return block != key and f"{block}.proj_in.weight" in base


def check_fits(parts: Parts, base: Mapping[str, Tensor]) -> None:
    """InterplayError unless the fusers fit a U-Net's blocks (LDM names) one to one."""
    places = fuser_places(base)
    context = next((int(v.shape[1]) for k, v in base.items() if k.endswith("attn2.to_k.weight")), 0)
    kinds = {2048: "an SDXL model", 1024: "an SD2.x model", 768: "an SD1.x model"}
    wanted = "an SDXL model" if parts.xl else "an SD1.x model"
    if context != parts.width:
        kind = kinds.get(context, "another kind")
        raise InterplayError(
            f"The model takes prompts {context} wide ({kind}) and these interactions are {parts.width} wide: connect "
            f"{wanted}."
        )
    if places != tuple(zip(parts.blocks, parts.widths, strict=True)):
        raise InterplayError(
            f"The file's {len(parts.blocks)} fusers do not fit the model's {len(places)} transformer layers: connect "
            f"{wanted} of the size that they were trained on."
        )


COMPARED = 24  # base tensors that are compared


def compare_base(parts: Parts, base: Mapping[str, Tensor]) -> str:
    """Whether the file's base is the model ``base`` (LDM names), in a sentence."""
    if not parts.base:
        return "The file has no base of its own; its fusers act on the connected model."
    keys = sorted(set(parts.base) & set(base))
    keys = keys[:: max(1, len(keys) // COMPARED)]
    if not keys:
        return "The file's base and the connected model share no tensor names."
    worst = max(float((parts.base[k].float() - base[k].float().cpu()).abs().max()) for k in keys)
    rounding = max(float(parts.base[k].float().abs().max()) for k in keys) * 2**-10
    if worst <= rounding:
        return (
            f"The base is the connected model ({len(keys)} tensors compared, largest difference {worst:.1e}): without "
            "boxes or null tokens the two paint the same pictures."
        )
    return f"The base differs from the connected model ({len(keys)} tensors compared, largest difference {worst:.1e})."


def describe(parts: Parts) -> list[str]:
    """What a file holds, line by line."""
    fusers, tokens = len(parts.fusers), len(parts.tokenizer)
    tensors = sum(len(fuser) for fuser in parts.fusers)
    dtype = str(parts.fusers[0]["linear.weight"].dtype).removeprefix("torch.")
    others = [name for name, held in (("CLIP", parts.clip), ("second CLIP", parts.clip2), ("VAE", parts.vae)) if held]
    base = f"{len(parts.base)} tensors of its own" if parts.base else "none"
    return [
        f"form: {parts.form}",
        f"interactions: {fusers} fusers ({tensors} tensors, {dtype}), tokenizer ({tokens} tensors), "
        f"{parts.slots} slots of {parts.width}",
        f"base: {base}",
        f"also in the file: {', '.join(others) or 'nothing'}",
        *parts.notes,
    ]
