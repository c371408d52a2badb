"""Methods to measure: a name and a function that makes a batch of pictures.

Every method draws through the pipeline that users run. New kinds of methods enter themselves in ``KINDS``, and are then
known to the command line and to configuration files.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InterplayError
from ..hosts.diffusers.guidance import guided
from ..presets import PRESETS, preset


@dataclass(frozen=True)
class Batch:
    """What to draw: different prompts, and the seed of the initial noise for each."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int = 25
    cfg: float = 5.0
    seed: int = 0  # of everything random that is not the initial noise

    def generators(self) -> list[torch.Generator]:
        """One for each picture, so that its noise depends on its seed alone."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


@dataclass(frozen=True)
class Drawn:
    """A picture, (H, W, 3) uint8, and what else is to be written into its row."""

    image: np.ndarray
    notes: Mapping[str, str] = field(default_factory=dict)


Draw = Callable[[Any, Batch], list[Drawn]]


@dataclass(frozen=True)
class Method:
    """name: as it stands in tables; draw: (pipeline, batch) -> pictures; settings: plain values that say what it does.

    slow: costs so much more than plain sampling that a default run gives it only a part of the prompts.
    """

    name: str
    draw: Draw
    settings: Mapping[str, Any]
    slow: bool = False


def call(pipeline: Any, batch: Batch, **options: Any) -> np.ndarray:
    """The pipeline's own call: pictures (B, H, W, 3) uint8."""
    named = {"num_inference_steps": batch.steps, "guidance_scale": batch.cfg, **options}
    images = pipeline(list(batch.prompts), generator=batch.generators(), output_type="np", **named).images
    return (images * 255).round().astype(np.uint8)


def plain(name: str, settings: Mapping[str, Any]) -> Method:
    """Sampling without guidance. settings: ``steps`` (or ``steps_factor``) and ``cfg`` other than the run's."""
    _only(name, settings, ("steps", "steps_factor", "cfg"))

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        steps = settings.get("steps", round(batch.steps * settings.get("steps_factor", 1)))
        images = call(pipeline, batch, num_inference_steps=steps, guidance_scale=settings.get("cfg", batch.cfg))
        return [Drawn(image) for image in images]

    return Method(name, draw, {"kind": "plain", **settings})


def guidance(name: str, settings: Mapping[str, Any]) -> Method:
    """A guidance preset. settings: ``preset`` (SHY where not named) and any setting of ``GuidanceConfig``."""
    changes = {key: _frozen(value) for key, value in settings.items()}
    base = changes.pop("preset", "SHY")
    try:
        config = preset(base, **changes)
    except (TypeError, ValueError, AttributeError) as error:
        raise InterplayError(f"The method '{name}' cannot be made: {error}") from error

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        with guided(pipeline, config, batch.prompts, batch.seed) as session:
            images = call(pipeline, batch)
        reports = session.reports
        return [
            Drawn(image, {"guided_steps": str(r.guided_steps), "moved": f"{sum(r.moved):.5g}"})
            for image, r in zip(images, reports, strict=True)
        ]

    return Method(
        name, draw, {"kind": "guidance", **config.to_dict(), "preset": base}, slow=sum(config.refine_iterations) > 10
    )


def interaction(name: str, settings: Mapping[str, Any]) -> Method:
    """Interaction fusers and layouts; see ``bench.interaction``."""
    from .interaction import interaction as make_one  # not above: it is made of the methods here

    return make_one(name, settings)


def again(name: str, settings: Mapping[str, Any]) -> Method:
    """Draw, look, and draw what is wrong once more, re-weighted or from another noise; see ``bench.reweight``."""
    from .reweight import again as make_one  # not above: it is made of the methods here

    return make_one(name, settings)


def lora(name: str, settings: Mapping[str, Any]) -> Method:
    """A LoRA under another method; see ``bench.lora``."""
    from .lora import method as make_one  # not above: it is made of the methods here

    return make_one(name, settings)


KINDS: dict[str, Callable[[str, Mapping[str, Any]], Method]] = {
    "guidance": guidance,
    "plain": plain,
    "interaction": interaction,
    "again": again,
    "lora": lora,
}
"""Makers of methods: (name, settings) -> ``Method``."""


def known() -> dict[str, Method]:
    """The methods that have a name of their own: plain sampling and every preset."""
    return {"plain": plain("plain", {}), **{name: guidance(name, {"preset": name}) for name in PRESETS}}


def make(name: str, settings: Mapping[str, Any]) -> Method:
    """A method from plain values; ``kind`` names one of ``KINDS`` (guidance where it is missing)."""
    settings = dict(settings)
    kind = settings.pop("kind", "guidance")
    if kind not in KINDS:
        raise InterplayError(f"The method '{name}' is of the kind '{kind}'; choose one of {', '.join(KINDS)}.")
    return KINDS[kind](name, settings)


def named(text: str, configured: Mapping[str, Method]) -> Method:
    """A method by name, or a preset with changes: "SHY:step=0.03,end=0.4"."""
    from .interaction import KNOWN

    everything = {**known(), **configured}
    if text in everything:
        return everything[text]
    if text in KNOWN:
        return interaction(text, KNOWN[text])
    base, colon, changes = text.partition(":")
    if not colon:
        names = ", ".join([*everything, *KNOWN])
        raise InterplayError(f"There is no method '{text}'; choose of {names}, or give a --config.")
    return guidance(text, {"preset": base, **_changes(text, changes)})


def read_config(path: Path) -> dict[str, Method]:
    """Methods of a JSON or TOML file of {name: {"preset": ..., setting: value, ...}}, in its order.

    Raises:
        InterplayError: the file cannot be read, or a method in it cannot be made.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _toml(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise InterplayError(f"The configuration {path} cannot be read: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(settings, dict) for settings in found.values()):
        raise InterplayError(
            f"{path} has to hold methods by name, each with its settings: {{name: {{setting: value}}}}."
        )
    return {name: make(name, settings) for name, settings in found.items()}


def _toml(text: str) -> Any:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        raise InterplayError("Reading TOML needs Python 3.11; write the configuration as JSON.") from None
    return tomllib.loads(text)


def _changes(text: str, changes: str) -> dict[str, Any]:
    """ "step=0.03,targets=()" as a dictionary; commas inside brackets belong to the value."""
    try:
        tree = ast.parse(f"dict({changes})", mode="eval").body
    except SyntaxError:
        raise InterplayError(f"The changes in '{text}' cannot be read; write them like 'SHY:step=0.03'.") from None
    assert isinstance(tree, ast.Call)
    try:
        return {str(word.arg): _literal(word.value) for word in tree.keywords}
    except ValueError:
        raise InterplayError(f"The changes in '{text}' have to be plain values, such as step=0.03.") from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    return tuple(map(_literal, node.elts)) if isinstance(node, (ast.Tuple, ast.List)) else ast.literal_eval(node)


def _frozen(value: Any) -> Any:
    """Lists as tuples, and {term: number} as pairs, as ``GuidanceConfig`` holds them."""
    if isinstance(value, Mapping):
        return tuple((name, number) for name, number in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value


def _only(name: str, settings: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [key for key in settings if key not in allowed]
    if unknown:
        raise InterplayError(f"The method '{name}' has no setting '{unknown[0]}'; it has {', '.join(allowed)}.")
