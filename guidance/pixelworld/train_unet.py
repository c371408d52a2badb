"""Stage two of training: U-Net and text encoder together, on scenes drawn and encoded as they are needed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import autoencoder, data, network
from .train_autoencoder import load_autoencoder, save_atomically
from .world import (
    ACTIONS,
    CARELESS,
    COLOURS,
    ENVIRONMENTS,
    LESS_CARELESS,
    OBJECTS,
    PATTERNS,
    SIZES,
    Carelessness,
    sample_scene,
)

logger = logging.getLogger(__name__)

SMALL_WORDS = ("a", "an", "the", "in", "is", "of", "picture", "photo", "pixel", "art", "drawing", "and", "nearby", ",")
WORDS = (*OBJECTS, *COLOURS, *SIZES, *PATTERNS, *ACTIONS, *ENVIRONMENTS, *SMALL_WORDS)
VOCABULARY = Path(__file__).parent / "weights" / "tokenizer" / "vocab.json"
SAVE_EVERY = 120.0  # seconds
LOG_EVERY = 50  # steps
CAREFUL_FROM = 0.75  # share of the time after which captions are less careless


@dataclass(frozen=True)
class Settings:
    """What a run of this stage needs to know."""

    out: Path
    minutes: float  # wall-clock time after which the learning rate has fallen to zero, counted over all resumed parts
    batch: int = 12  # of each process
    rate: float = 1e-3
    attention: float = 0.03  # weight of the attention loss
    ema: float = 0.998  # decay a step
    seed: int = 0
    channels: tuple[int, int] = (64, 128)  # of the U-Net's two levels, multiples of 32
    compile: bool = True
    bfloat16: bool = False  # autocast the forward; worth it where the processor has bfloat16 instructions
    processes: int = 2


class Lexicon:
    """CLIP's ids to the few embedding rows that training needs: 0 unknown, 1 begin, 2 end, then the world's words."""

    def __init__(self, vocabulary: Path = VOCABULARY) -> None:
        self.vocabulary = data.vocabulary(vocabulary)
        self.rows = {data.BOS: 1, data.EOS: 2}
        for word in WORDS:
            self.rows[self.vocabulary[word + "</w>"]] = len(self.rows) + 1

    def __len__(self) -> int:
        return len(self.rows) + 1

    def ids(self, prompt: str, rng: Random | None = None) -> list[int]:
        """77 rows; with ``rng`` a word is rarely swapped for the unknown one."""
        ids = data.vary(prompt, rng, self.vocabulary) if rng and prompt else data.token_ids(prompt, self.vocabulary)
        return [self.rows.get(i, 0) for i in ids]


def build(rows: int, seed: int, channels: Sequence[int] = (64, 128)) -> tuple[network.Watched, nn.Module]:
    """A new U-Net (with watched attention, ``channels`` a level) and a text encoder with ``rows`` embedding rows."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = network.Watched(UNet2DConditionModel(**network.unet(channels)))
    special = {"vocab_size": rows, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    text = CLIPTextModel(CLIPTextConfig(**{**network.TEXT, **special})).train()
    with torch.no_grad():  # CLIP's own initial sizes are meant for long training
        for name, parameter in text.named_parameters():
            if "token_embedding" in name:
                parameter.normal_(std=0.5)
            elif "position_embedding" in name:
                parameter.normal_(std=0.1)
    return unet, text


def scene_batch(size: int, lexicon: Lexicon, vae: Any, rng: Random, how: Carelessness = CARELESS) -> dict[str, Tensor]:
    """Scenes of one step: latents (B, 4, 16, 16), ids and regions (B, 77), masks (B, 4, 16, 16)."""
    scenes = [sample_scene(rng) for _ in range(size)]
    captions = [data.training_caption(scene, rng, how) for scene in scenes]
    masks = np.stack([data.cell_masks(scene) for scene in scenes]).astype(np.float32)
    with torch.no_grad():
        latents = autoencoder.encode_small(vae, torch.from_numpy(data.pictures(scenes)))
    return {
        "latents": latents * autoencoder.CONFIG["scaling_factor"],
        "ids": torch.tensor([lexicon.ids(c, rng) for c in captions]),
        "regions": torch.tensor([data.word_regions(c, s) for c, s in zip(captions, scenes, strict=True)]),
        "masks": torch.from_numpy(masks),
    }


def timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Stratified steps (n,); only one in eight falls below 200, where little is left to decide."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    t = torch.where(u < 0.12, u / 0.12 * 200, 200 + (u - 0.12) / 0.88 * 800)
    return t.long().clamp(0, 999)


def losses(unet: Any, text: nn.Module, batch: dict[str, Tensor], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The weighted noise loss and the attention loss of a batch.

    The weight of the noise error is sqrt(min(SNR, 5)) / SNR: min-SNR (Hang et al. 2023, arXiv 2303.09556) with more
    weight on the noisy steps, because that is where the layout is decided. The attention loss fades with the
    picture's share in the noisy latent.
    """
    z = batch["latents"]
    t = timesteps(len(z), g)
    a = network.alphas()[t].view(-1, 1, 1, 1)
    noise = torch.randn(z.shape, generator=g)
    context = text(input_ids=batch["ids"]).last_hidden_state
    predicted, fine, coarse = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context)
    snr = a / (1 - a)
    weight = snr.clamp(max=5).sqrt() / snr
    error = (weight * (predicted.float() - noise).pow(2)).mean()
    visible = a.flatten().sqrt()
    small = nn.functional.max_pool2d(batch["masks"], 2)
    watch = network.attention_loss(fine, batch["masks"].flatten(2), batch["regions"], visible)
    return error, watch + network.attention_loss(coarse, small.flatten(2), batch["regions"], visible)


class Run:
    """The state of a run: models, their moving average, optimiser, time spent. Kept in ``unet.pt``."""

    def __init__(self, settings: Settings, rank: int) -> None:
        self.settings, self.rank, self.path = settings, rank, settings.out / "unet.pt"
        self.lexicon, self.vae = Lexicon(), load_autoencoder(settings.out / "autoencoder.pt")
        self.unet, self.text = build(len(self.lexicon), settings.seed, settings.channels)
        self.both = nn.ModuleList([self.unet.unet, self.text])
        self.parameters = list(self.both.parameters())
        options: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True}
        self.optimiser = torch.optim.AdamW(self.parameters, settings.rate, **options)
        self.ema = {key: value.clone() for key, value in self.both.state_dict().items()}
        self.spent, self.step = 0.0, 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.both.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.spent, self.step = state["ema"], state["spent"], state["step"]
        self.rng = Random(f"unet {settings.seed} {rank} {self.step}")
        self.noise = torch.Generator().manual_seed(settings.seed * 7919 + rank * 104729 + self.step)
        self.forward = torch.compile(self.unet) if settings.compile else self.unet

    @property
    def fraction(self) -> float:
        """Share of the time that is spent."""
        return self.spent / (60 * self.settings.minutes)

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"model": self.both.state_dict(), "optimiser": self.optimiser.state_dict(), "ema": self.ema}
        save_atomically({**state, "spent": self.spent, "step": self.step}, self.path)

    def advance(self) -> np.ndarray:
        """One step; returns the noise loss and the attention loss."""
        rate = self.settings.rate * min(1, (self.step + 1) / 200) * min(1, 2.2 * (1 - self.fraction)) + 1e-7
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        how = CARELESS if self.fraction < CAREFUL_FROM else LESS_CARELESS
        batch = scene_batch(self.settings.batch, self.lexicon, self.vae, self.rng, how)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            error, watch = losses(self.forward, self.text, batch, self.noise)
        self.optimiser.zero_grad()
        (error + self.settings.attention * watch).backward()
        if self.settings.processes > 1:
            _average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        now = self.both.state_dict()
        decay = min(self.settings.ema, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [now[key] for key in self.ema], 1 - decay)
        return np.array([error.item(), watch.item()])


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over the processes, in one message."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def _shared(seconds: float, processes: int) -> float:
    """Process 0's reading of the clock: all must agree on it, or one would leave the loop before the others."""
    clock = torch.tensor([seconds])
    if processes > 1:
        dist.broadcast(clock, 0)
    return clock.item()


def train_unet(settings: Settings, rank: int = 0) -> None:
    """Train until ``settings.minutes`` are spent, resuming from ``unet.pt``.

    Process 0 saves every two minutes and adds a line to ``curve.jsonl`` every 50 steps.
    """
    torch.set_num_threads(1)
    run = Run(settings, rank)
    total, saved, seen = np.zeros(2), run.spent, time.monotonic()
    while run.fraction < 1:
        total += run.advance()
        elapsed = _shared(time.monotonic() - seen, settings.processes)
        seen, run.spent = time.monotonic(), run.spent + elapsed
        if rank == 0 and run.step % LOG_EVERY == 0:
            _log(run, total / LOG_EVERY)
            total[:] = 0
        if rank == 0 and (run.spent - saved > SAVE_EVERY or run.fraction >= 1):
            run.save()
            saved = run.spent


def _log(run: Run, means: np.ndarray) -> None:
    """One line of the training curve."""
    samples = run.step * run.settings.batch * run.settings.processes
    line: dict[str, float] = {"step": run.step, "samples": samples, "seconds": round(run.spent)}
    line |= {"loss": round(float(means[0]), 4), "attention": round(float(means[1]), 4)}
    with open(run.settings.out / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("U-Net: step %(step)d, %(samples)d samples, loss %(loss).4f, attention %(attention).4f", line)


def worker(rank: int, settings: Settings) -> None:
    """One of several processes; they meet through a file in the run's folder."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    meeting = (settings.out / "meeting").resolve()
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=settings.processes)
    try:
        train_unet(settings, rank)
    finally:
        dist.destroy_process_group()
