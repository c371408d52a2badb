"""Stage one of training: the autoencoder's decoder, on pictures drawn as they are needed."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import autoencoder
from .data import pictures
from .render import render
from .world import sample_scene

logger = logging.getLogger(__name__)

LATENT_NOISE = 0.12  # std added to unit-variance latents in training: what the sampler leaves must not show


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one, never half of it."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def with_encoder(seed: int = 0) -> Any:
    """A new autoencoder: encoder set, latents of unit variance after the scaling factor, decoder still random."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(**autoencoder.CONFIG)
    vae.requires_grad_(False)
    autoencoder.prepare(vae)
    rng = Random("statistics")
    images = torch.from_numpy(pictures([sample_scene(rng) for _ in range(1024)]))
    z = autoencoder.encode_small(vae, images)
    autoencoder.normalise(vae, z.mean((0, 2, 3)), z.std((0, 2, 3)))
    return vae


def load_autoencoder(path: Path) -> Any:
    """The autoencoder of a run; a new one as long as the run has none."""
    vae = with_encoder()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True)["model"])
    return vae


def _batch(rng: Random, size: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 32, 32) in [-1, 1]; pixel weights (B, 1, 32, 32), objects and connectors counting four times."""
    scenes = [sample_scene(rng, seen=False) for _ in range(size)]
    masks = [render(scene)[1] for scene in scenes]
    foreground = np.stack([np.logical_or.reduce((*m.objects, m.connector)) for m in masks])[:, None]
    return torch.from_numpy(pictures(scenes)), torch.from_numpy(1 + 3 * foreground.astype(np.float32))


def train_decoder(path: Path, minutes: float, batch: int = 6, rate: float = 2e-3, seed: int = 0) -> Any:
    """Train the decoder for ``minutes`` of wall-clock time, resuming from ``path``; return the autoencoder.

    The learning rate falls along a cosine of the time spent, so that the stage ends when it is told to.
    """
    vae = with_encoder(seed)
    parameters = autoencoder.decoder_parameters(vae)
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    spent, step = 0.0, 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    rng, saved = Random(f"autoencoder {seed} {step}"), spent
    seen, total = time.monotonic(), 0.0
    while spent < 60 * minutes:
        fraction = spent / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * fraction)) + 1e-6
        image, weight = _batch(rng, batch)
        z = autoencoder.encode_small(vae, image)
        noise = LATENT_NOISE / autoencoder.CONFIG["scaling_factor"] * torch.randn_like(z)
        error = autoencoder.decode_small(vae, z + noise) - image
        loss = ((error.abs() + error.pow(2)) * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        total += error.detach().abs().mean().item()
        spent, seen = spent + time.monotonic() - seen, time.monotonic()
        if step % 50 == 0:
            logger.info("decoder step %d, %.0f s, mean error %.4f", step, spent, total / 50)
            total = 0.0
        if spent - saved > 60 or spent >= 60 * minutes:
            saved = spent
            state = {"model": vae.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent, "step": step}
            save_atomically(state, path)
    return vae
