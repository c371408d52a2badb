"""A model that sees whether a PixelWorld picture shows what a prompt says, with a gradient to the picture.

It stands where BLIP-2 stands for photographs. For each kind of object it says how often it is there, in which colour,
size and pattern, and which part it has in the action; for the picture, which action and environment. The likelihood of
a prompt is that of the facts in it. Trained on pictures with known truth and on what the model that is to be trained
makes of them half-way (see ``refl_matcher_train``); it never sees a held-out combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InterplayError
from ..pixelworld.world import ACTIONS, COLOURS, ENVIRONMENTS, OBJECTS, PATTERNS, SIZES, Request, request

FILE = Path(__file__).parent / "data" / "pixelworld_matcher.safetensors"
SIDE = 32
COUNTS = 3  # none, one, more
ROLES = ("", "subject", "target")
HEADS = {
    "count": COUNTS,
    "colour": len(COLOURS),
    "size": len(SIZES) + 1,
    "pattern": len(PATTERNS) + 1,
    "role": len(ROLES),
}
GLOBAL = {"action": len(ACTIONS) + 1, "environment": len(ENVIRONMENTS)}
FACTS = 24.0  # facts in a prompt, about: twelve kinds that are there or not, and what is said of those that are
UNSAID = -1  # a fact that the prompt leaves open


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels) for _ in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.silu(norm(h)))
        return x + h


class Matcher(nn.Module):
    """Pictures to log-probabilities of facts."""

    def __init__(self, fine: int = 48, width: int = 96) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, fine, 3, padding=1)
        self.fine = nn.Sequential(_Block(fine), _Block(fine))
        self.down = nn.Conv2d(fine, width, 4, stride=2, padding=1)
        self.coarse = nn.Sequential(_Block(width), _Block(width))
        self.side = nn.Conv2d(fine, width, 1)
        self.places = nn.Parameter(torch.randn(256, width) * 0.3)
        self.queries = nn.Parameter(torch.randn(len(OBJECTS) + 1, width) * 0.5)
        layer = {"dim_feedforward": 2 * width, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList([nn.TransformerDecoderLayer(width, 4, **layer) for _ in range(2)])  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in HEADS.items()})
        self.whole = nn.ModuleDict({name: nn.Linear(width, n) for name, n in GLOBAL.items()})

    def forward(self, art: Tensor) -> dict[str, Tensor]:
        """Art (B, 3, 32, 32) in [-1, 1] to log-probabilities: (B, 12, n) of each of HEADS, (B, n) of each of GLOBAL."""
        return self.answer(self.look(art))

    def look(self, art: Tensor) -> Tensor:
        """Art to what is seen at each of its 16x16 cells, (B, 256, width)."""
        h = self.fine(self.stem(F.pixel_unshuffle(art, 2)))
        g = F.interpolate(self.coarse(self.down(h)), scale_factor=2.0, mode="nearest")
        return (self.side(h) + g).flatten(2).transpose(1, 2)

    def answer(self, seen: Tensor) -> dict[str, Tensor]:
        """The facts, from what is seen."""
        asked, memory = self.queries.expand(len(seen), -1, -1), seen + self.places
        for layer in self.layers:
            asked = layer(asked, memory)
        asked = self.norm(asked)
        out = {name: head(asked[:, :-1]).log_softmax(-1) for name, head in self.heads.items()}
        return out | {name: head(asked[:, -1]).log_softmax(-1) for name, head in self.whole.items()}


def art(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], H and W multiples of 32, to art (B, 3, 32, 32) in [-1, 1]."""
    if images.shape[-2] % SIDE or images.shape[-1] % SIDE or images.shape[-2] != images.shape[-1]:
        raise InterplayError(
            f"PixelWorld's matching model takes squares of a multiple of 32 pixels, not {images.shape[-1]}x"
            f"{images.shape[-2]}: draw 128x128."
        )
    return F.avg_pool2d(images, images.shape[-1] // SIDE) * 2 - 1


def wanted_facts(asked: Request) -> dict[str, Tensor]:
    """The facts of a prompt as class numbers, UNSAID where it leaves them open: (12,) of each of HEADS, () of GLOBAL.

    Kinds that it does not name are to be absent; sizes and patterns that it does not name are the plain ones, as the
    detector's "all right" has it.
    """
    facts = {name: torch.full((len(OBJECTS),), UNSAID) for name in HEADS}
    facts["count"][:] = 0
    for place, thing in enumerate(asked.things):
        kind = OBJECTS.index(thing.object)
        facts["count"][kind] = min(int(facts["count"][kind]) + 1, COUNTS - 1)
        if thing.colour:
            facts["colour"][kind] = list(COLOURS).index(thing.colour)
        facts["size"][kind] = SIZES.index(thing.size) + 1 if thing.size else 0
        facts["pattern"][kind] = PATTERNS.index(thing.pattern) + 1 if thing.pattern else 0
        if asked.action:
            facts["role"][kind] = place + 1 if place < 2 else 0
    facts["action"] = torch.tensor(ACTIONS.index(asked.action) + 1 if asked.action else 0)
    facts["environment"] = torch.tensor(ENVIRONMENTS.index(asked.environment) if asked.environment else UNSAID)
    return facts


@cache
def _facts(prompt: str) -> dict[str, Tensor]:
    return wanted_facts(request(prompt))


def log_likelihood(said: dict[str, Tensor], facts: dict[str, Tensor]) -> Tensor:
    """Summed log-probability of the facts that are named, (B,). said: of ``Matcher``; facts: (B, 12) or (B,) each."""
    total = torch.zeros(len(said["action"]), device=said["action"].device)
    for name, logs in said.items():
        wanted = facts[name].to(logs.device)
        picked = logs.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (wanted != UNSAID)
        total = total + (picked if picked.ndim == 1 else picked.sum(-1))
    return total


def prompt_log_likelihood(model: nn.Module, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-probability (B,) that the pictures (B, 3, H, W) in [0, 1] show what their prompts say; has a gradient."""
    every = [_facts(prompt) for prompt in prompts]
    facts = {name: torch.stack([one[name] for one in every]) for name in (*HEADS, *GLOBAL)}
    return log_likelihood(model(art(images.float())), facts)


def load_matcher(file: Path = FILE) -> Matcher:
    """The frozen model, in eval mode.

    Raises:
        InterplayError: its file is missing or of another shape.
    """
    from safetensors.torch import load_file

    model = Matcher()
    try:
        model.load_state_dict({name: value.float() for name, value in load_file(str(file)).items()})
    except (OSError, RuntimeError, ValueError) as error:
        raise InterplayError(
            f"PixelWorld's matching model {file.name} cannot be read ({type(error).__name__}); reinstall Interplay or "
            "train it with `python -m interplay.guidance.training.refl_matcher_train`."
        ) from error
    return model.requires_grad_(False).eval()
