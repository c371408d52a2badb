"""Scores by the loaded model itself, the best of a batch, and trying until a score is reached."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..errors import InterplayError
from ..guidance.hosts.comfyui.itm import encode_text, score_latents, swapped_conditionings
from ..guidance.rewards.itm_settings import METRICS, NOISES, NORMALISE, PRESETS, itm_preset
from ..guidance.rewards.select import choose
from .pictures import to_tensor
from .score_pictures import help_pictures
from .types import CATEGORY

SCORES = 4
TRIES = 8
AS_PRESET = "as preset"
NODE_PRESETS = [name for name in PRESETS if name != "nats"]


class DiffusionITM(io.ComfyNode):
    """Scores pictures with the model that drew them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Interplay_DiffusionITM",
            display_name="DiffusionITM Score",
            category=CATEGORY,
            description="How well the loaded model itself matches pictures and prompt: it denoises each picture with "
            "the prompt, without it and with swapped captions, and compares the errors. Needs no other model.",
            inputs=[
                io.Model.Input("model", tooltip="Any model that samples; guidance on it is left out."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt. From Prompt to Hypergraph, swapped captions can be made of it."
                ),
                io.Latent.Input("samples", tooltip="The pictures, from a sampler or VAE Encode; a batch is ranked."),
                io.Combo.Input(
                    "preset",
                    options=NODE_PRESETS,
                    default="fast",
                    tooltip="fast: 10 noise levels from the middle up, each noise with its mirror image, stops when "
                    "the ranking is clear. paper: t = 10, 110, ..., 910, one noise each. paper (250): 245 levels.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,  # a page adds that widget to this name, declared or not
                    tooltip="Seed of the noise, which all pictures and captions share.",
                ),
                io.Int.Input(
                    "swaps",
                    default=3,
                    min=0,
                    max=8,
                    tooltip="How many swapped captions the prompt is held against, such as 'a blue box carrying a red "
                    "robot'. 0 = none. Needs clip and Prompt to Hypergraph.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Encodes the empty prompt and the swapped captions; best connected."
                ),
                io.Conditioning.Input(
                    "contrast", optional=True, tooltip="A prompt of your own that the picture shall not match."
                ),
                io.Image.Input("image", optional=True, tooltip="The decoded pictures, to draw the heat-map over."),
                io.Mask.Input("mask", optional=True, tooltip="Scores this region only."),
                io.Int.Input(
                    "levels",
                    default=0,
                    min=0,
                    max=500,
                    optional=True,
                    tooltip="Noise levels between low and high; 0 = as the preset. More is slower and surer.",
                ),
                io.Float.Input(
                    "low",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Lowest noise level, 0 = clean. Used where levels is not 0.",
                ),
                io.Float.Input(
                    "high",
                    default=0.98,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Highest noise level, 1 = pure noise. Used where levels is not 0.",
                ),
                io.Combo.Input(
                    "metric",
                    options=[AS_PRESET, *METRICS[:2]],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="norm = length of the error, as in the paper; mse = its mean square.",
                ),
                io.Combo.Input(
                    "noise",
                    options=[AS_PRESET, *NOISES],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="antithetic = each noise with its mirror image: at twice the cost.",
                ),
                io.Float.Input(
                    "stop",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.5,
                    optional=True,
                    tooltip="Stop early when the ranking is clear by this many standard errors; 0 = never, and drop no "
                    "picture on the way; -1 = as the preset.",
                ),
                io.Combo.Input(
                    "normalise",
                    options=[AS_PRESET, *NORMALISE],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="Whether the error under the empty prompt is subtracted; else pictures that are easy to "
                    "draw win under every prompt. auto = where there are several pictures.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="One a picture, higher is better: by how much the prompt lowers the error.",
                ),
                io.Float.Output(
                    "p",
                    display_name="p",
                    is_output_list=True,
                    tooltip="Probability that the prompt fits better than every swapped caption (without any: than the "
                    "empty prompt).",
                ),
                io.Float.Output(
                    "margins",
                    display_name="margins",
                    is_output_list=True,
                    tooltip="Score above that of the best swapped caption; 0 where there is none.",
                ),
                io.Image.Output("heatmap", display_name="heatmap", tooltip="Where the prompt helps, a picture each."),
                io.String.Output("report", display_name="report", tooltip="Everything as JSON, with standard errors."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        samples: Any,
        preset: str,
        noise_seed: int,
        swaps: int,
        clip: Any = None,
        contrast: Any = None,
        image: Any = None,
        mask: Any = None,
        **changes: Any,
    ) -> io.NodeOutput:
        empty, against = _company(clip, positive, contrast, swaps)
        settings = itm_preset(preset, seed=noise_seed, **_changed(**changes))
        found = score_latents(model, positive, samples, settings, empty, against, mask)
        scores, heat, report = found.scores, found.scores.heat, found.scores.to_json(found.texts)
        pictures = None if heat is None else to_tensor(help_pictures(heat, image))
        shown = {} if pictures is None else ui.PreviewImage(pictures, cls=cls).as_dict()
        values = scores.comparable()
        margins = (values[:, 0] - values[:, 1:].amax(1)).tolist() if against else [0.0] * len(values)
        p = [scores.match(i) for i in range(len(values))]
        return io.NodeOutput(values[:, 0].tolist(), p, margins, pictures, report, ui={**shown, "text": (report,)})


def _company(clip: Any, positive: Any, contrast: Any, swaps: int) -> tuple[Any, list[tuple[str, Any]]]:
    """The empty prompt, and what the prompt is held against."""
    if clip is None:
        if contrast is None:
            raise InterplayError("DiffusionITM compares: connect a clip, for the empty prompt, or a contrast.")
        return None, [("contrast", contrast)]
    against = swapped_conditionings(clip, positive, swaps) if swaps else []
    return encode_text(clip, ""), against + ([] if contrast is None else [("contrast", contrast)])


def _changed(
    levels: int = 0, low: float = 0.5, high: float = 0.98, metric: str = AS_PRESET, noise: str = AS_PRESET,
    stop: float = -1.0, normalise: str = AS_PRESET,
) -> dict[str, Any]:  # fmt: skip
    """The settings that widgets change."""
    changes: dict[str, Any] = {"levels": levels, "low": low, "high": high, "steps": ()} if levels else {}
    words = {"metric": metric, "noise": noise, "normalise": normalise}
    changes |= {key: value for key, value in words.items() if value != AS_PRESET}
    if stop == 0.0:
        changes["prune"] = False
    return changes if stop < 0 else {**changes, "stop": stop}


class BestOfBatch(io.ComfyNode):
    """Takes the best picture out of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            io.Float.Input(f"score_{i}", optional=True, force_input=True, tooltip="Another score to mix in.")
            for i in range(2, SCORES + 1)
        ]
        weights = [
            io.Float.Input(
                f"weight_{i}",
                default=1.0,
                min=-100.0,
                max=100.0,
                step=0.1,
                optional=True,
                tooltip=f"Weight of score_{i} in the mix; negative = low figures are good.",
            )
            for i in range(1, SCORES + 1)
        ]
        return io.Schema(
            node_id="Interplay_BestOfBatch",
            display_name="Best of Batch",
            category=CATEGORY,
            description="Chooses the best picture of a batch by any score, or by a weighted mix of several, each "
            "brought to the same spread first.",
            is_input_list=True,
            inputs=[
                io.Float.Input("score_1", force_input=True, tooltip="A score for each picture, from any node."),
                io.Image.Input("image", optional=True, tooltip="The pictures."),
                io.Latent.Input("samples", optional=True, tooltip="Their latents."),
                *more,
                *weights,
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    force_input=True,
                    tooltip="The seed of the batch, to be passed on.",
                ),
            ],
            outputs=[
                io.Image.Output("best_image", display_name="image", tooltip="The best picture."),
                io.Latent.Output(
                    "best_latent",
                    display_name="latent",
                    tooltip="Its latent; with the batch's seed it can be drawn again alone.",
                ),
                io.Int.Output("index", display_name="index", tooltip="Its place in the batch, counted from 0."),
                io.Int.Output("best_seed", display_name="seed", tooltip="The seed of the batch."),
                io.Float.Output("best_score", display_name="score", tooltip="Its score_1."),
            ],
        )

    @classmethod
    def execute(
        cls,
        score_1: list[float],
        image: list[Any] | None = None,
        samples: list[Any] | None = None,
        seed: list[int] | None = None,
        **more: list[float],
    ) -> io.NodeOutput:
        numbers = [i for i in range(1, SCORES + 1) if i == 1 or more.get(f"score_{i}") is not None]
        given = [score_1 if i == 1 else more[f"score_{i}"] for i in numbers]
        best = choose(given, [more.get(f"weight_{i}", [1.0])[0] for i in numbers]).best
        picked = None if image is None else _row(image, best, len(score_1))
        latent = None if samples is None else _latent_row(samples, best, len(score_1))
        return io.NodeOutput(picked, latent, best, seed[0] if seed else 0, float(score_1[best]))


def _row(images: list[Any], index: int, count: int) -> Any:
    """One picture of an IMAGE, or of a list of them."""
    rows = [image[i : i + 1] for image in images for i in range(len(image))]
    _check_count(len(rows), count)
    return rows[index]


def _latent_row(latents: list[Any], index: int, count: int) -> dict[str, Any]:
    """One row of a LATENT, which still knows its place in the batch, so that its noise can be made again."""
    places = [(latent, i) for latent in latents for i in range(len(latent["samples"]))]
    _check_count(len(places), count)
    latent, i = places[index]
    out = {**latent, "samples": latent["samples"][i : i + 1]}
    out["batch_index"] = [latent["batch_index"][i] if "batch_index" in latent else i]
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) > 1:
        out["noise_mask"] = mask[i : i + 1]
    return out


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise InterplayError(f"There are {found} pictures and {count} scores: connect the scores of this very batch.")


class FirstGoodTry(io.ComfyNode):
    """Runs tries one after another until one is good enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        tries: list[io.Input] = []
        for i in range(1, TRIES + 1):
            tries += [
                io.Float.Input(
                    f"p_{i}",
                    optional=i > 1,
                    lazy=i > 1,
                    force_input=True,
                    tooltip=f"The figure of try {i}; made only if the tries before fell short.",
                ),
                io.Image.Input(f"image_{i}", optional=True, lazy=True, tooltip=f"The picture of try {i}."),
            ]
        return io.Schema(
            node_id="Interplay_FirstGoodTry",
            display_name="First Good Try",
            category=CATEGORY,
            description="Generate until p reaches a threshold or the tries are used up: ComfyUI runs a try only when "
            "all before it fell short. Gives the first good one, or else the best.",
            inputs=[
                io.Float.Input(
                    "threshold",
                    default=0.95,
                    min=-1000.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="A try is good when its figure is at least this.",
                ),
                *tries,
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The picture of the chosen try."),
                io.Float.Output("p", display_name="p", tooltip="Its figure."),
                io.Int.Output("tried", display_name="try", tooltip="Which try it was, counted from 1."),
                io.Boolean.Output("reached", display_name="reached", tooltip="Whether the threshold was reached."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, threshold: float, **tries: Any) -> list[str]:
        """The next thing to be made: another try's figure, or the chosen try's picture."""
        for i in range(1, TRIES + 1):
            figure = tries.get(f"p_{i}")
            if figure is None and f"p_{i}" in tries:
                return [f"p_{i}"]
            if figure is not None and figure >= threshold:
                break
        picture = f"image_{_chosen(threshold, tries)}"
        return [picture] if picture in tries and tries[picture] is None else []

    @classmethod
    def execute(cls, threshold: float, **tries: Any) -> io.NodeOutput:
        number = _chosen(threshold, tries)
        figure = tries[f"p_{number}"]
        return io.NodeOutput(tries.get(f"image_{number}"), figure, number, figure >= threshold)


def _chosen(threshold: float, tries: dict[str, Any]) -> int:
    """The first try that is good, else the best of those that were made."""
    figures = {i: f for i in range(1, TRIES + 1) if (f := tries.get(f"p_{i}")) is not None}
    good = [i for i, figure in figures.items() if figure >= threshold]
    return good[0] if good else max(figures, key=lambda i: (figures[i], -i))


NODES = [DiffusionITM, BestOfBatch, FirstGoodTry]
