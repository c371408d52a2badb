"""Prompts as plain text, and words that stand in them; tags as people and programs write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import InterplayError

_WEIGHT = re.compile(r"(?<!\\):\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*(?=[)\]])")
_BRACKET = re.compile(r"(?<!\\)[()\[\]{}]")
_ARTICLES = re.compile(r"^(?:a|an|the|some|his|her|its|their|my|your|our)\s+", re.IGNORECASE)


def plain_prompt(prompt: str) -> str:
    """A prompt without weights and brackets: "a (red:1.2) book" becomes "a red book"."""
    text = _BRACKET.sub("", _WEIGHT.sub("", prompt))
    return " ".join(re.sub(r"\\([()\[\]{}])", r"\1", text).split())


def verbatim(phrase: str, prompt: str) -> str | None:
    """The words of the plain prompt that a phrase quotes, in the prompt's letters, without article; None if none."""
    words = " ".join(phrase.split()).strip(" .,;:\"'")
    for wanted in dict.fromkeys((_ARTICLES.sub("", words), words)):
        if wanted:
            found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", plain_prompt(prompt), re.IGNORECASE)
            if found:
                return found[0]
    return None


def read_tags(text: str) -> tuple[str, ...]:
    """Tags out of text: separated by commas, lines or bars, or JSON of names or of ``{"name": …}``, also picture by
    picture. Each once, in order, case and inner spaces kept.

    Raises:
        InterplayError: it begins like JSON and is none.
    """
    stripped = text.strip()
    if stripped[:1] in ("[", "{"):
        try:
            names = list(_names(json.loads(stripped)))
        except (ValueError, RecursionError) as error:
            raise InterplayError(f"The tags are no JSON ({error}); give names with commas, or Tag Image's.") from error
    else:
        names = re.split(r"[,\n|;]", stripped)
    first: dict[str, str] = {}
    for name in names:
        clean = " ".join(name.strip().strip(".\"'").split())
        if clean:
            first.setdefault(clean.lower(), clean)
    return tuple(first.values())


def read_batch(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """The tags of each picture: of one text a picture, or of one JSON ``{"pictures": [{"tags": …}]}`` of all.

    Raises:
        InterplayError: as ``read_tags``.
    """
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        read_tags(texts[0])  # complains of what is no JSON
        pictures = json.loads(texts[0]).get("pictures")
        if isinstance(pictures, list) and pictures:
            return [read_tags(json.dumps(picture)) if picture else () for picture in pictures]
    return [read_tags(text) for text in texts]


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _names(entry)
    elif isinstance(value, Mapping):
        for key in ("name", "tag", "label", "tags", "pictures", "objects"):
            if key in value:
                yield from _names(value[key])
                return
