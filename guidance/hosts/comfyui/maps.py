"""Attention maps of a finished latent: noised to a point of the schedule, the model is asked once, without gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ....errors import InterplayError
from ...graph import TokenGraph
from .conditioning import find_graph
from .families import check_latent, check_model
from .guidance import unguided
from .passes import GuidedPass
from .run import token_graphs


@dataclass(frozen=True)
class MapResult:
    """Word maps (B, J, H, W), fp32 on the CPU, of the words in ``graph``, taken at ``sigma``."""

    maps: Tensor
    graph: TokenGraph
    sigma: float


def attention_maps(
    model: Any, conditioning: Any, latent: dict[str, Any], percent: float = 0.5, seed: int = 0
) -> MapResult:
    """Where a model looks for each word of the first hypergraph in ``conditioning``.

    latent: LATENT of a picture. percent: point of the noise schedule at which to look, 0 = all noise, 1 = the clean
    picture. seed: of the noise added. The model, its patches and the conditioning's areas act as they do when sampling.
    InterplayError for another model family, conditioning without a hypergraph or a latent that does not fit.
    """
    find_graph(conditioning)
    check_model(model)
    if not 0.0 <= percent <= 1.0:
        raise InterplayError(f"The point to look at is {percent:g} of the schedule; give a number from 0 to 1.")
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    check_latent(samples, model)
    sampling = model.get_model_object("model_sampling")
    sigma = max(float(sampling.percent_to_sigma(percent)), float(sampling.sigma_min))
    sigma = min(sigma, float(sampling.sigma_max))
    look = _Look()
    guider = comfy.samplers.CFGGuider(unguided(model))
    guider.set_conds(conditioning, [[c[0], dict(c[1])] for c in conditioning])
    look.guider = guider
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sigmas = torch.tensor([sigma, 0.0])
    guider.sample(noise, samples, comfy.samplers.KSAMPLER(look), sigmas, disable_pbar=True, seed=seed)
    if look.found is None:
        raise InterplayError(
            f"The prompt with the hypergraph is not in use at {percent:.0%} of the schedule: look at another point."
        )
    return MapResult(look.found[0], look.found[1], sigma)


class _Look:
    """A sampler function that takes one look and changes nothing."""

    __name__ = "interplay_look"

    def __init__(self) -> None:
        self.guider: Any = None
        self.found: tuple[Tensor, TokenGraph] | None = None

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **kwargs: Any) -> Tensor:
        sigma = sigmas[0] * x.new_ones([x.shape[0]])
        place = GuidedPass(self.guider, model, x, sigma, extra_args or {}, token_graphs(self.guider))
        with torch.inference_mode(False), torch.no_grad():
            captured = place.capture(place.z)
        if captured:
            self.found = (captured[0].maps.float().cpu(), captured[0].graph)
        return x
