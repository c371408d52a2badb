"""RealignDiff's fine stage in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..guidance.grounding.loop import NOISES, judged, report, summary
from ..guidance.hosts.comfyui.perception import PIXELWORLD, Perception, detectors, segmenters
from ..guidance.hosts.comfyui.realign import FROM_PROMPT, SCORES, Drawing, Outcome, Refinement, refine
from ..guidance.hosts.comfyui.realign_stages import NOBODY, judge_by, judges, tagger_by, taggers
from ..guidance.hosts.comfyui.verdicts import RULES, failures
from ..guidance.modulation import PRESETS, modulation
from .inputs import denoise_input, sampling_inputs
from .objects import objects_preview
from .types import CATEGORY, ObjectsType


class RAMGroundedSAMReweight(io.ComfyNode):
    """Draws, looks, and draws again with attention re-weighted, until nothing is wrong."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_RAMGroundedSAMReweight",
            display_name="RAM Grounded-SAM Reweight",
            category=CATEGORY,
            description="Draws a picture, looks what is in it (tags, verdicts, masks), re-weights attention where it "
            "is wrong and draws it again from the same noise, up to so many rounds. Keeps the better picture. The same "
            "as separate nodes: Tag Image, Judge Tags, Ground Objects, Attention Re-weighting, KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixelWorld; guidance on it acts in every pass."),
                io.Clip.Input("clip", tooltip="The text encoder, for the score and for phrases that the prompt lacks."),
                io.Vae.Input("vae", tooltip="Makes latents visible."),
                io.Conditioning.Input("positive", tooltip="From Prompt to Hypergraph."),
                io.Conditioning.Input("negative", tooltip="What the picture shall not show; any text encode node."),
                io.Latent.Input(
                    "latent_image", tooltip="The latent to denoise; a batch is refined picture by picture."
                ),
                *sampling_inputs(
                    "The random seed of the noise, which all passes share.", "Number of denoising steps of a pass."
                ),
                denoise_input(),
                io.Int.Input(
                    "rounds",
                    default=1,
                    min=0,
                    max=16,
                    tooltip="Passes after the first at most; it ends when nothing is wrong. 1 = as "
                    "RealignDiff. 0 = look only.",
                ),
                io.Combo.Input(
                    "tagger",
                    options=taggers(),
                    default=FROM_PROMPT,
                    tooltip="What names the things in a picture, as in Tag Image; tags of colours, actions and places "
                    "are dropped. The prompt's own things are always looked for.",
                ),
                io.Combo.Input(
                    "judge",
                    options=judges(),
                    default=RULES,
                    tooltip="What says which tags belong to the prompt, as in Judge Tags: rules (offline), endpoint "
                    "(the server that the environment names), a chat model in models/interplay, or nobody.",
                ),
                io.Combo.Input(
                    "detector",
                    options=detectors(),
                    default=PIXELWORLD,
                    tooltip="What finds things. Models are folders of transformers in models/interplay.",
                ),
                io.Combo.Input(
                    "segmenter", options=segmenters(), default=segmenters()[0], tooltip="What makes masks of boxes."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Finds with a lower score are left out.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="RealignDiff (recommended)",
                    tooltip="How attention is re-weighted, as in Attention Re-weighting.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Factor on the preset's strength in the first round.",
                ),
                io.Float.Input(
                    "growth",
                    default=1.5,
                    min=0.1,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Factor of the strength from round to round.",
                ),
                io.Float.Input(
                    "presence",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Strength of guidance towards things that are missing; 0 = off. Re-weighting alone cannot "
                    "add a thing.",
                ),
                io.Combo.Input(
                    "score",
                    options=list(SCORES),
                    default=SCORES[0],
                    tooltip="What tells the better picture, and when nothing is wrong: PixelWorld's exact judge, "
                    "DiffusionITM (the model's own score, against swapped captions), or the share of things found. "
                    "auto = PixelWorld's with its detector, else DiffusionITM.",
                ),
                io.Latent.Input(
                    "drawn", optional=True, tooltip="The first pictures, if they are drawn already with these settings."
                ),
                io.Combo.Input(
                    "noise",
                    options=list(NOISES),
                    default=NOISES[0],
                    optional=True,
                    tooltip="Of further passes. same: as RealignDiff. as needed: another one, without re-weighting, "
                    "where a thing or an action is not there at all, or where re-weighting did not help.",
                ),
                io.String.Input(
                    "pasted",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="A judge's reply as JSON, by hand or from any node that runs a language model; it then is "
                    "the judge in every pass.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    optional=True,
                    tooltip="Stop with an error when the language model fails, instead of taking the rules.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The better picture of each place in the batch."
                ),
                io.Latent.Output("latent", display_name="latent", tooltip="Its latent."),
                io.Image.Output("first_image", display_name="first_image", tooltip="The first drawing."),
                ObjectsType.Output(
                    "objects", display_name="objects", tooltip="What is in the pictures that were kept."
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="The first drawing's masks, then the last's."
                ),
                io.Float.Output(
                    "score_before", display_name="score_before", is_output_list=True, tooltip="Of the first drawing."
                ),
                io.Float.Output(
                    "score_after", display_name="score_after", is_output_list=True, tooltip="Of the one that was kept."
                ),
                io.String.Output("report", display_name="report", tooltip="Every pass and what was wrong, as JSON."),
                io.String.Output(
                    "status", display_name="status", tooltip="Who judged the tags of each drawing, and what was mended."
                ),
                io.String.Output("raw", display_name="raw", tooltip="What the language model wrote, word by word."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        """Asked again after a failure, although nothing in the workflow changed."""
        by, pasted = inputs.get("judge"), str(inputs.get("pasted") or "")
        return failures() if by not in (RULES, NOBODY, None) and not pasted.strip() else 0

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, positive: Any, negative: Any, latent_image: Any, seed: int, steps: int,
        cfg: float, sampler_name: str, scheduler: str, denoise: float, rounds: int, tagger: str, judge: str,
        detector: str, segmenter: str, threshold: float, preset: str, strength: float, growth: float,
        presence: float, score: str, drawn: Any = None, noise: str = NOISES[0], pasted: str = "", strict: bool = False,
    ) -> io.NodeOutput:  # fmt: skip
        settings = (seed, steps, cfg, sampler_name, scheduler, denoise)
        drawing = Drawing(model, vae, positive, negative, latent_image, *settings)
        base = modulation(preset)
        config = replace(base, strength=base.strength * strength, self_strength=base.self_strength * strength)
        instances = "separate" if config.regions == "wanted" else "joined"
        how = Refinement(
            Perception(detector, segmenter, threshold, instances),
            config,
            tagger_by(tagger),
            judge_by(judge, pasted, strict),
            presence,
            score,
            clip,
            rounds,
            growth,
            noise,
        )
        outcome = refine(drawing, how, None if drawn is None else drawn["samples"])
        return _told(cls, latent_image, outcome)


def _told(cls: Any, latent: dict[str, Any], outcome: Outcome) -> io.NodeOutput:
    """Outputs and what the node shows."""
    told = outcome.histories
    preview = objects_preview(outcome.objects, outcome.images)
    before, after = [item.before.score for item in told], [item.best.look.score for item in told]
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    text = summary(told, outcome.interrupted)
    return io.NodeOutput(
        outcome.images,
        {**kept, "samples": outcome.samples},
        outcome.first_images,
        outcome.objects,
        preview,
        before,
        after,
        report(told, outcome.interrupted),
        *judged(told),
        ui={**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (text,)},
    )


NODES = [RAMGroundedSAMReweight]
