"""The caption reward of RealignDiff (arXiv 2305.19599, Eq. 4): R = cos(f(caption of the picture), f(prompt)).

f is BLIP-2's text encoder, the text half of its Q-Former (first token of ``text_embeds``); a CLIP text tower or a
sentence encoder can take its place. The captioner is BLIP-2, BLIP, Florence-2 or any image-text-to-text class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...errors import InterplayError
from .loading import Loaded, Source, batches, load, too_long
from .scorer import Reading, Scorer

CAPTIONERS = {
    "blip-2": "Blip2ForConditionalGeneration",
    "blip": "BlipForConditionalGeneration",
    "florence2": "Florence2ForConditionalGeneration",
}
ENCODERS = {
    "blip-2": "Blip2TextModelWithProjection",
    "clip": "CLIPModel",
    "clip_text_model": "CLIPTextModelWithProjection",
}
CAPTIONER_EXAMPLE = "Salesforce/blip2-opt-2.7b (15 GB), or the lighter Salesforce/blip-image-captioning-base (1 GB)"
ENCODER_EXAMPLE = "Salesforce/blip2-itm-vit-g (4.7 GB)"
MAX_NEW_TOKENS = 40
MODES = ("short", "photo", "detailed")
PHOTO = "a photo of"
_TASKS = {"short": "<CAPTION>", "photo": "<CAPTION>", "detailed": "<DETAILED_CAPTION>"}  # Florence-2's
_CHAT = {
    "short": "Describe the picture in one sentence.",
    "photo": f"Describe the picture in one sentence that begins with '{PHOTO}'.",
    "detailed": "Describe everything in the picture: each thing with its color and number, what it does to what, and "
    "where.",
}
_LONGER = 3  # times as many tokens for detailed captions
_WORDY = {"min_new_tokens": 20, "num_beams": 5, "repetition_penalty": 1.5}  # BLIP knows no other way to say more
# What a prompt's caption has in common with captions of something else altogether.
DISTRACTORS = (
    "a man riding a wave on a surfboard",
    "a plate of food on a table",
    "a train on the tracks at a station",
    "a group of people standing in a room",
)


@dataclass(frozen=True)
class Style:
    """How captions are written. mode: "short"; "photo", the model goes on after "a photo of" (which is left out of the
    caption again); "detailed". beams: of the search, 1 = greedy. max_new_tokens: three times that where detailed. The
    same picture has always the same caption.

    Raises:
        InterplayError: an unknown mode, or no beam or token.
    """

    mode: str = "short"
    beams: int = 1
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InterplayError(f"The captions' mode is one of {', '.join(MODES)}, not '{self.mode}'.")
        if min(self.beams, self.max_new_tokens) < 1:
            raise InterplayError(f"Captions need a beam and a token, not {self.beams} and {self.max_new_tokens}.")

    def options(self, kind: str) -> dict[str, Any]:
        """Options of ``generate`` for a kind of model."""
        detailed = self.mode == "detailed"
        limit = self.max_new_tokens * (_LONGER if detailed else 1)
        found: dict[str, Any] = {"max_new_tokens": limit, "num_beams": self.beams, "do_sample": False}
        if detailed and kind in ("blip", "blip-2"):
            found |= {**_WORDY, "num_beams": max(self.beams, 5), "min_new_tokens": min(limit, 20)}
        return found


def caption_scorer(
    captioner: str, encoder: str, device: str = "cpu", download: bool = False, style: Style = Style()
) -> Scorer:
    """The scorer "caption". Parts: above: the cosine less the prompt's mean cosine with four captions of something
    else, since unrelated sentences are not at 0. Notes: the caption; cut, where a text is longer than is read.
    """
    describe = captions(load_captioner(captioner, device, download), style)
    loaded = load_encoder(encoder, device, download)
    embed = sentence_encoder(loaded)

    def measure(images: Sequence[Any], prompts: Sequence[str]) -> list[Reading]:
        said = describe(images)
        return noted(compare(said, prompts, embed), loaded, prompts, said)

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


def noted(
    readings: Sequence[Reading], loaded: Loaded, prompts: Sequence[str], said: Sequence[str] = ()
) -> list[Reading]:
    """Readings with the note "cut" where the model reads only the beginning of a prompt, or of a caption."""
    said = said or [""] * len(prompts)
    out = []
    for reading, prompt, text in zip(readings, prompts, said, strict=True):
        notices = [n for name, t in (("prompt", prompt), ("caption", text)) if (n := too_long(loaded, t, name))]
        more = {"cut": " ".join(notices)} if notices else {}
        out.append(Reading(reading.value, reading.parts, {**reading.notes, **more}))
    return out


def load_captioner(place: str, device: str, download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A captioner from its folder."""
    source = Source(place, "captions", CAPTIONER_EXAMPLE, download)
    return load(source, CAPTIONERS, "AutoModelForImageTextToText", device, dtype=dtype)


def load_encoder(place: str, device: str, download: bool = False, dtype: torch.dtype | None = None) -> Loaded:
    """A text encoder from its folder."""
    source = Source(place, "comparing captions", ENCODER_EXAMPLE, download)
    return load(source, ENCODERS, "AutoModel", device, text_only=True, dtype=dtype)


def captions(loaded: Loaded, style: Style = Style()) -> Callable[[Sequence[Any]], list[str]]:
    """Pictures to captions, without sampling, so that the same picture has always the same one."""
    options = style.options(loaded.kind)

    @torch.no_grad()
    def describe(images: Sequence[Any]) -> list[str]:
        out: list[str] = []
        for part in batches(len(images), 8):
            inputs, start = _captioning(loaded, images[part], style.mode)
            ids = loaded.model.generate(**inputs, **options)
            said = loaded.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
            out += [text.strip().removeprefix(PHOTO if style.mode == "photo" else "").strip() for text in said]
        return out

    return describe


def _captioning(loaded: Loaded, images: Sequence[Any], mode: str) -> tuple[dict[str, Any], int]:
    """Input of ``generate``, and how many ids of its output are left out because they are the input's."""
    if loaded.kind == "florence2":
        return _given(loaded, list(images), [_TASKS[mode]] * len(images)), 0
    if loaded.kind in CAPTIONERS:
        if mode == "photo":
            return _given(loaded, list(images), [PHOTO] * len(images)), 0
        return {"pixel_values": loaded.pixels(images)}, 0
    return instruct(loaded, images, [_CHAT[mode]] * len(images))


def _given(loaded: Loaded, images: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
    """What the processor makes of pictures and texts, on the model's device."""
    found = loaded.processor(images=images, text=texts, return_tensors="pt", padding=True)
    names = ("input_ids", "attention_mask", "pixel_values")
    inputs = {name: torch.as_tensor(found[name]).to(loaded.device) for name in names if name in found}
    inputs["pixel_values"] = inputs["pixel_values"].to(loaded.model.dtype)
    return inputs


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
