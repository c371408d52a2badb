"""Scores of finished pictures by models made for it: the caption reward, and alignment scores as a table."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..guidance.hosts.comfyui.scores import (
    ANSWERERS,
    CAPTIONERS,
    CLIPS,
    ENCODERS,
    ENDPOINT,
    MATCHERS,
    NONE,
    PIXELWORLD,
    RULES,
    Wanted,
    alignment,
    asker_of,
    caption_readings,
    choices,
    register_folder,
    save_csv,
)
from ..guidance.rewards.alignment import lines, prompts_for, to_csv, to_json, to_table
from ..guidance.rewards.caption import MAX_NEW_TOKENS, MODES, Style
from ..guidance.rewards.select import choose
from .pictures import to_pillow
from .types import CATEGORY

register_folder()


def _prompt() -> io.Input:
    return io.String.Input(
        "prompt", multiline=True, default="", tooltip="What the pictures shall show: one prompt for all, or one a line."
    )


class CaptionReward(io.ComfyNode):
    """Scores pictures by how near their caption comes to the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_CaptionReward",
            display_name="Caption Reward",
            category=CATEGORY,
            description="A captioner says what each picture shows; a text encoder says how near that comes to the "
            "prompt (RealignDiff, Eq. 4). The captions are shown, so that a score can be understood.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures; a batch is ranked."),
                _prompt(),
                io.Combo.Input(
                    "captioner",
                    options=choices(CAPTIONERS, PIXELWORLD),
                    default=PIXELWORLD,
                    tooltip="Who writes the captions. PixelWorld is part of the pack and knows PixelWorld's pictures "
                    "only; the others are folders in models/interplay. The paper's is blip2-opt-2.7b.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=choices(ENCODERS, PIXELWORLD),
                    default=PIXELWORLD,
                    tooltip="Who compares caption and prompt. PixelWorld goes with its captioner; the paper's is "
                    "blip2-itm-vit-g, lighter ones are CLIP and all-mpnet-base-v2.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=MAX_NEW_TOKENS,
                    min=4,
                    max=256,
                    tooltip="The longest caption. PixelWorld's ends by itself.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="Captions of your own or of any other node, one a line for each picture; no captioner is "
                    "then needed.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    optional=True,
                    tooltip="short: what the captioner says unasked. photo: it goes on after 'a photo of'. detailed: "
                    "all that it can say, up to three times as long; for long prompts. PixelWorld's knows one way.",
                ),
                io.Int.Input(
                    "beams",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip="Captions tried at a time; 1 = the likeliest word each time. PixelWorld's takes 1.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Cosine of caption and prompt, -1 to 1, one a picture.",
                ),
                io.Int.Output(
                    "ranks", display_name="ranks", is_output_list=True, tooltip="1 = the best, one a picture."
                ),
                io.String.Output(
                    "captions_out", display_name="captions", is_output_list=True, tooltip="What each picture shows."
                ),
                io.Int.Output("best_index", display_name="best index", tooltip="The best picture, counted from 0."),
                io.Image.Output("best_image", display_name="best image", tooltip="The best picture."),
                io.String.Output("report", display_name="report", tooltip="Everything as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        prompt: str,
        captioner: str,
        encoder: str,
        max_new_tokens: int,
        captions: str | None = None,
        mode: str = MODES[0],
        beams: int = 1,
    ) -> io.NodeOutput:
        prompts, said = prompts_for(prompt, len(image)), [] if captions is None else captions.strip().splitlines()
        style = Style(mode, beams, max_new_tokens)
        readings = caption_readings(to_pillow(image), prompts, captioner, encoder, style, said)
        scores, told = [float(r.value or 0.0) for r in readings], [r.notes["caption"] for r in readings]
        order = choose([scores]).order
        ranks = [order.index(i) + 1 for i in range(len(scores))]
        above = [r.parts["above"] for r in readings]
        report = {"prompts": prompts, "captions": told, "scores": scores, "above": above, "ranks": ranks}
        report |= {"best": order[0], "captioner": "given" if said else captioner, "encoder": encoder}
        notices = list(dict.fromkeys(r.notes["cut"] for r in readings if "cut" in r.notes))
        report |= {"mean": sum(scores) / len(scores), "mode": mode, "notices": notices}
        rows = [f"{i}: {s:+.3f}, rank {r}: {t}" for i, (s, r, t) in enumerate(zip(scores, ranks, told, strict=True))]
        shown = "\n".join([*rows, *notices])
        best = image[order[0] : order[0] + 1]
        whole = json.dumps(report, ensure_ascii=False, indent=1)
        return io.NodeOutput(scores, ranks, told, order[0], best, whole, ui={"text": (shown,)})


class AlignmentScores(io.ComfyNode):
    """Scores pictures against their prompts by several models, as a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_AlignmentScores",
            display_name="Alignment Scores",
            category=CATEGORY,
            description="CLIP score, ITC, ITM, VQAScore and TIFA of pictures against their prompts, with bootstrap "
            "intervals; with a baseline of the same seeds, the paired differences too. TIFA's questions come from the "
            "prompt's hypergraph, and go on to ask who does what to whom and its swapped twin.",
            inputs=[
                io.Image.Input("image", tooltip="The pictures."),
                _prompt(),
                _model("clip", CLIPS, (NONE,), NONE, "CLIP score: cosine (clip), 2.5 max(cos, 0) (clip_hessel), "
                       "100 max(cos, 0) (clip_torchmetrics)."),
                _model("matching", MATCHERS, (NONE, PIXELWORLD), PIXELWORLD, "ITC, the cosine of picture and prompt, "
                       "and ITM, the probability that they belong together (PixelWorld's has ITC only)."),
                _model("vqascore", ANSWERERS, (NONE,), NONE, "VQAScore: the probability of yes when asked whether the "
                       "picture shows the prompt."),
                _model("tifa", ANSWERERS, (NONE, PIXELWORLD), PIXELWORLD, "TIFA: who answers the questions. PixelWorld "
                       "= the exact detector of PixelWorld's pictures."),
                io.String.Input(
                    "csv_name",
                    default="",
                    tooltip="Write the figures of every picture to output/NAME_00001.csv; empty = no file.",
                ),
                io.Image.Input(
                    "baseline",
                    optional=True,
                    tooltip="Pictures of the same prompts and seeds, in the same order, made another way.",
                ),
                io.String.Input(
                    "questions",
                    optional=True,
                    force_input=True,
                    tooltip="Questions of your own as JSON, by hand or from any node that runs a language model.",
                ),
                io.Combo.Input(
                    "question_maker",
                    options=[RULES, ENDPOINT],
                    default=RULES,
                    optional=True,
                    tooltip="Where TIFA's questions come from. rules: the prompt's hypergraph, offline. endpoint: the "
                    "OpenAI-compatible server that the environment names (INTERPLAY_LLM_BASE_URL, INTERPLAY_LLM_MODEL, "
                    "INTERPLAY_LLM_API_KEY).",
                ),
            ],
            outputs=[
                *(
                    io.Float.Output(
                        f"{name}_score", display_name=name, is_output_list=True, tooltip=f"{about}, one a picture."
                    )
                    for name, about in COLUMNS.items()
                ),
                io.String.Output("table", display_name="table", tooltip="Means with 95 % bootstrap intervals."),
                io.String.Output("csv_text", display_name="csv", tooltip="A row for each picture."),
                io.String.Output("report", display_name="report", tooltip="Everything as JSON."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        image: Any,
        prompt: str,
        csv_name: str,
        baseline: Any = None,
        questions: str | None = None,
        question_maker: str = RULES,
        **models: str,
    ) -> io.NodeOutput:
        prompts = prompts_for(prompt, len(image))
        wanted = Wanted(**models, questions=asker_of(question_maker, questions))
        found = alignment(to_pillow(image), prompts, wanted)
        other = None
        if baseline is not None:
            other = alignment(to_pillow(baseline), prompts_for(prompt, len(baseline)), wanted)
        summary = lines(found, other)
        table, rows = to_table(summary), to_csv(found, other)
        saved = save_csv(rows, csv_name) if csv_name.strip() else None
        shown = f"{table}\n\nwritten: {saved}" if saved else table
        figures = [found.values(name, *NAMED.get(name, ())) for name in COLUMNS]
        return io.NodeOutput(*figures, table, rows, to_json(found, summary), ui={"text": (shown,)})


COLUMNS = {
    "clip": "CLIP's cosine",
    "itc": "Cosine of the matching model",
    "itm": "Probability that picture and prompt belong together",
    "vqascore": "VQAScore",
    "tifa": "Share of TIFA's questions answered as the prompt says",
    "edges": "Share of the questions about who does what to whom, and their swapped twins",
}

NAMED = {"itc": ("itm_itc",), "edges": ("tifa_edges",)}  # outputs whose column goes by another name


def _model(name: str, known: dict[str, str], own: tuple[str, ...], default: str, about: str) -> io.Input:
    return io.Combo.Input(
        name, options=choices(known, *own), default=default, tooltip=f"{about} Models: folders in models/interplay."
    )


NODES = [CaptionReward, AlignmentScores]
