"""Training of PixelWorld by one command: decoder, U-Net with text encoder, export. Every stage resumes where it stopped."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import autoencoder, data, network
from .world import ACTIONS, COLOURS, ENVIRONMENTS, OBJECTS, sample_scene

logger = logging.getLogger(__name__)

WORDS = (*OBJECTS, *COLOURS, *ACTIONS, *ENVIRONMENTS, *["a", "an", "the", "in", "is", "of", "picture", "photo", "pixel", "art", "drawing"])


@dataclass(frozen=True)
class Settings:
    """What a run of the U-Net stage needs to know."""

    out: Path
    minutes: float  # wall-clock time at which the learning rate has fallen to zero, counted over all resumed parts
    batch: int = 12  # of each process
    rate: float = 1e-3
    attention: float = 0.03
    ema: float = 0.998
    seed: int = 0
    compile: bool = True
    processes: int = 2
    vocabulary: Path = Path(__file__).parent / "weights" / "tokenizer" / "vocab.json"


class Lexicon:
    """CLIP's ids to the rows that training needs: 0 unknown, 1 BOS, 2 EOS, then the world's words."""

    def __init__(self, vocabulary: Path) -> None:
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


def build(rows: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """A new U-Net (with watched attention) and a text encoder with ``rows`` embedding rows."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = network.Watched(UNet2DConditionModel(**network.UNET))
    text = CLIPTextModel(CLIPTextConfig(**{**network.TEXT, "vocab_size": rows, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2}))
    with torch.no_grad():
        for name, p in text.named_parameters():
            if "token_embedding" in name:
                p.normal_(std=0.5)
            elif "position_embedding" in name:
                p.normal_(std=0.1)
    return unet, text


def batch(settings: Settings, lexicon: Lexicon, vae: nn.Module, rng: Random) -> dict[str, Tensor]:
    """Scenes of one step as tensors: latents, token rows, word regions and masks."""
    scenes = [sample_scene(rng) for _ in range(settings.batch)]
    captions = [data.training_caption(scene, rng) for scene in scenes]
    masks = np.stack([data.cell_masks(scene) for scene in scenes]).astype(np.float32)
    with torch.no_grad():
        latents = autoencoder.encode_small(vae, torch.from_numpy(data.pictures(scenes))) * autoencoder.CONFIG["scaling_factor"]
    return {
        "latents": latents,
        "ids": torch.tensor([lexicon.ids(c, rng) for c in captions]),
        "regions": torch.tensor([data.word_regions(c) for c in captions]),
        "masks": torch.from_numpy(masks),
    }


def timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Stratified steps; only one in eight falls below 200, where little is left to decide."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    t = torch.where(u < 0.12, u / 0.12 * 200, 200 + (u - 0.12) / 0.88 * 800)
    return t.long().clamp(0, 999)


def losses(unet: nn.Module, text: nn.Module, b: dict[str, Tensor], alpha: Tensor, settings: Settings, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The weighted noise loss and the attention loss of a batch.

    The weight of the noise error is sqrt(min(SNR, 5)) / SNR: min-SNR (Hang et al. 2023, arXiv 2303.09556) with more weight on the
    noisy steps, because that is where the layout is decided.
    """
    z = b["latents"]
    t = timesteps(len(z), g)
    a = alpha[t].view(-1, 1, 1, 1)
    noise = torch.randn(z.shape, generator=g)
    context = text(input_ids=b["ids"]).last_hidden_state
    predicted, fine, coarse = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context)
    snr = a / (1 - a)
    weight = snr.clamp(max=5).sqrt() / snr
    mse = (weight * (predicted.float() - noise).pow(2)).mean()
    visible = a.flatten().sqrt()
    small = nn.functional.max_pool2d(b["masks"], 2)
    watch = network.attention_loss(fine, b["masks"].flatten(2), b["regions"], visible)
    watch = watch + network.attention_loss(coarse, small.flatten(2), b["regions"], visible)
    return mse, watch


def _reduce(parameters: list[nn.Parameter]) -> None:
    """Average gradients over the processes, in one message."""
    flat = torch.cat([p.grad.flatten() for p in parameters])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)


def train_unet(settings: Settings, rank: int = 0) -> None:
    """Train U-Net and text encoder for ``settings.minutes``; process 0 writes ``unet.pt`` every two minutes and a log line every 50
    steps to ``curve.jsonl``."""
    path = settings.out / "unet.pt"
    torch.set_num_threads(1)
    lexicon = Lexicon(settings.vocabulary)
    unet, text = build(len(lexicon), settings.seed)
    both = nn.ModuleList([unet.unet, text])
    for p in text.parameters():
        p.requires_grad_(True)
    vae = _encoder(settings.out)
    alpha = network.alphas()
    parameters = [p for p in both.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, settings.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = {k: v.clone() for k, v in both.state_dict().items()}
    spent, step = 0.0, 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        both.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        ema, spent, step = state["ema"], state["spent"], state["step"]
    rng = Random(f"unet {settings.seed} {rank} {step}")
    g = torch.Generator().manual_seed(settings.seed * 7919 + rank * 104729 + step)
    forward = torch.compile(unet) if settings.compile else unet
    tracked, saved, seen = np.zeros(2), spent, time.monotonic()
    while spent < 60 * settings.minutes:
        fraction = spent / (60 * settings.minutes)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * min(1, (step + 1) / 200) * min(1, 2.2 * (1 - fraction)) + 1e-7
        mse, watch = losses(forward, text, batch(settings, lexicon, vae, rng), alpha, settings, g)
        optimiser.zero_grad()
        (mse + settings.attention * watch).backward()
        if settings.processes > 1:
            _reduce(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(settings.ema, (1 + step) / (20 + step))
            now = both.state_dict()
            torch._foreach_lerp_(list(ema.values()), [now[k] for k in ema], 1 - decay)
        tracked = tracked + np.array([mse.item(), watch.item()])
        clock = torch.tensor([time.monotonic() - seen])
        if settings.processes > 1:  # all processes must agree on the time, or one would leave the loop early
            dist.broadcast(clock, 0)
        seen, spent = time.monotonic(), spent + clock.item()
        if rank == 0 and step % 50 == 0:
            line = {"step": step, "samples": step * settings.batch * settings.processes, "seconds": round(spent),
                    "loss": round(float(tracked[0]) / 50, 4), "attention": round(float(tracked[1]) / 50, 4)}
            with open(settings.out / "curve.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            logger.info("U-Net %s", line)
            tracked = np.zeros(2)
        if rank == 0 and (spent - saved > 120 or spent >= 60 * settings.minutes):
            saved = spent
            state = {"model": both.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema, "spent": spent, "step": step}
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def _encoder(out: Path) -> nn.Module:
    """The autoencoder with its encoder set and its latents normalised (file ``encoder.pt``, made at the first call)."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**autoencoder.CONFIG).requires_grad_(False)
    autoencoder.prepare(vae)
    rng = Random("statistics")
    images = torch.from_numpy(data.pictures([sample_scene(rng) for _ in range(1024)]))
    z = autoencoder.encode_small(vae, images)
    autoencoder.normalise(vae, z.mean((0, 2, 3)), z.std((0, 2, 3)))
    return vae
