"""Methods that draw with a LoRA, alone or under any other method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InterplayError
from ..training.lora import applied, fingerprint, load

if TYPE_CHECKING:
    from .methods import Batch, Drawn, Method


def method(name: str, settings: Mapping[str, Any]) -> Method:
    """settings: ``file`` of the LoRA, ``strength`` (1); the rest makes the method that draws: its ``with`` is the kind
    (plain, or guidance where a ``preset`` is named). The file's content is a part of the settings, so that a run does
    not go on with another LoRA of the same name.
    """
    from .methods import make

    rest = dict(settings)
    file, strength = rest.pop("file", None), rest.pop("strength", 1.0)
    known = rest.pop("sha256", None)
    if not file or not isinstance(strength, (int, float)):
        raise InterplayError(f"The method '{name}' needs the 'file' of a LoRA and a number as its 'strength'.")
    kind = rest.pop("with", "guidance" if "preset" in rest else "plain")
    inner, state = make(name, {**rest, "kind": kind}), load(Path(file))
    digest = fingerprint(state)
    if known is not None and known != digest:
        raise InterplayError(f"The LoRA {file} of the method '{name}' is not the one that the run began with.")

    def draw(pipeline: Any, batch: Batch) -> list[Drawn]:
        with applied(pipeline.unet, state, float(strength)):
            return inner.draw(pipeline, batch)

    own = {"kind": "lora", "file": str(file), "strength": strength, "sha256": digest, "with": kind}
    plain = {key: value for key, value in settings.items() if key not in (*own, "kind")}
    return replace(inner, draw=draw, settings={**plain, **own})
