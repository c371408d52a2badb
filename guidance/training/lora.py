"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the attention of a U-Net, of diffusers or of ComfyUI.

An adapter is a forward hook on a linear layer, out + scale * up(down(x)); the layer itself, and whoever keeps, casts or
moves its weights, is left alone. So the model without its LoRA is the same model with the hooks silent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InterplayError

TARGETS = {
    "attn2": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "attn": tuple(f"attn{i}.to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out.0")),
}
TARGETS["attn+ff"] = (*TARGETS["attn"], "ff.net.0.proj", "ff.net.2")
FORMS = ("comfy", "kohya", "diffusers")
Names = Mapping[str, str]
"""Module names of a host's U-Net -> diffusers' names for them."""


class Adapter(nn.Module):
    """The two small matrices of one layer, fp32: down (rank, in), up (out, rank)."""

    def __init__(self, layer: Any, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape[:2]
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def change(self, x: Tensor) -> Tensor:
        """up(down(x)) in x's number format."""
        x = x.clone() if x.is_inference() and torch.is_grad_enabled() else x
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


class Lora(nn.Module):
    """The adapters of a network, which act on it from ``inject`` to ``remove``.

    names: what diffusers calls the network's modules; equal names where there is nothing to translate. known: False for
    networks without diffusers' names, whose files keep the network's own.
    """

    def __init__(self, adapters: Mapping[str, Adapter], rank: int, alpha: float, names: Names, known: bool) -> None:
        super().__init__()
        self.own = list(adapters)
        self.adapters = nn.ModuleList(adapters.values())
        self.rank, self.alpha, self.names, self.known = rank, alpha, dict(names), known
        self.strength, self.enabled = 1.0, True
        self.handles: list[Any] = []

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def attach(self, network: nn.Module) -> Lora:
        """Put the hooks into the network."""
        modules = dict(network.named_modules())
        for name, adapter in self._named():
            self.handles.append(modules[name].register_forward_hook(self._hook(adapter)))
        return self

    def _named(self) -> Iterator[tuple[str, Adapter]]:
        for name, adapter in zip(self.own, self.adapters, strict=True):
            assert isinstance(adapter, Adapter)
            yield name, adapter

    def _hook(self, adapter: Adapter) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not self.enabled:
                return None
            return output + adapter.change(args[0]).to(output.dtype) * (self.scale * self.strength)

        return hook

    def remove(self) -> None:
        """Take the hooks out; the network is the one it was."""
        while self.handles:
            self.handles.pop().remove()

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """While open the network is the one it was before."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def state(self, form: str = "comfy") -> dict[str, Tensor]:
        """The tensors of a LoRA file.

        form: "comfy" is what ComfyUI's LoraLoader reads whole (kohya's names where the network has diffusers' names,
        else ``diffusion_model.`` with its own), "kohya" as sd-scripts, A1111 and Forge write it, "diffusers" as
        ``load_lora_weights`` of diffusers wants it (ComfyUI drops two thirds of that form).
        """
        if form not in FORMS:
            raise InterplayError(f"The form of a LoRA file is one of {', '.join(FORMS)}, not '{form}'.")
        if not self.known and form != "comfy":
            raise InterplayError(f"A LoRA of this kind of model has no form '{form}'; save it in the form 'comfy'.")
        out: dict[str, Tensor] = {}
        for name, adapter in self._named():
            down, up = (m.detach().float().cpu().contiguous() for m in (adapter.down, adapter.up))
            if form == "diffusers":
                root = f"unet.{self.names[name]}"
                out |= {f"{root}.lora_A.weight": down, f"{root}.lora_B.weight": up * self.scale}
                continue
            root = _kohya(self.names[name]) if self.known else f"diffusion_model.{name}"
            out |= {f"{root}.lora_down.weight": down, f"{root}.lora_up.weight": up}
            out[f"{root}.alpha"] = torch.tensor(float(self.alpha))
        return out

    def take(self, state: Mapping[str, Tensor], source: str = "the LoRA") -> None:
        """Take over the tensors of a file in any of the three forms; ranks and alphas may differ from ours.

        Raises:
            InterplayError: a tensor is missing, left over or of another size.
        """
        left = dict(state)
        with torch.no_grad():
            for name, adapter in self._named():
                down, up = _pair(left, self._roots(name), source)
                shapes = (tuple(adapter.down.shape[1:]), tuple(adapter.up.shape[:1]))
                if down.shape[0] > self.rank or (tuple(down.shape[1:]), tuple(up.shape[:1])) != shapes:
                    raise InterplayError(
                        f"{source} is of another model or of a higher rank than {self.rank} ({name}: "
                        f"{tuple(up.shape)} x {tuple(down.shape)}); choose its own model and rank."
                    )
                rank = down.shape[0]
                for whole, part, axis in ((adapter.down, down, 0), (adapter.up, up / self.scale, 1)):
                    whole.zero_()
                    whole.narrow(axis, 0, rank).copy_(part)
        if left:
            raise InterplayError(f"{source} has tensors that nothing here takes, such as {sorted(left)[0]}.")

    def _roots(self, name: str) -> list[str]:
        other = self.names.get(name, name)
        return [_kohya(other), f"unet.{other}", f"diffusion_model.{name}", _kohya(name)]


def inject(
    network: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    targets: str = "attn",
    seed: int = 0,
    names: Names | None = None,
    known: bool = True,
) -> Lora:
    """A new LoRA on the network's attention layers; at first it changes nothing (up is zero).

    Args:
        network: diffusers' UNet2DConditionModel, ComfyUI's UNetModel, or anything with attention named as theirs.
        rank, alpha: the change is alpha / rank * up(down(x)); alpha is the rank where None.
        targets: one of TARGETS: cross-attention; cross- and self-attention; these and the feed-forward layers.
        seed: of the matrices ``down``, drawn from N(0, 1 / rank^2).
        names: see ``Lora``; None where the network has diffusers' own names.

    Raises:
        InterplayError: bad settings, or a network without such layers.
    """
    if targets not in TARGETS:
        raise InterplayError(f"The LoRA's targets are one of {', '.join(TARGETS)}, not '{targets}'.")
    if not 1 <= rank <= 1024:
        raise InterplayError(f"The LoRA's rank is {rank}; give 1 to 1024, such as 8.")
    wanted = tuple(f".{end}" for end in TARGETS[targets])
    generator, adapters = torch.Generator().manual_seed(seed), dict[str, Adapter]()
    device = next(network.parameters()).device
    for name, module in network.named_modules():
        if f".{name}".endswith(wanted) and getattr(module, "weight", None) is not None:
            adapters[name] = Adapter(module, rank, generator).to(device)
    if not adapters:
        raise InterplayError(
            f"{type(network).__name__} has no attention layers named as Stable Diffusion's (attn1, attn2), so it takes "
            "no LoRA of this trainer: use a model of SD1.x, SD2.x or SDXL."
        )
    names = {name: name for name in adapters} if names is None else names
    missing = [name for name in adapters if name not in names]
    known = known and not missing
    chosen = {name: names.get(name, name) for name in adapters}
    return Lora(adapters, rank, float(rank if alpha is None else alpha), chosen, known).attach(network)


@contextlib.contextmanager
def applied(network: nn.Module, state: Mapping[str, Tensor], strength: float = 1.0, **names: Any) -> Iterator[Lora]:
    """While open the network has the LoRA of these tensors, at this strength (see ``Lora.take``)."""
    lora = inject(network, _rank(state), targets=_targets(state), **names)
    try:
        lora.take(state)
        lora.strength = strength
        yield lora
    finally:
        lora.remove()


def _rank(state: Mapping[str, Tensor]) -> int:
    found = [v.shape[0] for k, v in state.items() if k.endswith(("lora_down.weight", "lora_A.weight"))]
    if not found:
        raise InterplayError("This file holds no LoRA of attention layers; give one that a trainer has written.")
    return max(found)


def _targets(state: Mapping[str, Tensor]) -> str:
    text = " ".join(state)
    if "ff_net" in text or "ff.net" in text:
        return "attn+ff"
    return "attn" if "attn1" in text else "attn2"


def lora_parameters(lora: Lora) -> list[nn.Parameter]:
    """What is trained, in an order that stays."""
    return list(lora.parameters())


def lora_off(lora: Lora) -> contextlib.AbstractContextManager[None]:
    """While open the network is the one it was before."""
    return lora.off()


def lora_state(lora: Lora, form: str = "comfy") -> dict[str, Tensor]:
    """See ``Lora.state``."""
    return lora.state(form)


# --- files ------------------------------------------------------------------------------------------------------------


def save(lora: Lora, path: Path, form: str = "comfy", base: str = "sd_v1", **about: Any) -> Path:
    """Write a safetensors file, whole or not at all, and read it back before returning.

    base: kohya's name of the base model. about: further metadata, such as the objective.

    Raises:
        InterplayError: it can't be written, or what was read back is not what was written.
    """
    from safetensors.torch import save_file

    state = lora.state(form)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(lora.alpha),
        "ss_base_model_version": base,
        "ss_v2": str(base.startswith("sd_v2")),
        "modelspec.architecture": f"{base}/lora",
        "modelspec.title": path.stem,
        "modelspec.sai_model_spec": "1.0.0",
        **{f"interplay.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in about.items()},
    }
    half = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, str(half), metadata)
        half.replace(path)
    except OSError as error:
        raise InterplayError(f"The LoRA can't be written to {path} ({error.strerror}); choose another place.") from None
    again = load(path)
    if again.keys() != state.keys() or any(not torch.equal(again[k], state[k]) for k in state):
        raise InterplayError(f"{path} does not read as it was written; look after the disk and save again.")
    return path


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file (safetensors only)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InterplayError(f"The LoRA {path} cannot be read ({error}); give a .safetensors file.") from error


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A short hash of the tensors."""
    total = hashlib.sha256()
    for key in sorted(state):
        total.update(key.encode() + state[key].detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


_ENDS = (
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora.down.weight", "lora.up.weight"),
)


def _pair(left: dict[str, Tensor], roots: Sequence[str], source: str) -> tuple[Tensor, Tensor]:
    """down and up of one layer, up already scaled by its alpha; both are taken out of ``left``."""
    for root in roots:
        for down_end, up_end in _ENDS:
            if f"{root}.{down_end}" in left and f"{root}.{up_end}" in left:
                down = left.pop(f"{root}.{down_end}").float().flatten(1)
                up = left.pop(f"{root}.{up_end}").float().flatten(1)
                alpha = left.pop(f"{root}.alpha", None)
                return down, up * (float(alpha) / down.shape[0] if alpha is not None else 1.0)
    raise InterplayError(
        f"{source} has nothing for the layer {roots[1].removeprefix('unet.')}; it is of another model."
    )
