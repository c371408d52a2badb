"""Training a LoRA by a reward: ReFL by its gradient, RAFT by the best of several pictures; and these alone."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.hosts.comfyui import refl_run, winners
from ..guidance.training.lora import TARGETS
from ..guidance.training.refl import PRETRAIN
from ..guidance.training.refl_rewards import KINDS
from .inputs import ghosts_input, guide_input
from .types import CATEGORY

PROMPTS = """a red robot carrying a blue box in the forest
a green cat chasing a pink ball in the sea
a white ghost riding a purple car in the city
a yellow bird and an orange cup in the desert"""
WATCHED = """a blue robot pushing a red star in the snow
a pink rabbit and a green crown in the cave"""


def _number(name: str, default: int, low: int, high: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip)


def _amount(name: str, default: float, high: float, step: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=high, step=step, round=False, tooltip=tooltip)


def _text(name: str, default: str, tooltip: str, **more: Any) -> io.Input:
    return io.String.Input(name, default=default, tooltip=tooltip, **more)


def _judges() -> list[io.Input]:
    """The models that rewards read pictures with."""
    models = (
        ("matcher", refl_run.matchers(), "Matching model of itm and itc"),
        ("captioner", refl_run.captioners(), "Captioner of the caption reward and of likelihood"),
        ("encoder", refl_run.encoders(), "Text encoder that compares captions with prompts"),
    )
    return [
        io.Combo.Input(name, options=options, default=refl_run.PIXELWORLD, tooltip=f"{what}; from models/interplay.")
        for name, options, what in models
    ]


class ReFLTrainer(io.ComfyNode):
    """Trains a LoRA by a reward."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_ReFLTrainer",
            display_name="ReFL Trainer",
            category=CATEGORY,
            description="Trains a LoRA so that pictures show what prompts say. 'refl' follows the gradient of a "
            "matching model; 'raft' draws several pictures a prompt, and learns from those that the caption reward "
            "likes best; 'twins' draws a prompt and its words the wrong way round from the same noise, and learns "
            "what sets them apart. The model that comes in is left as it was.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x or SDXL; LoRAs before it stay on."),
                io.Clip.Input("clip", tooltip="Its text encoder, which is not trained."),
                io.Vae.Input("vae", tooltip="Its autoencoder. A TAESD saves most of the memory."),
                io.Combo.Input(
                    "method",
                    options=list(refl_run.METHODS),
                    default="refl",
                    tooltip="refl: by the gradient of 'reward'. raft: by the best of several pictures as 'judge' finds "
                    "them, which needs no gradient. twins: by pictures of a prompt and of its words the wrong way "
                    "round, as 'reward' tells them apart; wants prompts with two different things.",
                ),
                _text("prompts", PROMPTS, "Prompts to train on, one a line.", multiline=True),
                _text(
                    "validation_prompts",
                    WATCHED,
                    "Other prompts, one a line: they tell when to stop and which LoRA is the best.",
                    multiline=True,
                ),
                _text("lora_name", "interplay_refl", "Name of the LoRA in models/loras, and of the run's folder."),
                _number("steps", 100, 1, 100000, "Optimiser steps (raft: after drawing)."),
                _number("batch", 4, 1, 256, "Prompts a step; pictures a step for raft."),
                _amount("learning_rate", 1e-4, 1.0, 1e-6, "AdamW's. 1e-4 for a LoRA; less if pictures break."),
                _number("rank", 8, 1, 1024, "Of the LoRA."),
                io.Combo.Input("targets", options=list(TARGETS), default="attn", tooltip="Layers that get a LoRA."),
                _number("width", 512, 64, 4096, "Of the pictures, in pixels."),
                _number("height", 512, 64, 4096, "Of the pictures, in pixels."),
                io.Combo.Input(
                    "reward",
                    options=[*KINDS, refl_run.CAPTION],
                    default="itm",
                    tooltip="refl, twins: itm, itc: does the picture match the prompt (matcher); likelihood: how "
                    "likely are the prompt's words where the picture is captioned (captioner). twins alone: caption.",
                ),
                *_judges(),
                io.Combo.Input(
                    "judge",
                    options=["caption", *KINDS],
                    default="caption",
                    tooltip="The true reward: it validates, and chooses the pictures of raft.",
                ),
                io.Combo.Input(
                    "unused",
                    options=[refl_run.NO_UNUSED, "caption", *KINDS],
                    default=refl_run.NO_UNUSED,
                    tooltip="A reward that is neither trained nor judges: training ends when it falls while the "
                    "trained one rises (reward hacking).",
                ),
                _number("ladder", 40, 2, 1000, "refl, twins: steps of the way down from noise."),
                _number(
                    "first",
                    30,
                    0,
                    999,
                    "refl: first step at which the picture may be read, counted from noise. twins: first step at which "
                    "they may part; 0 is right.",
                ),
                _number(
                    "last",
                    39,
                    0,
                    999,
                    "refl: last step at which the picture may be read. twins: a fifth of the ladder.",
                ),
                _number(
                    "carry", 0, 0, 100, "refl: earlier steps that carry a gradient too; each costs a step's memory."
                ),
                _amount(
                    "cfg",
                    1.0,
                    30.0,
                    0.1,
                    "refl, twins: guidance scale on the way down; 1 is the papers' and the cheapest, twins want 5.",
                ),
                _amount("reward_weight", 1e-3, 1e4, 1e-4, "refl: lambda of the reward term."),
                io.Combo.Input(
                    "pretrain",
                    options=list(PRETRAIN),
                    default="anchor",
                    tooltip="refl: what holds the model: anchor, itself without the LoRA; images, pictures with "
                    "captions; none.",
                ),
                _amount("pretrain_weight", 1e-3, 1e4, 1e-4, "refl: weight of what holds the model."),
                _number("pictures", 4, 2, 64, "raft: pictures drawn for each prompt; twins: for each of both."),
                _number("batch_of_pictures", 4, 1, 64, "raft: pictures drawn at once."),
                _number("validate_every", 25, 1, 100000, "Steps between validations; each saves a checkpoint."),
                _amount("validation_cfg", 5.0, 30.0, 0.1, "Guidance scale of validation pictures and of raft's."),
                _number("patience", 0, 0, 1000, "Validations without a better judge until training ends; 0: never."),
                io.Boolean.Input(
                    "checkpointing",
                    default=False,
                    tooltip="Run blocks twice instead of keeping what they compute: less memory, a third more time.",
                ),
                _number("decode_crop", 0, 0, 512, "refl: decode only a square of so many latent pixels; 0: all."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=True,  # a page adds that widget to this name, declared or not
                    tooltip="Of everything random.",
                ),
                io.Boolean.Input("resume", default=False, tooltip="Go on with the run of this name."),
                io.Image.Input("images", optional=True, tooltip="refl, pretrain 'images': the pictures."),
                _text(
                    "captions",
                    "",
                    "refl, pretrain 'images': their captions, one a line.",
                    multiline=True,
                    optional=True,
                ),
                io.Int.Input(
                    "points",
                    default=512,
                    min=1,
                    max=100000,
                    optional=True,
                    tooltip="twins: places that are drawn on from; each costs twice 'pictures' pictures.",
                ),
                io.Float.Input(
                    "push",
                    default=2.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="twins: how far a prompt and its twin are moved apart.",
                ),
                ghosts_input("Prompts"),
                guide_input(
                    "twins, raft: pictures are drawn under this guidance, for a LoRA that is to work under it."
                ),
            ],
            outputs=[
                io.Model.Output("trained", display_name="model", tooltip="The model with the LoRA."),
                io.LoraModel.Output("lora", display_name="lora", tooltip="Its tensors, for Load LoRA Model."),
                io.LossMap.Output("loss_map", display_name="loss_map", tooltip="For Plot Loss Graph."),
                io.Image.Output(
                    "seen", display_name="pictures", tooltip="Validation pictures: before, then after."
                ),
                io.String.Output("report", display_name="report", tooltip="JSON: every validation, and why it ended."),
                io.String.Output("path", display_name="path", tooltip="The LoRA's file."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, images: Any = None, **widgets: Any) -> io.NodeOutput:
        wishes, settings = refl_run.from_widgets(widgets)
        done = refl_run.train(model, clip, vae, wishes, settings, images)
        return io.NodeOutput(done.model, done.lora, done.losses, done.pictures, done.report, done.path)


class DrawWinners(io.ComfyNode):
    """Draws several pictures of each prompt and hands on the best, with their captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_DrawWinners",
            display_name="Draw Winners",
            category=CATEGORY,
            description="Draws several pictures of each prompt and keeps those that a reward likes best: training data "
            "without a picture of your own. For Negative Captions and Negative LoRA Trainer, or any other trainer.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.x, SD2.x or SDXL; LoRAs before it stay on."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                _text("prompts", PROMPTS, "Prompts to draw, one a line; some hundreds make a LoRA.", multiline=True),
                io.Combo.Input(
                    "judge", options=["caption", *KINDS], default="caption", tooltip="The reward that chooses."
                ),
                io.Combo.Input(
                    "tie",
                    options=[refl_run.NO_UNUSED, "caption", *KINDS],
                    default=refl_run.NO_UNUSED,
                    tooltip="A second reward, between pictures that the judge likes as much: the caption reward of "
                    "several is often 1.",
                ),
                *_judges(),
                _number("pictures", 8, 2, 64, "Drawn for each prompt."),
                _number("winners", 2, 1, 63, "So many of them, the best, are handed on."),
                io.Float.Input(
                    "keep",
                    default=winners.EVERYTHING,
                    min=winners.EVERYTHING,
                    max=1000.0,
                    step=0.001,
                    round=False,
                    tooltip="Only pictures whose reward is at least this, such as 0.999 with PixelWorld's caption "
                    "reward. -1000 = all.",
                ),
                _number("width", 512, 64, 4096, "Of the pictures, in pixels."),
                _number("height", 512, 64, 4096, "Of the pictures, in pixels."),
                _number("steps", 25, 1, 1000, "Of DDIM."),
                _amount("cfg", 5.0, 30.0, 0.1, "Guidance scale."),
                _number("batch_of_pictures", 8, 1, 64, "Pictures drawn at once."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                _text("name", "winners", "Of the folder in output/interplay_training where drawn pictures wait."),
                io.Boolean.Input(
                    "resume", default=False, tooltip="Take what was drawn under this name before it was cancelled."
                ),
                guide_input("Pictures are drawn under this guidance: more of them are right."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The winners, the best of all first."),
                io.String.Output("captions", display_name="captions", tooltip="Their prompts, one a line."),
                io.String.Output("report", display_name="report", tooltip="JSON: the rewards of all pictures."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **widgets: Any) -> io.NodeOutput:
        done = winners.draw_best(model, clip, vae, *winners.from_widgets(widgets))
        return io.NodeOutput(done.images, done.captions, done.report)


NODES = [ReFLTrainer, DrawWinners]
