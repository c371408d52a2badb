"""What the model attends to, word by word."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..guidance.hosts.comfyui.maps import attention_maps
from ..guidance.report import summary
from .inputs import look_inputs
from .map_pictures import map_pictures
from .pictures import to_tensor
from .types import CATEGORY


class AttentionMaps(io.ComfyNode):
    """Draws the cross-attention of each word and each action over the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_AttentionMaps",
            display_name="Attention Maps",
            category=CATEGORY,
            description="Noises a finished latent a little, asks the model once, and draws where it looked for each "
            "word and "
            "each action. Shows why a picture went wrong: an action on nobody, two things on one place.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that drew the picture; patched or not."),
                io.Conditioning.Input("positive", tooltip="From Prompt to Hypergraph."),
                io.Latent.Input("samples", tooltip="The finished latent, from a sampler or VAE Encode."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The decoded picture, to draw over; without it maps are drawn on grey.",
                ),
                *look_inputs(
                    0.5,
                    "Point of the schedule at which to look: 0 = all noise, 1 = the clean picture; 0.5 shows most.",
                ),
            ],
            outputs=[
                io.Image.Output("maps", display_name="maps", tooltip="One picture a word, then one an action."),
                io.String.Output("text", display_name="text", tooltip="How much each action overlaps each thing."),
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
        found = attention_maps(model, positive, samples, percent=noise_percent, seed=map_seed)
        pictures = to_tensor(map_pictures(found.maps, found.graph, image))
        text = summary(found.maps[:1], found.graph)
        return io.NodeOutput(pictures, text, ui={**ui.PreviewImage(pictures, cls=cls).as_dict(), "text": (text,)})


NODES = [AttentionMaps]
