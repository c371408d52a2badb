"""Layouts at work: found in the attention of the run itself, and as a loss for models without fusers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.hosts.comfyui.guidance import patch_model
from ..guidance.hosts.comfyui.interaction_late import finder, ground_late
from ..guidance.hosts.comfyui.interaction_layout import RULES, triplets
from ..guidance.interaction.layout import Layout
from ..guidance.interaction.network import Schedule
from ..guidance.presets import PRESETS, layout_only, preset, with_layout
from ..parsing.hypergraph import Hypergraph
from .types import CATEGORY, HypergraphType, InteractDiffusionType, InteractionType

AS_SEEN = "as seen"
ALONE = "layout only"


def _number(name: str, default: float, most: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.05, round=0.001, tooltip=tooltip)


class InteractionFromAttention(io.ComfyNode):
    """Goes on with boxes that the run's own first steps show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_InteractionFromAttention",
            display_name="Interaction From Attention",
            category=CATEGORY,
            description="Samples the first steps plainly, makes boxes of the attention that they show, and goes on "
            "with InteractDiffusion: one run, no boxes by hand, boxes of its own for each picture. Place it before "
            "Contrast/Link Guidance.",
            inputs=[
                io.Model.Input("model_in", display_name="model", tooltip="The model that samples."),
                io.Conditioning.Input("positive_in", display_name="positive", tooltip="From Prompt to Hypergraph."),
                io.Conditioning.Input("negative_in", display_name="negative", tooltip="The negative prompt."),
                InteractDiffusionType.Input("interactdiffusion", tooltip="From Load InteractDiffusion."),
                io.Clip.Input("clip", tooltip="The model's text encoder, which reads the phrases."),
                _number("plain_share", 0.2, 0.95, "Share of the steps before the attention is looked at."),
                io.Combo.Input(
                    "arrange",
                    options=[AS_SEEN, *RULES],
                    default="by rule",
                    tooltip="as seen = boxes around what the maps show; by rule = the action's own arrangement, moved "
                    "to where the maps see its parties, so that a wrong start can still be mended.",
                ),
                _number("threshold", 0.45, 0.95, "For as seen: where a map is cut, from its least to its greatest."),
                _number("beta", 1.0, 1.0, "Share of all steps up to which the fusers act fully."),
                _number("decay", 0.0, 1.0, "Share of the steps after beta over which they fade out."),
                _number("strength", 1.0, 2.0, "Multiplies what the fusers add; 1 = as trained, 0 = off."),
                HypergraphType.Input("hypergraph", optional=True, tooltip="Whose actions; else the prompt's own."),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="For any sampler."),
                io.Conditioning.Output("positive", display_name="positive", tooltip="Will see the interactions."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="Will see empty interactions."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_in: Any,
        positive_in: Any,
        negative_in: Any,
        interactdiffusion: Any,
        clip: Any,
        plain_share: float,
        arrange: str,
        threshold: float,
        beta: float,
        decay: float,
        strength: float,
        hypergraph: Hypergraph | None = None,
    ) -> io.NodeOutput:
        rules = None if arrange == AS_SEEN else RULES[arrange]()
        layout, find = finder(triplets("", hypergraph, positive_in), threshold, rules)
        given = (interactdiffusion, clip, layout, find, plain_share, Schedule(beta, decay, strength))
        return io.NodeOutput(*ground_late(model_in, positive_in, negative_in, *given))


class LayoutGuidance(io.ComfyNode):
    """A layout as a loss on the attention, for any model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_LayoutGuidance",
            display_name="Layout Guidance",
            category=CATEGORY,
            description="Patches a model: while it samples, the attention of things is drawn into their boxes and "
            "that of actions between them. Needs no InteractDiffusion; alone or beside SHY's losses.",
            inputs=[
                io.Model.Input("model_in", display_name="model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld."),
                InteractionType.Input("layout", tooltip="From Interaction Layout or Interaction Conditioning."),
                io.Combo.Input(
                    "preset",
                    options=[ALONE, *PRESETS],
                    default=ALONE,
                    tooltip="layout only = boxes alone; else the losses of that preset as well.",
                ),
                _number("strength", 1.0, 10.0, "Scales every push on the latent; 0 = off."),
                _number("weight", 1.0, 10.0, "Of the boxes beside the preset's losses."),
                io.Combo.Input(
                    "apply_to",
                    options=["latent", "denoised"],
                    default="latent",
                    tooltip="latent = move the latent before the step; denoised = shift the model's prediction.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model", tooltip="The guided model, for any sampler.")],
        )

    @classmethod
    def execute(
        cls, model_in: Any, layout: Layout, preset: str, strength: float, weight: float, apply_to: str
    ) -> io.NodeOutput:
        base = layout_only(strength=strength) if preset == ALONE else _preset(preset, strength=strength)
        return io.NodeOutput(patch_model(model_in, with_layout(base, layout.text(), weight), mode=apply_to))


_preset = preset  # the widget of this name hides it

NODES = [InteractionFromAttention, LayoutGuidance]
