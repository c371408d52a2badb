"""Objects in pictures: found by models, painted by hand, and asked for where they are missing."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..guidance.grounding.detectors import INSTANCES
from ..guidance.grounding.objects import ObjectsBatch
from ..guidance.grounding.objects_masks import BATCHES, objects_from_masks
from ..guidance.grounding.objects_preview import draw_objects, legend_lines
from ..guidance.grounding.objects_text import read_tags, read_verdicts
from ..guidance.hosts.comfyui.perception import PIXELWORLD, Perception, detectors, segmenters
from ..guidance.hosts.comfyui.realign import presence
from .pictures import to_pillow, to_tensor
from .types import CATEGORY, HypergraphType, ObjectsType


def objects_preview(objects: ObjectsBatch, image: Any = None) -> torch.Tensor:
    """IMAGE of the objects over their pictures, or over grey."""
    if image is None or len(image) != len(objects.pictures):
        image = torch.full((len(objects.pictures), objects.height, objects.width, 3), 0.35)
    lines = max(map(legend_lines, objects.pictures))
    pairs = zip(to_pillow(image), objects.pictures, strict=True)
    return to_tensor([draw_objects(picture, found, lines) for picture, found in pairs])


def _shown(cls: Any, objects: ObjectsBatch, image: Any) -> io.NodeOutput:
    """The outputs that both sources of objects share."""
    preview = objects_preview(objects, image)
    missing, report = objects.missing(), objects.to_json()
    labels = ", ".join(dict.fromkeys(o.label for picture in objects.pictures for o in picture.objects))
    shown = {**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (report,)}
    values = (objects, objects.stacked(), labels, preview, ", ".join(missing), bool(missing), report)
    return io.NodeOutput(*values, ui=shown)


def _outputs() -> list[io.Output]:
    return [
        ObjectsType.Output(
            "found", display_name="objects", tooltip="For Attention Re-weighting, or for another layout."
        ),
        io.Mask.Output("masks", display_name="masks", tooltip="One for each object, picture by picture."),
        io.String.Output("names", display_name="labels", tooltip="The objects' names, with commas."),
        io.Image.Output(
            "preview", display_name="preview", tooltip="Masks in colours, boxes and a legend, a picture each."
        ),
        io.String.Output("lacking", display_name="missing", tooltip="What the prompt names and a picture lacks."),
        io.Boolean.Output("lacks", display_name="any_missing", tooltip="Whether something is missing in any picture."),
        io.String.Output("report", display_name="report", tooltip="Everything but the masks, as JSON."),
    ]


class GroundObjects(io.ComfyNode):
    """Finds the things of a prompt in pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_GroundObjects",
            display_name="Ground Objects",
            category=CATEGORY,
            description="Finds the things of a prompt, and tags, in pictures: a mask, a box and a score for each, with "
            "its name and phrase. Says what is missing. PixelWorld's own detector needs no download.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures; some may show nothing of what is looked for."),
                HypergraphType.Input(
                    "hypergraph",
                    optional=True,
                    tooltip="From Prompt to Hypergraph: which things there should be. Without it and without tags, "
                    "PixelWorld's detector names all that it sees.",
                ),
                io.Combo.Input(
                    "detector",
                    options=detectors(),
                    default=PIXELWORLD,
                    tooltip="What finds things. Models are folders of transformers in models/interplay.",
                ),
                io.Combo.Input(
                    "segmenter",
                    options=segmenters(),
                    default=segmenters()[0],
                    tooltip="What makes masks of boxes. SAM 3 and PixelWorld's detector make their own.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Finds with a lower score are left out; 0.25 to 0.4 is usual for Grounding DINO.",
                ),
                io.Combo.Input(
                    "instances",
                    options=list(INSTANCES),
                    default="joined",
                    tooltip="joined = one object for all finds of a thing; separate = each find is an object.",
                ),
                io.String.Input(
                    "tags",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="more things to look for: table, lamp",
                    tooltip="Names with commas, a line for each picture or one for all; or JSON from Tag Image.",
                ),
                io.String.Input(
                    "verdicts", default="", optional=True, force_input=True, tooltip="JSON from Judge Tags."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        detector: str,
        segmenter: str,
        threshold: float,
        instances: str,
        hypergraph: Any = None,
        tags: str = "",
        verdicts: str = "",
    ) -> io.NodeOutput:
        perception = Perception(detector, segmenter, threshold, instances)
        names, judged = read_tags(tags, len(image)), read_verdicts(verdicts, len(image))
        if hypergraph is None and not any(names):
            names = perception.all_tags(image)
        return _shown(cls, perception.look(image, hypergraph, names, judged), image)


class ObjectsFromMasks(io.ComfyNode):
    """Objects from masks that people draw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_ObjectsFromMasks",
            display_name="Objects from Masks",
            category=CATEGORY,
            description="Objects from masks drawn by hand or made by any other node, so that attention can be "
            "re-weighted without a detector. Chain several of these nodes for several masks.",
            inputs=[
                io.Mask.Input("mask", tooltip="A mask, or a batch of masks."),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    placeholder="robot | red robot | 2",
                    tooltip="A line an object: label | phrase of the prompt | weight. Phrase and weight may be left "
                    "out; the weight is 2 for what must be there, 0.5 for what may, 0 for leave alone.",
                ),
                io.Combo.Input(
                    "mask_batch",
                    options=list(BATCHES),
                    default=BATCHES[0],
                    tooltip="What a batch of masks is: an object each in one picture, or the masks of one object in "
                    "several pictures.",
                ),
                ObjectsType.Input("objects", optional=True, tooltip="Objects of the same pictures, which are kept."),
                HypergraphType.Input(
                    "hypergraph", optional=True, tooltip="Names the prompt, and lets missing things be reported."
                ),
                io.Image.Input("image", optional=True, tooltip="The picture, for the preview."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        mask: Any,
        labels: str,
        mask_batch: str,
        objects: Any = None,
        hypergraph: Any = None,
        image: Any = None,
    ) -> io.NodeOutput:
        return _shown(cls, objects_from_masks(mask, labels, mask_batch, objects, hypergraph), image)


class PresenceGuidance(io.ComfyNode):
    """Guidance towards what a picture lacked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_PresenceGuidance",
            display_name="Presence Guidance",
            category=CATEGORY,
            description="Patches a model so that the next drawing looks after things that the pictures lacked, each "
            "picture by what it lacked itself. Joins guidance that the model has. Nothing missing = nothing changed.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld, guided or not."),
                ObjectsType.Input("objects", tooltip="From Ground Objects: what is missing counts."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How hard the latent is pushed; 0 = off. On a guided model, the weight beside its terms.",
                ),
                io.Boolean.Input(
                    "enabled", default=True, optional=True, tooltip="A switch; off = the model as it was."
                ),
            ],
            outputs=[io.Model.Output("guided_model", display_name="model", tooltip="For any sampler.")],
        )

    @classmethod
    def execute(cls, model: Any, objects: Any, strength: float, enabled: bool = True) -> io.NodeOutput:
        return io.NodeOutput(presence(model, objects, strength if enabled else 0.0))


NODES = [GroundObjects, ObjectsFromMasks, PresenceGuidance]
