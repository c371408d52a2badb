"""How well PixelWorld's U-Net knows where its cells are: ``python benchmarks/interaction_places.py``.

A linear probe reads each cell's place out of what fusers would see (the input of every transformer block's second norm)
at three noise levels; it learns from 48 scenes and is judged on 16 others. Prints the explained share of the variance
(R2, 1 = exactly known, 0 = not at all) of x and y, block by block.
"""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from interplay.guidance.hosts.diffusers.interaction import transformer_blocks
from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld
from interplay.guidance.pixelworld import autoencoder, data, network
from interplay.guidance.pixelworld.train_fusers import Phrases
from interplay.guidance.pixelworld.world import KINDS, caption, sample_scene
from torch import Tensor

SCENES, TAUGHT, STEPS = 64, 48, (950, 850, 600)


def explained(seen: Tensor) -> list[float]:
    """R2 of x and y from (scenes, cells, width)."""
    side = round(seen.shape[1] ** 0.5)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    wanted = torch.stack([x, y], -1).flatten(0, 1)
    seen = torch.nn.functional.layer_norm(seen, seen.shape[-1:])
    seen = torch.cat([seen, torch.ones_like(seen[..., :1])], -1)
    taught, asked = seen[:TAUGHT].flatten(0, 1), seen[TAUGHT:].flatten(0, 1)
    gram = taught.T @ taught + 0.1 * torch.eye(taught.shape[1])
    probe = torch.linalg.solve(gram, taught.T @ wanted.repeat(TAUGHT, 1))
    right = wanted.repeat(SCENES - TAUGHT, 1)
    return (1 - (asked @ probe - right).pow(2).mean(0) / right.pow(2).mean(0)).tolist()


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    pipeline: Any = load_pixelworld()
    rng, phrases = Random("places"), Phrases(pipeline)
    scenes = [sample_scene(rng, rng.choice(KINDS[1:])) for _ in range(SCENES)]
    z = autoencoder.encode_small(pipeline.vae, torch.from_numpy(data.pictures(scenes)))
    z = z * autoencoder.CONFIG["scaling_factor"]
    ids = torch.tensor([data.token_ids(caption(scene, rng), phrases.ids) for scene in scenes])
    context, seen = pipeline.text_encoder(ids).last_hidden_state, dict[int, Tensor]()
    for index, block in enumerate(transformer_blocks(pipeline.unet)):
        block.norm2.register_forward_pre_hook(lambda module, args, index=index: seen.__setitem__(index, args[0]))
    for t in STEPS:
        a = network.alphas()[t]
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(t))
        pipeline.unet(a.sqrt() * z + (1 - a).sqrt() * noise, torch.full((SCENES,), t), context)
        for index, states in seen.items():
            x, y = explained(states)
            print(f"timestep {t}, block {index}, {states.shape[1]} cells: x {x:.2f}, y {y:.2f}")


if __name__ == "__main__":
    main()
