"""The caption reward of RealignDiff (arXiv 2305.19599, Eq. 4): R = cos(f(caption of the picture), f(prompt)).

f is BLIP-2's text encoder, the text half of its Q-Former (first token of ``text_embeds``); a CLIP text tower or a
sentence encoder can take its place. The captioner is BLIP-2, BLIP or any image-text-to-text class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .loading import Loaded, Source, batches, load
from .scorer import Reading, Scorer

CAPTIONERS = {"blip-2": "Blip2ForConditionalGeneration", "blip": "BlipForConditionalGeneration"}
ENCODERS = {
    "blip-2": "Blip2TextModelWithProjection",
    "clip": "CLIPModel",
    "clip_text_model": "CLIPTextModelWithProjection",
}
CAPTIONER_EXAMPLE = "Salesforce/blip2-opt-2.7b (15 GB), or the lighter Salesforce/blip-image-captioning-base (1 GB)"
ENCODER_EXAMPLE = "Salesforce/blip2-itm-vit-g (4.7 GB)"
MAX_NEW_TOKENS = 40
# What a prompt's caption has in common with captions of something else altogether.
DISTRACTORS = (
    "a man riding a wave on a surfboard",
    "a plate of food on a table",
    "a train on the tracks at a station",
    "a group of people standing in a room",
)


def caption_scorer(captioner: str, encoder: str, device: str = "cpu", download: bool = False) -> Scorer:
    """The scorer "caption". Parts: above: the cosine less the prompt's mean cosine with four captions of something
    else, since unrelated sentences are not at 0. Notes: the caption.
    """
    describe = captions(load_captioner(captioner, device, download))
    embed = sentence_encoder(load_encoder(encoder, device, download))

    def measure(images: Sequence[Any], prompts: Sequence[str]) -> list[Reading]:
        return compare(describe(images), prompts, embed)

    needs = f"captions by {Source(captioner, '', '').name()}, compared by {Source(encoder, '', '').name()}"
    return Scorer("caption", needs, ("above",), measure)


def compare(
    said: Sequence[str],
    prompts: Sequence[str],
    embed: Callable[[Sequence[str]], Tensor],
    distractors: Sequence[str] = DISTRACTORS,
) -> list[Reading]:
    """Captions against prompts by any encoder of texts to (B, D) of unit length; see ``caption_scorer``."""
    wanted = embed(prompts)
    cosines, base = (embed(said) * wanted).sum(-1), (wanted @ embed(distractors).T).mean(-1)
    return [
        Reading(float(c), {"above": float(c - b)}, {"caption": text})
        for c, b, text in zip(cosines, base, said, strict=True)
    ]


def load_captioner(place: str, device: str, download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A captioner from its folder."""
    source = Source(place, "captions", CAPTIONER_EXAMPLE, download)
    return load(source, CAPTIONERS, "AutoModelForImageTextToText", device, dtype=dtype)


def load_encoder(place: str, device: str, download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A text encoder from its folder."""
    source = Source(place, "comparing captions", ENCODER_EXAMPLE, download)
    return load(source, ENCODERS, "AutoModel", device, text_only=True, dtype=dtype)


def captions(loaded: Loaded, max_new_tokens: int = MAX_NEW_TOKENS) -> Callable[[Sequence[Any]], list[str]]:
    """Pictures to captions, greedily, so that the same picture has always the same one."""

    @torch.no_grad()
    def describe(images: Sequence[Any]) -> list[str]:
        out: list[str] = []
        for part in batches(len(images), 8):
            inputs, start = _captioning(loaded, images[part])
            ids = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
            out += [text.strip() for text in loaded.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)]
        return out

    return describe


def _captioning(loaded: Loaded, images: Sequence[Any]) -> tuple[dict[str, Any], int]:
    """Input of ``generate``, and how many ids of its output are the input's."""
    if loaded.kind in CAPTIONERS:
        return {"pixel_values": loaded.pixels(images)}, 0
    return instruct(loaded, images, ["Describe the picture in one sentence."] * len(images))


def instruct(loaded: Loaded, images: Sequence[Any], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
    """A chat model's input for one picture and instruction each, and its length."""
    prompts = [_chat(loaded.processor, text) for text in texts]
    loaded.tokenizer.padding_side = "left"
    found = loaded.processor(images=[[i] for i in images], text=prompts, return_tensors="pt", padding=True)
    inputs = {name: value.to(loaded.device) for name, value in found.items()}
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.to(loaded.model.dtype)
    return inputs, inputs["input_ids"].shape[1]


def _chat(processor: Any, text: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def sentence_encoder(loaded: Loaded) -> Callable[[Sequence[str]], Tensor]:
    """Texts to (B, D) of unit length: BLIP-2's and CLIP's projected embedding, the mean over tokens of any other."""

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        parts = []
        for part in batches(len(texts)):
            tokens = loaded.tokens(texts[part])
            parts.append(normalize(_embedding(loaded, tokens).float(), dim=-1))
        return torch.cat(parts)

    return embed


def _embedding(loaded: Loaded, tokens: dict[str, Tensor]) -> Tensor:
    if loaded.kind == "clip":  # a whole CLIP: its text half
        return loaded.model.text_projection(loaded.model.text_model(**tokens).pooler_output)
    found = loaded.model(**tokens)
    if loaded.kind == "blip-2":
        return found.text_embeds[:, 0]
    if loaded.kind in ENCODERS:
        return found.text_embeds
    mask = tokens["attention_mask"][..., None].to(found.last_hidden_state.dtype)
    return (found.last_hidden_state * mask).sum(1) / mask.sum(1)
