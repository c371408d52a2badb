"""RealignDiff's fine stage in ComfyUI: look at the pictures, re-weight attention by what was found, draw them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ...grounding import detectors_pixelworld
from ...grounding.loop import History, Look, Loop, Order
from ...grounding.objects import ObjectsBatch, PictureObjects
from ...grounding.presence import presence_guidance
from ...grounding.regions import mendable
from ...grounding.verdicts import Verdicts
from ...modulation import ModulationConfig
from ...presets import GuidanceConfig
from ...rewards.itm_settings import itm_preset
from .conditioning import PromptGraph, find_graph
from .guidance import DOWNSCALE, WRAPPERS, patch_model
from .itm import encode_text, score_latents, swapped_conditionings
from .passes import WRAPPER_KEY
from .perception import PIXELWORLD, Perception
from .reweight import reweight

AUTO, ITM, PRESENT = "auto", "DiffusionITM", "things found"
SCORES = (AUTO, PIXELWORLD, ITM, PRESENT)
SURE = 0.95  # probability from which a picture counts as right by DiffusionITM
FROM_PROMPT = "things of the prompt"
NOISE_STEP = 0x9E3779B97F4A7C15  # far from the seeds that people try one after the other


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: arguments of ComfyUI's KSampler, and the VAE that makes them visible."""

    model: Any
    vae: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float = 1.0

    def draw(self, model: Any, positive: Any, latent: dict[str, Any], other: int = 0) -> Tensor:
        """Samples of ``latent`` from this drawing's noise, or from another one by number, (B, C, h, w)."""
        import latent_preview  # ComfyUI's; it reads the command line's preview method

        given = [latent.get(key) for key in DOWNSCALE]
        extra = given if any(value is not None for value in given) else []
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *extra)
        seed = (self.seed + other * NOISE_STEP) % (1 << 64)
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        settings = (self.steps, self.cfg, self.sampler_name, self.scheduler)
        out: Tensor = comfy.sample.sample(
            model,
            noise,
            *settings,
            positive,
            self.negative,
            samples,
            denoise=self.denoise,
            noise_mask=latent.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, self.steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        return out


@dataclass(frozen=True)
class Drawn:
    """One picture: its latent (1, C, h, w) and IMAGE (1, H, W, 3)."""

    latent: Tensor
    image: Tensor


Tagger = Callable[[Tensor], list[tuple[str, ...]]]
Judge = Callable[[str, Sequence[str], Hypergraph], Verdicts]


@dataclass(frozen=True)
class Refinement:
    """How pictures are looked at and drawn again.

    perception: finds and masks things; tagger: IMAGE to tags, None = only things of the prompt are looked for; judge:
    prompt and tags to verdicts, None = the prompt's things are certain and others unjudged; config: of re-weighting;
    presence: strength of guidance that asks for what is missing, 0 = off; score: of ``SCORES``; clip: for DiffusionITM,
    and for phrases that the prompt lacks; rounds, growth, noise: see ``Loop``.
    """

    perception: Perception
    config: ModulationConfig
    tagger: Tagger | None = None
    judge: Judge | None = None
    presence: float = 0.0
    score: str = AUTO
    clip: Any = None
    rounds: int = 1
    growth: float = 1.5
    noise: str = "same"


@dataclass
class Outcome:
    """What a refinement gives: histories picture by picture, and the finished batch."""

    histories: list[History[Drawn]]
    objects: ObjectsBatch
    interrupted: bool
    first_images: Tensor
    images: Tensor = field(init=False)
    samples: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = torch.cat([item.picture.image for item in self.histories])
        self.samples = torch.cat([item.picture.latent for item in self.histories])


def refine(drawing: Drawing, how: Refinement, drawn: Tensor | None = None) -> Outcome:
    """Draw (or take ``drawn`` samples of the same settings), look, and draw again while something is wrong.

    The noise stays the same; each picture is kept or replaced by itself. An interrupt after the first look ends the
    refinement and keeps what is done. InterplayError for conditioning without a hypergraph or missing models.
    """
    carried = find_graph(drawing.positive)[0]
    if how.score not in SCORES:
        raise InterplayError(f"There is no score called '{how.score}'; choose one of {', '.join(SCORES)}.")
    how.perception.check()
    eyes = _Eyes(drawing, how, carried)
    hand = _Hand(drawing, how)
    loop = Loop(
        eyes.look,
        hand.draw,
        rounds=how.rounds,
        growth=how.growth,
        noise=how.noise,
        stopped=(comfy.model_management.InterruptProcessingException,),
    )
    samples = drawing.draw(drawing.model, drawing.positive, drawing.latent) if drawn is None else drawn
    first = hand.shown(samples)
    histories = loop.run(first)
    found = tuple(item.best.look.objects for item in histories)
    height, width = histories[0].picture.image.shape[1:3]
    shown = torch.cat([picture.image for picture in first])
    return Outcome(histories, ObjectsBatch(found, height, width, carried.prompt), loop.interrupted, shown)


@dataclass(frozen=True)
class _Hand:
    """Draws pictures of the batch again."""

    drawing: Drawing
    how: Refinement

    def draw(self, orders: Sequence[Order]) -> list[Drawn]:
        """What the orders ask for; those of one noise and strength are drawn together."""
        made = dict[int, Drawn]()
        for key in dict.fromkeys((order.noise, order.strength) for order in orders):
            part = [order for order in orders if (order.noise, order.strength) == key]
            made |= zip((order.row for order in part), self._together(part, *key), strict=True)
        return [made[order.row] for order in orders]

    def _together(self, orders: Sequence[Order], noise: int, strength: float) -> list[Drawn]:
        drawing, config = self.drawing, self.how.config
        height, width = next((o.objects.masks.shape[1:] for o in orders if o.objects.masks is not None), (1, 1))
        batch = ObjectsBatch(tuple(order.objects for order in orders), height, width)
        model, positive = drawing.model, drawing.positive
        if strength > 0:
            own, cross = config.self_strength * strength, config.strength * strength
            stronger = replace(config, strength=cross, self_strength=own)
            made = reweight(model, positive, batch, stronger, self.how.clip)
            model, positive = made.model, made.conditioning
        model = presence(model, batch, self.how.presence, drawing.seed)
        latent = rows_of(drawing.latent, [order.row for order in orders])
        return self.shown(drawing.draw(model, positive, latent, noise))

    def shown(self, samples: Tensor) -> list[Drawn]:
        images = self.drawing.vae.decode(samples)
        images = images.reshape(-1, *images.shape[-3:])
        return [Drawn(samples[i : i + 1], images[i : i + 1, ..., :3]) for i in range(len(samples))]


def presence(model: Any, objects: ObjectsBatch, strength: float, seed: int = 0) -> Any:
    """The model, guided towards what its pictures lack on top of the guidance it has; the same one when they lack
    nothing or strength is 0.
    """
    missing = [picture.missing for picture in objects.pictures]
    if strength == 0 or not any(missing):
        return model
    before = [call.__self__ for call in model.get_wrappers(WRAPPERS.OUTER_SAMPLE, WRAPPER_KEY)]
    base: GuidanceConfig | None = before[0].config if before else None
    config = presence_guidance(missing, base, strength)
    assert config is not None
    mode, report = (before[0].mode, before[0].on_report) if before else ("latent", None)
    return patch_model(model, config, before[0].seed if before else seed, mode, report)


def rows_of(latent: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some pictures of a LATENT, which still know their places in the batch, so that they get the same noise."""
    count = len(latent["samples"])
    if list(rows) == list(range(count)):
        return latent
    places = latent.get("batch_index") or list(range(count))
    out = {**latent, "samples": latent["samples"][list(rows)], "batch_index": [places[i] for i in rows]}
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) == count and count > 1:
        out["noise_mask"] = mask[list(rows)]
    return out


@dataclass
class _Eyes:
    """Looks at pictures: tags, verdicts, objects, and how right they are."""

    drawing: Drawing
    how: Refinement
    carried: PromptGraph
    _swaps: Any = None

    def look(self, pictures: Sequence[Drawn]) -> list[Look]:
        images = torch.cat([picture.image for picture in pictures])
        tags = self.how.tagger(images) if self.how.tagger else [()] * len(images)
        judge, graph = self.how.judge, self.carried.graph
        said = [judge(self.carried.prompt, names, graph) if judge and names else Verdicts(status="") for names in tags]
        batch = self.how.perception.look(images, graph, tags, [{**one.by_tag()} for one in said])
        marks = self._marks(pictures, images, batch)
        return [
            Look(*mark, objects, tuple(names), mendable(objects, graph, self.how.config.regions), one.status, one.raw)
            for mark, objects, names, one in zip(marks, batch.pictures, tags, said, strict=True)
        ]

    def _marks(
        self, pictures: Sequence[Drawn], images: Tensor, batch: ObjectsBatch
    ) -> list[tuple[float, tuple[str, ...]]]:
        kind = self.how.score
        if kind == AUTO:
            kind = PIXELWORLD if self.how.perception.detector == PIXELWORLD else ITM
        if kind == PIXELWORLD:
            return [detectors_pixelworld.judge(self.carried.prompt, image.cpu()) for image in images]
        if kind == PRESENT:
            return [_present(objects) for objects in batch.pictures]
        return [
            (p, (*(f"missing: {name}" for name in objects.missing), *([f"p = {p:.2f}"] * (p < SURE))))
            for p, objects in zip(self._matches(pictures), batch.pictures, strict=True)
        ]

    def _matches(self, pictures: Sequence[Drawn]) -> list[float]:
        """DiffusionITM's probability that the prompt fits better than its swapped captions, picture by picture."""
        if self.how.clip is None:
            raise InterplayError(
                "The score DiffusionITM encodes other captions: connect 'clip', or choose another score."
            )
        positive, clip = self.drawing.positive, self.how.clip
        if self._swaps is None:
            self._swaps = (encode_text(clip, ""), swapped_conditionings(clip, positive))
        empty, against = self._swaps
        latent = {"samples": torch.cat([picture.latent for picture in pictures])}
        settings = itm_preset("fast", seed=self.drawing.seed, prune=False)
        scores = score_latents(self.drawing.model, positive, latent, settings, empty, against).scores
        return [float(scores.match(i)) for i in range(len(pictures))]


def _present(objects: PictureObjects) -> tuple[float, tuple[str, ...]]:
    """Share of the things asked for that were found."""
    there = len({item.phrase or item.label for item in objects.objects if item.verdict is None or item.verdict > 0})
    asked = there + len(objects.missing)
    return (there / asked if asked else 1.0), tuple(f"missing: {name}" for name in objects.missing)
