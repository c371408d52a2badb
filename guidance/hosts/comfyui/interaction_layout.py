"""Layouts from what other nodes give: typed lines, a hypergraph, boxes, masks, or the model's own attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ....errors import InterplayError
from ....parsing.hypergraph import Hypergraph
from ...grounding.objects import ObjectsBatch
from ...interaction.layout import Box, Layout, from_hypergraph, from_text, grown, normalised
from ...interaction.layout_maps import from_maps
from ...interaction.layout_objects import from_objects
from ...interaction.prototypes import ORDINARY, Rules, by_rule
from ...pixelworld.fusers import world_rules
from .conditioning import KEY
from .guidance import unguided
from .maps import attention_maps

METHODS = ("by rule", "by rule (PixelWorld)", "from attention", "from objects", "given boxes")
RULES: dict[str, Callable[[], Rules]] = {"by rule": lambda: ORDINARY, "by rule (PixelWorld)": world_rules}
DRAFT_STEPS = 20
DRAFT_CFG = 6.0


def triplets(text: str, hypergraph: Hypergraph | None, positive: Any = None) -> Layout:
    """Who does what to whom: from typed lines, else from a hypergraph, else from what ``positive`` carries."""
    if text.strip():
        return from_text(text)
    if hypergraph is None and positive is not None:
        hypergraph = next((cond[1][KEY].graph for cond in positive if KEY in cond[1]), None)
    if hypergraph is None:
        raise InterplayError(
            "There is no interaction: type 'subject | action | object' or connect a hypergraph from 'Prompt to "
            "Hypergraph'."
        )
    return from_hypergraph(hypergraph)


def boxes_from(boxes: Any, masks: Tensor | None, width: int, height: int) -> list[Box]:
    """Boxes of other nodes, in 0..1, in their order; first those of ``boxes``, then one around each mask (B, H, W)."""
    found = [normalised(box, width, height) for box in _flat(boxes)] if boxes is not None else []
    if masks is not None:
        found += [_mask_box(mask) for mask in masks.reshape(-1, *masks.shape[-2:])]
    return found


def _flat(boxes: Any) -> Iterator[Any]:
    """Single boxes out of what nodes send: one, a list, or a list for each picture of a batch."""
    if isinstance(boxes, Tensor):
        boxes = boxes.tolist()
    if isinstance(boxes, Mapping) or (len(boxes) >= 4 and all(isinstance(value, (int, float)) for value in boxes)):
        yield boxes
    else:
        for box in boxes:
            yield from _flat(box)


def _mask_box(mask: Tensor) -> Box:
    rows, columns = (mask > 0.5).any(1).nonzero().flatten(), (mask > 0.5).any(0).nonzero().flatten()
    if not len(rows):
        raise InterplayError("A mask is empty, so there is nothing to put a box around: draw into it.")
    height, width = mask.shape
    box = (float(columns[0]) / width, float(rows[0]) / height)
    return grown((*box, float(columns[-1] + 1) / width, float(rows[-1] + 1) / height), 0.02)


def complete(layout: Layout, boxes: list[Box]) -> Layout:
    """``layout`` with ``boxes`` where there are some; InterplayError when a thing is left without."""
    placed = layout.placed(boxes, "given") if boxes else layout
    for interaction in placed.interactions:
        placed.boxes(interaction)
    return placed


def place(
    layout: Layout,
    method: str,
    boxes: list[Box],
    draft: Mapping[str, Any] | None = None,
    threshold: float = 0.45,
    objects: ObjectsBatch | None = None,
) -> Layout:
    """Boxes for a layout by one of ``METHODS``. draft: arguments of ``by_attention``, for "from attention"; objects:
    for "from objects", which takes those of the first picture.
    """
    if method == "given boxes":
        return complete(layout, boxes)
    if method in RULES:
        return by_rule(layout, RULES[method]())
    if method == "from objects":
        if objects is None or not objects.pictures:
            raise InterplayError("There are no objects: connect those of a draft picture to 'objects'.")
        return from_objects(layout, objects.pictures[0])
    if method != "from attention":
        raise InterplayError(f"There is no method called '{method}'; choose one of {', '.join(METHODS)}.")
    missing = [name for name in ("model", "positive", "negative", "latent") if (draft or {}).get(name) is None]
    if missing:
        raise InterplayError(f"To look at the model's attention connect {', '.join(missing)} as well.")
    return by_attention(layout, threshold=threshold, **(draft or {}))


def by_attention(
    layout: Layout,
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    seed: int = 0,
    share: float = 0.3,
    threshold: float = 0.45,
) -> Layout:
    """Boxes where the model itself begins to paint the things of a layout, for the first picture of ``latent``.

    The first ``share`` of a short run is sampled with ``seed``, the maps of its words are smoothed and cut at
    ``threshold``. Sampling with the same seed afterwards starts from the same noise, so the boxes fit it.
    """
    plain = unguided(model)
    samples = comfy.sample.fix_empty_latent_channels(plain, latent["samples"])[:1]
    noise = comfy.sample.prepare_noise(samples, seed, None)
    last = max(1, round(share * DRAFT_STEPS))
    drafted = comfy.sample.sample(
        plain,
        noise,
        DRAFT_STEPS,
        DRAFT_CFG,
        "euler",
        "normal",
        positive,
        negative,
        samples,
        last_step=last,
        force_full_denoise=True,
        disable_pbar=True,
        seed=seed,
    )
    found = attention_maps(plain, positive, {"samples": drafted}, percent=last / DRAFT_STEPS, seed=seed)
    with torch.inference_mode():
        return from_maps(layout, found.maps[0], found.graph, threshold)
