"""CLIP word pieces with character spans, from any of transformers' CLIP tokenizers (fast or slow, 4 or 5).

A fast tokenizer gives spans itself. A slow one does not: its text is cut with CLIP's own pattern, each cut is tokenised
alone, and the ids are compared with those of the whole text; where they differ (a slow tokenizer with ftfy rewrites
curly quotes, say) the two lists are matched and the caller is told.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

Place = tuple[int, int] | None
"""Character offsets in the text given, or ``None`` for a piece that cannot be placed."""

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_SUFFIXES = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


@dataclass(frozen=True)
class Pieces:
    """Token ids of a text without its start and end token, and where each stands. ``sure`` is false after a guess."""

    ids: tuple[int, ...]
    places: tuple[Place, ...]
    sure: bool = True


def clip_pieces(tokenizer: Any, text: str) -> Pieces:
    """Tokenise ``text`` as the tokenizer does, and place every piece in it."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = tuple(encoded["input_ids"][1:-1])
        return Pieces(ids, tuple((a, b) if a < b else None for a, b in encoded["offset_mapping"][1:-1]))
    ids = tuple(tokenizer(text)["input_ids"][1:-1])
    if not ids:
        return Pieces((), ())
    for shown, owners in ((text, [(i, i + 1) for i in range(len(text))]), _cleaned(text)):
        cuts = clip_cuts(shown)
        rows = _rows(tokenizer, [shown[a:b] for a, b in cuts])
        if tuple(i for row in rows for i in row) == ids:
            places = [p for cut, row in zip(cuts, rows, strict=True) for p in _finer(tokenizer, shown, cut, row)]
            return Pieces(ids, tuple(None if p is None else (owners[p[0]][0], owners[p[1] - 1][1]) for p in places))
    cuts = clip_cuts(text)
    return Pieces(ids, _match(ids, _rows(tokenizer, [text[a:b] for a, b in cuts]), cuts), sure=False)


def _rows(tokenizer: Any, texts: list[str]) -> list[tuple[int, ...]]:
    """Ids of each text on its own."""
    return [tuple(row[1:-1]) for row in tokenizer(texts)["input_ids"]] if texts else []


def _cleaned(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text as a slow tokenizer sees it, and the span that each character comes from.

    It drops control and format characters and joins accents to their letters.
    """
    letters: list[str] = []
    owners: list[tuple[int, int]] = []
    for i, char in enumerate(text):
        kind = unicodedata.category(char)[0]
        if kind == "C" and not char.isspace():
            continue
        if kind == "M" and letters:
            joined = unicodedata.normalize("NFC", letters[-1] + char)
            letters[-1:] = list(joined)
            owners[-1:] = [(owners[-1][0], i + 1)] * len(joined)
        else:
            letters.append(char)
            owners.append((i, i + 1))
    return "".join(letters), owners


def clip_cuts(text: str) -> list[tuple[int, int]]:
    """Where CLIP's pattern cuts the text: runs of letters, single digits, runs of other marks, and 's 't 're …"""
    cuts, i = [], 0
    while i < len(text):
        if text[i].isspace():
            i += 1
            continue
        end = _cut_end(text, i)
        cuts.append((i, end))
        i = end
    return cuts


def _cut_end(text: str, start: int) -> int:
    lowered = text[start : start + 15].lower()
    for special in (*_SPECIAL, *_SUFFIXES):
        if lowered.startswith(special):
            return start + len(special)
    kind = _kind(text[start])
    end = start + 1
    if kind == "N":
        return end
    while end < len(text) and _kind(text[end]) == kind and not text.startswith(_SPECIAL, end):
        end += 1
    return end


def _kind(char: str) -> str:
    """L letter, N number, space, or other, as CLIP's pattern sees it."""
    if char.isspace():
        return " "
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "o"


def _finer(tokenizer: Any, text: str, cut: tuple[int, int], ids: Sequence[int]) -> list[Place]:
    """Spans of the pieces within one cut: their bytes spell the lower-cased text, so count them off."""
    if len(ids) == 1:
        return [cut]
    owner: list[int] = []
    spelled = b""
    for i in range(*cut):
        own = text[i].lower().encode("utf-8", "surrogatepass")
        owner += [i] * len(own)
        spelled += own
    table = _bytes_of_letters()
    letters = [token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(list(ids))]
    parts = [bytes(table[c] for c in part) if all(c in table for c in part) else b"" for part in letters]
    if b"".join(parts) != spelled or not all(parts):
        return [cut] * len(ids)
    places: list[Place] = []
    at = 0
    for part in parts:
        places.append((owner[at], owner[at + len(part) - 1] + 1))
        at += len(part)
    return places


@lru_cache(maxsize=1)
def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (GPT-2's alphabet)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _match(ids: Sequence[int], rows: Sequence[Sequence[int]], cuts: Sequence[tuple[int, int]]) -> tuple[Place, ...]:
    """Place ids by matching them, in order, with those of the cuts; a rewritten stretch gets the span it replaced."""
    flat = [i for row in rows for i in row]
    owner = [n for n, row in enumerate(rows) for _ in row]
    places: list[Place] = [None] * len(ids)
    matcher = SequenceMatcher(None, flat, list(ids), autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            places[j1:j2] = [cuts[owner[i]] for i in range(i1, i2)]
        elif tag == "replace":
            places[j1:j2] = [(cuts[owner[i1]][0], cuts[owner[i2 - 1]][1])] * (j2 - j1)
    return tuple(places)
