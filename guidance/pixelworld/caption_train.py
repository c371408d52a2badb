"""Train PixelWorld's caption model; goes on where it stopped, writes OUT/captioner.

    python -m interplay.guidance.pixelworld.caption_train --out DIR --minutes 15

Learns at once to write the exact caption, to give paraphrases the same vector and near misses (parties or adjectives
exchanged, one word changed) another, and to give a picture the vector of what it shows.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .caption import PAD, CaptionModel, encode, save_caption_model
from .caption_data import NOWHERE, Lesson, lessons, make_pool, sentences
from .train_autoencoder import save_atomically
from .world import ACTIONS, COLOURS, ENVIRONMENTS, OBJECTS, PATTERNS, SIZES, Scene

logger = logging.getLogger(__name__)
POOLS = {"decoded": 2000, "drawn": 400}


ROLES = ("subject", "target", "bystander", "apart")
_PARTS: dict[str, tuple[str | None, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "size": (None, *SIZES),
    "pattern": (None, *PATTERNS),
    "role": ROLES,
}


class Helper(nn.Module):
    """What the eye is asked in training only: what lies at each place, in which role; the action, the environment."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in _PARTS.items()})
        self.there = nn.Linear(width, 1)
        self.action, self.environment = nn.Linear(width, len(ACTIONS) + 1), nn.Linear(width, len(ENVIRONMENTS))

    def forward(self, places: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """The loss; scenes whose places are not known are asked for action and environment only."""
        middle = places.mean(1)
        actions = torch.tensor([ACTIONS.index(s.action) + 1 if s.action else 0 for s in scenes])
        around = torch.tensor([ENVIRONMENTS.index(s.environment) for s in scenes])
        loss = F.cross_entropy(self.action(middle), actions) + F.cross_entropy(self.environment(middle), around)
        known = [i for i, scene in enumerate(scenes) if scene.x != NOWHERE]
        rows, answers = _answers([scenes[i] for i in known])
        if not rows:
            return loss
        row = torch.tensor([known[i] for i, _ in rows])
        at = places[row, torch.tensor([place for _, place in rows])]
        there = torch.zeros(len(scenes), places.shape[1])
        there[row, torch.tensor([place for _, place in rows])] = 1.0
        found = self.there(places)[..., 0][known]
        loss = loss + 4 * F.binary_cross_entropy_with_logits(found, there[known])
        for number, head in enumerate(self.parts.values()):
            loss = loss + F.cross_entropy(head(at), torch.tensor([answer[number] for answer in answers]))
        return loss


def _answers(scenes: Sequence[Scene]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """For each thing: its scene and the place of its middle, and the numbers of what it is, part by part."""
    rows, answers = list[tuple[int, int]](), list[list[int]]()
    for i, scene in enumerate(scenes):
        for number, (thing, (x, y)) in enumerate(zip(scene.things, scene.positions, strict=True)):
            half = thing.cells // 2
            rows.append((i, (y + half) // 2 * 8 + (x + half) // 2))
            role = ROLES[number] if scene.action else "apart"
            said = (thing.object, thing.colour, thing.size, thing.pattern, role)
            answers.append([words.index(word) for words, word in zip(_PARTS.values(), said, strict=True)])
    return rows, answers


def losses(model: CaptionModel, helper: Helper, batch: Sequence[Lesson], rng: Random) -> list[Tensor]:
    """Of the captions, of text against text, of pictures against texts, and the helper's."""
    pixels = torch.from_numpy(np.stack([lesson.picture for lesson in batch])).float() / 255
    pixels = pixels * (1 + 0.04 * torch.randn(len(pixels), 3, 1, 1)) + 0.02 * torch.randn_like(pixels)
    said = [sentences(lesson.scene, rng) for lesson in batch]
    places, ids = model.look(pixels), encode([s[0] for s in said])
    logits, seen = model.write(places, ids[:, :-1]), model.see(places)
    misses = [text for s in said for text in s[3]]
    vectors = model.read(encode([*(s[1] for s in said), *(s[2] for s in said), *misses]))
    one, two, wrong = vectors.split((len(said), len(said), 2 * len(said)))
    written = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
    scale = model.scale.clamp(max=3.4).exp()
    place = torch.arange(len(batch))
    texts = F.cross_entropy(scale * one @ torch.cat([two, wrong]).T, place)
    shown = F.cross_entropy(scale * seen @ torch.cat([one, wrong]).T, place)
    shown = shown + F.cross_entropy(scale * one @ seen.T, place)
    return [written, texts, shown, helper(places, [lesson.scene for lesson in batch])]


class Run:
    """Model, moving average and optimiser; kept in ``caption.pt``."""

    def __init__(self, out: Path, minutes: float, batch: int, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.out, self.minutes, self.batch, self.rate = out, minutes, batch, rate
        self.model, self.step, self.spent = CaptionModel(), 0, 0.0
        self.helper = Helper(self.model.config.width)
        self.parameters = [*self.model.parameters(), *self.helper.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.ema = {key: value.clone() for key, value in self.model.state_dict().items()}
        if (out / "caption.pt").is_file():
            state = torch.load(out / "caption.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.helper.load_state_dict(state["helper"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.step, self.spent = state["ema"], state["step"], state["spent"]
        self.rng = Random(f"caption {seed} {self.step}")
        torch.manual_seed(seed + self.step)

    @property
    def fraction(self) -> float:
        """Share of the time that is spent."""
        return self.spent / (60 * self.minutes)

    def advance(self, pools: Sequence[Sequence[Lesson]]) -> list[float]:
        """One step; returns the losses."""
        rate = self.rate * min(1, (self.step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.fraction)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate + 1e-6
        parts = losses(self.model, self.helper, lessons(self.rng, self.batch, pools), self.rng)
        self.optimiser.zero_grad()
        (parts[0] + 0.3 * parts[1] + 0.3 * parts[2] + 0.3 * parts[3]).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        now, decay = self.model.state_dict(), min(0.998, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [now[key] for key in self.ema], 1 - decay)
        return [float(p.detach()) for p in parts]

    def save(self) -> None:
        """Checkpoint, and the moving average as the pack ships it."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "helper": self.helper.state_dict()}
        state["optimiser"] = self.optimiser.state_dict()
        save_atomically({**state, "ema": self.ema, "step": self.step, "spent": self.spent}, self.out / "caption.pt")
        save_caption_model(self.model, self.ema, self.out / "captioner")


def train(out: Path, minutes: float, batch: int = 24, rate: float = 1.5e-3, seed: int = 0) -> None:
    """Train until ``minutes`` of processor time are spent, over all resumed parts; saves every half minute."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    pools = [make_pool(out / f"{kind}.npz", count, seed, kind) for kind, count in POOLS.items()]
    run = Run(out, minutes, batch, rate, seed)
    seen, saved, total = time.process_time(), run.spent, np.zeros(4)
    while run.fraction < 1:
        total += run.advance(pools)
        run.spent, seen = run.spent + time.process_time() - seen, time.process_time()
        if run.step % 50 == 0:
            _log(run, total / 50)
            total[:] = 0
        if run.spent - saved > 30 or run.fraction >= 1:
            run.save()
            saved = run.spent


def _log(run: Run, means: np.ndarray) -> None:
    """One line of the training curve."""
    line: dict[str, float] = {"step": run.step, "pictures": run.step * run.batch, "seconds": round(run.spent)}
    line |= {name: round(float(v), 4) for name, v in zip(("caption", "texts", "shown", "places"), means, strict=True)}
    with open(run.out / "caption_curve.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", line)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=15, help="processor time of the training itself (15)")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(args.out, args.minutes, args.batch, args.rate, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
