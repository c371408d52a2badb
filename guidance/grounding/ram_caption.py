"""Tag2Text's captions: the tags look at the picture, then a decoder writes, by beam search as published."""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from .ram import Tag2Text
from .tags import DATA

PAD, UNKNOWN, START, END = 0, 100, 101, 102
DECODE, ENCODE = 30522, 30523  # two marks that were added behind BERT's words
TAG_LENGTH = 40
PROMPT = "a picture of "
BEAMS, SHORTEST, LONGEST = 3, 10, 50


@cache
def words() -> dict[str, int]:
    """BERT's vocabulary (uncased): pieces of words to their numbers."""
    text = gzip.decompress((DATA / "bert_vocab.txt.gz").read_bytes()).decode("utf-8")
    return {word: number for number, word in enumerate(text.split("\n")[:30522])}


@cache
def _pieces() -> dict[int, str]:
    return {number: word for word, number in words().items()}


def encode(text: str) -> list[int]:
    """BERT's numbers for a text, without marks at its ends: lower case without accents, the longest known pieces."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if _is_mark(c) else c for c in plain)
    return [number for word in spaced.split() for number in _word(word)]


def _is_mark(char: str) -> bool:
    return (char.isascii() and not char.isalnum() and not char.isspace()) or unicodedata.category(char)[0] == "P"


def _word(word: str) -> list[int]:
    known, out, start = words(), list[int](), 0
    while start < len(word):
        lead = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if lead + word[start:end] in known)
        end = next(ends, None)
        if end is None:
            return [UNKNOWN]
        out.append(known[lead + word[start:end]])
        start = end
    return out


def decode(ids: Sequence[int]) -> str:
    """Text of BERT's numbers, marks left out."""
    pieces = [_pieces()[i] for i in ids if i in _pieces() and i not in (PAD, UNKNOWN, START, END, 103)]
    text = " ".join(pieces).replace(" ##", "")
    for loose in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(loose, loose.strip())
    return text


def tag_ids(tags: Sequence[str]) -> list[int]:
    """The tags of a picture as its encoder reads them: joined by "|", cut at 40 with the end mark, padded to 40."""
    ids = [ENCODE, *encode(" | ".join(tags))[: TAG_LENGTH - 2], END]
    return ids + [PAD] * (TAG_LENGTH - len(ids))


@torch.no_grad()
def captions(model: Tag2Text, features: Tensor, tags: Sequence[Sequence[str]]) -> list[str]:
    """A caption for each picture. features: (B, tokens, C) of ``ram.look``; tags: of each, in the list's order."""
    ids = torch.tensor([tag_ids(names) for names in tags], device=features.device)
    told = model.tag_encoder(ids, features, ids != PAD)
    start = [DECODE, *encode(PROMPT)]
    out = []
    for row in told:
        found = beam_search(_next_word(model, row), start, END, BEAMS, SHORTEST, LONGEST)
        out.append(decode(found)[len(PROMPT) :].strip())
    return out


def _next_word(model: Tag2Text, told: Tensor) -> Callable[[Tensor], Tensor]:
    def logs(ids: Tensor) -> Tensor:
        ids = ids.to(told.device)
        return model.text_decoder(ids, told.expand(len(ids), -1, -1))[:, -1].float().log_softmax(-1).cpu()

    return logs


def beam_search(
    logs: Callable[[Tensor], Tensor], start: Sequence[int], end: int, beams: int, shortest: int, longest: int
) -> list[int]:
    """The likeliest text by mean log-probability over its length, start included, end mark not.

    logs: ids (beams, N) -> log-probabilities of the next (beams, words); shortest, longest: length in ids, start
    included. Every step keeps the ``beams`` best open texts; the search ends when as many finished ones are no worse
    than any open one is now.
    """
    texts, sums = torch.tensor([list(start)] * beams), torch.full((beams,), -1e9)
    sums[0] = 0.0  # all beams are the same at first
    done: list[tuple[float, list[int]]] = []
    while texts.shape[1] < longest:
        step = logs(texts)
        if texts.shape[1] < shortest:
            step[:, end] = -torch.inf
        total, flat = (sums[:, None] + step).flatten().topk(2 * beams)
        rows, nexts = flat // step.shape[1], flat % step.shape[1]
        length, going = texts.shape[1], list[int]()
        for rank in range(2 * beams):
            if int(nexts[rank]) != end:
                going.append(rank)
            elif rank < beams:
                done.append((float(total[rank]) / length, texts[rows[rank]].tolist()))
        done = sorted(done, key=lambda item: -item[0])[:beams]
        if len(done) == beams and done[-1][0] >= float(total[0]) / length:
            return done[0][1]
        kept = torch.tensor(going[:beams])
        texts, sums = torch.cat([texts[rows[kept]], nexts[kept, None]], 1), total[kept]
    done += [(float(total) / texts.shape[1], text.tolist()) for total, text in zip(sums, texts, strict=True)]
    return max(done, key=lambda item: item[0])[1]
