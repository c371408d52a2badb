"""From objects of pictures and a conditioning to a re-weighted model, and what it attends to before and after."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ....errors import InterplayError
from ....parsing.tokens import align_comfyui
from ...grounding.objects import ObjectsBatch
from ...grounding.regions import as_wanted, bindings, bound_objects, used
from ...modulation import Binding, ModulationConfig, region_weights
from ...modulation_words import Bound, all_words, positions
from .conditioning import KEY, PromptGraph, encode, find_graph
from .families import check_latent
from .guidance import unguided
from .modulation import KEY as PATCH_KEY
from .modulation import WRAPPERS, Record, ReweightPatch, find_patch, patch_reweight, unweighted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reweighted:
    """model: patched; conditioning: for the sampler, with phrases added or encoded alone where that was wanted; report:
    which object got which words, in lines.
    """

    model: Any
    conditioning: list[list[Any]]
    report: str


def reweight(
    model: Any, conditioning: Any, objects: ObjectsBatch, config: ModulationConfig, clip: Any = None
) -> Reweighted:
    """Bind objects to the words of the prompt in ``conditioning`` and patch ``model`` (ModelPatcher) with them.

    clip: the text encoder, for phrases that the prompt lacks (they are added to it, ", pen") and for phrases that are
    to be encoded alone; without it the former are left out and the latter is an error. InterplayError also when the
    conditioning has no hypergraph or the model is of another family.
    """
    carried = find_graph(conditioning)[0]
    if config.regions == "wanted":
        objects = replace(objects, pictures=tuple(as_wanted(picture, carried.graph) for picture in objects.pictures))
    bound = [bound_objects(picture, carried.graph) for picture in objects.pictures]
    if clip is not None and (added := _unsaid(objects, bound)):
        conditioning = _longer(clip, conditioning, carried, added)
        carried = find_graph(conditioning)[0]
        bound = [bound_objects(picture, carried.graph) for picture in objects.pictures]
    if config.replace_phrases and config.strength > 0:
        conditioning = _alone(clip, conditioning, carried, bound)
    table = carried.table()
    images = [bindings(picture, items, table) for picture, items in zip(objects.pictures, bound, strict=True)]
    labels = [
        [_said(one, carried.prompt) for item, one in zip(picture.objects, items, strict=True) if used(item, one)]
        for picture, items in zip(objects.pictures, bound, strict=True)
    ]
    words = all_words(carried.graph, table)
    patched = patch_reweight(model, images, carried.prompt, config, words, labels)
    return Reweighted(patched, conditioning, _report(objects, bound, images, carried.prompt, config))


def _unsaid(objects: ObjectsBatch, bound: Sequence[Sequence[Bound]]) -> list[str]:
    """Phrases that the prompt lacks, of objects with a score above 0."""
    found = [
        item.phrase or item.label
        for picture, items in zip(objects.pictures, bound, strict=True)
        for item, one in zip(picture.objects, items, strict=True)
        if not one.spans and not item.cleared and float(item.weight or item.verdict or 0) > 0
    ]
    return list(dict.fromkeys(found))


def _longer(clip: Any, conditioning: Any, carried: PromptGraph, added: Sequence[str]) -> list[list[Any]]:
    prompt = ", ".join([carried.prompt.rstrip(" ,."), *added])
    graph = replace(carried.graph, prompt=prompt)
    made = encode(clip, prompt, graph, carried.relations)[0]
    return [[made[0], {**extra, **made[1]}] if extra.get(KEY) is carried else [c, extra] for c, extra in conditioning]


def _alone(clip: Any, conditioning: Any, carried: PromptGraph, bound: Sequence[Sequence[Bound]]) -> list[list[Any]]:
    """Every phrase's rows from its own encoding, so that no attribute leaks in from the rest of the prompt."""
    if clip is None:
        raise InterplayError(
            "Phrases are to be encoded alone, which needs the text encoder: connect 'clip', or switch it off."
        )
    rows: dict[int, Tensor] = {}
    for item in {item.spans: item for items in bound for item in items if item.spans}.values():
        text = _said(item, carried.prompt)
        tokens = clip.tokenize(text)
        table = next(iter(align_comfyui(text, clip.tokenizer, tokens).values()))
        theirs, ours = table.positions((0, len(text))), positions(item.spans, carried.table())
        if len(theirs) != len(ours):
            log.warning("Interplay cannot encode '%s' alone, for its tokens differ inside the prompt.", text)
            continue
        encoded = clip.encode_from_tokens_scheduled(tokens)[0][0][0]
        rows |= {at: encoded[place] for at, place in zip(ours, theirs, strict=True)}
    out = []
    for tensor, extra in conditioning:
        if KEY in extra and extra[KEY].prompt == carried.prompt:
            tensor = tensor.clone()
            for at, row in rows.items():
                tensor[:, at] = row.to(tensor)
        out.append([tensor, extra])
    return out


def _said(item: Bound, prompt: str) -> str:
    return " ".join(prompt[a:b] for a, b in item.spans)


def _report(
    objects: ObjectsBatch,
    bound: Sequence[Sequence[Bound]],
    images: Sequence[Sequence[Binding]],
    prompt: str,
    config: ModulationConfig,
) -> str:
    lines = []
    for number, (picture, items, made) in enumerate(zip(objects.pictures, bound, images, strict=True)):
        told = map(_weighed, made, region_weights(made, config))
        for item, one in zip(picture.objects, items, strict=True):
            words = f"'{_said(one, prompt)}', score {one.score:g}" if one.spans else "not in the prompt, left out"
            said = "not wanted, its region is cleared" if item.cleared else words
            lines.append(f"image {number}: {item.label} -> {said}{next(told) if used(item, one) else ''}")
    lines += [f"missing: {name}" for name in objects.missing()]
    return "\n".join(lines) or "no objects"


def _weighed(binding: Binding, facts: tuple[float, float, float]) -> str:
    """Which tokens, how much of the picture, and W at the first and the last re-weighted step."""
    share, first, last = facts
    places = f"; tokens {', '.join(map(str, binding.positions))}" if binding.positions else ""
    return f"{places}; {share:.0%} of the picture; W {first:.2f} to {last:.2f}"


@dataclass(frozen=True)
class MapPair:
    """Heat-maps of the first image's objects, (2, J, h, w) fp32: before and after; their names and masks (J, H, W)."""

    maps: Tensor
    labels: tuple[str, ...]
    masks: Tensor

    def inside(self) -> list[tuple[float, float]]:
        """Share of each object's heat that lies in its mask, before and after."""
        small = torch.nn.functional.interpolate(self.masks[None].float(), size=self.maps.shape[-2:], mode="area")[0]
        shares = (self.maps * small).flatten(2).sum(-1) / self.maps.flatten(2).sum(-1).clamp(min=1e-12)
        return [(float(a), float(b)) for a, b in zip(*shares, strict=True)]

    def summary(self) -> str:
        """A line for each object."""
        pairs = zip(self.labels, self.inside(), strict=True)
        return "\n".join(f"'{label}': {a:.0%} of its heat in its mask before, {b:.0%} after" for label, (a, b) in pairs)


def reweight_maps(
    model: Any, conditioning: Any, latent: dict[str, Any], percent: float = 0.1, seed: int = 0
) -> MapPair:
    """What a re-weighted model attends to for each object's words, before and after, on a finished latent noised again.

    percent: point of the schedule at which to look, 0 = all noise; it has to lie where re-weighting is on. Means over
    heads and re-weighted layers. InterplayError when the model is not re-weighted, or not at that point.
    """
    ours = find_patch(model)
    if not any(ours.labels[0]):
        raise InterplayError("The first image has no object that the prompt names, so there is no map to draw.")
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    check_latent(samples, model)
    named = [(binding, label) for binding, label in zip(ours.images[0], ours.labels[0], strict=True) if label]
    looking = ReweightPatch(ours.images, ours.prompt, ours.config, ours.words, ours.labels)
    looking.record = Record([binding.positions for binding, _ in named], tuple(samples.shape[-2:]))
    clone = unweighted(unguided(model))
    for kind, call in (
        (WRAPPERS.CALC_COND_BATCH, looking.calc_cond_batch),
        (WRAPPERS.APPLY_MODEL, looking.apply_model),
    ):
        clone.add_wrapper_with_key(kind, PATCH_KEY, call)
    sampling = model.get_model_object("model_sampling")
    sigma = min(max(float(sampling.percent_to_sigma(percent)), float(sampling.sigma_min)), float(sampling.sigma_max))
    guider = comfy.samplers.CFGGuider(clone)
    guider.set_conds(conditioning, [[c[0], dict(c[1])] for c in conditioning])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sampler = comfy.samplers.KSAMPLER(_look)
    with torch.no_grad():  # as the host's executor has it
        guider.sample(noise, samples, sampler, torch.tensor([sigma, 0.0]), disable_pbar=True, seed=seed)
    record = looking.record
    if record.total is None:
        raise InterplayError(
            f"Nothing is re-weighted at {percent:.0%} of the schedule: look between its start and its end."
        )
    maps = (record.total / record.count)[:, 0].float()
    return MapPair(maps, tuple(label for _, label in named), torch.stack([binding.mask for binding, _ in named]))


def _look(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **kwargs: Any) -> Tensor:
    """A sampler function that asks the model once and changes nothing."""
    model(x, sigmas[0] * x.new_ones([x.shape[0]]), **(extra_args or {}))
    return x
