"""Training a LoRA by contrast: captions that pictures do not match, and the trainer."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.hosts.comfyui.training import MAKERS, SOURCES, Wishes, caption_set, train_lora
from ..guidance.training.contrast import CONTRAST_SPACES, ContrastSettings
from ..guidance.training.lora import TARGETS
from ..guidance.training.objectives import OBJECTIVES
from ..guidance.training.tripwire import STRAY
from .inputs import ghosts_input
from .types import CATEGORY, CaptionsType

PROMPTS = "a purple ball in the snow\na box riding a rabbit in the forest"
WISHES = ("rank", "targets", "resume")


class NegativeCaptions(io.ComfyNode):
    """Makes captions that pictures do not match, from their own captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_NegativeCaptions",
            display_name="Negative Captions",
            category=CATEGORY,
            description="From each caption, captions with the same words that its picture does not match ('a blue "
            "robot and a red box'), checked so that none means the same. For Negative LoRA Trainer.",
            inputs=[
                io.Combo.Input(
                    "source",
                    options=list(SOURCES),
                    default=SOURCES[0],
                    tooltip="PixelWorld scenes: pictures and captions drawn by code, for a first try. text: captions "
                    "below. folder: pictures with captions.",
                ),
                io.String.Input(
                    "text", default="", multiline=True, tooltip="Captions, one a line; for the source text."
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="For the source folder: below ComfyUI's input folder, or a full path. captions.jsonl, "
                    "metadata.jsonl, kohya's N_name folders, or a NegCLIP .tsv.",
                ),
                io.Int.Input("scenes", default=512, min=8, max=20000, tooltip="For PixelWorld scenes: how many."),
                io.Int.Input("limit", default=4, min=1, max=16, tooltip="Most negatives of one caption; swaps first."),
                io.String.Input(
                    "ops",
                    default="",
                    optional=True,
                    tooltip="Only these, with commas: swap_attr, swap_role, swap_rel, swap_count, swap_verb, "
                    "replace_attr, replace_obj, replace_rel. Empty = all.",
                ),
                io.Boolean.Input(
                    "mixed",
                    default=False,
                    optional=True,
                    tooltip="Also let living and lifeless parties change places ('an umbrella holding a woman').",
                ),
                io.Boolean.Input(
                    "positives",
                    default=True,
                    optional=True,
                    tooltip="Also make captions that say the same in another order, so that order alone is not "
                    "taken for a change of meaning.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,  # a page adds that widget to this name, declared or not
                    optional=True,
                    tooltip="Of scenes and replacements.",
                ),
                io.Combo.Input(
                    "maker",
                    options=list(MAKERS),
                    default=MAKERS[0],
                    optional=True,
                    tooltip="rules need nothing. language model: the endpoint that INTERPLAY_LLM_BASE_URL names, its "
                    "captions first, through the same checks. COCO-Order: four shuffles, to evaluate with, never to "
                    "train on.",
                ),
            ],
            outputs=[
                CaptionsType.Output("captions", display_name="captions", tooltip="For Negative LoRA Trainer."),
                io.String.Output("json", display_name="json", tooltip="One object a line, as captions.jsonl has it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: str,
        text: str,
        folder: str,
        scenes: int,
        limit: int,
        ops: str = "",
        mixed: bool = False,
        positives: bool = True,
        seed: int = 0,
        maker: str = MAKERS[0],
    ) -> io.NodeOutput:
        found = caption_set(source, text, folder, scenes, limit, ops, mixed, positives, seed, maker)
        return io.NodeOutput(found, found.to_json())


class NegativeLoRATrainer(io.ComfyNode):
    """Trains a LoRA that tells captions from their negatives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_NegativeLoRATrainer",
            display_name="Negative LoRA Trainer",
            category=CATEGORY,
            is_output_node=True,
            description="Trains a LoRA on pictures with captions and negative captions, watched by a tripwire that "
            "stops it before the model falls apart. Saves to models/loras, interrupted or not. SD1.x, SD2.x, SDXL.",
            inputs=[
                io.Model.Input("model", tooltip="What to train on; it is left as it is."),
                io.Clip.Input("clip", tooltip="Encodes the captions; it is not trained."),
                io.Vae.Input("vae", tooltip="Encodes the pictures; it is not trained."),
                CaptionsType.Input("captions", tooltip="From Negative Captions."),
                io.String.Input("lora_name", default="interplay_negatives", tooltip="File name in models/loras."),
                io.Combo.Input(
                    "objective",
                    options=list(OBJECTIVES),
                    default="contrast_hinge",
                    tooltip="contrast_hinge: the right caption has to win by a margin measured on your model; keeps "
                    "the model without a caption where it was. noneg: plain fine-tuning. Others: see the help page.",
                ),
                io.Int.Input("steps", default=300, min=1, max=100000, tooltip="Optimiser steps."),
                io.Int.Input("batch", default=8, min=1, max=64, tooltip="Pictures a step."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-3,
                    min=1e-7,
                    max=0.1,
                    step=1e-6,
                    round=1e-7,
                    tooltip="1e-3 for PixelWorld, 1e-4 for SD1.5 and SDXL (1e-5 for caption_dpo).",
                ),
                io.Int.Input("rank", default=8, min=1, max=256, tooltip="Of the LoRA; its alpha is the same."),
                io.Combo.Input(
                    "targets",
                    options=list(TARGETS),
                    default="attn",
                    tooltip="attn2: cross-attention; attn: self-attention too; attn+ff: feed-forward too.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Of everything random in the run.",
                ),
                io.Boolean.Input(
                    "resume", default=False, tooltip="Go on with the run of this name, to the bit as if never stopped."
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures for captions from text, one for each, in order."
                ),
                io.String.Input(
                    "sample_prompts",
                    default=PROMPTS,
                    multiline=True,
                    optional=True,
                    tooltip="Drawn before, at every validation, and after; one a line. Empty = none.",
                ),
                io.Int.Input(
                    "validate_every", default=100, min=1, max=10000, optional=True, tooltip="Steps between validations."
                ),
                io.Int.Input(
                    "save_every", default=50, min=1, max=10000, optional=True, tooltip="Steps between checkpoints."
                ),
                io.Int.Input(
                    "patience",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="End after so many validations without a better one; 0 = never.",
                ),
                io.Float.Input(
                    "margin_k",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    optional=True,
                    tooltip="The margin is the frozen model's mean lead of the right caption plus k of its spreads.",
                ),
                io.Float.Input(
                    "anchor",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="Weight that holds the model without a caption where it was.",
                ),
                io.Float.Input(
                    "low", default=0.1, min=0.001, max=0.99, step=0.01, optional=True, tooltip="Least noise, 0 = clean."
                ),
                io.Float.Input(
                    "high", default=0.9, min=0.01, max=0.999, step=0.01, optional=True, tooltip="Most noise, 1 = pure."
                ),
                io.Float.Input(
                    "min_snr",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="Gamma of min-SNR weighting; 0 = none. Small values give the noisy steps, where the layout "
                    "is decided, more weight.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    optional=True,
                    tooltip="Side of pictures from a folder; the middle square is used, nothing is squashed.",
                ),
                io.Boolean.Input(
                    "checkpointing", default=False, optional=True, tooltip="Less memory, about a third slower."
                ),
                io.Float.Input(
                    "contrast",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="Weight of the margin in contrast_hinge (eta).",
                ),
                io.Float.Input(
                    "ema",
                    default=0.0,
                    min=0.0,
                    max=0.9999,
                    step=0.0001,
                    optional=True,
                    tooltip="Decay of the moving average that is saved in place of the last step; 0 = none.",
                ),
                io.Float.Input(
                    "fade",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the run, at its end, in which the learning rate falls to zero.",
                ),
                io.Int.Input(
                    "look_every",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip="Anchor and tripwire at every so many steps; 4 saves a third of the time.",
                ),
                io.Boolean.Input(
                    "look_first",
                    default=True,
                    optional=True,
                    tooltip="Find out first which negatives are active and train those alone; off is faster where most "
                    "of them are, as in PixelWorld.",
                ),
                io.Float.Input(
                    "contrast_from",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.05,
                    optional=True,
                    tooltip="Negatives count only where there is more noise than this: who acts on whom is decided in "
                    "the noisy steps.",
                ),
                io.Float.Input(
                    "contrast_until",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the run in which negatives count. In the rest plain fine-tuning heals what they "
                    "pushed aside.",
                ),
                io.Float.Input(
                    "contrast_rest",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="Negatives rest while the error under the right caption is above so many times the frozen "
                    "model's, such as 1.03; 0 = never.",
                ),
                io.Combo.Input(
                    "contrast_space",
                    options=list(CONTRAST_SPACES),
                    default="same",
                    optional=True,
                    tooltip="same: the lead over negatives is measured like the other errors. clean: as an error of "
                    "the clean picture, which has about one size at all noisy steps.",
                ),
                io.Float.Input(
                    "lean",
                    default=1.0,
                    min=0.1,
                    max=4.0,
                    step=0.05,
                    optional=True,
                    tooltip="Below 1 more of the training is at high noise; 1 = even.",
                ),
                io.Float.Input(
                    "snr_power",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Of min-SNR weighting: below 1 noisy steps count more. Has no effect where min_snr is 0.",
                ),
                io.Float.Input(
                    "clip_norm",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="Longest gradient; longer ones are cut. 0 = never.",
                ),
                io.Int.Input(
                    "check",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip="At every validation so many captions that are not trained on are drawn, and the model "
                    "without the LoRA says whether each picture is its caption's or a negative's; the share decides "
                    "with the margin which step is kept. Costs as much as drawing them. 0 = none.",
                ),
                io.Float.Input(
                    "stray",
                    default=STRAY,
                    min=1.01,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="The tripwire ends the run where the error under the right caption is above so many times "
                    "the frozen model's. More room is for runs that heal in their last part (contrast_until).",
                ),
                io.Float.Input(
                    "hold_below",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    optional=True,
                    tooltip="Below this share of noise the model is held to what it predicts without the LoRA: for "
                    "pictures that it has drawn itself, which then teach their plan and not their blemishes. 0 = off.",
                ),
                ghosts_input("Captions"),
            ],
            outputs=[
                io.Model.Output("trained", display_name="model", tooltip="The model with the new LoRA."),
                io.String.Output("path", display_name="path", tooltip="The LoRA's file."),
                io.Image.Output("samples", display_name="samples", tooltip="Sample prompts before (top) and after."),
                io.Image.Output("curves", display_name="curves", tooltip="Errors over the steps."),
                io.String.Output("report", display_name="report", tooltip="JSON: how it ended, every validation."),
                io.LoraModel.Output("lora", display_name="lora", tooltip="The LoRA's tensors, for Save LoRA."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, captions: Any, images: Any = None, **widgets: Any
    ) -> io.NodeOutput:
        names = {"learning_rate": "rate", "margin_k": "k", "anchor": "kappa", "checkpointing": "checkpoint"}
        names |= {"contrast": "eta", "look_every": "anchor_every"}
        widgets["watch_every"] = widgets.get("look_every", 1)
        prompts, side, name = (
            widgets.pop("sample_prompts", ""),
            widgets.pop("resolution", 512),
            widgets.pop("lora_name"),
        )
        check = widgets.pop("check", 0)
        wishes = Wishes(name, **{key: widgets.pop(key) for key in WISHES}, prompts=prompts, side=side, check=check)
        settings = ContrastSettings(**{names.get(key, key): value for key, value in widgets.items()})
        made = train_lora(model, clip, vae, captions, images, wishes, settings)
        return io.NodeOutput(made.model, made.path, made.pictures, made.curves, made.report, made.lora)


NODES = [NegativeCaptions, NegativeLoRATrainer]
