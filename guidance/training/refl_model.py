"""What the reward trainers need of a diffusion model, and how they walk down its noise levels.

Everything is written in the clean latent x0 and two numbers of a noise level: x = signal * x0 + noise * eps. So the
same lines hold for eps, v and flow models, and for hosts that scale their latents differently.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import InterplayError
from .steering import Steering

if TYPE_CHECKING:
    from ..engine import Capture

HEAVY = {  # blocks of U-Nets and decoders of both hosts that are worth running twice instead of keeping
    "ResBlock",
    "SpatialTransformer",
    "ResnetBlock2D",
    "Transformer2DModel",
    "ResnetBlock",
    "AttnBlock",
}


@dataclass(frozen=True)
class Rung:
    """A noise level: the host's name for it, and the shares of picture and noise in x. Numbers, or tensors for a level
    of each row: name (B,), signal and noise (B, 1, 1, 1).
    """

    name: Any
    signal: Any
    noise: Any


def stacked(rungs: Sequence[Rung], device: torch.device | str = "cpu") -> Rung:
    """One level for each row of a batch."""
    name, signal, noise = torch.tensor([[r.name, r.signal, r.noise] for r in rungs], device=device).T
    return Rung(name, signal.view(-1, 1, 1, 1), noise.view(-1, 1, 1, 1))


class Trainee(Protocol):
    """A latent diffusion model with a LoRA in it. Latents are those the network sees, (B, C, h, w)."""

    name: str
    shape: tuple[int, ...]  # of one latent, (C, h, w)

    def ladder(self, count: int) -> list[Rung]:
        """``count`` noise levels, the noisiest first."""

    def random_rung(self, u: float) -> Rung:
        """The noise level at a share ``u`` in [0, 1) of the training schedule; 0 is almost clean."""

    def condition(self, prompts: Sequence[str]) -> Any:
        """The prompts as the network takes them; never has a gradient."""

    def denoise(self, x: Tensor, rung: Rung, condition: Any) -> Tensor:
        """The network's estimate of the clean latent, with a gradient to the LoRA where gradients are on."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [0, 1], with a gradient to the latents where gradients are on."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""

    def adapter_off(self) -> AbstractContextManager[None]:
        """While open the model is the one it was before."""

    def reading(self, prompt: str, count: int, rung: Rung) -> tuple[Capture, float]:
        """See ``steering.Readable``; only asked for where walks are guided."""

    def heavy(self) -> Iterable[nn.Module]:
        """Networks whose blocks may be run twice to save memory: U-Net and decoder."""

    def device(self) -> torch.device:
        """Where latents live."""


def seed_of(*names: object) -> int:
    """A seed that depends on nothing but its names, so that a run can go on anywhere without keeping random states."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, names)).encode()).digest()[:7], "big")


def shuffled(turn: int, count: int, *names: object) -> int:
    """Which of ``count`` things is met in turn number ``turn``: each once a pass, every pass in an order of its own."""
    epoch, place = divmod(turn, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(*names, epoch)))
    return int(order[place])


def noise_like(model: Trainee, names: Sequence[Sequence[object]]) -> Tensor:
    """Standard normal latents (B, C, h, w), one seed for each of ``names``; the same on every device."""
    made = [torch.randn(model.shape, generator=torch.Generator().manual_seed(seed_of(*name))) for name in names]
    return torch.stack(made).to(model.device())


def noise_of(x: Tensor, clean: Tensor, rung: Rung) -> Tensor:
    """The noise that x and the estimate of its clean latent imply."""
    return (x - rung.signal * clean) / rung.noise


def descend(x: Tensor, clean: Tensor, here: Rung, there: Rung, eta: float, fresh: Tensor | None) -> Tensor:
    """One step down (Song et al. 2021, eq. 12): eta 0 is DDIM, eta 1 is ancestral (DDPM). fresh: noise for eta > 0."""
    eps = noise_of(x, clean, here)
    if eta == 0.0 or fresh is None or there.noise == 0.0:
        return there.signal * clean + there.noise * eps
    ratio = (here.signal / there.signal) * (there.noise / here.noise)
    # With sigma = noise / signal: the paper's eq. 16 where variance is kept, and an ancestral step of Euler elsewhere.
    up = eta * there.noise * max(0.0, 1.0 - ratio**2) ** 0.5 if ratio < 1 else 0.0
    keep = max(there.noise**2 - up**2, 0.0) ** 0.5
    return there.signal * clean + keep * eps + up * fresh


@dataclass(frozen=True)
class Conditions:
    """What a walk is steered by: the prompts, and the empty prompt where CFG is used."""

    prompts: Any
    empty: Any = None
    cfg: float = 1.0
    steering: Steering | None = None


def conditions(model: Trainee, prompts: Sequence[str], cfg: float, guide: str = "", steps: int = 25) -> Conditions:
    """Of these prompts; the empty prompt is only asked for where ``cfg`` is not 1. guide: a preset of guidance that
    moves the latents on the way ("": none), of ``steps`` steps.
    """
    empty = None if cfg == 1.0 else model.condition([""] * len(prompts))
    steering = Steering(model, prompts, guide, steps) if guide else None
    return Conditions(model.condition(prompts), empty, cfg, steering)


def steered(x: Tensor, rungs: Sequence[Rung], i: int, said: Conditions) -> Tensor:
    """x at rung ``i`` as guidance moves it; x itself where there is none."""
    return x if said.steering is None else said.steering(x, rungs[i], i)


def guided(model: Trainee, x: Tensor, rung: Rung, said: Conditions) -> Tensor:
    """The clean estimate under classifier-free guidance."""
    clean = model.denoise(x, rung, said.prompts)
    if said.empty is None:
        return clean
    without = model.denoise(x, rung, said.empty)
    return without + said.cfg * (clean - without)


def walk(
    model: Trainee,
    said: Conditions,
    rungs: Sequence[Rung],
    stop: int,
    noise: Tensor,
    eta: float = 0.0,
    fresh: Any = None,
    carry: frozenset[int] = frozenset(),
) -> Tensor:
    """Walk from pure noise to rung ``stop`` and return the clean estimate there, (B, C, h, w), with a gradient.

    The call at ``stop`` carries the gradient (ReFL, arXiv 2304.05977, algorithm 1). Calls at the rungs in ``carry`` do
    so too, with their input cut off, so that the chain between them is linear and its length costs nothing (as in
    DRTune, arXiv 2405.00760). All others run without a graph. noise: standard normal. fresh: step -> noise for eta > 0.
    """
    x = noise * rungs[0].noise
    for i in range(stop):
        x = steered(x, rungs, i, said)
        with contextlib.nullcontext() if i in carry else torch.no_grad():
            found = guided(model, x.detach(), rungs[i], said)
        clean = _onto(x, found, rungs[i])
        x = descend(x, clean, rungs[i], rungs[i + 1], eta, fresh(i) if eta > 0 and fresh else None)
    x = steered(x, rungs, stop, said)
    return _onto(x, guided(model, x.detach(), rungs[stop], said), rungs[stop])


def _onto(x: Tensor, found: Tensor, rung: Rung) -> Tensor:
    """The clean estimate ``found`` at x's value, with the gradient of the linear part of x beside the network's own."""
    if not x.requires_grad:
        return found
    eps = noise_of(x.detach(), found, rung)
    return (x - rung.noise * eps) / rung.signal


@torch.no_grad()
def draw(
    model: Trainee, prompts: Sequence[str], names: Sequence[Sequence[object]], steps: int, cfg: float, guide: str = ""
) -> Tensor:
    """Clean latents (B, C, h, w) of DDIM sampling; names: of the noise of each picture, see ``noise_like``."""
    rungs, said = model.ladder(steps), conditions(model, prompts, cfg, guide, steps)
    return walk(model, said, rungs, len(rungs) - 1, noise_like(model, names))


@contextlib.contextmanager
def twice_instead_of_kept(networks: Iterable[nn.Module], enabled: bool = True) -> Iterator[None]:
    """While open, blocks named in HEAVY keep nothing for the backward pass but their inputs and run again in it."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for network in networks if enabled else ():
            for module in network.modules():
                if type(module).__name__ in HEAVY:
                    changed.append((module, module.__dict__.get("forward")))
                    module.forward = _again(module.forward)  # type: ignore[method-assign]
        yield
    finally:
        for module, own in changed:
            if own is None:
                del module.forward
            else:
                module.forward = own  # type: ignore[method-assign]


def _again(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def crop(latents: Tensor, side: int | None, name: Sequence[object]) -> Tensor:
    """A square part of the latents, at a random place that ``name`` fixes; the whole where ``side`` is None."""
    if side is None or (side >= latents.shape[-1] and side >= latents.shape[-2]):
        return latents
    height, width = latents.shape[-2:]
    if side < 1:
        raise InterplayError(f"The crop for decoding is {side} latent pixels; give at least 1, or 0 for the whole.")
    generator = torch.Generator().manual_seed(seed_of(*name))
    top = int(torch.randint(0, max(height - side, 0) + 1, (), generator=generator))
    left = int(torch.randint(0, max(width - side, 0) + 1, (), generator=generator))
    return latents[..., top : top + side, left : left + side]
