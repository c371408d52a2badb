"""From words of the prompt to positions on the cross-attention axis, for each text encoder.

ComfyUI's own splitter is replayed with character positions (``clip_split``, ``clip_pieces``) and laid out in chunks of
77 exactly as it does; then every id is compared with what ``clip.tokenize`` really gave. Where they differ, the pieces
are found by matching ids in order, and the table says so in ``warnings``: it is never wrong in silence.
"""

from __future__ import annotations

import logging
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Any

from ..errors import InterplayError
from .clip_pieces import Pieces, clip_cuts, clip_pieces
from .clip_split import Char, Dialect, Group, embedding_lookup, split_prompt
from .hypergraph import Span

log = logging.getLogger(__name__)

ENCODERS = ("l", "g", "h")
"""CLIP ViT-L (SD1.x, SDXL), CLIP ViT-bigG (SDXL), OpenCLIP ViT-H (SD2.x), by ComfyUI's names."""


@dataclass(frozen=True)
class Piece:
    """A word piece, or one vector of an embedding (``id`` -1).

    ``span`` is where it stands in the prompt, ``None`` when unknown. ``position`` counts from 0 along the
    cross-attention axis: 77 * chunk + offset, the start token of the first chunk being 0.
    """

    span: Span | None
    text: str
    id: int
    position: int


@dataclass(frozen=True)
class TokenTable:
    """All pieces of a prompt in one text encoder ("l", "g" or "h"), ascending in position.

    ``length`` is the length of the cross-attention axis (77 for each chunk). ``exact`` is false when the pieces had to
    be searched for; ``warnings`` then says so in sentences.
    """

    encoder: str
    length: int
    pieces: tuple[Piece, ...]
    exact: bool = True
    warnings: tuple[str, ...] = ()

    def positions(self, span: Span) -> tuple[int, ...]:
        """Positions of all pieces that touch the characters ``[start, end)``, ascending; empty when there are none."""
        start, end = span
        return tuple(p.position for p in self.pieces if p.span is not None and p.span[0] < end and start < p.span[1])

    def copies(self, span: Span, total: int) -> tuple[int, ...]:
        """``positions`` in every copy of the cond on a longer axis.

        ComfyUI repeats conds of different length up to their least common multiple, so ``total`` is a multiple of
        ``length``; anything else raises ``InterplayError``.
        """
        if total < self.length or total % self.length:
            raise InterplayError(
                f"A cond of {self.length} tokens cannot be repeated to {total}; encode the prompt again."
            )
        return tuple(p + copy for copy in range(0, total, self.length) for p in self.positions(span))


def align_comfyui(
    prompt: str, tokenizer_module: Any, tokens: Mapping[str, Any], widths: Mapping[str, int] | None = None
) -> dict[str, TokenTable]:
    """Token tables of a prompt for every text encoder of a ComfyUI CLIP.

    Args:
        prompt: the raw prompt.
        tokenizer_module: ``clip.tokenizer``, with ``clip_l``, ``clip_g`` or ``clip_h`` in it.
        tokens: ``clip.tokenize(prompt)``, with or without word ids.
        widths: size of the token embedding of each encoder; by default what the tokenizer declares. An embedding of
            another width is dropped by ComfyUI, and all later positions of its chunk move left.

    Raises:
        InterplayError: the CLIP has another kind of text encoder (SD3, Flux, …).
    """
    foreign = [name for name in tokens if name not in ENCODERS or not hasattr(tokenizer_module, f"clip_{name}")]
    if foreign or not tokens:
        raise InterplayError(
            f"This CLIP has the text encoder '{', '.join(foreign) or 'none'}', but words can be placed only in "
            "those of SD1.x, SD2.x and SDXL; load a checkpoint of one of these."
        )
    tables = {}
    for name, chunks in tokens.items():
        tokenizer = getattr(tokenizer_module, f"clip_{name}")
        declared: int = getattr(tokenizer, "embedding_size", 0)
        width = (widths or {}).get(name, declared)
        tables[name] = _align_encoder(prompt, name, tokenizer, chunks, width)
    return _cut_to_shorter(tables)


def align_plain(prompt: str, tokenizer: Any, encoder: str = "l") -> TokenTable:
    """Token table of a prompt for transformers' ``CLIPTokenizer`` as diffusers calls it: no weights, one window of 77.

    Words beyond the window get no position, and a warning says from which word on.
    """
    length = min(int(tokenizer.model_max_length), 77)
    ids = list(tokenizer(prompt, padding="max_length", truncation=True, max_length=length)["input_ids"])
    pieces = clip_pieces(tokenizer, prompt)
    warnings = [] if pieces.sure else [_REWRITTEN]
    count = min(len(pieces.ids), length - 2)
    if list(pieces.ids[:count]) != ids[1 : count + 1]:
        warnings.append(_SEARCHED)
        log.warning(_SEARCHED)
        return TokenTable(encoder, length, _search(prompt, tokenizer, list(enumerate(ids))), False, tuple(warnings))
    if len(pieces.ids) > count:
        lost = next((p for p in pieces.places[count:] if p is not None), (0, 0))
        warnings.append(
            f"The prompt has {len(pieces.ids)} tokens but only {count} fit; everything from "
            f"'{prompt[slice(*lost)]}' on is not seen by the model."
        )
    rows = [
        Piece(place, _said(prompt, place), id, i + 1)
        for i, (id, place) in enumerate(zip(pieces.ids[:count], pieces.places[:count], strict=True))
    ]
    return TokenTable(encoder, length, tuple(rows), pieces.sure, tuple(warnings))


_REWRITTEN = "The tokenizer rewrote some characters of the prompt; words next to them were placed by matching."
_SEARCHED = (
    "The prompt was split differently from what was expected; its words were placed by searching for their ids, so "
    "check the token table."
)

_UNEQUAL = (
    "An embedding does not fit both text encoders, so the words behind it stand at different positions in them; use an "
    "embedding that was made for this model."
)


@dataclass(frozen=True)
class _Expected:
    """One token that the replay expects; ``id`` -1 is a vector of an embedding of the width given."""

    id: int
    span: Span | None
    width: int = 0


def _align_encoder(prompt: str, name: str, tokenizer: Any, chunks: Sequence[Any], width: int) -> TokenTable:
    real = [[entry[0] for entry in chunk] for chunk in chunks]
    starts = list(accumulate((len(c) for c in real), initial=0))
    for dialect in _dialects(tokenizer):
        groups, sure = _expected_groups(prompt, tokenizer, dialect)
        places = _lay_out([len(g) for g in groups], tokenizer)
        flat = [token for group in groups for token in group]
        if places is not None and _agrees(flat, places, real, tokenizer):
            pieces = _pieces(prompt, flat, places, starts, width)
            warnings = () if sure else (_REWRITTEN,)
            return TokenTable(name, starts[-1], pieces, sure, warnings)
    log.warning(_SEARCHED)
    stream = [(starts[c] + i, x) for c, chunk in enumerate(real) for i, x in _after_drops(chunk, width)]
    return TokenTable(name, starts[-1], _search(prompt, tokenizer.tokenizer, stream), False, (_SEARCHED,))


def _dialects(tokenizer: Any) -> list[Dialect]:
    weights = not getattr(tokenizer, "disable_weights", False)
    return [Dialect(modern, on) for on in (weights, not weights) for modern in (True, False)]


def _expected_groups(prompt: str, tokenizer: Any, dialect: Dialect) -> tuple[list[list[_Expected]], bool]:
    lookup = embedding_lookup(tokenizer)
    groups, sure = [], True
    for group in split_prompt(prompt, dialect, lookup):
        if group.vectors:
            groups.append([_Expected(-1, _span_of(group.chars), group.width)] * group.vectors)
            continue
        pieces = clip_pieces(tokenizer.tokenizer, group.text)
        sure = sure and pieces.sure
        groups.append(_expect(group, pieces))
    return groups, sure


def _expect(group: Group, pieces: Pieces) -> list[_Expected]:
    spans = [None if p is None else _span_of(group.chars[p[0] : p[1]]) for p in pieces.places]
    return [_Expected(id, span) for id, span in zip(pieces.ids, spans, strict=True)]


def _span_of(chars: Iterable[Char]) -> Span | None:
    indices = [i for _, i in chars if i is not None]
    return (min(indices), max(indices) + 1) if indices else None


def _lay_out(sizes: Sequence[int], tokenizer: Any) -> list[tuple[int, int]] | None:
    """(chunk, offset) of every token: a group of 8 or more is cut where a chunk is full, a smaller one moves whole."""
    length, large = int(tokenizer.max_length), int(tokenizer.max_word_length)
    first = int(tokenizer.start_token is not None)
    room = length - int(tokenizer.end_token is not None)
    if room - first < large:
        return None
    places: list[tuple[int, int]] = []
    chunk, used = 0, first
    for size in sizes:
        left = size
        while left:
            take = left if used + left <= room else (room - used if size >= large else 0)
            places += [(chunk, used + i) for i in range(take)]
            used, left = used + take, left - take
            if left:
                chunk, used = chunk + 1, first
    return places


def _agrees(
    flat: Sequence[_Expected], places: Sequence[tuple[int, int]], real: Sequence[Sequence[Any]], tokenizer: Any
) -> bool:
    """Whether the replay gives the real tokens, no more and no fewer: start, content, end, padding in every chunk."""
    if places and places[-1][0] >= len(real):
        return False
    content: list[list[_Expected]] = [[] for _ in real]
    for token, (chunk, _) in zip(flat, places, strict=True):
        content[chunk].append(token)
    before = [] if tokenizer.start_token is None else [tokenizer.start_token]
    after = [] if tokenizer.end_token is None else [tokenizer.end_token]
    for row, tokens in zip(real, content, strict=True):
        expected = [*before, *(token.id for token in tokens), *after]
        padding = [tokenizer.pad_token] * (len(row) - len(expected))
        if [int(x) if isinstance(x, numbers.Integral) else -1 for x in row] != expected + padding:
            return False
    return True


def _pieces(
    prompt: str, flat: Sequence[_Expected], places: Sequence[tuple[int, int]], starts: Sequence[int], width: int
) -> tuple[Piece, ...]:
    """Pieces at their final positions: vectors of a foreign width vanish and pull the rest of their chunk left."""
    out = []
    dropped: dict[int, int] = {}
    for token, (chunk, offset) in zip(flat, places, strict=True):
        if token.id < 0 and width and token.width != width:
            dropped[chunk] = dropped.get(chunk, 0) + 1
            continue
        position = starts[chunk] + offset - dropped.get(chunk, 0)
        out.append(Piece(token.span, _said(prompt, token.span), token.id, position))
    return tuple(out)


def _after_drops(chunk: Sequence[Any], width: int) -> Iterable[tuple[int, int]]:
    """(offset, id) of a chunk's tokens after ComfyUI has dropped embeddings of a foreign width; -1 for a vector."""
    offset = 0
    for actual in chunk:
        if isinstance(actual, numbers.Integral):
            yield offset, int(actual)
        elif width and actual.shape[-1] != width:
            continue
        else:
            yield offset, -1
        offset += 1


def _search(prompt: str, tokenizer: Any, stream: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Place words by matching their ids, in order, with the real ones. Only words found whole count."""
    cuts = clip_cuts(prompt)
    rows = [list(clip_pieces(tokenizer, prompt[a:b]).ids) for a, b in cuts]
    flat = [(n, k) for n, row in enumerate(rows) for k in range(len(row))]
    ids = [rows[n][k] for n, k in flat]
    matcher = SequenceMatcher(None, ids, [id for _, id in stream], autojunk=False)
    found: dict[int, dict[int, int]] = {}
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            n, k = flat[block.a + step]
            found.setdefault(n, {})[k] = stream[block.b + step][0]
    return tuple(
        Piece(cuts[n], _said(prompt, cuts[n]), rows[n][k], position)
        for n, at in sorted(found.items())
        if len(at) == len(rows[n])
        for k, position in sorted(at.items())
    )


def _said(prompt: str, span: Span | None) -> str:
    return "" if span is None else prompt[span[0] : span[1]]


def _cut_to_shorter(tables: dict[str, TokenTable]) -> dict[str, TokenTable]:
    """SDXL joins its encoders' outputs along the features and cuts them to the shorter one."""
    length = min(t.length for t in tables.values())
    agreed = len({tuple((p.span, p.position) for p in t.pieces if p.id >= 0) for t in tables.values()}) == 1
    out = {}
    for name, table in tables.items():
        kept = tuple(p for p in table.pieces if p.position < length)
        warnings = table.warnings if agreed else (*table.warnings, _UNEQUAL)
        if len(kept) < len(table.pieces):
            lost = table.pieces[len(kept)].text
            warnings += (f"The other text encoder is shorter; everything from '{lost}' on is cut off.",)
        out[name] = TokenTable(name, length, kept, table.exact, warnings)
    return out
