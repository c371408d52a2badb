"""Rewards with a gradient to the picture, for ReFL.

The caption reward itself has none: a caption is words. So (A) a model that matches picture and text is asked (ITM, its
probability; ITC, its cosine), or (B) a caption model how likely the prompt's words are when it looks at the picture.
The caption reward then judges, on pictures of other prompts (``refl_watch``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InterplayError

PIXELWORLD = "pixelworld"
KINDS = ("itm", "itc", "likelihood")
MARGINS = {"itm": 1.0, "itc": 1.0, "likelihood": 4.0}  # nats a word above the blank picture: as good as never reached


@dataclass(frozen=True)
class GradientReward:
    """See ``refl.Reward``."""

    name: str
    margin: float
    measure: Callable[[Tensor, Sequence[str]], Tensor]

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,), with a gradient to the pictures (B, 3, H, W) in [0, 1]."""
        if len(pictures) != len(prompts):
            raise InterplayError(
                f"The reward '{self.name}' was given {len(pictures)} pictures and {len(prompts)} prompts; give one for "
                "each."
            )
        return self.measure(pictures, prompts)


def weighted(parts: Sequence[tuple[GradientReward, float]]) -> GradientReward:
    """Several rewards as one: their weighted mean, and that of their margins."""
    total = sum(weight for _, weight in parts)
    if not parts or total <= 0:
        raise InterplayError("A mix of rewards needs weights whose sum is above zero.")
    if len(parts) == 1:
        return parts[0][0]

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        found = [reward(pictures, prompts) * (weight / total) for reward, weight in parts]
        return torch.stack(found).sum(0)

    name = " + ".join(f"{weight:g} {reward.name}" for reward, weight in parts)
    return GradientReward(name, sum(r.margin * w for r, w in parts) / total, measure)


# --- PixelWorld -------------------------------------------------------------------------------------------------------


def pixelworld_reward(kind: str = "itm") -> GradientReward:
    """Rewards on PixelWorld pictures by the small models that come with the pack.

    "itm": the matching model's mean log-probability of the prompt's facts (margin 0); "itc": the caption
    model's cosine (margin 1); "likelihood": its mean log-probability of the prompt's words (margin 0).
    """
    if kind == "itm":
        from .refl_matcher import FACTS, load_matcher, prompt_log_likelihood

        with torch.inference_mode(False):
            matcher = load_matcher()

        def facts(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
            return prompt_log_likelihood(matcher.to(pictures.device), pictures, prompts) / FACTS

        return GradientReward("PixelWorld's matching model", 0.0, facts)
    from ..rewards.pixelworld_caption import caption_model, check, match_reward

    if kind == "itc":
        return GradientReward("PixelWorld's caption model, itc", 1.0, match_reward)
    _known(kind)

    def likelihood(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        check(pictures, prompts)
        return caption_model().to(pictures.device).log_likelihood(pictures, prompts)

    return GradientReward("PixelWorld's caption model, likelihood", 0.0, likelihood)


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise InterplayError(f"There is no gradient reward '{kind}'; choose one of {', '.join(KINDS)}.")


# --- models for photographs -------------------------------------------------------------------------------------------


def open_reward(kind: str, place: str, device: str = "cpu", download: bool = False) -> GradientReward:
    """A reward by a BLIP or BLIP-2 model in a folder, or PixelWorld's for the place "pixelworld".

    Raises:
        InterplayError: there is no such model, or it is of another kind.
    """
    _known(kind)
    if place == PIXELWORLD:
        return pixelworld_reward(kind)
    from ..rewards.caption import load_captioner
    from ..rewards.matching import load_matcher

    opener = load_captioner if kind == "likelihood" else load_matcher
    with torch.inference_mode(False):
        loaded = opener(place, device, download)
    return model_reward(kind, loaded)


def model_reward(kind: str, loaded: Any) -> GradientReward:
    """A reward on an open BLIP or BLIP-2 model (``rewards.loading.Loaded``)."""
    _known(kind)
    table = {
        ("itm", "blip-2"): _blip2_itm,
        ("itc", "blip-2"): _blip2_itc,
        ("itm", "blip"): _blip_itm,
        ("itc", "blip"): _blip_itc,
        ("likelihood", "blip-2"): _blip2_likelihood,
        ("likelihood", "blip"): _blip_likelihood,
    }
    found = table.get((kind, loaded.kind))
    if found is None:
        raise InterplayError(
            f"A model of the kind '{loaded.kind}' gives no gradient reward '{kind}'; use BLIP-2 or BLIP."
        )

    def measure(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return found(loaded, prepared(loaded, pictures), prompts).float()

    def above_blank(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = measure(pictures, prompts)
        with torch.no_grad():
            blank = measure(torch.full_like(pictures, 0.5), prompts)
        return seen - blank

    name = f"{kind} of {type(loaded.model).__name__}"
    return GradientReward(name, MARGINS[kind], above_blank if kind == "likelihood" else measure)


def prepared(loaded: Any, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] at the model's size and normalisation, as its processor does it but with a
    gradient: the whole picture if it is square, else its middle.
    """
    settings = loaded.images
    size = settings.size
    side = int(size.get("height") or size.get("shortest_edge"))
    short = min(pictures.shape[-2:])
    top, left = (pictures.shape[-2] - short) // 2, (pictures.shape[-1] - short) // 2
    square = pictures[..., top : top + short, left : left + short].float()
    small = F.interpolate(square, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean = torch.tensor(settings.image_mean, device=pictures.device).view(3, 1, 1)
    std = torch.tensor(settings.image_std, device=pictures.device).view(3, 1, 1)
    return ((small - mean) / std).to(loaded.model.device, loaded.model.dtype)


def _queries_first(loaded: Any, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """BLIP-2's text with a place for each of its queries in front."""
    config, ids = loaded.model.config, tokens["input_ids"]
    place = getattr(config, "image_token_index", None)
    if place is None:
        return tokens
    shape = (len(ids), config.num_query_tokens)
    first = torch.full(shape, place, device=ids.device)
    ones = torch.ones(shape, dtype=torch.long, device=ids.device)
    return {
        "input_ids": torch.cat([first, ids], 1),
        "attention_mask": torch.cat([ones, tokens["attention_mask"]], 1),
    }


def _blip2_itm(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    tokens = _queries_first(loaded, loaded.tokens(prompts))
    out = loaded.model(pixel_values=pixels, **tokens, use_image_text_matching_head=True)
    return out.logits_per_image.float().softmax(-1)[:, 1]


def _blip2_itc(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    tokens = _queries_first(loaded, loaded.tokens(prompts))
    out = loaded.model(pixel_values=pixels, **tokens, use_image_text_matching_head=False)
    return out.logits_per_image.float().diagonal()


def _blip_itm(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    model, tokens = loaded.model, loaded.tokens(prompts)
    seen = model.vision_model(pixel_values=pixels)[0]
    everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
    both = model.text_encoder(
        **tokens, encoder_hidden_states=seen, encoder_attention_mask=everywhere, return_dict=True
    ).last_hidden_state
    return model.itm_head(both[:, 0]).float().softmax(-1)[:, 1]


def _blip_itc(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    model, tokens = loaded.model, loaded.tokens(prompts)
    seen = model.vision_model(pixel_values=pixels)[0]
    alone = model.text_encoder(**tokens, return_dict=True).last_hidden_state
    image = F.normalize(model.vision_proj(seen[:, 0]).float(), dim=-1)
    return (image * F.normalize(model.text_proj(alone[:, 0]).float(), dim=-1)).sum(-1)


def _mean_log_probability(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B,): mean over words of the log-probability of ids (B, T) by the logits (B, T, V) one place before."""
    logs = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    counted = mask[:, 1:].float()
    return (logs * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def _blip2_likelihood(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    tokens = loaded.tokens(prompts)
    full = _queries_first(loaded, tokens)
    logits = loaded.model(pixel_values=pixels, **full).logits
    if getattr(loaded.model.config, "use_decoder_only_language_model", True) is False:
        raise InterplayError("A caption likelihood needs BLIP-2 with an OPT language model; use it or 'itm'.")
    words = tokens["input_ids"].shape[1]
    return _mean_log_probability(logits[:, -words:], tokens["input_ids"], tokens["attention_mask"])


def _blip_likelihood(loaded: Any, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    tokens = loaded.tokens(prompts)
    ids = tokens["input_ids"].clone()
    ids[:, 0] = loaded.model.config.text_config.bos_token_id
    logits = loaded.model(pixel_values=pixels, input_ids=ids, attention_mask=tokens["attention_mask"]).logits
    return _mean_log_probability(logits, ids, tokens["attention_mask"])
