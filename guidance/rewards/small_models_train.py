"""Teach small models of the classes that published scorers have on PixelWorld; goes on where it stopped.

    python -m interplay.guidance.rewards.small_models_train --out DIR

Writes DIR/clip, DIR/blip-caption, DIR/blip-itm, DIR/blip-vqa, DIR/blip2-itm and DIR/blip2-caption, folders as published
models have them: ``interplay score PICTURES --prompt "..." --clip DIR/clip --itm DIR/blip-itm --vqascore DIR/blip-vqa``
reads them, and the nodes do when the folders lie in models/interplay. First an eye is taught to see, then each model
reads and writes with it: BLIP's and BLIP-2's keep it as it is, as BLIP-2 does, CLIP goes on with it. Matching learns
with near misses (parties or adjectives exchanged, one word changed), which the published ones did not.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ..pixelworld.caption_data import lessons, make_pool, meaning, near_miss, sentences
from ..pixelworld.caption_train import POOLS
from ..pixelworld.train_autoencoder import save_atomically
from ..pixelworld.world import Scene, caption
from . import small_models as small
from .small_models_lessons import Asked, Pool, asked_about, look, seen_pictures

logger = logging.getLogger(__name__)
STEPS = {
    "eye": 3200,
    "blip-caption": 450,
    "blip2-caption": 1200,
    "blip-itm": 500,
    "blip-vqa": 400,
    "blip2-itm": 1200,
    "clip": 2400,
}
FROM = {  # words are learned by writing, binding by matching: what goes on from what, by the beginnings of names
    "blip-itm": ("blip-caption", {"text_decoder.bert.": "text_encoder."}),
    "blip-vqa": ("blip-itm", {"text_encoder.": "text_encoder."}),
    "blip2-itm": ("blip2-caption", {"qformer.": "qformer.", "query_tokens": "query_tokens"}),
}
BATCH = {"eye": 24, "clip": 24, "blip-itm": 24, "blip2-itm": 24}  # 32 for the others
RENDERED = 3000  # pictures that the models read, beside the decoded and drawn ones
QUESTIONED = 800  # pictures with questions
ASKED = 3  # questions about a picture at a time
RATE, EYE_RATE = 1.5e-3, 1e-3
KEEP = 50  # steps between two states
Step = Callable[[int], Tensor]
Questions = dict[int, list[tuple[str, str]]]
"""Questions and answers by the number of their picture in the pool."""


def words(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Ids and mask, padded to the longest."""
    found = tokenizer(list(texts), return_tensors="pt", padding=True)
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def fit(place: Path, module: nn.Module, loss_of: Step, steps: int, rate: float) -> None:
    """Train what of ``module`` has a gradient; goes on from ``place``, and leaves its last state there."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser, step = torch.optim.AdamW(trained, rate, betas=(0.9, 0.98), weight_decay=0.01), 0
    if place.is_file():
        state = torch.load(place, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    module.train()
    total, began = 0.0, time.process_time()
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6
        torch.manual_seed(step)
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        step, total = step + 1, total + float(loss.detach())
        if step % KEEP == 0 or step == steps:
            seconds = round(time.process_time() - began)
            logger.info("%s", json.dumps({place.stem: step, "loss": round(total / KEEP, 4), "seconds": seconds}))
            total = 0.0
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            save_atomically(state, place)
    module.eval()


# --- contrast and matching --------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """Logarithm of what cosines are multiplied with in training."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(2.7))

    def forward(self, cosines: Tensor) -> Tensor:
        """Logits."""
        return cosines * self.value.clamp(max=3.7).exp()


def contrast(scale: Scale, cosines: Tensor) -> Tensor:
    """cosines (B, B + M) of pictures with their own texts, then with near misses: each picture finds its text, each
    text its picture.
    """
    count, logits = len(cosines), scale(cosines)
    place = torch.arange(count)
    return cross_entropy(logits, place) + cross_entropy(logits[:, :count].T, place)


def pairs(scenes: Sequence[Scene], rng: Random) -> list[str]:
    """Texts for the contrast: one of each scene, then two near misses of each."""
    said = [sentences(scene, rng) for scene in scenes]
    return [*(s[1] for s in said), *(text for s in said for text in s[3])]


def missed(scene: Scene, rng: Random) -> str:
    """A plain caption that is a near miss."""
    own = meaning(caption(scene))
    kind = rng.choice(("roles", "roles", "adjectives", "adjectives", "word"))
    while True:
        text = caption(near_miss(scene, rng, kind))
        if meaning(text) != own:
            return text
        kind = "word"


@dataclass(frozen=True)
class Kind:
    """How a matching model matches, from what its eye has seen and words that are read (see ``words``). cosines: of
    each picture with each text; together: logits of each picture with its text, "no" and "yes", and what became of
    every word (B, T, width).
    """

    cosines: Callable[[Any, Tensor, dict[str, Tensor]], Tensor]
    together: Callable[[Any, Tensor, dict[str, Tensor]], tuple[Tensor, Tensor]]


def _blip_cosines(model: Any, seen: Tensor, read: dict[str, Tensor]) -> Tensor:
    """First token against first token."""
    alone = model.text_encoder(**read, return_dict=True).last_hidden_state[:, 0]
    image, text = model.vision_proj(seen[:, 0]), model.text_proj(alone)
    return normalize(image, dim=-1) @ normalize(text, dim=-1).T


def _blip_together(model: Any, seen: Tensor, read: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The text encoder reads with the picture in view."""
    both = model.text_encoder(**read, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    return model.itm_head(both[:, 0]), both


def _blip2_cosines(model: Any, seen: Tensor, read: dict[str, Tensor]) -> Tensor:
    """The best of the queries against the first token."""
    queries = model.query_tokens.expand(len(seen), -1, -1)
    image = model.qformer(query_embeds=queries, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    alone = model.qformer(
        query_embeds=model.embeddings(input_ids=read["input_ids"]),
        query_length=0,
        attention_mask=read["attention_mask"],
        return_dict=True,
    ).last_hidden_state[:, 0]
    image, text = normalize(model.vision_projection(image), dim=-1), normalize(model.text_projection(alone), dim=-1)
    return torch.einsum("bqd,td->btq", image, text).amax(-1)


def _blip2_together(model: Any, seen: Tensor, read: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and text read each other, the queries with the picture in view."""
    queries, count = model.query_tokens.expand(len(seen), -1, -1), small.QUERIES
    both = model.qformer(
        query_embeds=model.embeddings(input_ids=read["input_ids"], query_embeds=queries),
        query_length=count,
        attention_mask=torch.cat([torch.ones(len(seen), count, dtype=torch.long), read["attention_mask"]], 1),
        encoder_hidden_states=seen,
        return_dict=True,
    ).last_hidden_state
    return model.itm_head(both[:, :count]).mean(1), both[:, count:]


KINDS = {"blip-itm": Kind(_blip_cosines, _blip_together), "blip2-itm": Kind(_blip2_cosines, _blip2_together)}


class Marks(nn.Module):
    """What matching is asked in training only: which words are wrong. A single yes or no takes far longer to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(small.WIDTH, 2)

    def forward(self, words_seen: Tensor, wrong: Tensor) -> Tensor:
        """words_seen (B, T, width), wrong (B, T): 1, 0, or -1 where it is not asked; wrong words count four times."""
        logits, weights = self.head(words_seen).flatten(0, 1), torch.tensor([1.0, 4.0])
        return cross_entropy(logits, wrong.flatten(), weights, ignore_index=-1)


def matching(
    kind: Kind, model: Any, pool: Pool, tokenizer: Any, helpers: tuple[Scale, Marks], rng: Random, size: int
) -> Tensor:
    """Contrast, matching, and which words are wrong. Matched are plain captions, near misses of them, other words for
    the same, and those of another picture.
    """
    seen, batch, _ = pool.some(rng, size)
    scenes = [lesson.scene for lesson in batch]
    loss = contrast(helpers[0], kind.cosines(model, seen, words(tokenizer, pairs(scenes, rng))))
    plain, others = [caption(scene) for scene in scenes], [sentences(scene, rng)[1] for scene in scenes]
    texts = [*plain, *others, *(missed(scene, rng) for scene in scenes), *others[1:], others[0]]
    read = words(tokenizer, texts)
    logits, told = kind.together(model, seen.repeat(4, 1, 1), read)
    ids, mask = (read[name].unflatten(0, (4, size)) for name in ("input_ids", "attention_mask"))
    same = mask[0].sum(1, keepdim=True) == mask[2].sum(1, keepdim=True)  # word stands against word
    wrong = torch.full_like(ids, -1)
    wrong[0] = torch.where(mask[0] > 0, 0, -1)
    wrong[2] = torch.where((mask[2] > 0) & same, (ids[2] != ids[0]).long(), -1)
    marks: Tensor = helpers[1](told, wrong.flatten(0, 1))
    return loss + 2 * matched(logits, 2 * size) + 4 * marks


def matched(logits: Tensor, size: int) -> Tensor:
    """The first ``size`` belong together, the others do not; both sides count the same."""
    wanted = (torch.arange(len(logits)) < size).long()
    return cross_entropy(logits, wanted, torch.tensor([size / (len(logits) - size), 1.0]))


def clip(model: Any, pools: Sequence[Any], tokenizer: Any, scale: Scale, rng: Random, size: int) -> Tensor:
    """CLIP's."""
    batch = lessons(rng, size, pools)
    texts = pairs([lesson.scene for lesson in batch], rng)
    seen = model.vision_model(pixel_values=seen_pictures(batch)).pooler_output
    said = model.text_model(**words(tokenizer, texts)).pooler_output
    image, text = (normalize(x, dim=-1) for x in (model.visual_projection(seen), model.text_projection(said)))
    return contrast(scale, image @ text.T)


# --- writing ----------------------------------------------------------------------------------------------------------


def written(model: Any, seen: Tensor, read: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Captions: BLIP's decoder has the picture in view, BLIP-2's reads what its queries say of it. Logits
    (B, T, words) of what comes next, and the ids (B, T) that should.
    """
    ids, mask = read["input_ids"].clone(), read["attention_mask"]
    ids[:, 0] = small.START
    if not hasattr(model, "query_tokens"):
        logits = model.text_decoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, return_dict=True
        ).logits
        return logits[:, :-1], ids[:, 1:]
    queries = model.query_tokens.expand(len(seen), -1, -1)
    found = model.qformer(query_embeds=queries, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    embeds = torch.cat([model.language_projection(found), model.get_input_embeddings()(ids)], 1)
    whole = torch.cat([torch.ones(len(seen), small.QUERIES, dtype=torch.long), mask], 1)
    logits = model.language_model(inputs_embeds=embeds, attention_mask=whole).logits
    return logits[:, small.QUERIES : -1], ids[:, 1:]


def answered(model: Any, seen: Tensor, asked: dict[str, Tensor], said: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """BLIP's answers: its encoder reads the question with the picture in view, its decoder answers. As ``written``."""
    hidden = model.text_encoder(**asked, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    ids = said["input_ids"].clone()
    ids[:, 0] = small.START
    logits = model.text_decoder(
        input_ids=ids,
        attention_mask=said["attention_mask"],
        encoder_hidden_states=hidden,
        encoder_attention_mask=asked["attention_mask"],
        return_dict=True,
    ).logits
    return logits[:, :-1], ids[:, 1:]


def writing(logits: Tensor, ids: Tensor) -> Tensor:
    """The loss of what should be written; padding does not count."""
    return cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=small.PAD)


def captioning(model: Any, pool: Pool, tokenizer: Any, rng: Random, size: int) -> Tensor:
    """The loss of plain captions."""
    seen, batch, _ = pool.some(rng, size)
    return writing(*written(model, seen, words(tokenizer, [caption(lesson.scene) for lesson in batch])))


def answering(model: Any, seen: Tensor, picked: Sequence[tuple[str, str]], tokenizer: Any) -> Tensor:
    """The loss of answers; seen: (N, 65, width), one for each of N questions with answers. Questions of one length are
    asked together, since BLIP's decoder reads padding as if it were words.
    """
    lengths = [len(found) for found in tokenizer([question for question, _ in picked])["input_ids"]]
    logs, wanted = list[Tensor](), list[Tensor]()
    for length in sorted(set(lengths)):
        rows = [i for i, other in enumerate(lengths) if other == length]
        question, said = (words(tokenizer, [picked[i][n] for i in rows]) for n in (0, 1))
        logits, ids = answered(model, seen[rows], question, said)
        logs.append(logits.flatten(0, 1))
        wanted.append(ids.flatten())
    return cross_entropy(torch.cat(logs), torch.cat(wanted), ignore_index=small.PAD)


def questioned(pool: Pool, asked: Questions, rng: Random, size: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """What is seen and asked about ``size`` pictures, ASKED questions each."""
    chosen = [i for i in rng.choices(list(asked), k=size) for _ in range(ASKED)]
    return pool.seen[chosen].float(), [rng.choice(asked[i]) for i in chosen]


# --- all of it --------------------------------------------------------------------------------------------------------


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Weights whose names begin as in ``names``, with that beginning exchanged."""
    return {
        new + key[len(old) :]: value
        for old, new in names.items()
        for key, value in state.items()
        if key.startswith(old)
    }


class Run:
    """The folder, its pools, the eye, and what it has seen."""

    def __init__(self, out: Path, steps: dict[str, int], seed: int, pools: dict[str, int], rendered: int) -> None:
        self.out, self.steps, self.seed, self.rendered = out, steps, seed, rendered
        (out / "state").mkdir(parents=True, exist_ok=True)
        self.pools = [make_pool(out / f"{kind}.npz", count, seed, kind) for kind, count in pools.items()]
        self._eye: nn.Module | None = None
        self._pool: Pool | None = None

    def rng(self, name: str, step: int) -> Random:
        """Of one step."""
        return Random(f"{name} {self.seed} {step}")

    def place(self, name: str) -> Path:
        """Where a stage keeps its state."""
        return self.out / "state" / f"{name}.pt"

    def eye(self) -> nn.Module:
        """The eye, taught before it is handed out."""
        if self._eye is None:
            eye, asked = small.build("blip-itm", self.seed).get_submodule("vision_model"), Asked()

            def loss(step: int) -> Tensor:
                batch = lessons(self.rng("eye", step), BATCH["eye"], self.pools)
                found: Tensor = asked(eye(seen_pictures(batch))[0], [lesson.scene for lesson in batch])
                return found

            fit(self.place("eye"), nn.ModuleDict({"eye": eye, "asked": asked}), loss, self.steps["eye"], EYE_RATE)
            self._eye = eye.requires_grad_(False)
        return self._eye

    def pool(self) -> Pool:
        """What the eye sees."""
        if self._pool is None:
            self._pool = look(self.eye(), self.pools, self.rendered, self.seed)
        return self._pool

    def teach(self, name: str) -> None:
        """One of ``small.CLASSES``, into its folder."""
        model = small.build(name, self.seed)
        small.open_eye(model, self.eye(), seen_pictures(self.pools[0][:32]))
        scale, marks, size = Scale(), Marks(), BATCH.get(name, 32)
        if name in FROM:
            model.load_state_dict(renamed(self.taught(FROM[name][0]), FROM[name][1]), strict=False)
        if name != "clip":
            model.get_submodule("vision_model").requires_grad_(False)
        tokenizer = small.tokenizer(name, self.out / "state")
        step = self._step(name, model, tokenizer, (scale, marks), size)
        parts = {"model": model, "scale": scale, **({"marks": marks} if name in KINDS else {})}
        rate = EYE_RATE / 2 if name == "clip" else RATE
        fit(self.place(name), nn.ModuleDict(parts), step, self.steps[name], rate)
        small.save(name, model, self.out / name)

    def taught(self, name: str) -> dict[str, Tensor]:
        """The weights of a model that was taught before.

        Raises:
            FileNotFoundError: it was not.
        """
        state = torch.load(self.place(name), weights_only=True)["module"]
        return {key.removeprefix("model."): value for key, value in state.items()}

    def _step(self, name: str, model: Any, tokenizer: Any, helpers: tuple[Scale, Marks], size: int) -> Step:
        if name == "clip":
            return lambda step: clip(model, self.pools, tokenizer, helpers[0], self.rng(name, step), size)
        pool = self.pool()
        if name.endswith("caption"):
            return lambda step: captioning(model, pool, tokenizer, self.rng(name, step), size)
        if name == "blip-vqa":
            asked = self.questions(pool)
            return lambda step: answering(model, *questioned(pool, asked, self.rng(name, step), size), tokenizer)
        return lambda step: matching(KINDS[name], model, pool, tokenizer, helpers, self.rng(name, step), size)

    def questions(self, pool: Pool) -> Questions:
        """Questions about some of the pictures, by their number in the pool; kept in a file, for parsing takes time."""
        file = self.out / "state" / "questions.json"
        if not file.is_file():
            rng = Random(f"questions {self.seed}")
            chosen = rng.sample(range(len(pool.lessons)), min(QUESTIONED, len(pool.lessons)))
            made = {i: asked_about(pool.lessons[i].scene, rng) for i in chosen}
            file.write_text(json.dumps(made), encoding="utf-8")
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {int(i): [(q, a) for q, a in rows] for i, rows in kept.items()}


def train(
    out: Path,
    names: Sequence[str] = tuple(small.CLASSES),
    share: float = 1.0,
    seed: int = 0,
    pools: dict[str, int] = POOLS,
    rendered: int = RENDERED,
) -> None:
    """Teach the models of these names. share: of the usual number of steps."""
    torch.set_num_threads(1)
    steps = {name: max(1, round(count * share)) for name, count in STEPS.items()}
    run = Run(out, steps, seed, pools, rendered)
    for name in [name for name in STEPS if name in with_sources(names)]:
        run.teach(name)


def with_sources(names: Sequence[str]) -> set[str]:
    """Models, and those that they go on from."""
    wanted = set(names)
    for name in names:
        while name in FROM:
            name = FROM[name][0]
            wanted.add(name)
    return wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=list(small.CLASSES), default=list(small.CLASSES))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of steps (1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(args.out, args.only, args.share, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
