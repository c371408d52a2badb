"""Inputs that several nodes have alike."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..guidance.hosts.comfyui.refl_run import UNGUIDED
from ..guidance.presets import PRESETS


def sampling_inputs(seed: str, steps: str = "Number of denoising steps.") -> list[Any]:
    """What KSampler asks: seed, steps, cfg, sampler_name, scheduler. seed, steps: tooltips of those two."""
    sampler = comfy.samplers.KSampler
    return [
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=seed),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip=steps),
        io.Float.Input(
            "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Classifier-free guidance scale."
        ),
        io.Combo.Input("sampler_name", options=sampler.SAMPLERS, tooltip="The sampling algorithm."),
        io.Combo.Input("scheduler", options=sampler.SCHEDULERS, tooltip="How the noise levels are spaced."),
    ]


def denoise_input() -> Any:
    """KSampler's denoise."""
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Amount of denoising; lower keeps the structure of the latent, for image to image.",
    )


def ghosts_input(texts: str) -> Any:
    """The trainers' lesson against things drawn twice. texts: what the node calls captions."""
    return io.Float.Input(
        "ghosts",
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.05,
        optional=True,
        tooltip="Weight of a lesson against things drawn twice: a faint copy of a part of the picture stands beside "
        f"it, and the model learns to let it go. {texts} that name several of a kind have none. 0 = off.",
    )


def guide_input(tooltip: str) -> Any:
    """The guidance under which a trainer draws."""
    return io.Combo.Input(
        "guide", options=[UNGUIDED, *PRESETS], default=UNGUIDED, optional=True, tooltip=f"{tooltip} none = plainly."
    )


def look_inputs(percent: float, tooltip: str) -> list[Any]:
    """Where in the schedule a finished latent is noised again to look at attention, and with which noise."""
    return [
        io.Float.Input(
            "noise_percent", default=percent, min=0.0, max=1.0, step=0.05, round=0.001, tooltip=tooltip
        ),
        io.Int.Input(
            "map_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            tooltip="Seed of the noise that is added to look.",
        ),
    ]
