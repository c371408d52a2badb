"""The embedded model, for trying things without a download."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.hosts.comfyui.pixelworld import load_pixelworld
from .types import CATEGORY


class PixelWorldLoader(io.ComfyNode):
    """Loads the small text-to-image model that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_PixelWorldLoader",
            display_name="Load PixelWorld",
            category=CATEGORY,
            description="Loads the small pixel-art model inside the pack: no download, seconds per picture on a CPU. "
            "It knows "
            "scenes such as 'a red robot carrying a blue box in the forest'. Use 128 x 128 latents.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="A U-Net of SD1.x's architecture, made small."),
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder, with CLIP's tokenizer."),
                io.Vae.Output(
                    "vae", display_name="vae", tooltip="Its autoencoder: 16 x 16 x 4 latents to 128 x 128 pixels."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_pixelworld())


NODES = [PixelWorldLoader]
