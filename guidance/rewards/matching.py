"""Matching by models made for it: ITM and ITC of BLIP and BLIP-2, and VQAScore.

ITM: the matching head's probability that picture and text belong together. ITC: their cosine (BLIP-2: of the best of
its queries). VQAScore (Lin et al. 2024): P("yes") when a model is asked whether the picture shows the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .caption import instruct, noted
from .loading import Loaded, Source, batches, load
from .scorer import Reading, Scorer
from .vqa import load_vqa, log_likelihood, look

MATCHERS = {"blip-2": "Blip2ForImageTextRetrieval", "blip": "BlipForImageTextRetrieval"}
EXAMPLE = "Salesforce/blip2-itm-vit-g (4.7 GB), or the lighter Salesforce/blip-itm-base-coco (0.9 GB)"
ASK = 'Does this figure show "{}"? Please answer yes or no.'


def itm_scorer(place: str, device: str = "cpu", download: bool = False) -> Scorer:
    """The scorer "itm", with the part "itc"."""
    return scorer_on(load_matcher(place, device, download), Source(place, "", "").name())


def load_matcher(place: str, device: str = "cpu", download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A retrieval model from its folder."""
    return load(Source(place, "matching picture and text", EXAMPLE, download), MATCHERS, None, device, dtype=dtype)


def scorer_on(loaded: Loaded, name: str) -> Scorer:
    """The scorer "itm" on an open model; name: of its folder."""
    match = blip2_match if loaded.kind == "blip-2" else blip_match

    def measure(images: Sequence[Any], prompts: Sequence[str]) -> list[Reading]:
        out = []
        for part in batches(len(images), 8):
            itm, itc = match(loaded, images[part], prompts[part])
            out += [Reading(float(m), {"itc": float(c)}) for m, c in zip(itm, itc, strict=True)]
        return noted(out, loaded, prompts)

    return Scorer("itm", f"{type(loaded.model).__name__} of {name}", ("itc",), measure)


@torch.no_grad()
def blip2_match(loaded: Loaded, images: Sequence[Any], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """ITM probability and ITC cosine, (B,) each."""
    model, config = loaded.model, loaded.model.config
    pixels, tokens = loaded.pixels(images), loaded.tokens(texts)
    if config.image_token_index is not None:  # the model cuts off as many places as it has queries
        places = (len(texts), config.num_query_tokens)
        first = torch.full(places, config.image_token_index, device=pixels.device)
        ones = torch.ones(places, dtype=torch.long, device=pixels.device)
        tokens = {
            "input_ids": torch.cat([first, tokens["input_ids"]], 1),
            "attention_mask": torch.cat([ones, tokens["attention_mask"]], 1),
        }
    itm = model(pixel_values=pixels, **tokens, use_image_text_matching_head=True).logits_per_image
    itc = model(pixel_values=pixels, **tokens, use_image_text_matching_head=False).logits_per_image
    return itm.float().softmax(-1)[:, 1], itc.float().diagonal()


@torch.no_grad()
def blip_match(loaded: Loaded, images: Sequence[Any], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """ITM probability and ITC cosine, (B,) each."""
    model, tokens = loaded.model, loaded.tokens(texts)
    seen = model.vision_model(pixel_values=loaded.pixels(images))[0]
    everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
    both = model.text_encoder(
        **tokens, encoder_hidden_states=seen, encoder_attention_mask=everywhere, return_dict=True
    ).last_hidden_state
    alone = model.text_encoder(**tokens, return_dict=True).last_hidden_state
    itm = model.itm_head(both[:, 0]).float().softmax(-1)[:, 1]
    image = normalize(model.vision_proj(seen[:, 0]).float(), dim=-1)
    return itm, (image * normalize(model.text_proj(alone[:, 0]).float(), dim=-1)).sum(-1)


# --- VQAScore ---------------------------------------------------------------------------------------------------------


def vqascore_scorer(place: str, device: str = "cpu", download: bool = False) -> Scorer:
    """The scorer "vqascore". Parts: ratio: P(yes) / (P(yes) + P(no))."""
    return vqascore_on(load_vqa(place, device, download), Source(place, "", "").name())


def vqascore_on(loaded: Loaded, name: str) -> Scorer:
    """The scorer "vqascore" on an open model; name: of its folder."""

    def measure(images: Sequence[Any], prompts: Sequence[str]) -> list[Reading]:
        out = []
        for image, prompt in zip(images, prompts, strict=True):
            yes, no = yes_no(loaded, image, ASK.format(prompt))
            out.append(Reading(yes, {"ratio": yes / max(yes + no, 1e-30)}))
        return out

    return Scorer("vqascore", f"{type(loaded.model).__name__} of {name}", ("ratio",), measure)


@torch.no_grad()
def yes_no(loaded: Loaded, image: Any, question: str) -> tuple[float, float]:
    """P(yes) and P(no): of the whole answer for BLIP, of ViLT's classes (each a probability of its own), of the next
    token for a chat model (all its ways of writing the word).
    """
    if loaded.kind == "blip":
        yes, no = log_likelihood(loaded, look(loaded, image), question, ("yes", "no")).exp().tolist()
        return yes, no
    if loaded.kind == "vilt":
        found = loaded.processor(images=[image], text=[question], return_tensors="pt")
        odds = loaded.model(**{k: v.to(loaded.device) for k, v in found.items()}).logits[0].sigmoid()
        classes = loaded.model.config.label2id
        return float(odds[classes["yes"]]), float(odds[classes["no"]])
    inputs, _ = instruct(loaded, [image], [question])
    odds = loaded.model(**inputs).logits[0, -1].float().softmax(-1)
    return float(odds[_first_tokens(loaded, "yes")].sum()), float(odds[_first_tokens(loaded, "no")].sum())


def _first_tokens(loaded: Loaded, word: str) -> list[int]:
    """The first token of a word as it can be written: "yes", "Yes", " yes", " Yes"."""
    forms = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
    return sorted({loaded.tokenizer.encode(form, add_special_tokens=False)[0] for form in forms})
