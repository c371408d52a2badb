"""Florence-2 as a tagger: what its object detection names, with boxes, and its caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from .detectors import clipped
from .detectors_florence import BINS, LONGEST, Florence2
from .detectors_loading import tensor
from .tags import Box, PictureTags, Tag, gathered

OBJECTS = "<OD>"
CAPTION = "<DETAILED_CAPTION>"
_PLACE = re.compile(r"<loc_(\d+)>")

Token = tuple[str, float]  # as decoded, and its probability


def look(opened: Florence2, picture: Any, device: Any, caption: bool = True) -> PictureTags:
    """The tags of a Pillow picture; caption: whether to write one, which is a second pass."""
    said = "".join(text for text, _ in answer(opened, picture, CAPTION, device)) if caption else ""
    return gathered(tags_of(answer(opened, picture, OBJECTS, device)), said)


def tags_of(tokens: Sequence[Token]) -> list[Tag]:
    """The tags of an answer: words, then four places for each box of such a thing.

    A tag's score is the mean probability of its words' and places' tokens; its box the first one.
    """
    tags, words, places = list[Tag](), list[Token](), list[tuple[int, float]]()
    for text, sure in [*tokens, ("", 1.0)]:
        found = _PLACE.fullmatch(text)
        if found:
            places.append((int(found[1]), sure))
            continue
        if places:
            tags += _tag(words, places)
            words, places = [], []
        words.append((text, sure))
    return tags


def _tag(words: Sequence[Token], places: Sequence[tuple[int, float]]) -> list[Tag]:
    name = "".join(text for text, _ in words).strip()
    boxes = [_box([place for place, _ in places[i : i + 4]]) for i in range(0, len(places) - 3, 4)]
    found = [box for box in boxes if box is not None]
    if not name or not found:
        return []
    sure = [value for _, value in (*words, *places)]
    return [Tag(name, sum(sure) / len(sure), found[0])]


def _box(places: Sequence[int]) -> Box | None:
    return clipped([(min(BINS - 1, place) + 0.5) / BINS for place in places])


@torch.no_grad()
def answer(opened: Florence2, picture: Any, task: str, device: Any) -> list[Token]:
    """The tokens of an answer, marks left out, each with its probability; greedy, so that it is always the same."""
    told = opened.processor(text=task, images=picture, return_tensors="pt")
    dtype = next(opened.model.parameters()).dtype
    inputs = {name: told[name].to(device) for name in ("input_ids", "attention_mask") if name in told}
    inputs["pixel_values"] = tensor(told["pixel_values"]).to(device, dtype)
    out = opened.model.generate(  # type: ignore[operator]
        **inputs, max_new_tokens=LONGEST, num_beams=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    ids = out.sequences[0, -len(out.scores) :].tolist()
    tokenizer = opened.processor.tokenizer
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return [
        (str(tokenizer.decode([token], skip_special_tokens=False)), float(step[0].float().softmax(-1)[token]))
        for step, token in zip(out.scores, ids, strict=True)
        if token not in marks
    ]
