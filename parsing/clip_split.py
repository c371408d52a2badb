"""ComfyUI's prompt syntax with character positions kept: weights, escapes and embeddings.

A prompt travels through the host's splitter as text and loses where each character came from. Here the same rules run
on ``(character, index in the prompt)`` pairs. Two dialects differ: up to 0.3.64 an embedding begins after a space or a
line break, which is swallowed; later any white space will do, it stays, and ``<`` or ``[`` ends the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Char = tuple[str, int | None]
"""A character and its index in the prompt; ``None`` for one that the host put in."""

Chars = list[Char]

EMBEDDING = "embedding:"
_CLOSE, _OPEN = ("\0", "\1"), ("\0", "\2")


@dataclass(frozen=True)
class Dialect:
    """Which ComfyUI is replayed: ``modern`` embeddings (after 0.3.64), and whether ``(weights:1.2)`` mean anything."""

    modern: bool = True
    weights: bool = True


@dataclass(frozen=True)
class Group:
    """What ComfyUI tokenises in one go: either text, or ``vectors`` positions of an embedding.

    ``width`` is the size of the embedding's vectors; ``chars`` then is the name as the prompt writes it.
    """

    chars: tuple[Char, ...]
    vectors: int = 0
    width: int = 0

    @property
    def text(self) -> str:
        return text_of(self.chars)


@dataclass(frozen=True)
class Found:
    """What the host says of an embedding's name: its vectors (0 when there is no such file) and the text left over."""

    vectors: int
    width: int
    leftover: str


Lookup = Callable[[str], Found]


def text_of(chars: Chars | tuple[Char, ...]) -> str:
    """The bare text."""
    return "".join(c for c, _ in chars)


def split_prompt(prompt: str, dialect: Dialect, lookup: Lookup | None) -> list[Group]:
    """The groups that ComfyUI tokenises one by one, in order.

    Args:
        prompt: the raw prompt.
        dialect: which rules.
        lookup: asks the host for an embedding; ``None`` when it has no folder for them (then they are plain text).
    """
    chars = _escape([(c, i) for i, c in enumerate(prompt)])
    segments = list(_segments(chars)) if dialect.weights else [chars]
    groups: list[Group] = []
    for segment in segments:
        for piece in _split_at_embeddings(_unescape(segment), dialect.modern):
            if piece and lookup is not None and text_of(piece).startswith(EMBEDDING):
                groups.extend(_embedding(piece, dialect.modern, lookup))
            elif piece:
                groups.append(Group(tuple(piece)))
    return groups


def _escape(chars: Chars) -> Chars:
    """Hide escaped parentheses behind two control characters, so that they neither nest nor weigh."""
    out: Chars = []
    i = 0
    while i < len(chars):
        pair = text_of(chars[i : i + 2])
        if pair in ("\\(", "\\)"):
            code = _CLOSE if pair == "\\)" else _OPEN
            out += [(code[0], chars[i][1]), (code[1], chars[i + 1][1])]
            i += 2
        else:
            out.append(chars[i])
            i += 1
    return out


def _unescape(chars: Chars) -> Chars:
    out: Chars = []
    i = 0
    while i < len(chars):
        pair = (chars[i][0], chars[i + 1][0] if i + 1 < len(chars) else "")
        if pair in (_CLOSE, _OPEN):
            out.append((")" if pair == _CLOSE else "(", chars[i + 1][1]))
            i += 2
        else:
            out.append(chars[i])
            i += 1
    return out


def _segments(chars: Chars) -> Iterator[Chars]:
    """Stretches of one weight each. A stretch in balanced parentheses is opened, its ``:weight`` dropped, and again."""
    stack = [iter(_top_level(chars))]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif len(item) >= 2 and item[0][0] == "(" and item[-1][0] == ")":
            stack.append(iter(_top_level(_without_weight(item[1:-1]))))
        else:
            yield item


def _without_weight(chars: Chars) -> Chars:
    text = text_of(chars)
    colon = text.rfind(":")
    if colon <= 0:
        return chars
    try:
        float(text[colon + 1 :])
    except ValueError:
        return chars
    return chars[:colon]


def _top_level(chars: Chars) -> Iterator[Chars]:
    """Cut before a "(" and after a ")" at depth 0. A stray ")" makes the depth negative, as it does in the host."""
    item: Chars = []
    depth = 0
    for char in chars:
        if char[0] == "(":
            if depth == 0 and item:
                yield item
                item = []
            depth += 1
        item.append(char)
        if char[0] == ")":
            depth -= 1
            if depth == 0:
                yield item
                item = []
    if item:
        yield item


def _split_at_embeddings(chars: Chars, modern: bool) -> list[Chars]:
    text = text_of(chars)
    pieces, start, at = [], 0, text.find(EMBEDDING, 1)
    while at > 0:
        before = text[at - 1]
        if before.isspace() if modern else before in " \n" and at - 1 >= start:
            pieces.append(chars[start : at if modern else at - 1])
            start = at
        at = text.find(EMBEDDING, at + 1)
    pieces.append(chars[start:])
    return pieces


def _embedding(piece: Chars, modern: bool, lookup: Lookup) -> Iterator[Group]:
    """The embedding's vectors, when the host has it, and the rest of the piece as text."""
    body = piece[len(EMBEDDING) :]
    while body and body[0][0] == "\n":
        body = body[1:]
    while body and body[-1][0] == "\n":
        body = body[:-1]
    words = _words(body)
    if not words:
        return
    found = lookup(text_of(body))
    name, rest = words[0], _join(words[1:])
    if modern:
        cut = next((i for i, (c, _) in enumerate(name) if c in "<["), len(name))
        if cut < len(name):
            name, rest = name[:cut], name[cut:] + ([(" ", None), *rest] if rest else [])
    # A name with commas that is found only without them leaves its tail, cut by the host at the stripped length.
    cut = len(text_of(name).strip(","))
    leftover = rest
    if found.leftover != text_of(rest):
        leftover = [*name[cut:], (" ", None), *rest]
        name = name[:cut]
    if found.leftover != text_of(leftover):
        leftover = [(c, None) for c in found.leftover]
    if found.vectors:
        yield Group(tuple(piece[: len(EMBEDDING)] + name), found.vectors, found.width)
    if leftover:
        yield Group(tuple(leftover))


def _words(chars: Chars) -> list[Chars]:
    words: list[Chars] = []
    previous = " "
    for char in chars:
        if not char[0].isspace():
            if previous.isspace():
                words.append([])
            words[-1].append(char)
        previous = char[0]
    return words


def _join(words: list[Chars]) -> Chars:
    out: Chars = []
    for word in words:
        out += [(" ", None), *word] if out else word
    return out


def embedding_lookup(tokenizer: Any) -> Lookup | None:
    """How to ask this ComfyUI tokenizer for an embedding: its own method, so that the same files are found.

    ``None`` where it has no folder for them, or no such method.
    """
    ask = getattr(tokenizer, "_try_get_embedding", None)
    if ask is None or getattr(tokenizer, "embedding_directory", None) is None:
        return None

    def lookup(name: str) -> Found:
        embed, *others = ask(name)
        if embed is None:
            return Found(0, 0, others[-1])
        shape = tuple(embed.shape)
        return Found(1 if len(shape) == 1 else shape[0], shape[-1], others[-1])

    return lookup
