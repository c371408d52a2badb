"""Methods that look at the picture and draw again: re-weighted attention from the same noise, or another noise.

PixelWorld's exact detector and exact masks stand where perception models stand for photographs. Both kinds draw a
picture, look at it, draw the wrong ones once more, and keep the better by ``score``, which is the detector's. So they
spend the same, and differ in what the second drawing is given. What is made of the objects is what ComfyUI's nodes make
of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ...errors import InterplayError
from ...parsing import parse
from ...parsing.hypergraph import Hypergraph
from ...parsing.tokens import align_plain
from ..grounding import detectors_pixelworld
from ..grounding.detectors import ground, wanted_things
from ..grounding.objects import PictureObjects
from ..grounding.presence import presence_guidance
from ..grounding.regions import as_wanted, bindings, bound_objects, mendable
from ..grounding.verdicts import judge_offline
from ..hosts.diffusers.guidance import guided
from ..hosts.diffusers.modulation import reweighted
from ..modulation import Binding, ModulationConfig, modulation
from ..modulation_words import positions
from ..pixelworld.detect import detect, request, verdict
from ..presets import preset
from .methods import Batch, Draw, Drawn, Method, call

OTHER_NOISE = 500_000  # between the noise seeds of the first and the second drawing of a resampled picture
HOW, NOISE, KEEP = ("reweight", "resample"), ("same", "as needed"), ("better", "second")


@dataclass(frozen=True)
class Options:
    """What the second drawing does.

    how: "reweight" from the same noise, or "resample" from another. base: guidance preset of the first drawing, "plain"
    for none; second: of the second, where it is another. noise "as needed": what regions cannot mend (a thing or an
    action that is not there at all) is drawn from another noise, not re-weighted. presence: strength of guidance
    towards what is missing, 0 for none. keep: which picture is handed on.
    """

    how: str = "reweight"
    base: str = "plain"
    second: str = ""
    noise: str = "same"
    presence: float = 0.0
    keep: str = "better"

    def __post_init__(self) -> None:
        for name, known in (("how", HOW), ("noise", NOISE), ("keep", KEEP)):
            value = getattr(self, name)
            if value not in known:
                raise InterplayError(f"Looking again knows {name} {', '.join(known)}, not '{value}'; choose of these.")
        for name in (self.base, self.second or self.base):
            if name != "plain":
                preset(name)


def again(name: str, settings: Mapping[str, Any]) -> Method:
    """Draw, look, and draw the wrong ones once more. settings: those of ``Options``; with ``how`` "reweight" (the
    default) also ``preset`` of ``modulation.PRESETS`` and the fields of ``ModulationConfig``.
    """
    names = Options.__dataclass_fields__
    options = Options(**{key: value for key, value in settings.items() if key in names})
    rest = {key: value for key, value in settings.items() if key not in names}
    said = {"kind": "again", **asdict(options), **rest}
    if options.how == "resample":
        if rest:
            raise InterplayError(f"'{name}' draws from another noise and has no setting '{min(rest)}'; leave it out.")
        return Method(name, _looking(options, None), said)
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
    config = modulation(str(changes.pop("preset", "RealignDiff (recommended)")), **changes)
    return Method(name, _looking(options, config), said)


def _looking(options: Options, config: ModulationConfig | None) -> Draw:
    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        images = _drawn(pipeline, batch, options.base)
        before = [score(prompt, image) for prompt, image in zip(batch.prompts, images, strict=True)]
        wrong = [i for i, value in enumerate(before) if value < 1]
        for i, image in zip(wrong, second_drawing(pipeline, batch, wrong, images, options, config), strict=True):
            if options.keep == "second" or score(batch.prompts[i], image) > before[i]:
                images[i] = image
        return [Drawn(image) for image in images]

    return draw


def second_drawing(
    pipeline: Any,
    batch: Batch,
    wrong: Sequence[int],
    images: Sequence[np.ndarray],
    options: Options,
    config: ModulationConfig | None,
) -> list[np.ndarray]:
    """The second drawing of the wrong ones; config None: from another noise."""
    if not wrong:
        return []
    seen = [Seen.of(batch.prompts[i], images[i], config) for i in wrong]
    other = [fresh(one, options, config) for one in seen]
    out = dict[int, np.ndarray]()
    for new in (False, True):
        part = [k for k, another in enumerate(other) if another == new]
        made = _second(pipeline, batch, [(wrong[k], seen[k]) for k in part], options, None if new else config)
        out |= dict(zip(part, made, strict=True))
    return [out[k] for k in range(len(wrong))]


def fresh(seen: Seen, options: Options, config: ModulationConfig | None) -> bool:
    """Whether the second drawing is from another noise, and not re-weighted."""
    return config is None or (options.noise == "as needed" and not seen.mendable)


def _second(
    pipeline: Any,
    batch: Batch,
    rows: Sequence[tuple[int, Seen]],
    options: Options,
    config: ModulationConfig | None,
) -> list[np.ndarray]:
    """Re-weighted from the same noise, or with config None plainly from another."""
    if not rows:
        return []
    prompts = tuple(batch.prompts[i] for i, _ in rows)
    seeds = tuple(batch.seeds[i] + (OTHER_NOISE if config is None else 0) for i, _ in rows)
    part, base = replace(batch, prompts=prompts, seeds=seeds), options.second or options.base
    missing = [one.picture.missing for _, one in rows] if options.presence else []
    if config is None:
        return _drawn(pipeline, part, base, missing=missing, presence=options.presence)
    found = [one.bindings(pipeline) for _, one in rows]
    words = [_all_words(pipeline, prompt) for prompt in prompts]
    with reweighted(pipeline, found, config, words):
        return _drawn(pipeline, part, base, config.replace_phrases, missing, options.presence)


def _drawn(
    pipeline: Any,
    batch: Batch,
    base: str,
    alone: bool = False,
    missing: Sequence[Sequence[str]] = (),
    presence: float = 0.0,
) -> list[np.ndarray]:
    """A drawing with a guidance preset or "plain". alone: phrases are encoded alone. missing: what presence guidance is
    to look after in each picture.
    """
    with ExitStack() as stack:
        guidance = None if base == "plain" else preset(base)
        guidance = presence_guidance(missing, guidance, presence) or guidance
        if guidance is not None:
            stack.enter_context(guided(pipeline, guidance, batch.prompts, batch.seed))
        return list(_with_phrases(pipeline, batch) if alone else call(pipeline, batch))


def score(prompt: str, image: np.ndarray) -> float:
    """How right the detector finds a picture: the mean over the parts that the prompt asks for, a tenth less where
    there is something besides or a mixture of colours; 1 only where all is right.
    """
    seen = verdict(request(prompt), detect(image))
    parts = (seen.binding, seen.action_right, seen.environment_right, seen.attributes_right, seen.bystander_right)
    asked = [float(part) for part in parts if part is not None]
    value = sum(asked) / len(asked) - 0.1 * (seen.extra > 0 or seen.mixture)
    return 1.0 if seen.all_right else min(value, 0.99)


# --- from a picture to its objects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A picture looked at: its objects, as the loop in ComfyUI sees them with PixelWorld's detector and rules."""

    graph: Hypergraph
    picture: PictureObjects
    mendable: bool

    @classmethod
    def of(cls, prompt: str, image: np.ndarray, config: ModulationConfig | None) -> Seen:
        """Look at a picture (H, W, 3) uint8. Regions "wanted" are given as the prompt wants them."""
        graph, pixels = parse(prompt), torch.from_numpy(image).float() / 255
        wanted = config is not None and config.regions == "wanted"
        names = detectors_pixelworld.tags(pixels)
        things = wanted_things(graph, names, {**judge_offline(prompt, names, graph).by_tag()})
        found = ground(pixels, things, detectors_pixelworld.find, instances="separate" if wanted else "joined")
        found = detectors_pixelworld.with_acts(pixels, found)
        helps = mendable(found, graph, "wanted" if wanted else "found")
        return cls(graph, as_wanted(found, graph) if wanted else found, helps)

    def bindings(self, pipeline: Any) -> list[Binding]:
        """Masks, words' positions and scores for ``reweighted``."""
        table = align_plain(self.graph.prompt, pipeline.tokenizer)
        return bindings(self.picture, bound_objects(self.picture, self.graph), table)


def _all_words(pipeline: Any, prompt: str) -> tuple[int, ...]:
    return align_plain(prompt, pipeline.tokenizer).positions((0, len(prompt)))


def _with_phrases(pipeline: Any, batch: Batch) -> np.ndarray:
    """The pipeline's call with every phrase's rows from its own encoding."""
    device = pipeline.unet.device
    with torch.no_grad():
        rows, nothing = pipeline.encode_prompt(list(batch.prompts), device, 1, True, [""] * len(batch.prompts))
        for row, prompt in zip(rows, batch.prompts, strict=True):
            table = align_plain(prompt, pipeline.tokenizer)
            for vertex in parse(prompt).vertices:
                if vertex.environment:
                    continue
                spans = sorted({vertex.span, *(m.span for m in vertex.modifiers)})
                alone = pipeline.encode_prompt([" ".join(prompt[a:b] for a, b in spans)], device, 1, False)[0][0]
                places = list(positions(spans, table))
                row[places] = alone[1 : len(places) + 1]
    images = pipeline(
        prompt_embeds=rows,
        negative_prompt_embeds=nothing,
        generator=batch.generators(),
        output_type="np",
        num_inference_steps=batch.steps,
        guidance_scale=batch.cfg,
    ).images
    return (images * 255).round().astype(np.uint8)
