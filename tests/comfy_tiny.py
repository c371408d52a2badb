"""A tiny random Stable Diffusion made of ComfyUI's own classes, built inside inference mode as checkpoints are."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

PROMPT = "a red cat chases a dog"
LENGTH = 9
CONTEXT = 24

BASE = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "channel_mult": [1, 2],
    "num_heads": -1,
    "num_head_channels": 16,
    "use_spatial_transformer": True,
    "context_dim": CONTEXT,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "legacy": False,
    "use_checkpoint": False,
}
SD2 = {"use_linear_in_transformer": True, "model_channels": 64, "channel_mult": [1, 1]}  # heads of 64 by family
SDXL = {
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2],
    "transformer_depth_middle": 2,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}


def build(
    family: str = "SD15",
    dtype: torch.dtype = torch.float32,
    manual_cast: torch.dtype | None = None,
    seed: int = 0,
    state: dict[str, Tensor] | None = None,
    **changes: Any,
) -> Any:
    """A ModelPatcher of a tiny U-Net with random weights, or with a quantised ``state``. family: SD15, SD20 or SDXL."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = {**BASE, **{"SD20": SD2, "SDXL": SDXL}.get(family, {}), "dtype": dtype, **changes}
    kind = getattr(comfy.supported_models, family)(config)
    kind.set_inference_dtype(dtype, manual_cast)
    if state is not None:
        kind.quant_config = {"mixed_ops": True}
    network = (comfy.model_base.SDXL if family == "SDXL" else comfy.model_base.BaseModel)(kind)
    network.diffusion_model.load_state_dict(weights(network.diffusion_model, seed) if state is None else state)
    network.eval()
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=device)


def weights(unet: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in unet.state_dict().items():
        if value.ndim > 1:
            drawn = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
            state[key] = drawn.to(value.dtype)
        else:
            state[key] = torch.full(value.shape, 1.0 if key.endswith("weight") else 0.0).to(value.dtype)
    return state


def quantised(state: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """A checkpoint in which the attention and feed-forward matrices are quantised, as ComfyUI saves them."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.ndim != 2 or "transformer_blocks" not in key:
            out[key] = value
            continue
        packed = QuantizedTensor.from_float(value, QUANT_ALGOS[form]["comfy_tensor_layout"], scale="recalculate")
        out.update(packed.state_dict(key))
        note = json.dumps({"format": form}).encode()
        out[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    return out


def text(seed: int = 1, tokens: int = LENGTH, **extra: Any) -> list[list[Any]]:
    """CONDITIONING of random vectors."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[3.0 * torch.randn(1, tokens, CONTEXT, generator=generator), {"pooled_output": pooled, **extra}]]


def hypergraph() -> Any:
    """'a red cat chases a dog': two vertices and an action."""
    from interplay.parsing.hypergraph import Hyperedge, Hypergraph, Modifier, Participant, Vertex

    red, cat, chases, dog = ((PROMPT.index(w), PROMPT.index(w) + len(w)) for w in ("red", "cat", "chases", "dog"))
    vertices = (Vertex("v0", "cat", cat, (Modifier("red", red),)), Vertex("v1", "dog", dog))
    parties = (Participant("subject", "v0"), Participant("object", "v1"))
    return Hypergraph(PROMPT, vertices, (Hyperedge("e0", "action", "chases", (chases,), parties),))


def table(encoder: str = "l") -> Any:
    """One position for each word, after the start token."""
    from interplay.parsing.tokens import Piece, TokenTable

    pieces, at = [], 0
    for index, word in enumerate(PROMPT.split()):
        start = PROMPT.index(word, at)
        at = start + len(word)
        pieces.append(Piece((start, at), word, 100 + index, index + 1))
    return TokenTable(encoder, LENGTH, tuple(pieces))


def guided_text(seed: int = 1, **extra: Any) -> list[list[Any]]:
    """CONDITIONING that carries the hypergraph."""
    from interplay.guidance.hosts.comfyui.conditioning import attach

    return attach(text(seed, **extra), hypergraph(), {"l": table()})


def settings(**changes: Any) -> Any:
    """Guidance that is always on and never satisfied, so that every run moves."""
    from guidance_cases import gentle

    plain = {"end": 1.0, "off_switch": False, "early_stop": False, "skip_met": False, "targets": ()}
    return gentle("SHY", **{**plain, **changes})


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    sampler: str = "euler",
    scheduler: str = "normal",
    steps: int = 4,
    cfg: float = 3.0,
    seed: int = 5,
    batch: int = 1,
    size: tuple[int, int] = (16, 16),
    denoise: float = 1.0,
    mask: Tensor | None = None,
    latent: Tensor | None = None,
    noise: Tensor | None = None,
    callback: Any = None,
) -> Tensor:
    """ComfyUI's own sampling call, inside inference mode as its executor runs it."""
    import comfy.sample

    with torch.inference_mode():
        if latent is None:
            latent = torch.zeros(batch, 4, *size) if noise is None else torch.zeros_like(noise)
        noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
            denoise=denoise, noise_mask=mask, seed=seed, disable_pbar=True, callback=callback,
        )  # fmt: skip


def at_step(
    model: Any,
    positive: Any,
    function: Any,
    negative: Any = None,
    sigma: float = 4.0,
    batch: int = 1,
    size: tuple[int, int] = (16, 16),
    mask: Tensor | None = None,
    seed: int = 3,
    latent: Tensor | None = None,
) -> Any:
    """What ``function`` makes of the GuidedPass that a sampler would have at ``sigma``, with the host all set up."""
    import comfy.sample
    import comfy.samplers
    from interplay.guidance.hosts.comfyui.passes import GuidedPass
    from interplay.guidance.hosts.comfyui.run import token_graphs

    found = []

    def sampler(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **kwargs: Any) -> Tensor:
        place = GuidedPass(guider, model_k, x, sigmas[0] * x.new_ones(len(x)), extra_args, token_graphs(guider))
        found.append(function(place))
        return x

    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative or text(2))
        guider.set_cfg(3.0)
        if latent is None:
            latent = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(seed + 1))
        noise = comfy.sample.prepare_noise(latent, seed)
        sigmas = torch.tensor([sigma, 0.0])
        kind = comfy.samplers.KSAMPLER(sampler)
        guider.sample(noise, latent, kind, sigmas, denoise_mask=mask, disable_pbar=True, seed=seed)
    return found[0]


def probe(maps: Tensor) -> Tensor:
    """A loss that sees every map: a fixed random sum, scaled to the maps."""
    weights = torch.randn(maps.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    return (maps.double() * weights).sum() * 100.0


def gradient(place: Any) -> Tensor:
    """d probe / dz of all guided conds at a GuidedPass."""
    with torch.inference_mode(False), torch.enable_grad():
        z = place.z.clone().requires_grad_()
        loss = sum(probe(found.maps) for found in place.capture(z))
        return torch.autograd.grad(loss, z)[0]


def slope(place: Any, direction: Tensor, width: float = 0.005) -> float:
    """d probe along ``direction`` by central differences, without any gradient."""
    values = []
    for side in (width, -width):
        with torch.inference_mode(False), torch.no_grad():
            values.append(float(sum(probe(found.maps) for found in place.capture(place.z + side * direction))))
    return (values[0] - values[1]) / (2 * width)


def direction(place: Any, seed: int = 7) -> Tensor:
    """A random unit direction in network space."""
    drawn = torch.randn(place.z.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()
