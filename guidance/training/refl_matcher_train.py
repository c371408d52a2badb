"""Train PixelWorld's matching model: ``python -m interplay.guidance.training.refl_matcher_train --out FILE``.

Pictures are drawn as they are needed. A quarter are shown as they are, a quarter with noise on their latents, half as
the diffusion model sees them from a random noise level on: that is what ReFL shows it. A run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InterplayError
from ..pixelworld import autoencoder, data, network
from ..pixelworld.train_autoencoder import save_atomically
from ..pixelworld.world import COLOURS, OBJECTS, Scene, caption, request, sample_scene
from .refl_matcher import FILE, GLOBAL, HEADS, Matcher, wanted_facts

BATCH = 16
POOL = 768
TWICE = 0.08  # share of scenes in which two things are of one kind, as drawn pictures sometimes have them


def scene_facts(scene: Scene) -> dict[str, Tensor]:
    """What a scene shows, as ``wanted_facts``; of a kind that is there twice only the number is asked."""
    facts = wanted_facts(request(scene))
    kinds = [OBJECTS.index(t.object) for t in scene.things]
    for kind in kinds:
        if kinds.count(kind) > 1:
            for name in ("colour", "size", "pattern", "role"):
                facts[name][kind] = -1
    return facts


def draw_scene(rng: Random) -> Scene:
    """A scene of the world, rarely with two things of one kind."""
    scene = sample_scene(rng)
    if scene.target is not None and rng.random() < TWICE:
        scene = replace(scene, target=replace(scene.target, object=scene.subject.object))
    return scene


@torch.no_grad()
def drawn(pipeline: Any, scenes: Sequence[Scene], noise: torch.Generator) -> Tensor:
    """Art (B, 3, 32, 32) in [-1, 1] of scenes: the first half as it is, the second from noisy latents."""
    true, half = torch.from_numpy(data.pictures(scenes)), len(scenes) // 2
    scale = pipeline.vae.config.scaling_factor
    z = autoencoder.encode_small(pipeline.vae, true[half:]) * scale
    much = 0.5 * torch.rand(len(z), 1, 1, 1, generator=noise)
    rough = z + much * torch.randn(z.shape, generator=noise)
    return torch.cat([true[:half], autoencoder.decode_small(pipeline.vae, rough / scale).clamp(-1, 1)])


@torch.no_grad()
def half_way(pipeline: Any, scenes: Sequence[Scene], rng: Random, noise: torch.Generator) -> Tensor:
    """Art (B, 3, 32, 32) in [-1, 1] of scenes as the diffusion model sees them from random noise levels on."""
    scale = pipeline.vae.config.scaling_factor
    z = autoencoder.encode_small(pipeline.vae, torch.from_numpy(data.pictures(scenes))) * scale
    t = torch.randint(20, 900, (len(scenes),), generator=noise)
    a = network.alphas()[t].view(-1, 1, 1, 1)
    x = a.sqrt() * z + (1 - a).sqrt() * torch.randn(z.shape, generator=noise)
    texts = [caption(scene, rng) for scene in scenes]
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=data.LENGTH, return_tensors="pt").input_ids
    said = pipeline.unet(x, t, pipeline.text_encoder(ids).last_hidden_state).sample
    return autoencoder.decode_small(pipeline.vae, (x - (1 - a).sqrt() * said) / a.sqrt() / scale).clamp(-1, 1)


@dataclass(frozen=True)
class Lessons:
    """Pictures (N, 3, 32, 32) in [-1, 1], their facts, and which kind in which colour is at each cell, (N, 2, 256),
    0 where there is none.
    """

    art: Tensor
    facts: dict[str, Tensor]
    cells: Tensor

    def rows(self, index: Tensor) -> Lessons:
        """Some of them."""
        facts = {name: value[index] for name, value in self.facts.items()}
        return Lessons(self.art[index], facts, self.cells[index])


def scene_cells(scene: Scene) -> Tensor:
    """See ``Lessons``: (2, 256)."""
    masks = torch.from_numpy(data.cell_masks(scene)).flatten(1)
    out = torch.zeros(2, masks.shape[1], dtype=torch.long)
    places = [0] if scene.target is None else [0, 1]
    for place, thing in zip([*places, *([2] if scene.bystander else [])], scene.things, strict=True):
        out[0, masks[place]] = OBJECTS.index(thing.object) + 1
        out[1, masks[place]] = list(COLOURS).index(thing.colour) + 1
    return out


def stacked_facts(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """``scene_facts`` of many."""
    facts = [scene_facts(scene) for scene in scenes]
    return {name: torch.stack([f[name] for f in facts]) for name in (*HEADS, *GLOBAL)}


def pool(pipeline: Any, count: int, seed: int) -> Lessons:
    """Pictures as the model sees them half-way, made once because they cost most."""
    rng, noise = Random(f"matcher pool {seed}"), torch.Generator().manual_seed(seed + 77)
    scenes = [draw_scene(rng) for _ in range(count)]
    parts = [half_way(pipeline, scenes[i : i + BATCH], rng, noise) for i in range(0, count, BATCH)]
    return Lessons(torch.cat(parts), stacked_facts(scenes), torch.stack([scene_cells(s) for s in scenes]))


def lesson(pipeline: Any, ready: Lessons, step: int, seed: int) -> Lessons:
    """A step's pictures: half fresh, half from the pool."""
    rng, noise = Random(f"matcher {seed} {step}"), torch.Generator().manual_seed(seed * 1_000_003 + step)
    scenes = [draw_scene(rng) for _ in range(BATCH // 2)]
    old = ready.rows(torch.randint(len(ready.art), (BATCH // 2,), generator=noise))
    facts = {name: torch.cat([value, old.facts[name]]) for name, value in stacked_facts(scenes).items()}
    cells = torch.cat([torch.stack([scene_cells(s) for s in scenes]), old.cells])
    return Lessons(torch.cat([drawn(pipeline, scenes, noise), old.art]), facts, cells)


class Cells(nn.Module):
    """What training asks of every cell beside the facts, so that the convolutions learn before the rest: the kind and
    the colour of what is there.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.kind, self.colour = nn.Linear(width, len(OBJECTS) + 1), nn.Linear(width, len(COLOURS) + 1)

    def loss(self, seen: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy, things counting as much as the ground."""
        total = torch.zeros(())
        for head, wanted in ((self.kind, cells[:, 0]), (self.colour, cells[:, 1])):
            each = nn.functional.cross_entropy(head(seen).flatten(0, 1), wanted.flatten(), reduction="none")
            there = wanted.flatten() > 0
            total = total + each[there].mean() + 0.3 * each[~there].mean()
        return total


def loss_of(said: dict[str, Tensor], facts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Summed cross-entropies of the heads, and the share that each gets right."""
    total, right = torch.zeros(()), dict[str, float]()
    for name, logs in said.items():
        flat, wanted = logs.flatten(0, -2), facts[name].flatten()
        total = total + nn.functional.nll_loss(flat, wanted, ignore_index=-1) * (2.0 if name == "count" else 1.0)
        known = wanted >= 0
        right[name] = float((flat.argmax(-1) == wanted)[known].float().mean())
    return total, right


def train(out: Path, steps: int, rate: float = 1.5e-3, seed: int = 0) -> Matcher:
    """Train or go on; the state lies beside ``out`` until it is done."""
    from safetensors.torch import save_file

    from ..hosts.diffusers.pixelworld import load_pixelworld

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    pipeline, model, state_file = load_pixelworld(), Matcher(), out.with_suffix(".pt")
    cells = Cells()
    trained = [*model.parameters(), *cells.parameters()]
    optimiser = torch.optim.AdamW(trained, rate, betas=(0.9, 0.98), weight_decay=0.01)
    average, step = {k: v.clone() for k, v in model.state_dict().items()}, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        cells.load_state_dict(state["cells"])
        optimiser.load_state_dict(state["optimiser"])
        average, step = state["average"], state["step"]
    ready, sums = pool(pipeline, POOL, seed), dict[str, float]()
    began = time.monotonic()
    while step < steps:
        shown = lesson(pipeline, ready, step, seed)
        seen = model.look(shown.art)
        loss, right = loss_of(model.answer(seen), shown.facts)
        loss = loss + cells.loss(seen, shown.cells)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * min(1.0, 2.0 * (1 - step / steps)) + 1e-6
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(0.998, (1 + step) / (20 + step))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        for name, value in (*right.items(), ("loss", float(loss.detach()))):
            sums[name] = sums.get(name, 0.0) + value / 50
        if step % 50 == 0 or step == steps:
            line: dict[str, float] = {"step": step, "seconds": round(time.monotonic() - began)}
            line |= {k: round(v, 3) for k, v in sums.items()}
            print(json.dumps(line), file=sys.stderr, flush=True)
            sums = {}
            kept = {"model": model.state_dict(), "cells": cells.state_dict()}
            state = {**kept, "optimiser": optimiser.state_dict(), "average": average, "step": step}
            save_atomically(state, state_file)
    save_file({name: value.half().contiguous() for name, value in average.items()}, str(out))
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Train the model that comes with the pack anew."""
    program = "python -m interplay.guidance.training.refl_matcher_train"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=600, help="steps of 16 pictures (600)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        train(args.out, args.steps, seed=args.seed)
    except InterplayError as error:
        sys.stderr.write(f"interplay: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
