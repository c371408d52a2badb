"""Contrast and link guidance as a MODEL -> MODEL patch made of wrappers; nothing of the host is replaced or copied.

The OUTER_SAMPLE wrapper hands on a shallow copy of the sampler whose function is given a stand-in for its model. The
stand-in moves the sampler's latent before the model is called, or shifts the denoised picture after. A patched model
carries settings only: all state belongs to one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ....errors import InterplayError
from ...engine import GuideReport
from ...presets import GuidanceConfig
from .families import check_model, is_large
from .passes import WRAPPER_KEY
from .run import GuidedRun

MODES = ("latent", "denoised")
WRAPPERS = comfy.patcher_extension.WrappersMP
BYTES_PER_CELL = {False: 90_000, True: 260_000}  # kept for backward per latent cell in fp16, SDXL or not

Report = Callable[[GuideReport], None]


def patch_model(
    model: Any, config: GuidanceConfig, seed: int = 0, mode: str = "latent", on_report: Report | None = None
) -> Any:
    """A clone of ``model`` (ModelPatcher) that guides every sampling run by the hypergraph in its conditioning.

    seed: of the "random" selection schedule. mode: "latent" moves the sampler's latent as the papers do, "denoised"
    shifts the denoised picture by sigma^2 times the gradient (classifier guidance). on_report: called with the report
    after each run. Guiding an already guided model replaces its settings. InterplayError for another model family.
    """
    check_model(model)
    if mode not in MODES:
        raise InterplayError(f"There is no guidance mode called '{mode}'; choose one of {', '.join(MODES)}.")
    patch = GuidancePatch(config, seed, mode, on_report)
    patched = unguided(model)
    patched.add_wrapper_with_key(WRAPPERS.OUTER_SAMPLE, WRAPPER_KEY, patch.outer_sample)
    patched.add_wrapper_with_key(WRAPPERS.PREPARE_SAMPLING, WRAPPER_KEY, patch.prepare_sampling)
    return patched


def unguided(model: Any) -> Any:
    """A clone of ``model`` without our guidance."""
    clone = model.clone()
    for kind in (WRAPPERS.OUTER_SAMPLE, WRAPPERS.PREPARE_SAMPLING):
        clone.remove_wrappers_with_key(kind, WRAPPER_KEY)
    return clone


@dataclass(frozen=True)
class GuidancePatch:
    """What a patched model carries: settings."""

    config: GuidanceConfig
    seed: int
    mode: str
    on_report: Report | None

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """OUTER_SAMPLE: one guided run. At strength 0 nothing is done at all."""
        if self.config.strength == 0:
            out = executor(noise, latent, sampler, sigmas, *args, **kwargs)
            report = GuideReport(preset=self.config.preset)
        else:
            run = GuidedRun(self.config, self.seed, self.mode, executor.class_obj, latent, sampler, sigmas)
            out = executor(noise, latent, run.sampler(), sigmas, *args, **kwargs)
            report = run.finish()
        if self.on_report is not None:
            self.on_report(report)
        return out

    def prepare_sampling(self, executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING: tell the host how much memory the backward pass keeps, by a larger batch."""
        if self.config.strength > 0:
            noise_shape = reserved_shape(model, noise_shape)
        return executor(model, noise_shape, *args, **kwargs)


def reserved_shape(model: Any, noise_shape: Any) -> list[int]:
    """``noise_shape`` with the batch raised until the host's own estimate covers the guided pass as well.

    The host reserves for twice the batch (prompt and negative).
    """
    batch, *rest = list(noise_shape)
    cells = batch * math.prod(rest[1:])
    estimate = max(1, int(model.model.memory_required([2 * batch, *rest])))
    dtype = model.model.manual_cast_dtype or model.model_dtype() or torch.float16
    kept = BYTES_PER_CELL[is_large(model)] * cells * max(1.0, dtype.itemsize / 2)
    factor = 1 + math.ceil(kept / estimate)
    return [batch * factor, *rest]


def sample(
    model: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    denoise: float,
    config: GuidanceConfig,
    mode: str = "latent",
) -> tuple[dict[str, Any], GuideReport]:
    """The patch and ComfyUI's own sampling: LATENT with the guided samples, and what guidance did.

    Arguments as ComfyUI's KSampler; config, mode: as ``patch_model``.
    """
    import latent_preview  # ComfyUI's; it reads the command line's preview method

    reports: list[GuideReport] = []
    guided = patch_model(model, config, seed, mode, reports.append)
    samples = comfy.sample.fix_empty_latent_channels(guided, latent["samples"], *_downscale(latent))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    out = comfy.sample.sample(
        guided,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        samples,
        denoise=denoise,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(guided, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    rest = {key: value for key, value in latent.items() if key not in DOWNSCALE}
    return {**rest, "samples": out}, reports[0] if reports else GuideReport(preset=config.preset)


DOWNSCALE = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # the host's spelling


def _downscale(latent: dict[str, Any]) -> list[Any]:
    """What newer versions of the host's 'Empty Latent' nodes say about their latent, for the host's own correction."""
    given = [latent.get(key) for key in DOWNSCALE]
    return given if any(value is not None for value in given) else []
