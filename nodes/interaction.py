"""InteractDiffusion: loading it, laying out who does what to whom where, and telling the model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..guidance.hosts.comfyui.interaction import condition
from ..guidance.hosts.comfyui.interaction_layout import METHODS, boxes_from, complete, place, triplets
from ..guidance.hosts.comfyui.interaction_loader import DTYPES, WITHOUT_BOXES, convert, find_file, list_files, load
from ..guidance.interaction.figures import draw_layout
from ..guidance.interaction.layout import GRAMMAR, Layout
from ..guidance.interaction.network import Schedule
from ..parsing.hypergraph import Hypergraph
from .pictures import to_tensor
from .types import CATEGORY, HypergraphType, InteractDiffusionType, InteractionType, ObjectsType

BOX_TYPES = [io.Custom("BBOX"), io.Custom("BOUNDING_BOX"), io.Custom("BOUNDING_BOXES")]
TRIPLETS_TIP = (
    f"One interaction a line: {GRAMMAR}. Boxes are shares of the picture, 0 to 1, and may be left out. Empty = the "
    "pairs of the hypergraph's actions."
)
BOXES_TIP = (
    "Boxes of other nodes, in pixels or shares: one for each thing, in the order in which things are first named."
)


def _triplets() -> io.String.Input:
    return io.String.Input(
        "triplets",
        multiline=True,
        default="",
        placeholder="cat | chasing | dog @ 0.05,0.3,0.5,0.9 ; 0.55,0.4,0.95,0.95",
        tooltip=TRIPLETS_TIP,
    )


def _given() -> list[io.Input]:
    """The inputs by which other nodes give boxes."""
    return [
        HypergraphType.Input(
            "hypergraph", optional=True, tooltip="Whose actions to use when nothing is typed; else the prompt's own."
        ),
        io.MultiType.Input("boxes", types=BOX_TYPES, optional=True, tooltip=BOXES_TIP),
        io.Mask.Input(
            "masks", optional=True, tooltip="A batch of masks, one for each thing; a box is put around each."
        ),
    ]


def _size(name: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=512, min=64, max=8192, step=8, tooltip=tooltip)


def _share(name: str, default: float, most: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.05, round=0.001, tooltip=tooltip)


def _picture(layout: Layout, width: int, height: int) -> Any:
    return to_tensor([draw_layout(layout, (width, height))])


class InteractDiffusionLoader(io.ComfyNode):
    """Loads InteractDiffusion in any of its published forms."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_InteractDiffusionLoader",
            display_name="Load InteractDiffusion",
            category=CATEGORY,
            description="Loads InteractDiffusion (SD1.x, SDXL) in any of its published forms: training file, webui "
            "file, diffusers file or folder; or PixelWorld with interactions of its own. Without boxes or null tokens "
            "it paints as SD itself does.",
            inputs=[
                io.Combo.Input(
                    "interaction_file",
                    options=list_files(),
                    tooltip="PixelWorld's own, or from models/diffusion_models, checkpoints, gligen, or a folder in "
                    "diffusers.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    tooltip="Precision of the weights; default = as ComfyUI would choose.",
                ),
                io.Combo.Input(
                    "fusers_without_boxes",
                    options=list(WITHOUT_BOXES),
                    default="off",
                    tooltip="What prompts without interactions see. off = SD itself, as in the SHYI paper; null "
                    "tokens = as InteractDiffusion was trained without boxes.",
                ),
                io.String.Input(
                    "convert_to",
                    default="",
                    tooltip="A name: also writes the file as NAME.safetensors beside it, once. Empty = do not.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Your own SD1.x (or SDXL) model to put the fusers on; needed for the webui file.",
                ),
            ],
            outputs=[
                io.Model.Output("base", display_name="model", tooltip="The U-Net, for any sampler."),
                InteractDiffusionType.Output(
                    "interactdiffusion",
                    display_name="interactdiffusion",
                    tooltip="Fusers and tokenizer, for Interaction Conditioning.",
                ),
                io.Clip.Output("clip", display_name="clip", tooltip="The file's text encoder; nothing if it has none."),
                io.Vae.Output("vae", display_name="vae", tooltip="The file's VAE; nothing if it has none."),
                io.String.Output("report", display_name="report", tooltip="What the file is and what was found in it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        interaction_file: str,
        weight_dtype: str,
        fusers_without_boxes: str,
        convert_to: str,
        model: Any = None,
    ) -> io.NodeOutput:
        path = find_file(interaction_file)
        loaded = load(path, weight_dtype, model, fusers_without_boxes)
        written = f"\nwritten: {convert(path, convert_to).name}" if convert_to.strip() else ""
        report = loaded.report + written
        outputs = (loaded.model, loaded.interact, loaded.clip, loaded.vae, report)
        return io.NodeOutput(*outputs, ui=ui.PreviewText(report))


class InteractionConditioning(io.ComfyNode):
    """Tells InteractDiffusion who does what to whom, and where."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_InteractionConditioning",
            display_name="Interaction Conditioning",
            category=CATEGORY,
            description="Adds interactions with boxes to the prompt, and empty ones to the negative, which needs its "
            "own. Works under any sampler, with areas, LoRA and Contrast/Link Guidance on top.",
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("positive_in", display_name="positive", tooltip="The prompt."),
                io.Conditioning.Input("negative_in", display_name="negative", tooltip="The negative prompt."),
                InteractDiffusionType.Input("interactdiffusion", tooltip="From Load InteractDiffusion."),
                io.Clip.Input("clip", tooltip="The model's text encoder (SDXL: both), which reads the phrases."),
                _triplets(),
                _share(
                    "beta", 1.0, 1.0, "Share of the steps with fusers; lower leaves details to the base. With LoRA 0.3."
                ),
                _share("decay", 0.0, 1.0, "Share of the steps after beta over which the fusers fade out."),
                _share("strength", 1.0, 2.0, "Multiplies what the fusers add; 1 = as trained, 0 = off."),
                _size("width", "Width of the picture in pixels: for boxes in pixels, and of the preview."),
                _size("height", "Height of the picture in pixels."),
                InteractionType.Input(
                    "layout", optional=True, tooltip="From Interaction Layout; in place of triplets, boxes and masks."
                ),
                *_given(),
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="Sees the interactions."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="Sees empty interactions."),
                InteractionType.Output("placed", display_name="layout", tooltip="What was understood."),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="Who acts in blue, others in yellow, the place of the action in red.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive_in: Any,
        negative_in: Any,
        interactdiffusion: Any,
        clip: Any,
        triplets: str,
        beta: float,
        decay: float,
        strength: float,
        width: int,
        height: int,
        layout: Layout | None = None,
        hypergraph: Hypergraph | None = None,
        boxes: Any = None,
        masks: Any = None,
    ) -> io.NodeOutput:
        if layout is None:
            named = _named(triplets, hypergraph, positive_in)
            layout = complete(named, boxes_from(boxes, masks, width, height))
        schedule = Schedule(beta, decay, strength)
        positive, negative = condition(positive_in, negative_in, interactdiffusion, clip, layout, schedule)
        image = _picture(layout, width, height)
        return io.NodeOutput(positive, negative, layout, image, ui=ui.PreviewImage(image, cls=cls))


_named = triplets  # the widget of this name hides it


class InteractionLayout(io.ComfyNode):
    """Puts boxes around what a prompt names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_InteractionLayout",
            display_name="Interaction Layout",
            category=CATEGORY,
            description="Finds a place for everyone who takes part in an action: by rules for verbs and sizes, from "
            "the model's own attention in a short draft, from objects found in a picture, or from boxes and masks.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="by rule",
                    tooltip="by rule = what verbs and nouns suggest, (PixelWorld) = in that model's world; from "
                    "attention = a draft with the same seed, needs model, positive, negative and latent; from objects "
                    "= what was found in a draft picture; given boxes = boxes or masks.",
                ),
                _triplets(),
                _size("width", "Width of the picture in pixels: for boxes in pixels, and of the preview."),
                _size("height", "Height of the picture in pixels."),
                io.Int.Input(
                    "draft_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the draft; use the sampler's own, so that the boxes fit its noise.",
                ),
                _share("draft_share", 0.3, 1.0, "How much of the draft is sampled before looking at its attention."),
                _share("threshold", 0.45, 0.95, "Where a word's map is cut, from its least to its greatest value."),
                *_given(),
                io.Model.Input("model", optional=True, tooltip="For from attention: the model to draft with."),
                io.Conditioning.Input("positive", optional=True, tooltip="From Prompt to Hypergraph."),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt."),
                io.Latent.Input("latent", optional=True, tooltip="The latent to be sampled; its first picture counts."),
                ObjectsType.Input(
                    "objects",
                    optional=True,
                    tooltip="For from objects: those of a draft picture; what it lacks is placed by rule beside them.",
                ),
            ],
            outputs=[
                InteractionType.Output("layout", display_name="layout", tooltip="For Interaction Conditioning."),
                io.String.Output("text", display_name="text", tooltip="The layout as triplets, to correct and paste."),
                io.Image.Output("preview", display_name="preview", tooltip="The boxes."),
            ],
        )

    @classmethod
    def execute(
        cls,
        method: str,
        triplets: str,
        width: int,
        height: int,
        draft_seed: int,
        draft_share: float,
        threshold: float,
        hypergraph: Hypergraph | None = None,
        boxes: Any = None,
        masks: Any = None,
        model: Any = None,
        positive: Any = None,
        negative: Any = None,
        latent: Any = None,
        objects: Any = None,
    ) -> io.NodeOutput:
        draft = {"model": model, "positive": positive, "negative": negative, "latent": latent}
        draft |= {"seed": draft_seed, "share": draft_share}
        named = _named(triplets, hypergraph, positive)
        layout = place(named, method, boxes_from(boxes, masks, width, height), draft, threshold, objects)
        image = _picture(layout, width, height)
        return io.NodeOutput(layout, layout.text(), image, ui=ui.PreviewImage(image, cls=cls))


NODES = [InteractDiffusionLoader, InteractionConditioning, InteractionLayout]
