"""Contrast, action contrast and link guidance: as a patch for any sampler, and as a sampler of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from ..errors import InterplayError
from ..guidance.hosts.comfyui.guidance import patch_model, sample
from ..guidance.presets import LINK_MODES, PRESETS, GuidanceConfig, preset
from ..guidance.selection import SCHEDULES
from .inputs import denoise_input, sampling_inputs
from .types import CATEGORY

AS_PRESET = "as preset"
OFF_SWITCH = [AS_PRESET, "on", "off"]
PRESET_TIP = (
    "SHY: contrast, action, link and roles in every step, quick; leaves pictures alone that are on their way. SHY "
    "(combined): the same without roles (who acts stands where the verb puts it, else left). CONFORM: contrast of "
    "objects only. The ones called (paper) follow the publications: slow and strong."
)
STRENGTH_TIP = (
    "Scales every push on the latent. 0 = off, bit-identical to sampling without; 1 = as the preset means it."
)


def _config(
    name: str, strength: float, start: float, end: float, selection: str, link: str, off_switch: str
) -> GuidanceConfig:
    """The preset with those settings changed that the widgets change."""
    changes: dict[str, Any] = {"strength": strength}
    if start > 0.0:
        changes["start"] = start
    if end > 0.0:
        changes["end"] = end
    if selection != AS_PRESET:
        changes["selection"] = selection
    if link != AS_PRESET:
        changes["link_mode"] = link
    if off_switch != AS_PRESET:
        changes["off_switch"] = off_switch == "on"
    return preset(name, **changes)


def _check(name: str, value: str, options: Sequence[str]) -> None:
    """InterplayError for a value that is not in a list; ComfyUI before 0.4 lets those of V3 nodes pass."""
    if value not in options:
        raise InterplayError(f"There is no {name} called '{value}'; choose one of {', '.join(options)}.")


def _strength() -> io.Float.Input:
    return io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.05, round=0.001, tooltip=STRENGTH_TIP)


def _preset() -> io.Combo.Input:
    return io.Combo.Input("preset", options=list(PRESETS), default="SHY", tooltip=PRESET_TIP)


class ContrastLinkGuidance(io.ComfyNode):
    """Patches a model so that any sampler is guided."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_ContrastLinkGuidance",
            display_name="Contrast/Link Guidance",
            category=CATEGORY,
            description="Patches a model: while it samples, things of the prompt keep their own regions and each "
            "action lies on "
            "those who take part. Place it after LoRA, ControlNet and IP-Adapter nodes, right before the sampler; "
            "the positive "
            "prompt must come from Prompt to Hypergraph.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld."),
                _preset(),
                _strength(),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the schedule at which guidance begins; 0 = where the preset begins it (SHY 0.08, "
                    "paper 0).",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the schedule at which guidance ends; 0 = where the preset ends it (0.5).",
                ),
                io.Combo.Input(
                    "apply_to",
                    options=["latent", "denoised"],
                    default="latent",
                    optional=True,
                    tooltip="latent = move the latent before the step, as in the papers; denoised = shift the "
                    "model's prediction, "
                    "gentler, and right for samplers that keep a state of their own.",
                ),
                io.Combo.Input(
                    "selection",
                    options=[AS_PRESET, *SCHEDULES],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="Which losses act in which iteration; combined = all at once in one backward pass.",
                ),
                io.Combo.Input(
                    "link_loss",
                    options=[AS_PRESET, *LINK_MODES],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="hinge asks for overlap up to a margin; literal and paper are two readings of the "
                    "publication.",
                ),
                io.Combo.Input(
                    "off_switch",
                    options=OFF_SWITCH,
                    default=AS_PRESET,
                    optional=True,
                    tooltip="on = leave a picture alone as soon as its attention reached the targets.",
                ),
            ],
            outputs=[
                io.Model.Output("guided_model", display_name="model", tooltip="The guided model, for any sampler.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        preset: str,
        strength: float,
        start_percent: float,
        end_percent: float,
        apply_to: str = "latent",
        selection: str = AS_PRESET,
        link_loss: str = AS_PRESET,
        off_switch: str = AS_PRESET,
    ) -> io.NodeOutput:
        _check("off_switch", off_switch, OFF_SWITCH)
        config = _config(preset, strength, start_percent, end_percent, selection, link_loss, off_switch)
        return io.NodeOutput(patch_model(model, config, mode=apply_to))


class ContrastLinkKSampler(io.ComfyNode):
    """The patch and the host's own sampling in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_ContrastLinkKSampler",
            display_name="KSampler (Contrast/Link Guidance)",
            category=CATEGORY,
            description="KSampler with contrast, action and link guidance. Same inputs and, at strength 0, the same "
            "pictures.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld."),
                *sampling_inputs("The random seed of the noise."),
                io.Conditioning.Input(
                    "positive", tooltip="From Prompt to Hypergraph; combined and masked prompts are fine."
                ),
                io.Conditioning.Input("negative", tooltip="What the picture shall not show; any text encode node."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise; batches are guided image by image."),
                denoise_input(),
                _preset(),
                _strength(),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The denoised latent."),
                io.String.Output(
                    "report", display_name="report", tooltip="What guidance did: steps, iterations, losses."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        preset: str,
        strength: float,
    ) -> io.NodeOutput:
        _check("sampler", sampler_name, comfy.samplers.KSampler.SAMPLERS)
        _check("scheduler", scheduler, comfy.samplers.KSampler.SCHEDULERS)
        config = _config(preset, strength, 0.0, 0.0, AS_PRESET, AS_PRESET, AS_PRESET)
        settings = (seed, steps, cfg, sampler_name, scheduler)
        latent, report = sample(model, *settings, positive, negative, latent_image, denoise, config)
        return io.NodeOutput(latent, report.summary(), ui=ui.PreviewText(report.summary()))


NODES = [ContrastLinkGuidance, ContrastLinkKSampler]
