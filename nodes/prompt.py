"""From a prompt to its hypergraph, and the hypergraph as a picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..guidance.figures import draw_hypergraph
from ..guidance.hosts.comfyui.conditioning import encode, find_graph
from ..parsing import available_parsers, format_text, parse_with_text
from ..parsing.hypergraph import Hypergraph
from .pictures import to_tensor
from .token_report import token_report
from .types import CATEGORY, HypergraphType


class PromptToHypergraph(io.ComfyNode):
    """Encodes a prompt and lets its hypergraph ride along in the conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_PromptToHypergraph",
            display_name="Prompt to Hypergraph",
            category=CATEGORY,
            description="Encodes a prompt like CLIP Text Encode and reads who does what to whom in it. The "
            "conditioning works "
            "everywhere; Interplay's guidance finds the hypergraph inside it.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint you sample with."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    placeholder="a white cat chasing a black dog in the garden",
                    tooltip="The prompt. Weights like (cat:1.2), escapes, embeddings and BREAK are understood; name "
                    "two things "
                    "and what one does to the other.",
                ),
                io.Combo.Input(
                    "parser",
                    options=list(available_parsers()),
                    default="auto",
                    tooltip="auto = Interplay's own rules, which need no download. spaCy pipelines are listed when "
                    "installed.",
                ),
                io.Boolean.Input(
                    "relations",
                    default=False,
                    tooltip="Also guide relations without a verb, such as 'on' in 'a cat on a mat'. Off: actions only.",
                ),
                io.String.Input(
                    "override",
                    multiline=True,
                    default="",
                    optional=True,
                    placeholder="empty = as parsed",
                    tooltip="Corrects the parse, in the form that graph_text shows. Lines with + add, - remove, = "
                    "replace; "
                    "without them the text replaces the whole parse. Only words of the prompt may appear.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="Goes wherever a prompt goes."
                ),
                HypergraphType.Output(
                    "hypergraph", display_name="hypergraph", tooltip="The graph itself, for the preview."
                ),
                io.String.Output(
                    "graph_text", display_name="graph_text", tooltip="The graph as text; edit it, paste it as override."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, parser: str, relations: bool, override: str = "") -> io.NodeOutput:
        graph = parse_with_text(text, override, parser)
        conditioning = encode(clip, text, graph, relations=relations)
        shown = format_text(graph)
        report = token_report(shown, graph, find_graph(conditioning)[0].tables)
        return io.NodeOutput(conditioning, graph, shown, ui=ui.PreviewText(report))


class HypergraphPreview(io.ComfyNode):
    """Draws a hypergraph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_HypergraphPreview",
            display_name="Hypergraph Preview",
            category=CATEGORY,
            description="Draws the hypergraph: things with their attributes, places, and the actions that tie them "
            "together.",
            is_output_node=True,
            inputs=[
                HypergraphType.Input("hypergraph", tooltip="From Prompt to Hypergraph."),
                io.Int.Input(
                    "width", default=768, min=256, max=4096, step=8, tooltip="Width of the drawing in pixels."
                ),
                io.Int.Input(
                    "height", default=448, min=256, max=4096, step=8, tooltip="Height of the drawing in pixels."
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The drawing.")],
        )

    @classmethod
    def execute(cls, hypergraph: Hypergraph, width: int, height: int) -> io.NodeOutput:
        image = to_tensor([draw_hypergraph(hypergraph, (width, height))])
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [PromptToHypergraph, HypergraphPreview]
