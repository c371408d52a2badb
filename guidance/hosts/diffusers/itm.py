"""DiffusionITM with diffusers pipelines: those with the U-Nets and text encoders of SD1.x, SD2.x and SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....errors import InterplayError
from ...rewards.diffusion_itm import score
from ...rewards.itm_scores import Scores
from ...rewards.itm_settings import ItmSettings, Level, eps_level, v_level
from ...rewards.scorer import Reading, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("crop", "squash")
PARTS = ("error", "margin", "p")


@dataclass(frozen=True)
class PipelineMatcher:
    """A pipeline bound to texts. embeddings: (K, T, D); added: further conditions of SDXL, each with K rows."""

    pipeline: Any
    embeddings: Tensor
    added: dict[str, Tensor] | None

    def level(self, timestep: float) -> Level:
        """See Matcher; timesteps are rounded to the whole ones of the schedule."""
        alphas = self.pipeline.scheduler.alphas_cumprod
        t = min(len(alphas) - 1, round(timestep * len(alphas) / 1000))
        alpha = float(alphas[t])
        make = v_level if self.pipeline.scheduler.config.prediction_type == "v_prediction" else eps_level
        return make(float(t), alpha**0.5, (1.0 - alpha) ** 0.5)

    @torch.no_grad()
    def denoise(self, noised: Tensor, level: Level, texts: Sequence[int]) -> Sequence[Tensor]:
        """See Matcher."""
        unet, count = self.pipeline.unet, len(noised)
        rows = [text for text in texts for _ in range(count)]
        added = {key: value[rows] for key, value in self.added.items()} if self.added else None
        x = noised.repeat(len(texts), *[1] * (noised.ndim - 1))
        t = torch.tensor(round(level.timestep), device=x.device)
        extra = {"added_cond_kwargs": added} if added else {}
        said = unet(x.to(unet.dtype), t, encoder_hidden_states=self.embeddings[rows], **extra).sample.float()
        if self.pipeline.scheduler.config.prediction_type == "v_prediction":
            clean = level.signal * x - level.noise * said
        else:
            clean = (x - level.noise * said) / level.signal
        return clean.split(count)


@torch.no_grad()
def bind(pipeline: Any, texts: Sequence[str], size: tuple[int, int]) -> PipelineMatcher:
    """A matcher for these texts; size: height and width of the pictures in pixels, which SDXL is told.

    Raises:
        InterplayError: the pipeline is of another kind.
    """
    kind = getattr(getattr(pipeline, "scheduler", None), "config", {}).get("prediction_type", "")
    if not hasattr(pipeline, "unet") or not hasattr(pipeline, "vae") or kind not in ("epsilon", "v_prediction"):
        raise InterplayError(
            f"DiffusionITM takes pipelines of SD1.x, SD2.x and SDXL, not {type(pipeline).__name__}; use its ComfyUI "
            "node for other models."
        )
    device, dtype = pipeline.unet.device, pipeline.unet.dtype
    if not hasattr(pipeline, "text_encoder_2"):
        found = [pipeline.encode_prompt(text, device, 1, False)[0] for text in texts]
        return PipelineMatcher(pipeline, torch.cat(found).to(dtype), None)
    asked = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    both = [pipeline.encode_prompt(text, **asked) for text in texts]
    projection = pipeline.text_encoder_2.config.projection_dim
    ids = pipeline._get_add_time_ids(size, (0, 0), size, dtype=dtype, text_encoder_projection_dim=projection)
    pooled = torch.cat([b[2] for b in both]).to(dtype)
    added = {"text_embeds": pooled, "time_ids": ids.to(device).expand(len(texts), -1)}
    return PipelineMatcher(pipeline, torch.cat([b[0] for b in both]).to(dtype), added)


@torch.no_grad()
def encode(pipeline: Any, images: Sequence[Image], fit: str = "crop", batch: int = 8) -> Tensor:
    """Latents (N, C, h, w), fp32: the mode of the autoencoder's posterior, at the side that the model was trained for.

    fit: "squash" to that square, as the released code does, or "crop" the middle square.
    """
    from PIL import Image as Pillow

    if fit not in FITS:
        raise InterplayError(f"fit is one of {', '.join(FITS)}, not '{fit}'.")
    vae = pipeline.vae
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    out = []
    for start in range(0, len(images), batch):
        pictures = []
        for image in images[start : start + batch]:
            image = image.convert("RGB")
            if fit == "crop" and image.width != image.height:
                short = min(image.size)
                left, top = (image.width - short) // 2, (image.height - short) // 2
                image = image.crop((left, top, left + short, top + short))
            if image.size != (side, side):
                image = image.resize((side, side), Pillow.Resampling.BICUBIC)
            pictures.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(side, side, 3))
        pixels = torch.stack(pictures).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1.0
        out.append(vae.encode(pixels).latent_dist.mode().float())
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (torch.cat(out) - shift) * vae.config.scaling_factor


def score_pictures(
    pipeline: Any,
    images: Sequence[Image],
    texts: Sequence[str],
    settings: ItmSettings,
    fit: str = "crop",
) -> Scores:
    """Scores (see there) of pictures against texts by a pipeline; the first text is the one that they are ranked by."""
    latents = encode(pipeline, images, fit)
    size = tuple(int(n) * pipeline.vae_scale_factor for n in latents.shape[-2:])
    matcher = bind(pipeline, [*texts, ""], (size[0], size[1]))
    return score(matcher, latents, len(texts), settings, empty=len(texts))


def itm_scorer(
    pipeline: Any, settings: ItmSettings, swaps: bool = True, fit: str = "crop", name: str = "itm"
) -> Scorer:
    """A scorer of pictures by a pipeline itself: the normalised score, its standard error, and where ``swaps`` and the
    prompt allow it, the margin over the best of the swapped captions and the probability that it is above 0.

    All draws are made for every picture, so that scores can be compared.
    """
    settings = replace(settings, prune=False, stop=0.0, normalise="on", heat=False)

    def measure(images: Sequence[Image], prompts: Sequence[str]) -> list[Reading]:
        readings: dict[int, Reading] = {}
        keys = [_key(image) for image in images]
        for texts, wanted in _groups(keys, prompts):
            distinct = list(dict.fromkeys(keys[i] for i in wanted))
            pictures = [images[keys.index(key)] for key in distinct]
            if swaps and len(texts) == 1:
                _against_swaps(
                    pipeline,
                    pictures,
                    texts[0],
                    settings,
                    fit,
                    [(i, distinct.index(keys[i])) for i in wanted],
                    readings,
                )
                continue
            found = score_pictures(pipeline, pictures, texts, settings, fit)
            values, errors = found.values(), found.standard_errors()
            for i in wanted:
                row, column = distinct.index(keys[i]), texts.index(prompts[i])
                readings[i] = Reading(float(values[row, column]), {"error": _known(errors[row, column])})
        return [readings[i] for i in range(len(images))]

    needs = f"{type(pipeline).__name__}, {len(settings.timesteps()) * settings.repeats} draws"
    return Scorer(name, needs, PARTS, measure)


def _against_swaps(
    pipeline: Any,
    pictures: Sequence[Image],
    prompt: str,
    settings: ItmSettings,
    fit: str,
    places: Sequence[tuple[int, int]],
    readings: dict[int, Reading],
) -> None:
    from ....parsing import parse
    from ...rewards.swaps import swapped_captions

    against = [swap.text for swap in swapped_captions(parse(prompt))]
    found = score_pictures(pipeline, pictures, [prompt, *against], settings, fit)
    values, errors = found.values(), found.standard_errors()
    for i, row in places:
        margin = found.margin(row)
        parts = {"error": _known(errors[row, 0]), "margin": margin.mean if margin else None, "p": found.match(row)}
        readings[i] = Reading(float(values[row, 0]), parts, {"swapped": "; ".join(against)})


def _groups(keys: Sequence[str], prompts: Sequence[str]) -> list[tuple[list[str], list[int]]]:
    """Texts that are asked of the same pictures, together: the empty text's error is then shared."""
    asked: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        asked.setdefault(prompt, []).append(i)
    together: dict[frozenset[str], tuple[list[str], list[int]]] = {}
    for prompt, places in asked.items():
        texts, members = together.setdefault(frozenset(keys[i] for i in places), ([], []))
        texts.append(prompt)
        members += places
    return list(together.values())


def _key(image: Image) -> str:
    import hashlib

    return hashlib.sha256(image.tobytes()).hexdigest() + str(image.size)


def _known(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
