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
from torch import Tensor

from .caption import PAD, CaptionModel, encode, save_caption_model
from .caption_data import Lesson, lessons, make_pool, sentences
from .train_autoencoder import save_atomically

logger = logging.getLogger(__name__)
POOLS = {"decoded": 1500, "drawn": 600}


def losses(model: CaptionModel, batch: Sequence[Lesson], rng: Random) -> tuple[Tensor, Tensor, Tensor]:
    """Of the captions, of text against text, and of pictures against texts."""
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
    return written, texts, shown + F.cross_entropy(scale * one @ seen.T, place)


class Run:
    """Model, moving average and optimiser; kept in ``caption.pt``."""

    def __init__(self, out: Path, minutes: float, batch: int, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.out, self.minutes, self.batch, self.rate = out, minutes, batch, rate
        self.model, self.step, self.spent = CaptionModel(), 0, 0.0
        self.optimiser = torch.optim.AdamW(self.model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.ema = {key: value.clone() for key, value in self.model.state_dict().items()}
        if (out / "caption.pt").is_file():
            state = torch.load(out / "caption.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema, self.step, self.spent = state["ema"], state["step"], state["spent"]
        self.rng = Random(f"caption {seed} {self.step}")
        torch.manual_seed(seed + self.step)

    @property
    def fraction(self) -> float:
        """Share of the time that is spent."""
        return self.spent / (60 * self.minutes)

    def advance(self, pools: Sequence[Sequence[Lesson]]) -> list[float]:
        """One step; returns the three losses."""
        rate = self.rate * min(1, (self.step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, self.fraction)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate + 1e-6
        parts = losses(self.model, lessons(self.rng, self.batch, pools), self.rng)
        self.optimiser.zero_grad()
        (parts[0] + 0.3 * parts[1] + 0.3 * parts[2]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        now, decay = self.model.state_dict(), min(0.998, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [now[key] for key in self.ema], 1 - decay)
        return [float(p.detach()) for p in parts]

    def save(self) -> None:
        """Checkpoint, and the moving average as the pack ships it."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        save_atomically({**state, "ema": self.ema, "step": self.step, "spent": self.spent}, self.out / "caption.pt")
        save_caption_model(self.model, self.ema, self.out / "captioner")


def train(out: Path, minutes: float, batch: int = 48, rate: float = 1.5e-3, seed: int = 0) -> None:
    """Train until ``minutes`` of processor time are spent, over all resumed parts; saves every half minute."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    pools = [make_pool(out / f"{kind}.npz", count, seed, kind) for kind, count in POOLS.items()]
    run = Run(out, minutes, batch, rate, seed)
    seen, saved, total = time.process_time(), run.spent, np.zeros(3)
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
    line |= {name: round(float(v), 4) for name, v in zip(("caption", "texts", "shown"), means, strict=True)}
    with open(run.out / "caption_curve.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", line)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=15, help="processor time of the training itself (15)")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(args.out, args.minutes, args.batch, args.rate, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
