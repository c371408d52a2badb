"""Stable Diffusion's U-Net with InteractDiffusion, written a second time: functions of a dict of tensors, from the
formulas of the paper and of the released code. Shares nothing with the package.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def linear(s: State, name: str, x: Tensor) -> Tensor:
    out = torch.einsum("...i,oi->...o", x, s[f"{name}.weight"])
    return out + s[f"{name}.bias"] if f"{name}.bias" in s else out


def layer_norm(s: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]


def attention(s: State, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    q, k, v = linear(s, f"{name}.to_q", x), linear(s, f"{name}.to_k", context), linear(s, f"{name}.to_v", context)
    outs = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = (torch.einsum("bqd,bkd->bqk", a, b) / math.sqrt(a.shape[-1])).softmax(-1)
        outs.append(torch.einsum("bqk,bkd->bqd", weights, c))
    return linear(s, f"{name}.to_out.0", torch.cat(outs, -1))


def feed_forward(s: State, name: str, x: Tensor) -> Tensor:
    both = linear(s, f"{name}.net.0.proj", x)
    half = both.shape[-1] // 2
    gate = both[..., half:]
    return linear(s, f"{name}.net.2", both[..., :half] * 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))))


def places(height: int, width: int) -> Tensor:
    """(cells, 32): the centre of each cell, row by row."""
    rows = []
    for cell in range(height * width):
        x, y = (cell % width + 0.5) / width, (cell // width + 0.5) / height
        angles = [(100 ** (k / 8) * x, 100 ** (k / 8) * y) for k in range(8)]
        rows.append([f(a) for pair in angles for f in (math.sin, math.cos) for a in pair])
    return torch.tensor(rows)


def fuser(
    s: State, name: str, h: Tensor, tokens: Tensor, beta: float, heads: int, shape: tuple[int, int] = (0, 0)
) -> Tensor:
    placed = f"{name}.place.weight" in s
    where = linear(s, f"{name}.place", places(*shape)) if placed else torch.zeros(())
    joined = torch.cat((h + where, linear(s, f"{name}.linear", tokens)), dim=1)
    normed = layer_norm(s, f"{name}.norm1", joined)
    seen = attention(s, f"{name}.attn", normed, normed, heads)[:, : h.shape[1]]
    h = h + beta * math.tanh(float(s[f"{name}.alpha_attn"])) * seen
    return h + beta * math.tanh(float(s[f"{name}.alpha_dense"])) * feed_forward(
        s, f"{name}.ff", layer_norm(s, f"{name}.norm2", h + where)
    )


def middle_box(a: list[float], b: list[float]) -> list[float]:
    xs, ys = sorted([a[0], a[2], b[0], b[2]]), sorted([a[1], a[3], b[1], b[3]])
    return [xs[1], ys[1], xs[2], ys[2]]


def fourier(box: list[float]) -> list[float]:
    out: list[float] = []
    for k in range(8):
        frequency = 100 ** (k / 8)
        out += [math.sin(frequency * c) for c in box]
        out += [math.cos(frequency * c) for c in box]
    return out


def tokenize(s: State, interactions: list[dict[str, Any]]) -> Tensor:
    """(1, 3N, D). interactions: subject, action, object (features), subject_box, object_box; the rest are null. SDXL's
    pipeline uses 30 of its 32 places.
    """
    rows: dict[str, list[Tensor]] = {"subject": [], "action": [], "object": []}
    count = min(30, s["position_net.interaction_embedding.emb.weight"].shape[0])
    order = {"subject": 0, "object": 1, "action": 2}
    for n in range(count):
        given = interactions[n] if n < len(interactions) else None
        for role in rows:
            mlp = "position_net.linear_action" if role == "action" else "position_net.linears"
            if given is None:
                null = "null_action_feature" if role == "action" else "null_positive_feature"
                phrase, place = s[f"position_net.{null}"], s["position_net.null_position_feature"]
            else:
                boxes = {"subject": given["subject_box"], "object": given["object_box"]}
                boxes["action"] = middle_box(boxes["subject"], boxes["object"])
                phrase, place = given[role], torch.tensor(fourier(boxes[role]))
            x = torch.cat([phrase, place])
            x = F.silu(linear(s, f"{mlp}.0", x))
            x = linear(s, f"{mlp}.4", F.silu(linear(s, f"{mlp}.2", x)))
            x = x + s["position_net.interaction_embedding.emb.weight"][n]
            rows[role].append(x + s["position_net.position_embedding.emb.weight"][order[role]])
    return torch.stack([*rows["subject"], *rows["action"], *rows["object"]])[None]


def conv(s: State, name: str, x: Tensor, **kw: Any) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], **kw)


def group_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"], eps)


def resnet(s: State, name: str, x: Tensor, emb: Tensor) -> Tensor:
    h = conv(s, f"{name}.in_layers.2", F.silu(group_norm(s, f"{name}.in_layers.0", x, 1e-5)), padding=1)
    h = h + linear(s, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    h = conv(s, f"{name}.out_layers.3", F.silu(group_norm(s, f"{name}.out_layers.0", h, 1e-5)), padding=1)
    return (conv(s, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in s else x) + h


def transformer(
    s: State, name: str, x: Tensor, context: Tensor, tokens: Tensor | None, beta: float, heads: int
) -> Tensor:
    b, c, height, width = x.shape
    heads = heads or c // 64
    h, flat = group_norm(s, f"{name}.norm", x, 1e-6), s[f"{name}.proj_in.weight"].ndim == 2
    h = h if flat else conv(s, f"{name}.proj_in", h)
    h = h.reshape(b, c, height * width).permute(0, 2, 1)
    h, layer = linear(s, f"{name}.proj_in", h) if flat else h, 0
    while f"{name}.transformer_blocks.{layer}.norm1.weight" in s:
        block = f"{name}.transformer_blocks.{layer}"
        n = layer_norm(s, f"{block}.norm1", h)
        h = h + attention(s, f"{block}.attn1", n, n, heads)
        if tokens is not None:
            h = fuser(s, f"{block}.fuser", h, tokens.expand(b, -1, -1), beta, heads, (height, width))
        h = h + attention(s, f"{block}.attn2", layer_norm(s, f"{block}.norm2", h), context, heads)
        h = h + feed_forward(s, f"{block}.ff", layer_norm(s, f"{block}.norm3", h))
        layer += 1
    h = linear(s, f"{name}.proj_out", h) if flat else h
    h = h.permute(0, 2, 1).reshape(b, c, height, width)
    return x + (h if flat else conv(s, f"{name}.proj_out", h))


def unet(
    s: State,
    x: Tensor,
    t: Tensor,
    context: Tensor,
    tokens: Tensor | None = None,
    beta: float = 1.0,
    heads: int = 8,
    y: Tensor | None = None,
) -> Tensor:
    """(B, 4, h, w) noise. tokens (1 or B, M, D): None leaves the fusers out. heads: 0 = as many as 64 fit in, as SDXL
    has them; y: SDXL's other condition.
    """
    channels = s["input_blocks.0.0.weight"].shape[0]
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(channels // 2) / (channels // 2))
    emb = torch.cat([angles.cos(), angles.sin()], -1)
    emb = linear(s, "time_embed.2", F.silu(linear(s, "time_embed.0", emb)))
    if y is not None:
        emb = emb + linear(s, "label_emb.0.2", F.silu(linear(s, "label_emb.0.0", y)))

    def stage(name: str, h: Tensor) -> Tensor:
        for part in range(3):
            here = f"{name}.{part}"
            if f"{here}.in_layers.0.weight" in s:
                h = resnet(s, here, h, emb)
            elif f"{here}.proj_in.weight" in s:
                h = transformer(s, here, h, context, tokens, beta, heads)
            elif f"{here}.op.weight" in s:
                h = conv(s, f"{here}.op", h, stride=2, padding=1)
            elif f"{here}.conv.weight" in s:
                h = conv(s, f"{here}.conv", F.interpolate(h, scale_factor=2, mode="nearest"), padding=1)
        return h

    h, skips, n = conv(s, "input_blocks.0.0", x, padding=1), [], 1
    skips.append(h)
    while any(k.startswith(f"input_blocks.{n}.") for k in s):
        h = stage(f"input_blocks.{n}", h)
        skips.append(h)
        n += 1
    h, n = stage("middle_block", h), 0
    while any(k.startswith(f"output_blocks.{n}.") for k in s):
        h = stage(f"output_blocks.{n}", torch.cat([h, skips.pop()], 1))
        n += 1
    return conv(s, "out.2", F.silu(group_norm(s, "out.0", h, 1e-5)), padding=1)


def shapes(
    channels: int = 32,
    mult: tuple[int, ...] = (1, 2),
    layers: int = 2,
    width: int = 768,
    slots: int = 30,
    depths: tuple[int, ...] = (),
    y: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an InteractDiffusion U-Net. depths: layers of each level's transformers, by default one; with
    ``y``, the width of SDXL's other condition, they project without convolutions.
    """
    depths = depths or (1,) * len(mult)
    out: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int, bias: bool = True) -> None:
        out[f"{name}.weight"] = weight
        if bias:
            out[f"{name}.bias"] = weight[:1]

    def res(name: str, inputs: int, c: int) -> None:
        add(f"{name}.in_layers.0", inputs)
        add(f"{name}.in_layers.2", c, inputs, 3, 3)
        add(f"{name}.emb_layers.1", c, 4 * channels)
        add(f"{name}.out_layers.0", c)
        add(f"{name}.out_layers.3", c, c, 3, 3)
        if inputs != c:
            add(f"{name}.skip_connection", c, inputs, 1, 1)

    def attend(name: str, c: int, context: int) -> None:
        add(f"{name}.to_q", c, c, bias=False)
        add(f"{name}.to_k", c, context, bias=False)
        add(f"{name}.to_v", c, context, bias=False)
        add(f"{name}.to_out.0", c, c)

    def feed(name: str, c: int) -> None:
        add(f"{name}.net.0.proj", 8 * c, c)
        add(f"{name}.net.2", c, 4 * c)

    def spatial(name: str, c: int, depth: int) -> None:
        if not depth:
            return
        add(f"{name}.norm", c)
        for projection in ("proj_in", "proj_out"):
            add(f"{name}.{projection}", *((c, c) if y else (c, c, 1, 1)))
        for layer in range(depth):
            block = f"{name}.transformer_blocks.{layer}"
            attend(f"{block}.attn1", c, c)
            feed(f"{block}.ff", c)
            attend(f"{block}.attn2", c, width)
            for i in (1, 2, 3):
                add(f"{block}.norm{i}", c)
            out[f"{block}.fuser.alpha_attn"] = out[f"{block}.fuser.alpha_dense"] = ()
            add(f"{block}.fuser.linear", c, width)
            attend(f"{block}.fuser.attn", c, c)
            feed(f"{block}.fuser.ff", c)
            add(f"{block}.fuser.norm1", c)
            add(f"{block}.fuser.norm2", c)

    if y:
        add("label_emb.0.0", 4 * channels, y)
        add("label_emb.0.2", 4 * channels, 4 * channels)
    add("time_embed.0", 4 * channels, channels)
    add("time_embed.2", 4 * channels, 4 * channels)
    add("input_blocks.0.0", channels, 4, 3, 3)
    c, n, skips = channels, 1, [channels]
    for level, m in enumerate(mult):
        for _ in range(layers):
            res(f"input_blocks.{n}.0", c, m * channels)
            c = m * channels
            spatial(f"input_blocks.{n}.1", c, depths[level])
            skips.append(c)
            n += 1
        if level < len(mult) - 1:
            add(f"input_blocks.{n}.0.op", c, c, 3, 3)
            skips.append(c)
            n += 1
    res("middle_block.0", c, c)
    spatial("middle_block.1", c, depths[-1])
    res("middle_block.2", c, c)
    n = 0
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            res(f"output_blocks.{n}.0", c + skips.pop(), mult[level] * channels)
            c = mult[level] * channels
            spatial(f"output_blocks.{n}.1", c, depths[level])
            if level and layer == layers:
                add(f"output_blocks.{n}.{2 if depths[level] else 1}.conv", c, c, 3, 3)
            n += 1
    add("out.0", c)
    add("out.2", 4, c, 3, 3)
    out |= {f"position_net.null_{kind}_feature": (width,) for kind in ("positive", "action")}
    out["position_net.null_position_feature"] = (64,)
    out["position_net.interaction_embedding.emb.weight"] = (slots, width)
    out["position_net.position_embedding.emb.weight"] = (3, width)
    for mlp in ("linears", "linear_action"):
        add(f"position_net.{mlp}.0", 512, width + 64)
        add(f"position_net.{mlp}.2", 512, 512)
        add(f"position_net.{mlp}.4", width, 512)
    return out


MICRO: dict[str, Any] = {}
XL: dict[str, Any] = {
    "channels": 64, "mult": (1, 2, 2), "layers": 1, "width": 2048, "slots": 32, "depths": (0, 1, 2), "y": 64,
}  # fmt: skip
SMALL: dict[str, Any] = {"channels": 320, "mult": (1,), "layers": 1}


def random_state(seed: int = 0, **size: Any) -> State:
    """Weights under which every path matters: gates open, nothing zero."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(**size).items():
        drawn = torch.randn(shape, generator=generator)
        if "alpha_" in name:
            state[name] = 0.7 * drawn.sign() + 0.1 * drawn
        elif "norm" in name or ".in_layers.0" in name or ".out_layers.0" in name or name.startswith("out.0"):
            state[name] = 1.0 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn
        elif name.startswith("position_net") and len(shape) < 2:
            state[name] = 0.3 * drawn
        else:
            state[name] = drawn / max(1, math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1 * drawn
    return state


def interactions(width: int = 768, count: int = 2, seed: int = 3) -> list[dict[str, Any]]:
    """Random phrases with boxes that overlap, and boxes that do not."""
    generator = torch.Generator().manual_seed(seed)
    boxes = [([0.1, 0.2, 0.6, 0.9], [0.4, 0.1, 0.8, 0.5]), ([0.0, 0.3, 0.2, 0.6], [0.7, 0.5, 0.95, 1.0])]
    out = []
    for n in range(count):
        phrase = {role: torch.randn(width, generator=generator) for role in ("subject", "action", "object")}
        out.append({**phrase, "subject_box": boxes[n % 2][0], "object_box": boxes[n % 2][1]})
    return out
