"""Train PixelWorld's interaction fusers: ``python -m interplay.guidance.pixelworld.train_fusers --out DIR``.

The base is PixelWorld's own and stays frozen; fusers and tokenizer learn from scenes whose boxes are exact (a share of
them is shaken, so that boxes which are not exact serve too) and whose captions say less than the boxes, or with roles
and colours exchanged, so that the fusers cannot be idle. A run in DIR is gone on with.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InterplayError
from ..interaction.build import attention_blocks, state_of
from ..interaction.keys import diffusers_to_ldm
from ..interaction.layout import Box, Layout
from ..interaction.layout_terms import coverage
from ..interaction.network import Grounding, InteractionNet, between_boxes
from . import autoencoder, data, file_digest, network
from .fusers import CONFIG, FILE, HEADS, HIDDEN, SLOTS, TOKENS, WIDTHS, scene_layout
from .train_autoencoder import save_atomically
from .world import Carelessness, Scene, phrase, sample_scene

logger = logging.getLogger(__name__)

CAREFUL = Carelessness(0.0, 0.0)
UNSURE = Carelessness(0.3, 0.5)  # of captions beside tokens: who acts, and often who is of which colour, only those say
KINDS, ODDS = ("action", "bystander", "two"), (0.7, 0.2, 0.1)
SHARPER = 1.4  # what is written acts so much more strongly than what was learnt: 1.35 beat 1 on prompts of another seed
SAVE_EVERY, LOG_EVERY = 60.0, 50  # seconds, steps


@dataclass(frozen=True)
class Settings:
    """What a run needs to know."""

    out: Path
    minutes: float = 48.0  # processor time after which the learning rate has fallen to zero, over all resumed parts
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0
    dropped: float = 0.2  # share of scenes that are shown without their interaction
    shaken: float = 0.3  # share of layouts whose boxes are not exact
    unsaid: float = 0.2  # share of interactions whose caption is empty
    bare: float = 0.3  # share whose caption only names the things, in any order: only the tokens say who acts
    shake: float = 0.06  # standard deviation of their centres, and of their sides' logarithm
    attention: float = 0.02  # weight of the attention loss, falling to a tenth
    values: float = 0.06  # weight of the loss of values, likewise
    ema: float = 0.99


class Phrases:
    """CLIP's unprojected pooled feature of phrases, (D,) each, read once."""

    def __init__(self, pipeline: Any) -> None:
        self.text, self.ids = pipeline.text_encoder, data.vocabulary(Path(__file__).parent / data_file())
        self.known: dict[str, Tensor] = {}

    def __call__(self, words: str) -> Tensor:
        if words not in self.known:
            with torch.no_grad():
                ids = torch.tensor([data.token_ids(words, self.ids)])
                self.known[words] = self.text(ids).pooler_output[0]
        return self.known[words]


def data_file() -> str:
    """Where the vocabulary lies, from this folder."""
    return "weights/tokenizer/vocab.json"


def noisy_timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Stratified steps (n,), half of them from 800 up: where things stand is decided in the first fifth of sampling."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    t = torch.where(u < 0.15, u / 0.15 * 450, 450 + ((u - 0.15) / 0.85).clamp(min=0).sqrt() * 550)
    return t.long().clamp(0, 999)


def shaken(box: Box, rng: Random, shake: float) -> Box:
    """The box with another place and other sides, still in the picture."""
    x1, y1, x2, y2 = box
    w, h = (min(0.9, side * float(np.exp(rng.gauss(0, 2 * shake)))) for side in (x2 - x1, y2 - y1))
    x, y = ((a + b - side) / 2 + rng.gauss(0, shake) for a, b, side in ((x1, x2, w), (y1, y2, h)))
    x, y = min(max(0.0, x), 1 - w), min(max(0.0, y), 1 - h)
    return (x, y, x + w, y + h)


def grounding(layouts: Sequence[Layout | None], phrases: Phrases, rng: Random | None = None) -> Grounding:
    """Interactions of several pictures, each in the first slot (with ``rng`` sometimes in another); None = none."""
    shape = (len(layouts), SLOTS)
    mask, boxes = torch.zeros(shape), torch.zeros(2, *shape, 4)
    features = torch.zeros(3, *shape, TOKENS)
    for i, layout in enumerate(layouts):
        slot = rng.randrange(SLOTS) if rng and rng.random() < 0.4 else 0
        for interaction in layout.interactions[:1] if layout else ():
            parties = [layout.things[k] for k in (interaction.subject, interaction.object)] if layout else []
            mask[i, slot] = 1.0
            names = [parties[0].name, interaction.action, parties[1].name]
            features[:, i, slot] = torch.stack([phrases(name) for name in names])
            boxes[:, i, slot] = torch.tensor([thing.box for thing in parties])
    return Grounding(features[0], features[1], features[2], boxes[0], boxes[1], mask)


def new_network() -> InteractionNet:
    """Fusers for PixelWorld's U-Net, untrained. They are told where cells are, which that small U-Net hardly knows."""
    return InteractionNet(WIDTHS, TOKENS, HEADS, SLOTS, HIDDEN, placed=True)


def _fusers(net: InteractionNet) -> list[Any]:
    return list(net.fusers)


def opened(net: InteractionNet) -> InteractionNet:
    """A new network with open gates and last layers of zero: as little is changed as by shut gates, and it learns at
    once. The gates stay so: left to themselves they shut before their fusers have learnt anything, and stay shut.
    """
    with torch.no_grad():
        for fuser in _fusers(net):
            for gate in (fuser.alpha_attn, fuser.alpha_dense):
                gate.fill_(1.0).requires_grad_(False)
            for layer in (fuser.attn.to_out[0], fuser.ff.net[2]):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
    return net


class Watch:
    """Where the fusers look, for a loss that teaches cells to look at the tokens of the boxes that they lie in.

    Without it little is learnt for long: tokens are few among the cells of a picture, so at first hardly seen.
    """

    def __init__(self, net: InteractionNet) -> None:
        self.net = net
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []
        for fuser in _fusers(net):
            fuser.attn.to_q.register_forward_hook(lambda module, args, output: self.queries.append(output))
            fuser.attn.to_k.register_forward_hook(lambda module, args, output: self.keys.append(output))

    def loss(self, given: Grounding) -> Tensor:
        """Mean over layers of minus the log of what cells in a box give to its token, and of what other cells keep from
        the tokens of all boxes; zero where nothing interacts. Of the first half of a batch, which is enough.
        """
        half = -(-len(given.mask) // 2)
        middle = between_boxes(given.subject_boxes, given.object_boxes)
        boxes = torch.stack([given.subject_boxes, middle, given.object_boxes], 1)[:half]  # in the order of the tokens
        total = boxes.new_zeros(())
        for q, k in zip(self.queries, self.keys, strict=True):
            total = total + self._layer(q[:half], k[:half], boxes.flatten(1, 2), given.mask[:half].repeat(1, 3))
        count, self.queries, self.keys = len(self.queries), [], []
        return total / count

    def _layer(self, q: Tensor, k: Tensor, boxes: Tensor, there: Tensor) -> Tensor:
        tokens = boxes.shape[1]
        cells = q.shape[1] - tokens
        q, k = (x.unflatten(-1, (self.net.heads, -1)).transpose(1, 2) for x in (q[:, :cells], k))
        seen = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)[..., cells:]  # (B, cells, tokens)
        side = round(cells**0.5)
        inside = coverage(boxes.reshape(-1, 4), side, side, seen).reshape(len(q), tokens, cells) * there[..., None]
        outside = (1 - inside.sum(1)).clamp(min=0) * there.amax(1, keepdim=True)  # (B, cells)
        kept = (1 - (seen * there[:, None]).sum(-1) + 1e-5).log() * outside
        looking = ((seen.transpose(1, 2) + 1e-5).log() * inside).sum() / inside.sum().clamp(min=1.0)
        return -looking - kept.sum() / outside.sum().clamp(min=1.0)


class Values:
    """What the fusers add, for a loss that teaches them to say what stands in a box in the base's own words: as its
    cross-attention would if it read the thing's phrase alone instead of the caption.

    Without it they soon show where things stand, but hardly which is which.
    """

    def __init__(self, net: InteractionNet, blocks: Sequence[Any]) -> None:
        self.blocks = blocks
        self.added: list[tuple[Tensor, Tensor]] = []  # each fuser's input, and what it adds to that
        for fuser in _fusers(net):
            fuser.register_forward_hook(lambda module, args, output: self.added.append((args[0], output - args[0])))

    def loss(self, given: Grounding, captions: Tensor, phrases: tuple[Tensor, Tensor]) -> Tensor:
        """Mean over layers of the squared error in boxes, as a share of what was to be added. Of the first half of a
        batch: captions, phrases: (half, 77, D), of whole pictures, and of who acts and who is acted upon.
        """
        half, total = len(captions), captions.new_zeros(())
        there = given.mask[:half].amax(1)[:, None, None]
        boxes = [(b[:half] * given.mask[:half, :, None]).sum(1) for b in (given.subject_boxes, given.object_boxes)]
        for block, (x, added) in zip(self.blocks, self.added, strict=True):
            x, added, side = x[:half].detach(), added[:half], round(x.shape[1] ** 0.5)
            with torch.no_grad():
                seen = block.norm2(x)
                plain = block.attn2(seen, encoder_hidden_states=captions)
                wanted = [block.attn2(seen, encoder_hidden_states=phrase) - plain for phrase in phrases]
                inside = [coverage(box, side, side, x).flatten(1)[..., None] * there for box in boxes]
                size = sum((m * w.square()).sum() for m, w in zip(inside, wanted, strict=True))
            wrong = sum((m * (added - w).square()).sum() for m, w in zip(inside, wanted, strict=True))
            total = total + wrong / (size + 1e-6)
        count, self.added = len(self.added), []
        return total / count


class Run:
    """The state of a run: network, moving average, optimiser, time spent. Kept in ``fusers.pt``."""

    def __init__(self, settings: Settings) -> None:
        from ..hosts.diffusers.interaction import transformer_blocks
        from ..hosts.diffusers.pixelworld import load_pixelworld

        torch.manual_seed(settings.seed)
        self.settings, self.path = settings, settings.out / "fusers.pt"
        pipeline: Any = load_pixelworld()
        self.pipeline = pipeline
        self.unet = pipeline.unet.requires_grad_(False)
        self.phrases = Phrases(self.pipeline)
        self.net = opened(new_network())
        self.watch, self.values = Watch(self.net), Values(self.net, transformer_blocks(self.unet))
        learning = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, settings.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.ema = {key: value.clone() for key, value in self.net.state_dict().items()}
        self.spent, self.step = 0.0, 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.net.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.spent, self.step = state["ema"], state["spent"], state["step"]
        self.rng = Random(f"fusers {settings.seed} {self.step}")
        self.noise = torch.Generator().manual_seed(settings.seed * 7919 + self.step)

    @property
    def fraction(self) -> float:
        """Share of the time that is spent."""
        return self.spent / (60 * self.settings.minutes)

    def save(self) -> None:
        """Write the checkpoint and the weights as they would be shipped."""
        state = {"model": self.net.state_dict(), "optimiser": self.optimiser.state_dict(), "ema": self.ema}
        save_atomically({**state, "spent": self.spent, "step": self.step}, self.path)
        trained = {"steps": self.step, "minutes": round(self.spent / 60, 1), "batch": self.settings.batch}
        export(self.ema, self.unet.state_dict(), self.settings.out / FILE, trained)

    def advance(self) -> np.ndarray:
        """One step; returns the losses of noise, attention and values."""
        from ..hosts.diffusers.interaction import Fusing, fused

        rate = self.settings.rate * min(1, (self.step + 1) / 60) * min(1, 2.0 * (1 - self.fraction)) + 1e-7
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        z, context, given, named = self._batch()
        tokens = self.net.position_net(given)
        t = noisy_timesteps(len(z), self.noise)
        a = network.alphas()[t].view(-1, 1, 1, 1)
        noise = torch.randn(z.shape, generator=self.noise)
        with fused(self.unet, self.net, Fusing(tokens)):
            predicted = self.unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context, return_dict=False)[0]
        snr = a / (1 - a)
        loss = (snr.clamp(max=5).sqrt() / snr * (predicted - noise).pow(2)).mean()
        looking, saying = self.watch.loss(given), self.values.loss(given, context[: len(named[0])], named)
        self.optimiser.zero_grad()
        taught = self.settings.attention * looking + self.settings.values * saying
        (loss + max(0.1, 1 - self.fraction) * taught).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        now, decay = self.net.state_dict(), min(self.settings.ema, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [now[key] for key in self.ema], 1 - decay)
        return np.array([loss.item(), looking.item(), saying.item()])

    def _batch(self) -> tuple[Tensor, Tensor, Grounding, tuple[Tensor, Tensor]]:
        """Latents (B, 4, 16, 16), captions (B, 77, D) and interactions of scenes; of the first half also the phrases of
        both parties, (half, 77, D) each.
        """
        rng, size = self.rng, self.settings.batch
        scenes = [sample_scene(rng, kind) for kind in rng.choices(KINDS, ODDS, k=size)]
        layouts = [self._layout(scene) for scene in scenes]
        captions = [self._caption(scene, layout) for scene, layout in zip(scenes, layouts, strict=True)]
        with torch.no_grad():
            z = autoencoder.encode_small(self.pipeline.vae, torch.from_numpy(data.pictures(scenes)))
            context, half = self._read(captions), -(-size // 2)
            first, second = (
                self._read([f"a {layout.things[i].name}" if layout else "" for layout in layouts[:half]])
                for i in (0, 1)
            )
        given = grounding(layouts, self.phrases, rng)
        return z * autoencoder.CONFIG["scaling_factor"], context, given, (first, second)

    def _read(self, texts: Sequence[str]) -> Tensor:
        ids = torch.tensor([data.token_ids(text, self.phrases.ids) for text in texts])
        return self.pipeline.text_encoder(ids).last_hidden_state

    def _caption(self, scene: Scene, layout: Layout | None) -> str:
        """What the base is told: everything, or where tokens tell it, less, so that the fusers cannot be idle."""
        rng = self.rng
        told = rng.random() if layout else 1.0
        if told < self.settings.unsaid:
            return ""
        if told < self.settings.unsaid + self.settings.bare:
            return "a " + " and a ".join(rng.sample([phrase(thing) for thing in scene.things], len(scene.things)))
        return data.training_caption(scene, rng, UNSURE if layout else CAREFUL)

    def _layout(self, scene: Scene) -> Layout | None:
        """What the fusers are told of a scene."""
        rng, exact = self.rng, scene_layout(scene)
        if exact is None or rng.random() < self.settings.dropped:
            return None
        if rng.random() >= self.settings.shaken:
            return exact
        things = (replace(t, box=shaken(t.box, rng, self.settings.shake)) for t in exact.things if t.box is not None)
        return replace(exact, things=tuple(things))


def export(
    state: dict[str, Tensor], base: dict[str, Tensor], path: Path, trained: dict[str, float] | None = None
) -> None:
    """Write a network's weights in half precision under the published names (the webui file's form), and what they are
    beside them.
    """
    from safetensors.torch import save_file

    net = new_network()
    net.load_state_dict(state)
    with torch.no_grad():
        for fuser in _fusers(net):
            for layer in (fuser.attn.to_out[0], fuser.ff.net[2]):
                layer.weight.mul_(SHARPER)
                layer.bias.mul_(SHARPER)
    tensors = state_of(net, tuple(attention_blocks(diffusers_to_ldm(base))))
    half = {key: value.half().contiguous() for key, value in tensors.items()}
    save_file(half, path, {"format": "pt", "heads": str(HEADS)})
    sizes = {"widths": WIDTHS, "tokens": TOKENS, "heads": HEADS, "slots": SLOTS, "hidden": HIDDEN, "placed": True}
    about = {"file": path.name, **sizes, "trained": trained or {}, "sha256": file_digest(path)}
    path.with_name(CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def train(settings: Settings) -> Path:
    """Train until the minutes are spent; returns the file with the weights, which is also written on the way."""
    torch.set_num_threads(1)
    settings.out.mkdir(parents=True, exist_ok=True)
    run = Run(settings)
    seen, saved, total = time.process_time(), run.spent, np.zeros(3)
    while run.fraction < 1:
        total += run.advance()
        run.spent, seen = run.spent + time.process_time() - seen, time.process_time()
        if run.step % LOG_EVERY == 0:
            loss, looking, saying = (total / LOG_EVERY).round(4).tolist()
            line = {"step": run.step, "seconds": round(run.spent), "loss": loss, "attention": looking, "values": saying}
            with open(settings.out / "fusers_curve.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            logger.info("%s", line)
            total[:] = 0
        if run.spent - saved > SAVE_EVERY or run.fraction >= 1:
            run.save()
            saved = run.spent
    return settings.out / FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be asked of a training."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoint and weights")
    parser.add_argument("--minutes", type=float, default=48, help="processor time of the training (48)")
    parser.add_argument("--batch", type=int, default=8, help="scenes a step (8)")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (0.002)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Train as the options say and print where the weights are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    print(train(Settings(args.out, args.minutes, args.batch, args.rate, args.seed)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this module; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except InterplayError as error:
        sys.stderr.write(f"interplay: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
