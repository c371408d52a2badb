"""A vision-language chat model as a tagger: asked for JSON, read with patience."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch

from ..rewards.caption import instruct
from ..rewards.loading import Loaded, Source, load
from .tags import PictureTags, Tag, gathered

ROLE = "tags"
EXAMPLE = "Qwen/Qwen2.5-VL-3B-Instruct (7.5 GB)"
MAX_NEW_TOKENS = 384
MOST = 40  # tags of one answer
ASK = (
    "List everything that can be seen in this picture: things, people, animals, then the place. Answer with JSON only: "
    '{"tags": ["short noun", ...], "caption": "one sentence about the picture"}'
)
_LISTED = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


def load_vlm(place: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """A chat model that sees, from its folder.

    Raises:
        InterplayError: there is none, or it cannot be loaded.
    """
    return load(Source(place, ROLE, EXAMPLE), {}, "AutoModelForImageTextToText", device, dtype=dtype)


@torch.no_grad()
def look(loaded: Loaded, picture: Any) -> PictureTags:
    """The tags of a Pillow picture. A tag's score is the geometric mean of its tokens' probabilities."""
    inputs, start = instruct(loaded, [picture], [ASK])
    out = loaded.model.generate(
        **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    ids = out.sequences[0, start:].tolist()
    logs = [float(step[0].float().log_softmax(-1)[i]) for step, i in zip(out.scores, ids, strict=True)]
    ends = [len(_text(loaded, ids[: i + 1])) for i in range(len(ids))]
    said = _text(loaded, ids)
    names, caption = read(said)
    return gathered([Tag(name, likelihood(name, said, ends, logs)) for name in names], caption)


def _text(loaded: Loaded, ids: list[int]) -> str:
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))


def likelihood(name: str, said: str, ends: list[int], logs: list[float]) -> float | None:
    """exp of the mean log-probability of the tokens that wrote a name; ends: of each token's text in ``said``."""
    at = said.lower().find(name.lower())
    if at < 0:
        return None
    starts = [0, *ends[:-1]]
    own = [log for s, e, log in zip(starts, ends, logs, strict=True) if s < at + len(name) and e > at and e > s]
    return math.exp(sum(own) / len(own)) if own else None


def read(said: str) -> tuple[list[str], str]:
    """Names and caption of an answer: JSON with anything around it; cut-off JSON as far as it goes; else names with
    commas or in lines.
    """
    plain = re.sub(r"<think>.*?</think>", "", said, flags=re.DOTALL)
    whole = _json(plain)
    if whole is not None:
        return whole
    if '"tags"' in plain:
        inner = plain.split('"tags"', 1)[1].partition("[")[2].partition("]")[0]
        caption = re.search(r'"caption"\s*:\s*"((?:[^"\\]|\\.)*)', plain)
        return _clean(re.findall(r'"([^"]*)"', inner)), caption[1] if caption else ""
    lines = [_LISTED.sub("", line) for line in plain.replace("```json", "").replace("```", "").splitlines()]
    return _clean([name for line in lines for name in line.split(",")]), ""


def _json(plain: str) -> tuple[list[str], str] | None:
    """Names and caption of the outermost braces; None where they hold no JSON with tags."""
    found = re.search(r"\{.*\}", plain, re.DOTALL)
    if not found:
        return None
    try:
        content = json.loads(re.sub(r",\s*([\]}])", r"\1", found[0]))
    except ValueError:
        return None
    tags = content.get("tags")
    if isinstance(tags, str):
        tags = tags.split(",")
    return (_clean(tags), str(content.get("caption") or "")) if isinstance(tags, list) else None


def _clean(names: list[Any]) -> list[str]:
    words = [" ".join(str(name).strip(" .\"'`*").split()) for name in names if isinstance(name, str)]
    return list(dict.fromkeys(word.lower() for word in words if word and len(word.split()) <= 4))[:MOST]
