"""Methods that look at the picture and draw again: re-weighted attention from the same noise, or another noise.

PixelWorld's exact detector and exact masks stand where perception models stand for photographs. Both kinds draw a
picture, look at it, draw the wrong ones once more, and keep the better by ``score``, which is the detector's. So they
spend the same, and differ in what the second drawing is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InterplayError
from ...parsing.tokens import align_plain
from ..hosts.diffusers.guidance import guided
from ..hosts.diffusers.modulation import reweighted
from ..modulation import Binding, ModulationConfig, modulation
from ..pixelworld import sprites
from ..pixelworld.detect import Detection, Found, detect, request, verdict
from ..pixelworld.world import COLOURS, OBJECTS, PATTERNS, SIZES, Request
from ..presets import preset
from .methods import Batch, Draw, Drawn, Method, call

CERTAIN = 2.0  # the paper's score of an object that the prompt names
OTHER_NOISE = 500_000  # between the noise seeds of the first and the second drawing of a resampled picture
HOW, ROLES, SPARE, KEEP = ("reweight", "resample"), ("keep", "exchange"), ("leave", "use"), ("better", "second")
_WORDS = {*COLOURS, *SIZES, *PATTERNS}


@dataclass(frozen=True)
class Options:
    """What the second drawing does.

    how: "reweight" from the same noise, or "resample" from another. base: guidance preset of the first drawing, "plain"
    for none; second: of the second, where it is another. roles "exchange": where the
    right action is there the wrong way round, each party's words go to the other's region; "keep": each region gets the
    words of what is in it, as in the paper. spare "use": the region of a thing that nobody asked for is given to one
    that is missing, else all words are pushed out of it; "leave": it is left alone. keep: which picture is handed on.
    """

    how: str = "reweight"
    base: str = "plain"
    second: str = ""
    roles: str = "keep"
    spare: str = "leave"
    keep: str = "better"

    def __post_init__(self) -> None:
        for name, known in (("how", HOW), ("roles", ROLES), ("spare", SPARE), ("keep", KEEP)):
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
    prompts = tuple(batch.prompts[i] for i in wrong)
    seeds = tuple(batch.seeds[i] + (OTHER_NOISE if config is None else 0) for i in wrong)
    part, base = replace(batch, prompts=prompts, seeds=seeds), options.second or options.base
    if config is None:
        return _drawn(pipeline, part, base)
    found = [objects(pipeline, prompt, images[i], options) for prompt, i in zip(prompts, wrong, strict=True)]
    words = [_all_words(pipeline, prompt) for prompt in prompts]
    with reweighted(pipeline, found, config, words):
        return _drawn(pipeline, part, base, config.replace_phrases)


def _drawn(pipeline: Any, batch: Batch, base: str, alone: bool = False) -> list[np.ndarray]:
    """A drawing with a guidance preset or "plain". alone: phrases are encoded alone."""
    with ExitStack() as stack:
        if base != "plain":
            stack.enter_context(guided(pipeline, preset(base), batch.prompts, batch.seed))
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


def objects(pipeline: Any, prompt: str, image: np.ndarray, options: Options) -> list[Binding]:
    """The objects that a picture shows of its prompt, with exact masks, and their words' positions."""
    asked, seen = request(prompt), detect(image)
    regions = assigned(asked, seen, options)
    table = align_plain(prompt, pipeline.tokenizer)
    out = []
    for region, spans in zip(regions, phrases(prompt), strict=True):
        if region is not None:
            out.append(
                Binding(_mask(seen.objects[region]), tuple(p for s in spans for p in table.positions(s)), CERTAIN)
            )
    if options.spare == "use":
        left = set(range(len(seen.objects))) - set(regions)
        out += [Binding(_mask(seen.objects[i]), (), CERTAIN) for i in sorted(left)]
    return out


def assigned(asked: Request, seen: Detection, options: Options) -> list[int | None]:
    """For each asked object the found one whose region its words are to have, or None."""
    regions: list[int | None] = []
    for wanted in asked.things:
        same = [i for i, item in enumerate(seen.objects) if item.object == wanted.object and i not in regions]
        regions.append(max(same, key=lambda i: seen.objects[i].colour == wanted.colour, default=None))
    if options.spare == "use":
        left = [i for i in range(len(seen.objects)) if i not in regions]
        regions = [left.pop(0) if region is None and left else region for region in regions]
    turned = seen.action is not None and (seen.action[2], seen.action[0]) == tuple(regions[:2])
    if options.roles == "exchange" and turned and seen.action is not None and seen.action[1] == asked.action:
        regions[:2] = regions[1::-1]
    return regions


def phrases(prompt: str) -> list[list[tuple[int, int]]]:
    """For each object that a prompt names, the characters of its adjectives and of itself."""
    found, words = list[list[tuple[int, int]]](), list[tuple[int, int]]()
    for match in re.finditer(r"[a-z]+", prompt.lower()):
        if match.group() in _WORDS or match.group() in OBJECTS:
            words.append(match.span())
        if match.group() in OBJECTS:
            found.append(words)
            words = []
    return found


def _mask(item: Found) -> Tensor:
    mask = torch.zeros(sprites.SIZE, sprites.SIZE)
    shape = torch.from_numpy(sprites.sprite(item.object, item.size) != ".")
    mask[item.y : item.y + item.side, item.x : item.x + item.side] = shape.float()
    return mask


def _all_words(pipeline: Any, prompt: str) -> tuple[int, ...]:
    return align_plain(prompt, pipeline.tokenizer).positions((0, len(prompt)))


def _with_phrases(pipeline: Any, batch: Batch) -> np.ndarray:
    """The pipeline's call with every phrase's rows from its own encoding."""
    device = pipeline.unet.device
    with torch.no_grad():
        rows, nothing = pipeline.encode_prompt(list(batch.prompts), device, 1, True, [""] * len(batch.prompts))
        for row, prompt in zip(rows, batch.prompts, strict=True):
            table = align_plain(prompt, pipeline.tokenizer)
            for spans in phrases(prompt):
                alone = pipeline.encode_prompt([" ".join(prompt[a:b] for a, b in spans)], device, 1, False)[0][0]
                places = [p for span in spans for p in table.positions(span)]
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
