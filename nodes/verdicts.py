"""Which tags of a picture its prompt asks for."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.hosts.comfyui.scores import register_folder
from ..guidance.hosts.comfyui.verdicts import RULES, failures, judges
from ..guidance.hosts.comfyui.verdicts import judge as judge_tags
from .types import CATEGORY, HypergraphType

register_folder()


class JudgeTags(io.ComfyNode):
    """Holds tags against the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, default: float, tooltip: str) -> io.Input:
            return io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.1, optional=True, tooltip=tooltip)

        return io.Schema(
            node_id="Interplay_JudgeTags",
            display_name="Judge Tags",
            category=CATEGORY,
            description="Says of every tag of a picture whether the prompt asks for it (2), may include it (0.5) or "
            "not (0), and in which words of the prompt. By rules, or by a language model; when the model fails, rules "
            "take over and the status says so.",
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The prompt that the picture was drawn from; may be empty with a hypergraph.",
                ),
                io.String.Input(
                    "tags",
                    multiline=True,
                    default="",
                    tooltip="What is in the picture: names with commas, or the JSON of Tag Image.",
                ),
                io.Combo.Input(
                    "judge",
                    options=judges(),
                    default=RULES,
                    tooltip="rules = offline, no model. endpoint = the OpenAI-compatible server that the environment "
                    "names (INTERPLAY_LLM_BASE_URL, INTERPLAY_LLM_MODEL, INTERPLAY_LLM_API_KEY). The others are chat "
                    "models in models/interplay.",
                ),
                HypergraphType.Input("hypergraph", optional=True, tooltip="From Prompt to Hypergraph; else parsed."),
                io.String.Input(
                    "pasted",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="A judge's reply as JSON, by hand or from any node that runs a language model; it then is "
                    "the judge.",
                ),
                io.Float.Input(
                    "timeout",
                    default=60.0,
                    min=1.0,
                    max=600.0,
                    step=1.0,
                    optional=True,
                    tooltip="Seconds that one answer of the endpoint may take.",
                ),
                io.Int.Input(
                    "retries",
                    default=2,
                    min=0,
                    max=8,
                    optional=True,
                    tooltip="Further tries when the endpoint is busy or breaks off, with growing pauses.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    optional=True,
                    tooltip="Stop with an error when the language model fails, instead of taking the rules.",
                ),
                number("certain", 2.0, "Score of a tag that the prompt asks for."),
                number("possible", 0.5, "Score of a tag that may be there."),
                number("unlikely", 0.0, "Score of a tag that nothing asks for; 0 leaves its region alone."),
            ],
            outputs=[
                io.String.Output(
                    "verdicts",
                    display_name="verdicts",
                    tooltip="JSON: tag, score, phrase, reason; and what is missing.",
                ),
                io.String.Output(
                    "phrases", display_name="phrases", tooltip="The prompt's words for what was found, with commas."
                ),
                io.String.Output(
                    "status",
                    display_name="status",
                    tooltip="Who judged: rules, llm, repaired, retry or pasted, and what had to be mended.",
                ),
                io.String.Output("raw", display_name="raw", tooltip="What the language model wrote, word by word."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Asked again after a failure, although nothing in the workflow changed."""
        by_model = inputs.get("judge") not in (RULES, None) and not (inputs.get("pasted") or "").strip()
        return failures() if by_model else 0

    @classmethod
    def execute(
        cls,
        prompt: str,
        tags: str,
        judge: str,
        hypergraph: Any = None,
        certain: float = 2.0,
        possible: float = 0.5,
        unlikely: float = 0.0,
        **options: Any,
    ) -> io.NodeOutput:
        found = judge_tags(prompt, tags, hypergraph, judge, **options).rescaled(certain, possible, unlikely)
        return io.NodeOutput(
            found.to_json(), ", ".join(found.phrases()), found.status, found.raw, ui={"text": (found.table(),)}
        )


NODES = [JudgeTags]
