"""Which tags of a picture its prompt asks for."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.grounding.verdicts import SCORES, batch_json, batch_status, batch_text
from ..guidance.hosts.comfyui.scores import register_folder
from ..guidance.hosts.comfyui.verdicts import RULES, Judge, failures, judge_batch, judges
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
            is_input_list=True,
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
        by, pasted = (_first(inputs.get(name)) for name in ("judge", "pasted"))
        return failures() if by not in (RULES, None) and not (pasted or "").strip() else 0

    @classmethod
    def execute(cls, prompt: list[str], tags: list[str], judge: list[str], **more: list[Any]) -> io.NodeOutput:
        one = {name: _first(value) for name, value in more.items()}
        graph, scale = one.pop("hypergraph", None), {name: one.pop(name) for name in SCORES if name in one}
        found = [v.rescaled(**scale) for v in judge_batch(prompt, tags, graph, Judge(judge[0], **one))]
        phrases = ", ".join(dict.fromkeys(phrase for v in found for phrase in v.phrases()))
        shown = batch_text([v.table() for v in found])
        raw = batch_text([v.raw for v in found])
        return io.NodeOutput(batch_json(found), phrases, batch_status(found), raw, ui={"text": (shown,)})


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


NODES = [JudgeTags]
