"""What is in a picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.grounding.tags import KEEP, to_json
from ..guidance.hosts.comfyui.perception_tags import PIXELWORLD, Wish, register_folders, tag, taggers
from .types import CATEGORY

register_folders()


class TagImage(io.ComfyNode):
    """Names what pictures show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_TagImage",
            display_name="Tag Image",
            category=CATEGORY,
            description="Names what is in each picture, by RAM, RAM++, Tag2Text, Florence-2 or a vision-language "
            "model, or by PixelWorld's exact detector, which needs no model.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures; each gets tags of its own."),
                io.Combo.Input(
                    "tagger",
                    options=taggers(),
                    default=PIXELWORLD,
                    tooltip="PixelWorld reads PixelWorld's pictures only. RAM++, RAM and Tag2Text are files in "
                    "models/rams, the others folders in models/interplay.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Tags have to be surer than this; 0 = for RAM, RAM++ and Tag2Text the published threshold "
                    "of each tag, for others every tag.",
                ),
                io.Combo.Input(
                    "keep",
                    options=list(KEEP),
                    default=KEEP[0],
                    tooltip="RAM also names colours, actions and places. things and places = without colours, actions "
                    "and words for pictures; things = without places as well. By WordNet, so not always right.",
                ),
                io.String.Input("leave_out", default="", tooltip="Tags to drop, with commas: photo, red."),
                io.Boolean.Input(
                    "caption",
                    default=True,
                    tooltip="Also write a caption, where the tagger can: PixelWorld, Tag2Text, Florence-2, chat.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "tags",
                    display_name="tags",
                    is_output_list=True,
                    tooltip="The tags of each picture with commas, surest first; for Judge Tags.",
                ),
                io.String.Output(
                    "json",
                    display_name="json",
                    tooltip="Names, scores and boxes of the whole batch, picture by picture; for Ground Objects.",
                ),
                io.String.Output(
                    "caption_out", display_name="caption", is_output_list=True, tooltip="A caption for each picture."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, tagger: str, threshold: float, keep: str, leave_out: str, caption: bool
    ) -> io.NodeOutput:
        wish = Wish(threshold, keep, tuple(name.strip() for name in leave_out.split(",") if name.strip()), caption)
        found = tag(image, tagger, wish)
        texts, said = [picture.text() for picture in found], [picture.caption for picture in found]
        shown = "\n".join(f"{i}: {t}" + f"\n   {c}" * bool(c) for i, (t, c) in enumerate(zip(texts, said, strict=True)))
        return io.NodeOutput(texts, to_json(found, tagger), said, ui={"text": (shown,)})


NODES = [TagImage]
