"""PixelWorld as a training ground: pictures with careful captions and their negatives, and what a LoRA does to drawing.

The shipped weights were trained with careless captions (see ``pixelworld.world.careless``), so they read a caption in
part as a bag of words. The captions here are careful, the pictures and captions never show a held-out combination, and
neither do the negatives: what is measured on held-out combinations was never trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from ..pixelworld import autoencoder, data, evaluate, sprites, world
from ..pixelworld.detect import Verdict, judge
from .lora import applied
from .records import Record

KINDS = ("action", "action", "action", "two")
"""Of scenes to train on: who acts on whom is what the weights know least of."""
HELD_OUT = ("actions held out", "two objects held out")


def swapped_scenes(scene: world.Scene) -> dict[str, world.Scene]:
    """The same words the wrong way round, as scenes: adjectives exchanged, parties of the action exchanged."""
    out: dict[str, world.Scene] = {}
    if scene.target is None:
        return out
    first, second = scene.subject, scene.target
    adorned = (first.colour, first.size, first.pattern), (second.colour, second.size, second.pattern)
    if adorned[0] != adorned[1]:
        one, two = replace(second, object=first.object), replace(first, object=second.object)
        out["swap_attr"] = replace(scene, subject=one, target=two)
    if scene.action:
        out["swap_role"] = replace(scene, subject=second, target=first)
    return out


def says_held_out(text: str) -> bool:
    """Whether a caption names a held-out combination."""
    asked, held = world.request(text), world.held_out()
    things = asked.things
    if any((t.colour, t.object) in held.pairs for t in things):
        return True
    if any(frozenset((a.object, b.object)) in held.company for i, a in enumerate(things) for b in things[i + 1 :]):
        return True
    parties = (things[0].object, asked.action, things[1].object) if asked.action and len(things) > 1 else None
    return parties in held.triples


@dataclass(frozen=True)
class Ground:
    """Records and the latents of their pictures, (N, 4, 16, 16), as the network sees them."""

    records: Sequence[Record]
    latents: Tensor
    scenes: Sequence[world.Scene]


def ground(vae: Any, n: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> Ground:
    """``n`` scenes as ``pixelworld_records`` makes them, encoded."""
    records, scenes = pixelworld_records(n, seed, kinds)
    with torch.no_grad():
        pictures = torch.from_numpy(data.pictures(scenes))
        parts = [autoencoder.encode_small(vae, part) for part in pictures.split(64)]
    return Ground(records, torch.cat(parts) * autoencoder.CONFIG["scaling_factor"], scenes)


def pixelworld_records(n: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> tuple[list[Record], list[world.Scene]]:
    """``n`` scenes without held-out combinations, with careful captions and the swaps of each as negatives."""
    rng, scenes, records = Random(f"training ground {seed}"), list[world.Scene](), list[Record]()
    while len(scenes) < n:
        scene = world.sample_scene(rng, rng.choice(list(kinds)), seen=True)
        caption = world.caption(scene, Random(rng.getrandbits(32)))
        found = swaps(caption)
        if found and not says_held_out(caption):
            scenes.append(scene)
            records.append(Record(f"scene {len(records)}", caption, tuple(found)))
    return records, scenes


def swaps(caption: str) -> list[str]:
    """Negatives of a caption, by the rules that any caption goes through, so that the shortcut of knowing the scene is
    not taken; exchanged parties come twice.
    """
    from .negatives import negatives

    found = negatives(caption, ops=("swap_attr", "swap_role"), mixed=True)
    return [n.text for n in found for _ in range(2 if n.op == "swap_role" else 1) if not says_held_out(n.text)]


# --- what came of it --------------------------------------------------------------------------------------------------


def drawn_right(
    pipeline: Any,
    sets: Sequence[str] = HELD_OUT,
    n: int = 64,
    seed: int = 0,
    cfg: float = 5.0,
    steps: int = 25,
    lora: Mapping[str, Tensor] | None = None,
    strength: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """Figures of plain sampling on prompt sets (see ``pixelworld.evaluate.summary``), by the exact detector.

    lora: tensors of a LoRA file to draw with; None for the U-Net as it is, with whatever LoRA is attached to it.
    """
    if lora is not None:
        with applied(pipeline.unet, lora, strength):
            return drawn_right(pipeline, sets, n, seed, cfg, steps)
    return {
        name: evaluate.summary(verdicts(pipeline, world.PROMPT_SETS[name](n, seed), seed, steps, cfg)) for name in sets
    }


def verdicts(pipeline: Any, prompts: Sequence[str], seed: int = 0, steps: int = 25, cfg: float = 5.0) -> list[Verdict]:
    """What the exact detector says of a picture of each prompt."""
    images = evaluate.draw(pipeline, prompts, seed, steps, cfg)
    return [judge(prompt, image) for prompt, image in zip(prompts, images, strict=True)]


def told_apart(
    learner: Any, n: int = 64, seed: int = 0, levels: int = 5, seen: bool = False
) -> dict[str, dict[str, Any]]:
    """Winoground's text, image and group score of the learner's model, with its LoRA, on ``n`` pairs of pictures whose
    captions use the same words (chance 25, 25 and 16.7 %). seen: False for held-out combinations.
    """
    return {name: evaluate.share(hits) for name, hits in told_pairs(learner, n, seed, levels, seen).items()}


@torch.no_grad()
def told_pairs(learner: Any, n: int = 64, seed: int = 0, levels: int = 5, seen: bool = False) -> dict[str, list[bool]]:
    """The same pair by pair, so that two models can be held against each other on each."""
    from ..rewards.evaluate import winoground

    pairs = list(_pairs(n, seed, seen))
    hits: dict[str, list[bool]] = {"text": [], "image": [], "group": []}
    for start in range(0, n, 16):
        for table in _tables(learner, pairs[start : start + 16], seed, levels):
            for name, hit in winoground(table).items():
                hits[name].append(hit)
    return hits


def _pairs(n: int, seed: int, seen: bool) -> list[tuple[world.Scene, world.Scene]]:
    rng, out = Random(f"pairs {seed} {seen}"), list[tuple[world.Scene, world.Scene]]()
    while len(out) < n:
        kind = rng.choice(("action", "two"))
        scene = world.sample_scene(rng, kind, adorned=False) if seen else world._held_out_scene(rng, kind)
        if scene is None:
            continue
        if scene.action and scene.target:  # a held-out action may be wider than the one that the place was drawn for
            width = world.layout(scene.action, scene.subject.size, scene.target.size).width
            scene = replace(scene, x=min(scene.x, sprites.CELLS - width))
        others = swapped_scenes(scene)
        other = others[rng.choice(sorted(others))] if others else None
        if other is not None and not (seen and world.held_out().hits(other)):
            out.append((scene, other))
    return out


def _tables(
    learner: Any, pairs: Sequence[tuple[world.Scene, world.Scene]], seed: int, levels: int
) -> list[list[list[float]]]:
    """scores[text][picture] of each pair; noise shared by all, mirrored; minus the error without a caption."""
    vae = learner.pipeline.vae
    pictures = torch.from_numpy(data.pictures([scene for pair in pairs for scene in pair]))
    clean = autoencoder.encode_small(vae, pictures) * autoencoder.CONFIG["scaling_factor"]
    captions = [world.caption(scene) for pair in pairs for scene in pair]
    crossed = [captions[i ^ 1] for i in range(len(captions))]
    score = torch.zeros(2, len(captions))
    texts = [learner.condition(said) for said in (captions, crossed, [""] * len(captions))]
    for i in range(levels):
        u = torch.full((len(clean),), 0.2 + 0.7 * i / max(levels - 1, 1))
        at = learner.levels(u)
        noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(seed * 1000 + i))
        for sign in (1.0, -1.0):
            x = at.signal * clean + sign * at.noise * noise
            found = [(learner.denoise(x, at, text) - clean).flatten(1).norm(dim=1) * at.native for text in texts]
            score += torch.stack([found[2] - found[0], found[2] - found[1]])
    own, cross = score
    return [
        [[float(own[2 * k]), float(cross[2 * k + 1])], [float(cross[2 * k]), float(own[2 * k + 1])]]
        for k in range(len(pairs))
    ]
