"""Pictures and sentences that PixelWorld's caption model learns from: exact captions, paraphrases, and near misses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import autoencoder, network
from .data import pictures
from .detect import Detection, detect
from .world import (
    ACTIONS,
    COLOURS,
    ENVIRONMENTS,
    OBJECTS,
    PATTERNS,
    SIZES,
    Request,
    Scene,
    Thing,
    caption,
    request,
    sample_scene,
)

EXPLAINED = 0.9  # share of a drawn picture's pixels that its reading explains, from which on it is learned from
NOWHERE = -1  # x of a scene that was read off a drawn picture: its places are not the picture's
SHARES = (0.6, 0.2, 0.2)  # of rendered, decoded and drawn pictures in a batch


@dataclass(frozen=True)
class Lesson:
    """A scene with the picture that shows it (3, 32, 32) uint8."""

    scene: Scene
    picture: np.ndarray


def meaning(text: str) -> Request:
    """What a sentence says; two things that stand apart in the order of their names, since "and" has none."""
    asked = request(text)
    if asked.action is None and len(asked.things) > 1:
        return replace(asked, things=tuple(sorted(asked.things, key=str)))
    return asked


def paraphrase(scene: Scene, rng: Random, placed: bool) -> str:
    """One of the ways people say it, with or without the environment."""
    if scene.action is None and scene.target is not None and rng.random() < 0.5:
        scene = replace(scene, subject=scene.target, target=scene.subject)
    while True:
        text = caption(scene, rng)
        if (scene.environment in text) == placed:
            return text


def near_miss(scene: Scene, rng: Random, kind: str) -> Scene:
    """Another scene in nearly the same words. kind: "roles", "adjectives" or "word"; where the scene has no such thing
    to change, the next of them.
    """
    if kind == "roles" and scene.action and scene.target:
        return replace(scene, subject=scene.target, target=scene.subject)
    if kind in ("roles", "adjectives") and len(scene.things) > 1:
        first, second = rng.sample(range(len(scene.things)), 2)
        things = list(scene.things)
        a, b = things[first], things[second]
        things[first], things[second] = replace(b, object=a.object), replace(a, object=b.object)
        return _with(scene, things)
    return _reworded(scene, rng)


def _with(scene: Scene, things: Sequence[Thing]) -> Scene:
    bystander = things[-1] if scene.bystander else None
    target = things[1] if scene.target else None
    return replace(scene, subject=things[0], target=target, bystander=bystander)


def _reworded(scene: Scene, rng: Random) -> Scene:
    """One word changed."""
    what = rng.choice(("object", "colour", "size", "pattern", "environment", *(["action"] * 2 if scene.action else [])))
    if what == "action":
        return replace(scene, action=rng.choice([a for a in ACTIONS if a != scene.action]))
    if what == "environment":
        return replace(scene, environment=rng.choice([e for e in ENVIRONMENTS if e != scene.environment]))
    at = rng.randrange(len(scene.things))
    things = list(scene.things)
    now = getattr(things[at], what)
    choices = {"object": OBJECTS, "colour": COLOURS, "size": (None, *SIZES), "pattern": (None, *PATTERNS)}[what]
    change: Any = {what: rng.choice([c for c in choices if c != now])}
    things[at] = replace(things[at], **change)
    return _with(scene, things)


def sentences(scene: Scene, rng: Random) -> tuple[str, str, str, list[str]]:
    """The plain caption that is to be written, two paraphrases of one meaning, and two near misses of another."""
    said = scene
    if scene.action is None and scene.target is not None and rng.random() < 0.5:
        said = replace(scene, subject=scene.target, target=scene.subject)
    placed = rng.random() < 0.7
    one, two = paraphrase(scene, rng, placed), paraphrase(scene, rng, placed)
    misses: list[str] = []
    kinds = ["roles", rng.choice(("adjectives", "adjectives", "word"))]
    while len(misses) < 2:
        kind = kinds.pop(0) if kinds else "word"  # two things in one colour have nothing to exchange
        text = paraphrase(near_miss(scene, rng, kind), rng, placed)
        if meaning(text) != meaning(one):
            misses.append(text)
    return caption(said), one, two, misses


def told(seen: Detection) -> Scene | None:
    """A drawn picture's reading as a scene; None where a sentence of the world could not say it, or it is unclear."""
    found = seen.objects
    if not 1 <= len(found) <= 3 or seen.explained < EXPLAINED or any(item.mixed for item in found):
        return None
    order = list(range(len(found)))
    if seen.action is not None:
        order = [seen.action[0], seen.action[2], *(i for i in order if i not in (seen.action[0], seen.action[2]))]
    things = [found[i].thing for i in order]
    scene = Scene(things[0], seen.environment, seen.action[1] if seen.action else None, x=NOWHERE)
    target, bystander = (things[i] if i < len(things) else None for i in (1, 2))
    return replace(scene, target=target, bystander=bystander)


# --- pictures that went through the model -----------------------------------------------------------------------------


@torch.no_grad()
def decoded(pipeline: Any, scenes: Sequence[Scene], generator: torch.Generator, noise: float = 0.12) -> Tensor:
    """Rendered, encoded, disturbed and decoded: (N, 3, 32, 32) uint8."""
    latents = autoencoder.encode_small(pipeline.vae, torch.from_numpy(pictures(scenes)))
    noise = noise / autoencoder.CONFIG["scaling_factor"]
    return _bytes(autoencoder.decode_small(pipeline.vae, latents + noise * _randn(latents, generator)))


@torch.no_grad()
def drawn(
    pipeline: Any, scenes: Sequence[Scene], prompts: Sequence[str], start: int, steps: int, generator: torch.Generator
) -> Tensor:
    """Rendered, noised to timestep ``start``, and drawn on by the U-Net in ``steps`` of DDIM at CFG 4."""
    latents = autoencoder.encode_small(pipeline.vae, torch.from_numpy(pictures(scenes)))
    x = latents * autoencoder.CONFIG["scaling_factor"]
    context = pipeline.encode_prompt(list(prompts), "cpu", 1, True)
    both = torch.cat([context[1], context[0]])
    alphas, times = network.alphas(), torch.linspace(start, 0, steps + 1).long().tolist()
    x = alphas[times[0]].sqrt() * x + (1 - alphas[times[0]]).sqrt() * _randn(x, generator)
    for now, after in pairwise(times):
        empty, said = pipeline.unet(torch.cat([x, x]), now, encoder_hidden_states=both).sample.chunk(2)
        noise = empty + 4.0 * (said - empty)
        clean = (x - (1 - alphas[now]).sqrt() * noise) / alphas[now].sqrt()
        x = clean if after == 0 else alphas[after].sqrt() * clean + (1 - alphas[after]).sqrt() * noise
    return _bytes(autoencoder.decode_small(pipeline.vae, x / autoencoder.CONFIG["scaling_factor"]))


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def _bytes(pixels: Tensor) -> Tensor:
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()


def make_pool(path: Path, count: int, seed: int, kind: str, part: int = 50) -> list[Lesson]:
    """``count`` lessons on "decoded" or "drawn" pictures, kept in a file; goes on with what is there."""
    from ..hosts.diffusers.pixelworld import load_pixelworld

    kept = read_pool(path) if path.is_file() else []
    pipeline: Any = load_pixelworld() if len(kept) < count else None
    while len(kept) < count:
        rng = Random(f"{kind} {seed} {len(kept)}")
        generator = torch.Generator().manual_seed(seed * 1_000_003 + len(kept))
        scenes = [sample_scene(rng, seen=False) for _ in range(part)]
        if kind == "decoded":
            images = decoded(pipeline, scenes, generator).numpy()
            kept += [Lesson(scene, image) for scene, image in zip(scenes, images, strict=True)]
        else:
            start = rng.choice((700, 850, 999, 999))
            images = drawn(pipeline, scenes, [caption(s) for s in scenes], start, 6, generator).numpy()
            readings = [told(detect(image.transpose(1, 2, 0))) for image in images]
            kept += [Lesson(s, image) for s, image in zip(readings, images, strict=True) if s is not None]
        _write_pool(path, kept)
    return kept[:count]


def read_pool(path: Path) -> list[Lesson]:
    """What ``make_pool`` has written."""
    with np.load(path) as file:
        scenes, images = json.loads(str(file["scenes"])), file["pictures"]
    return [Lesson(_scene(entry), image) for entry, image in zip(scenes, images, strict=True)]


def _scene(entry: dict[str, Any]) -> Scene:
    things = {name: Thing(**entry[name]) if entry[name] else None for name in ("subject", "target", "bystander")}
    places = {name: tuple(entry[name]) if entry[name] else None for name in ("apart", "aside")}
    return Scene(**{**entry, **things, **places})


def _write_pool(path: Path, kept: Sequence[Lesson]) -> None:
    scenes = json.dumps([asdict(lesson.scene) for lesson in kept])
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, scenes=scenes, pictures=np.stack([lesson.picture for lesson in kept]))
    unfinished.replace(path)


def lessons(rng: Random, size: int, pools: Sequence[Sequence[Lesson]]) -> list[Lesson]:
    """A batch: rendered pictures, and some of each pool."""
    out = []
    for _ in range(size):
        source = rng.choices(range(len(SHARES)), SHARES)[0]
        if source:
            out.append(rng.choice(pools[source - 1]))
            continue
        out.append(rendered(rng))
    return out


def rendered(rng: Random) -> Lesson:
    """A scene as it is drawn exactly."""
    scene = sample_scene(rng, seen=False)
    image = (pictures([scene])[0] + 1) * 127.5
    return Lesson(scene, image.round().astype(np.uint8))
