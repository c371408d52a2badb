"""From a raw prompt to sentences of words, every word with its place in the prompt.

All masking keeps the length, so that offsets stay offsets into the raw prompt: weights ``(x:1.2)``, escapes,
embeddings, LoRA tags, quotes, BREAK, MidJourney flags. What names no thing (style tags, artists, "a photo of") is taken
out and listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import words as w
from .hypergraph import Span
from .style import is_style, medium_end, tail_start


@dataclass(frozen=True)
class Word:
    """A token: a word, a compound preposition (several ``parts``), a comma or an opaque quote."""

    text: str
    parts: tuple[Span, ...]
    quote: bool = False
    low: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        low = self.text.lower()
        object.__setattr__(self, "low", w.TYPOS.get(low, low))

    @property
    def span(self) -> Span:
        return self.parts[0][0], self.parts[-1][1]


@dataclass
class Prepared:
    """Sentences of words, and the stretches of the prompt that are not content with their offsets."""

    sentences: list[list[Word]] = field(default_factory=list)
    not_content: list[tuple[Span, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


_OPAQUE = re.compile(
    r"(?P<lora><[A-Za-z_]+:[^<>\n]*>)"
    r"|(?P<escape>\\\((?:[^()\\]|\\(?![()]))*\\\))"
    r"|(?P<embedding>(?<![\w])embedding:[^\s,()\[\]]+)"
    r"|(?P<flag>(?<!\S)(?:--[a-zA-Z]\w*(?:[ =](?!--)[^\s,]+)?)(?:\s+--[a-zA-Z]\w*(?:[ =](?!--)[^\s,]+)?)*)"
    r"|(?P<url>https?://\S+)"
    r"|(?P<break>\bBREAK\b)"
)
_QUOTES = re.compile(
    r"\"(?P<a>[^\"\n]{1,200})\"|“(?P<b>[^“”\n]{1,200})”|«(?P<c>[^«»\n]{1,200})»|„(?P<e>[^“”„\n]{1,200})[“”]"
    r"|(?<![\w'’‘)])['‘](?P<d>[^'‘’\n,]{1,80}(?:['’](?=\w)[^'‘’\n,]{0,80})*)['’](?!\w)"
)
_WEIGHT = re.compile(r":\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)\s*(?=[)\]])")
_TOKEN = re.compile(
    r"(?P<poss>['’]s(?!\w)|(?<=s)['’](?!\w))"
    r"|(?P<neg>n['’]t(?!\w))"
    r"|(?P<word>[fF]/\d+(?:\.\d+)?|w/o(?!\w)|w/(?=\s)|\d+(?:[.,:/]\d+)+\w*|[^\W_]+(?:[-‐‑_][^\W_]+|['’](?!s(?!\w)|t(?!\w))[^\W_]+|\.(?=[A-Za-z]\.)[A-Za-z])*)"
    r"|(?P<end>[.!?;\n|:…]+|\s[-–]{1,3}\s|[—])"
    r"|(?P<comma>[,、，/])|(?P<and>[&+])"
)
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|prof|jr|sr|vs|no|mt|feat|approx)|\b[A-Z])$", re.IGNORECASE)


def prepare(prompt: str) -> Prepared:
    """Split a prompt into sentences of words; offsets are those of ``prompt``."""
    out = Prepared()
    masked, quotes, breaks = _mask(prompt, out)
    for sentence in _tokenize(masked, prompt, quotes, breaks):
        merged = _merge(_strip_style(sentence, prompt, out))
        if any(word.text != "," for word in merged):
            out.sentences.append(merged)
    out.not_content.sort()
    return out


def _mask(prompt: str, out: Prepared) -> tuple[str, dict[int, Span], set[int]]:
    chars = list(prompt)
    breaks: set[int] = set()
    for match in _OPAQUE.finditer(prompt):
        out.not_content.append((match.span(), match.group()))
        start, end = match.span()
        chars[start:end] = " " * (end - start)
        if match.lastgroup == "break":
            chars[start] = "\n"
        elif match.lastgroup in ("flag", "lora"):
            breaks.add(start)
            chars[start] = ","
    text = "".join(chars)
    quotes = {}
    for match in _QUOTES.finditer(text):
        name = str(match.lastgroup)
        start, end = match.span(name)
        if any(c.isalnum() for c in match.group(name)) and not _looks_plain(match.group(name)):
            quotes[match.start()] = (start, end)
            chars[match.start() : match.end()] = " " * (match.end() - match.start())
            chars[match.start()] = "\0"
    text = "".join(chars)
    for match in list(_WEIGHT.finditer(text)):
        text = text[: match.start()] + " " * (match.end() - match.start()) + text[match.end() :]
    text = re.sub(r"\\[()\[\]{}]", "  ", text)
    text = re.sub(r"[()\[\]{}<>*_~\"“”«»^`#@]", " ", text)
    return text, quotes, breaks


def _looks_plain(text: str) -> bool:
    """A quoted stretch that is the whole prompt rather than writing in the picture."""
    return len(text.split()) > 12


def _tokenize(masked: str, prompt: str, quotes: dict[int, Span], breaks: set[int]) -> list[list[Word]]:
    sentences: list[list[Word]] = [[]]
    at = 0
    while at < len(masked):
        if masked[at] == "\0":
            span = quotes[at]
            sentences[-1].append(Word(prompt[span[0] : span[1]], (span,), quote=True))
            at += 1
            continue
        match = _TOKEN.match(masked, at)
        if match is None:
            at += 1
            continue
        at = match.end()
        start, end = match.span()
        kind = match.lastgroup
        if kind == "end":
            continued = not match.group().strip() and sentences[-1] and sentences[-1][-1].text == ","
            if not continued and not (match.group() == "." and _ABBREVIATION.search(masked[:start])):
                sentences.append([])
        elif kind == "comma":
            sentences[-1].append(Word(",", ((start, end),)))
        else:
            text = prompt[start:end]
            if kind == "word" and re.match(r"(?i)n['’]t(?!\w)", masked[end - 1 : end + 2]) and end - start > 2:
                end -= 1
                at = end
                text = prompt[start:end]
            if is_latin(text):
                sentences[-1].append(Word(text, ((start, end),)))
    return [s for s in sentences if s]


def is_latin(text: str) -> bool:
    """Whether a word is written in Latin letters, digits or signs."""
    return all(ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00 or 0x300 <= ord(c) < 0x370 or not c.isalpha() for c in text)


def _strip_style(sentence: list[Word], prompt: str, out: Prepared) -> list[Word]:
    """Cut style segments, media and artists out of a sentence; commas stay as borders."""
    kept: list[Word] = []
    for segment in _segments(sentence):
        comma, body = (segment[:1], segment[1:]) if segment and segment[0].text == "," else ([], segment)
        low, raw = [word.low for word in body], [word.text for word in body]
        kept += comma
        if is_style(low, raw):
            _drop(body, prompt, out)
            continue
        end = tail_start(low, raw)
        if end is not None:
            _drop(body[end:], prompt, out)
            body = body[:end]
        while start := medium_end([word.low for word in body]):
            _drop(body[:start], prompt, out)
            body = body[start:]
        kept += body
    return kept


def _segments(sentence: list[Word]) -> list[list[Word]]:
    """Comma-delimited segments; every segment but the first begins with its comma."""
    segments: list[list[Word]] = [[]]
    for word in sentence:
        if word.text == "," and not word.quote:
            segments.append([])
        segments[-1].append(word)
    return segments


def _drop(words: list[Word], prompt: str, out: Prepared) -> None:
    span = (words[0].span[0], words[-1].span[1])
    out.not_content.append((span, prompt[span[0] : span[1]]))


_COMPOUNDS: dict[str, list[tuple[str, ...]]] = {}
for _phrase in sorted(w.COMPOUND_PREPOSITIONS, key=lambda p: -len(p.split())):
    _COMPOUNDS.setdefault(_phrase.split()[0], []).append(tuple(_phrase.split()))


IDIOMS = {phrase: tuple(phrase.split()) for phrase in w.IDIOMS}


def idiom_at(low: list[str], i: int) -> int:
    """Length in words of the adverbial idiom that begins at ``i``, such as "hand in hand"; 0 when there is none."""
    return max((len(p) for p in IDIOMS.values() if p[0] == low[i] and tuple(low[i : i + len(p)]) == p), default=0)


def compound_at(low: list[str], i: int) -> int:
    """Length in words of the compound preposition that begins at ``i``; 0 when there is none."""
    for phrase in _COMPOUNDS.get(low[i], ()):
        if tuple(low[i : i + len(phrase)]) == phrase and len(phrase) + i < len(low):
            return len(phrase)
    return 0


def _merge(words: list[Word]) -> list[Word]:
    """Make one word of every compound preposition and idiom."""
    low = [word.low if not word.quote else "" for word in words]
    out, i = [], 0
    while i < len(words):
        each_other = tuple(low[i : i + 2]) in (("each", "other"), ("one", "another"))
        n = compound_at(low, i) or idiom_at(low, i) or 2 * each_other
        if n:
            parts = tuple(part for word in words[i : i + n] for part in word.parts)
            out.append(Word(" ".join(low[i : i + n]), parts))
            i += n
        else:
            out.append(words[i])
            i += 1
    return out
