"""Methods with PixelWorld's interaction fusers: off, on null tokens, on boxes, on layouts without boxes; and layouts as
a loss, without fusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from ...errors import InterplayError
from .methods import Batch, Draw, Drawn, Method, call, guidance

LAYOUTS = ("off", "null", "world", "rule", "world rule", "attention", "rule at attention", "world rule at attention")
SETTINGS = ("layout", "fusers", "beta", "decay", "strength", "start", "end", "threshold", "guide", "file")
SHIFTS = 8  # places where the world's own layouts may stand


def interaction(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with PixelWorld's fusers.

    settings: ``layout``, one of ``LAYOUTS``: "world" = where the world itself would put the parties, "rule" = the
    pack's table of verbs, "world rule" = PixelWorld's own, "attention" = what the model's attention shows from
    ``start`` to ``end`` of the schedule, "… at attention" = by rule, moved to where the attention is. ``fusers`` False
    leaves them out, so that only ``guide`` sees the layout. ``beta``, ``decay``, ``strength``: of ``network.Schedule``.
    ``guide``: a preset of guidance on top, with changes: {"preset": "SHY", setting: value}. ``file``: other fusers.
    """
    unknown = [key for key in settings if key not in SETTINGS]
    if unknown:
        raise InterplayError(f"The method '{name}' has no setting '{unknown[0]}'; it has {', '.join(SETTINGS)}.")
    layout = settings.get("layout", "world")
    if layout not in LAYOUTS:
        raise InterplayError(f"The method '{name}' has no layout called '{layout}'; choose of {', '.join(LAYOUTS)}.")
    guide = settings.get("guide")
    if guide is None and not settings.get("fusers", True):
        raise InterplayError(f"The method '{name}' has neither fusers nor a guide, so a layout does nothing; name one.")
    over = guidance(name, guide) if guide else None
    whole = {key: value for key, value in over.settings.items() if key != "kind"} if over else {}
    kept = {"kind": "interaction", **settings, **({"guide": whole} if whole else {})}
    return Method(name, _drawer(layout, settings, whole), kept, slow=over.slow if over else False)


def _drawer(layout: str, settings: Mapping[str, Any], guide: dict[str, Any]) -> Draw:
    if layout == "off":
        return guidance("off", guide).draw if guide else _plain
    if "terms" in guide and "B" in guide["terms"]:
        return _one_by_one(layout, settings, guide)
    return lambda pipeline, batch: _grounded(pipeline, batch, layout, settings, guide)


def _plain(pipeline: Any, batch: Batch) -> list[Drawn]:
    return [Drawn(image) for image in call(pipeline, batch)]


def _grounded(
    pipeline: Any, batch: Batch, layout: str, settings: Mapping[str, Any], guide: dict[str, Any]
) -> list[Drawn]:
    """Pictures with fusers, and guidance on top where there is a guide."""
    from ..hosts.diffusers.interaction import on_null_tokens
    from ..hosts.diffusers.interaction_layout import grounded
    from ..interaction.network import Schedule

    net = _net(pipeline, settings.get("file"))
    draw = guidance("guide", guide).draw if guide else _plain
    if layout == "null":
        with on_null_tokens(pipeline.unet, net, settings.get("strength", 1.0)):
            return draw(pipeline, batch)
    layouts = [_placed(layout, prompt, seed) for prompt, seed in zip(batch.prompts, batch.seeds, strict=True)]
    schedule = Schedule(settings.get("beta", 1.0), settings.get("decay", 0.0), settings.get("strength", 1.0))
    with grounded(pipeline, net, batch.prompts, layouts, schedule, _look(layout, settings)) as state:
        drawn = draw(pipeline, batch)
    return [_noted(picture, layout) for picture, layout in zip(drawn, state.layouts, strict=True)]


def _noted(picture: Drawn, layout: Any) -> Drawn:
    text = layout.text() if layout else ""
    return replace(picture, notes={**picture.notes, "layout": text})


def _one_by_one(layout: str, settings: Mapping[str, Any], guide: dict[str, Any]) -> Draw:
    """A loss on a layout has one for each prompt, so pictures are drawn one at a time."""

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        out = []
        for prompt, seed in zip(batch.prompts, batch.seeds, strict=True):
            one = replace(batch, prompts=(prompt,), seeds=(seed,))
            placed, look = _placed(layout, prompt, seed), _look(layout, settings)
            if placed and look and not settings.get("fusers", True):
                placed = _drafted(pipeline, one, placed, look)
            own = {**guide, "layout": placed.text() if placed else ""}
            if settings.get("fusers", True):
                out += _grounded(pipeline, one, layout, settings, own)
            else:
                out += [_noted(picture, placed) for picture in guidance("guide", own).draw(pipeline, one)]
        return out

    return draw


def _drafted(pipeline: Any, batch: Batch, placed: Any, look: Any) -> Any:
    """The layout as ``look`` finds it in the first steps of plain sampling, which are then thrown away."""
    from ...parsing import parse
    from ..hosts.diffusers.guidance import pipeline_graph
    from ..hosts.diffusers.maps import watched

    def stop(pipe: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = (step + 2) / batch.steps > look.end
        return values

    last = max(i for i in range(batch.steps) if i / batch.steps < look.end) / batch.steps  # at least that one
    graph, options = parse(batch.prompts[0]), {"num_inference_steps": batch.steps, "guidance_scale": batch.cfg}
    with watched(pipeline, graph, (min(look.start, last), look.end)) as watch:
        pipeline(
            list(batch.prompts),
            generator=batch.generators(),
            output_type="latent",
            callback_on_step_end=stop,
            **options,
        )
    return look.find(placed, watch.maps[0], pipeline_graph(pipeline, graph))


def _placed(layout: str, prompt: str, seed: int) -> Any:
    """The layout of a prompt, without boxes where the attention is to give them; None where nothing interacts."""
    from ...parsing import parse
    from ..interaction.layout import from_hypergraph
    from ..interaction.prototypes import ORDINARY, by_rule
    from ..pixelworld.fusers import world_layout, world_rules
    from ..pixelworld.world import request

    if request(prompt).action is None:
        return None
    if layout == "world":
        return world_layout(prompt, Random(f"layout {seed}").randrange(SHIFTS + 1) / SHIFTS)
    named = from_hypergraph(parse(prompt))
    if layout == "attention":
        return named
    return by_rule(named, world_rules() if layout.startswith("world") else ORDINARY)


def _look(layout: str, settings: Mapping[str, Any]) -> Any:
    """How boxes come from the attention, None where they do not."""
    from ..hosts.diffusers.interaction_layout import Look
    from ..interaction.layout_maps import THRESHOLD, from_maps, moved_to

    if "attention" not in layout:
        return None
    threshold = settings.get("threshold", THRESHOLD)
    moved = partial(moved_to, sideways=layout.startswith("world"))  # the world knows its ground
    find: Callable[..., Any] = partial(from_maps, threshold=threshold) if layout == "attention" else moved
    return Look(find, settings.get("start", 0.2), settings.get("end", 0.3))


@cache
def _loaded(path: str | None) -> Any:
    from ..interaction.build import build
    from ..interaction.files import load_parts
    from ..pixelworld.fusers import fusers_file

    return build(load_parts(Path(path) if path else fusers_file()), dtype=torch.float32).requires_grad_(False)


def _net(pipeline: Any, path: str | None) -> Any:
    return _loaded(path).to(pipeline.unet.device)


_SHY = {"preset": "SHY"}
_LAYOUT_TERM = {"preset": "SHY", "terms": ("B",), "targets": (("B", 0.05),), "wake": (), "weights": (), "windows": ()}
_BOTH = {
    "preset": "SHY",
    "terms": ("C", "R", "B"),
    "targets": (("C", 0.4), ("R", 0.2), ("B", 0.15)),
    "weights": (("R", 2.0), ("B", 2.0)),
}
KNOWN: dict[str, dict[str, Any]] = {
    "fusers off": {"layout": "off"},
    "null tokens": {"layout": "null"},
    "boxes": {"layout": "world"},
    "layout by rule": {"layout": "rule"},
    "layout by the world's rules": {"layout": "world rule"},
    "layout from attention": {"layout": "attention"},
    "layout by rule at attention": {"layout": "world rule at attention", "start": 0.04, "end": 0.13},
    "SHY + layout": {"layout": "world rule", "guide": _SHY},
    "SHY + boxes": {"layout": "world", "guide": _SHY},
    "SHY + layout term": {"layout": "world rule", "fusers": False, "guide": _BOTH},
    "layout term": {"layout": "world rule", "fusers": False, "guide": _LAYOUT_TERM},
    "layout term at attention": {
        "layout": "world rule at attention",
        "fusers": False,
        "guide": _LAYOUT_TERM,
        "start": 0.04,
        "end": 0.13,
    },
}
"""Methods by name, for ``interplay bench pixelworld --methods``."""


def known() -> dict[str, Method]:
    """The methods of ``KNOWN``."""
    return {name: interaction(name, settings) for name, settings in KNOWN.items()}
