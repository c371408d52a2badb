"""Re-weighting attention modulation: as a patch for any sampler, and its attention before and after as pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..guidance.hosts.comfyui.reweight import reweight, reweight_maps
from ..guidance.modulation import BACKGROUNDS, OTHER_TOKENS, PRESETS, REGIONS, ModulationConfig, modulation
from .inputs import look_inputs
from .map_pictures import pair_pictures
from .pictures import to_tensor
from .types import CATEGORY, ObjectsType

AS_PRESET = "as preset"
SWITCH = [AS_PRESET, "on", "off"]


def _config(
    preset: str, strength: float, start: float, end: float, other: str, background: str, phrases: str, regions: str
) -> ModulationConfig:
    """The preset with those settings changed that the widgets change."""
    base = modulation(preset)
    scaled = {"strength": base.strength * strength, "self_strength": base.self_strength * strength, "start": start}
    changes: dict[str, Any] = dict(scaled)
    if end > 0.0:
        changes["end"] = end
    for name, value in (("other_tokens", other), ("background", background), ("regions", regions)):
        if value != AS_PRESET:
            changes[name] = value
    if phrases != AS_PRESET:
        changes["replace_phrases"] = phrases == "on"
    return modulation(preset, **changes)


class AttentionReweight(io.ComfyNode):
    """Patches a model so that each object's region attends to the object's own words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_AttentionReweight",
            display_name="Attention Re-weighting",
            category=CATEGORY,
            description="Patches a model: while it draws, the region of each object looks at the object's own words "
            "and away from those of the others. Draw again from the same seed to mend colours that went to the wrong "
            "thing. LoRA, ControlNet and IP-Adapter may come before or after.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld, guided or not."),
                io.Conditioning.Input("positive", tooltip="From Prompt to Hypergraph; the sampler's positive."),
                ObjectsType.Input(
                    "objects", tooltip="From Ground Objects or Objects from Masks; one picture, or one for each image."
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=next(iter(PRESETS)),
                    tooltip="recommended: bounded, other words and background left alone. literal: as printed, all "
                    "words pushed. DenseDiffusion: all objects alike, self-attention as well, phrases encoded alone. "
                    "Regions as wanted: as recommended; regions go to what the prompt wants in them, and the objects' "
                    "words are taken from the background.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Scales the preset's weights. 0 = off, bit-identical to the plain model.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the schedule at which re-weighting begins.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share at which it ends; 0 = where the preset ends it (0.3).",
                ),
                io.Combo.Input(
                    "other_words",
                    options=[AS_PRESET, *OTHER_TOKENS],
                    default=AS_PRESET,
                    tooltip="Words of no object, start, end and padding among them: left alone (neutral) or pushed "
                    "down in the regions (suppress), which is stronger.",
                ),
                io.Combo.Input(
                    "background",
                    options=[AS_PRESET, *BACKGROUNDS],
                    default=AS_PRESET,
                    tooltip="Pixels of no object: left alone (skip), looking at the remaining words (segment), at none "
                    "(literal), or at all but the objects' (clear), so that nothing comes up twice.",
                ),
                io.Combo.Input(
                    "phrase_embeddings",
                    options=SWITCH,
                    default=AS_PRESET,
                    tooltip="on = encode each phrase alone, so that no colour leaks in from the rest of the prompt; "
                    "needs clip.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder. Needed for phrase_embeddings; with it, objects that the prompt does "
                    "not name are added to it.",
                ),
                io.Combo.Input(
                    "regions",
                    options=[AS_PRESET, *REGIONS],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="found: each region gets the words of what is in it, as RealignDiff. wanted: parties of an "
                    "action the wrong way round change places, regions of what nobody asked for go to what is missing "
                    "or lose all words. Ask Ground Objects for separate instances then.",
                ),
            ],
            outputs=[
                io.Model.Output("reweighted", display_name="model", tooltip="For any sampler, or for guidance."),
                io.Conditioning.Output(
                    "conditioning",
                    display_name="positive",
                    tooltip="For the sampler: as it came in, or with phrases added or encoded alone.",
                ),
                io.String.Output("text", display_name="text", tooltip="Which object got which words, and its score."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        objects: Any,
        preset: str,
        strength: float,
        start_percent: float,
        end_percent: float,
        other_words: str,
        background: str,
        phrase_embeddings: str,
        clip: Any = None,
        regions: str = AS_PRESET,
    ) -> io.NodeOutput:
        words = (other_words, background, phrase_embeddings)
        config = _config(preset, strength, start_percent, end_percent, *words, regions)
        made = reweight(model, positive, objects, config, clip)
        return io.NodeOutput(made.model, made.conditioning, made.report, ui=ui.PreviewText(made.report))


class ReweightMaps(io.ComfyNode):
    """Draws what a re-weighted model looks at, before and after."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_ReweightMaps",
            display_name="Re-weighting Maps",
            category=CATEGORY,
            description="Noises a finished latent, asks the re-weighted model once, and draws for each object where "
            "its words were looked at before (left) and after (right) re-weighting.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="From Attention Re-weighting."),
                io.Conditioning.Input("positive", tooltip="From Attention Re-weighting."),
                io.Latent.Input("samples", tooltip="The latent of the first drawing, or any other."),
                io.Image.Input("image", optional=True, tooltip="The picture to draw over; without it, on grey."),
                *look_inputs(
                    0.1,
                    "Point of the schedule at which to look: 0 = all noise. It has to lie where re-weighting is on.",
                ),
            ],
            outputs=[
                io.Image.Output("maps", display_name="maps", tooltip="One picture an object: before, after."),
                io.String.Output("text", display_name="text", tooltip="Share of each object's heat inside its mask."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        samples: Any,
        noise_percent: float,
        map_seed: int,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        pair = reweight_maps(model, positive, samples, noise_percent, map_seed)
        pictures = to_tensor(pair_pictures(pair.maps, pair.labels, image))
        text = pair.summary()
        return io.NodeOutput(pictures, text, ui={**ui.PreviewImage(pictures, cls=cls).as_dict(), "text": (text,)})


NODES = [AttentionReweight, ReweightMaps]
