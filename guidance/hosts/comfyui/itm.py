"""DiffusionITM with ComfyUI's MODEL, whatever it predicts: the host loads, patches and batches as it does to sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import InterplayError
from ....parsing import parse
from ...rewards.diffusion_itm import score
from ...rewards.itm_scores import Scores
from ...rewards.itm_settings import LAST, ItmSettings, Level
from ...rewards.swaps import swapped_captions
from .conditioning import KEY
from .guidance import unguided

Conditioning = list[list[Any]]


@dataclass(frozen=True)
class ItmResult:
    """Scores, and the texts they were made with, first the prompt itself."""

    scores: Scores
    texts: list[str]


def score_latents(
    model: Any,
    positive: Conditioning,
    latent: dict[str, Any],
    settings: ItmSettings,
    empty: Conditioning | None = None,
    contrasts: Sequence[tuple[str, Conditioning]] = (),
    mask: Tensor | None = None,
) -> ItmResult:
    """Score the pictures of a LATENT against a prompt.

    positive: the prompt. empty: the empty prompt, for the normalisation. contrasts: what the prompt is held against, by
    name. mask: MASK (B, H, W) of a region. The model acts with its patches as when sampling, without CFG and without
    guidance. InterplayError for latents that do not fit, or a model with too few noise levels.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    if getattr(samples, "is_nested", False):
        raise InterplayError("Latents of picture and sound together cannot be scored: give the pictures alone.")
    if not bool(torch.isfinite(samples).all()):
        raise InterplayError("The latent holds NaN or infinite values: encode the picture again, with the VAE in fp32.")
    for cond in (*positive, *(empty or ()), *(part for _, other in contrasts for part in other)):
        if cond[1].get("start_percent", 0.0) > 0.0 or cond[1].get("end_percent", 1.0) < 1.0:
            raise InterplayError(
                "A prompt that is in use for a part of the steps only cannot be scored: give it plain."
            )
    guider = comfy.samplers.CFGGuider(unguided(model))
    names = ["positive", *(f"contrast_{i}" for i in range(len(contrasts)))]
    conds = {"positive": positive, **{f"contrast_{i}": cond for i, (_, cond) in enumerate(contrasts)}}
    if empty is not None:
        names.append("negative")
        conds["negative"] = empty
    guider.inner_set_conds(conds)
    look = _Look(guider, names, settings, empty is not None, _small(mask, samples))
    sigmas = torch.tensor([1.0, 0.0])  # the sampler below goes its own way; the host wants a schedule
    guider.sample(torch.zeros_like(samples), samples, look, sigmas, disable_pbar=True, seed=settings.seed)
    assert look.found is not None
    return ItmResult(look.found, [_prompt(positive), *(name for name, _ in contrasts)])


def swapped_conditionings(clip: Any, positive: Conditioning, limit: int = 3) -> list[tuple[str, Conditioning]]:
    """The swapped captions of the prompt whose hypergraph rides in ``positive``, encoded; none without a hypergraph."""
    text = _prompt(positive)
    found = [cond[1][KEY].graph for cond in positive if KEY in cond[1]]
    graph = found[0] if found else parse(text)
    return [(s.text, encode_text(clip, s.text)) for s in swapped_captions(graph, limit)]


def encode_text(clip: Any, text: str) -> Conditioning:
    """CONDITIONING as CLIP Text Encode makes it."""
    conditioning: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return conditioning


def _prompt(conditioning: Conditioning) -> str:
    return next((str(cond[1][KEY].prompt) for cond in conditioning if KEY in cond[1]), "")


def _small(mask: Tensor | None, samples: Tensor) -> Tensor | None:
    """MASK (B, H, W) -> (B, 1, h, w) at the latent's size."""
    if mask is None:
        return None
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    small = F.interpolate(mask, samples.shape[-2:], mode="area")
    return small.view(len(small), 1, *[1] * (samples.ndim - 4), *small.shape[-2:]).expand(-1, 1, *samples.shape[2:])


class _Look(comfy.samplers.Sampler):
    """In a sampler's place: scores the clean latent at noise levels of its own."""

    def __init__(
        self, guider: Any, names: Sequence[str], settings: ItmSettings, has_empty: bool, mask: Tensor | None
    ) -> None:
        self.guider, self.names, self.settings, self.has_empty, self.mask = guider, names, settings, has_empty, mask
        self.found: Scores | None = None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Leave the latent as it is."""
        clean = noise if latent_image is None else latent_image
        matcher = _ModelMatcher(self.guider, self.names, extra_args.get("model_options", {}))
        texts = len(self.names) - int(self.has_empty)
        bar: list[Any] = []

        def progress(done: int, planned: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if not bar:
                bar.append(comfy.utils.ProgressBar(planned))
            bar[0].update_absolute(done, planned)

        empty = texts if self.has_empty else None
        self.found = score(matcher, clean, texts, self.settings, empty, self.mask, progress)
        return clean


class _ModelMatcher:
    """The host's model with its conditionings: asks ``calc_cond_batch``, as samplers do, for the denoised latent."""

    def __init__(self, guider: Any, names: Sequence[str], options: dict[str, Any]) -> None:
        self.guider, self.names, self.options = guider, names, options
        self.sampling = guider.inner_model.model_sampling

    def level(self, timestep: float) -> Level:
        """See Matcher. How the host noises is read off a one, so that it holds for every model."""
        sigma = torch.tensor([self._sigma(timestep)], dtype=torch.float32)
        one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        signal = float(self.sampling.noise_scaling(sigma, none.clone(), one.clone()))
        noise = float(self.sampling.noise_scaling(sigma, one.clone(), none.clone()))
        return Level(timestep, signal, noise, self._native(signal, noise))

    def denoise(self, noised: Tensor, level: Level, texts: Sequence[int]) -> Sequence[Tensor]:
        """See Matcher."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        conds = [self.guider.conds[self.names[text]] for text in texts]
        sigma = torch.full((len(noised),), self._sigma(level.timestep), device=noised.device)
        found = comfy.samplers.calc_cond_batch(self.guider.inner_model, conds, noised, sigma, self.options)
        result: Sequence[Tensor] = found
        return result

    def _sigma(self, timestep: float) -> float:
        sampling = self.sampling
        if (
            type(sampling).sigma is comfy.model_sampling.ModelSamplingDiscrete.sigma
            and len(sampling.sigmas) == LAST + 1
        ):
            return float(sampling.sigma(torch.tensor(timestep)))
        sigma = float(sampling.percent_to_sigma(1.0 - timestep / LAST))
        return min(max(sigma, float(sampling.sigma_min)), float(sampling.sigma_max))

    def _native(self, signal: float, noise: float) -> float:
        """From an error of the clean latent to one of what the model predicts; see ``itm_settings``."""
        if isinstance(self.sampling, comfy.model_sampling.CONST):
            return 1.0 / noise
        if isinstance(self.sampling, comfy.model_sampling.V_PREDICTION):
            data = float(getattr(self.sampling, "sigma_data", 1.0))
            return (noise**2 + data**2) ** 0.5 / (noise * data)
        if isinstance(self.sampling, comfy.model_sampling.X0):
            return 1.0
        return signal / noise
