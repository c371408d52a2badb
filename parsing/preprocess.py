"""From a raw prompt to sentences of words, every word with its place in the prompt.

All masking keeps the length, so that offsets stay offsets into the raw prompt: weights ``(x:1.2)``, escapes, embeddings,
LoRA tags, quotes, BREAK, MidJourney flags. What names no thing (style tags, artists, "a photo of") is taken out and listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import words as w
from .hypergraph import Span


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
        for piece in _strip_style(sentence, prompt, out):
            merged = _merge_prepositions(piece)
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
        elif match.lastgroup in ("flag", "lora", "embedding"):
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
            if kind == "word" and masked[end : end + 3].lower().replace("’", "'") == "n't":
                pass
            elif kind == "word" and re.match(r"(?i)n['’]t(?!\w)", masked[end - 1 : end + 2]) and end - start > 2:
                end -= 1
                at = end
                text = prompt[start:end]
            if is_latin(text):
                sentences[-1].append(Word(text, ((start, end),)))
    return [s for s in sentences if s]


def is_latin(text: str) -> bool:
    """Whether a word is written in Latin letters, digits or signs."""
    return all(ord(c) < 0x250 or 0x1E00 <= ord(c) < 0x1F00 or 0x300 <= ord(c) < 0x370 or not c.isalpha() for c in text)


# ---------------------------------------------------------------------------------------------- style and media


def _strip_style(sentence: list[Word], prompt: str, out: Prepared) -> list[list[Word]]:
    """Cut style segments out of a sentence; returns the pieces that are left."""
    pieces: list[list[Word]] = [[]]
    segments = _segments(sentence)
    for segment in segments:
        body = [word for word in segment if word.text != ","]
        if body and is_style([word.low for word in body], [word.text for word in body]):
            _drop(body, prompt, out)
            pieces[-1] += segment[:1] if segment[0].text == "," else []
            continue
        kept = _strip_tail(segment, prompt, out)
        kept = _strip_medium(kept, prompt, out)
        pieces[-1] += kept
    return [p for p in pieces if any(word.text != "," for word in p)]


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


def is_style(low: list[str], raw: list[str]) -> bool:
    """Whether the words of one comma segment only say how the picture is made."""
    while low and low[0] in ("and", "with", "in", "a", "an", "the"):
        if low[0] in ("with", "in", "a", "an", "the") and not _style_phrase(low[1:], raw[1:]):
            return False
        low, raw = low[1:], raw[1:]
    return bool(low) and _style_phrase(low, raw)


def _style_phrase(low: list[str], raw: list[str]) -> bool:
    if not low:
        return False
    text = " ".join(low)
    if (
        low[0] == "by"
        and len(low) > 1
        and (all(r[0].isupper() or r in ("and", "van", "de", "da", "von") for r in raw[1:]) or len(low) <= 3)
    ):
        return "the" not in low and "a" not in low
    if re.match(
        r"(art(work)?|illustration|painting|photo|photograph|photography|drawing|concept art|style|inspired|directed|painted|drawn|shot|illustrated|designed) (of|by|on|with|in the style of) [\w ]+$",
        text,
    ):
        return low[-2] != "of" and (
            low[0] not in ("photo", "photograph", "painting", "drawing", "illustration") or low[1] != "of"
        )
    if text in w.STYLE_PHRASES:
        return True
    if re.match(
        r"(in the style of|in style of|style of|trending on|featured on|shot on|shot with|taken with|taken on|inspired by|rendered in|made in|made with|rule of thirds|depth of field|award winning|unreal engine|octane render|(oil|acrylic|ink|watercolou?r|pencil|charcoal|pastel) on (canvas|paper|panel|wood)$)\b",
        text,
    ):
        return True
    if all(
        word in w.STYLE_WORDS
        or word.replace("_", " ") in w.STYLE_WORDS
        or re.fullmatch(r"\d+(k|mm|p|fps)|f/?\d(\.\d)?|iso\d*|score_\w+", word)
        for word in low
    ):
        return any(word not in w.STYLE_NEED_COMPANY for word in low)
    if (
        low[-1] in w.STYLE_HEADS
        and len(low) <= 4
        and not any(word in w.PREPOSITIONS or word in w.DETERMINERS or word in w.POSSESSIVES for word in low)
    ):
        return _style_head_alone(low)
    return False


def _style_head_alone(low: list[str]) -> bool:
    """Style by its last word: 'soft morning light', but not 'street light' or 'red lights'."""
    head = low[-1]
    if head in ("light", "lights", "glow", "shadows", "film", "engine", "glow", "view", "contest", "focus"):
        soft = {"soft", "warm", "natural", "morning", "evening", "golden", "dramatic", "ambient", "volumetric", "cinematic",
                "studio", "dim", "harsh", "bright", "diffused", "backlit", "beautiful", "moody", "rim", "low", "cold",
                "sharp", "selective", "shallow", "dappled", "deep", "long", "unreal", "ethereal", "sunset", "hard"}  # fmt: skip
        return (len(low) > 1 and low[-2] in soft | {"sun", "day", "afternoon"}) or any(word in soft for word in low[:-1])
    if head in ("colors", "colours", "details", "detail", "texture", "textures", "lens", "portrait", "shot", "art", "tones", "hues",
                "effect", "effects", "angle", "palette", "pattern"):  # fmt: skip
        return len(low) > 1
    return head not in ("contrast", "winner", "beauty", "grain") or len(low) > 1


_TAIL = re.compile(
    r"^(in the style of|in style of|by|painted by|photographed by|illustrated by|drawn by|art by|trending on|rendered in|in)$"
)


def _strip_tail(segment: list[Word], prompt: str, out: Prepared) -> list[Word]:
    """Take '... in the style of X' and '... by Claude Monet' off the end of a segment."""
    low = [word.low for word in segment]
    for i in range(1, len(low)):
        if (
            low[i : i + 4] == ["in", "the", "style", "of"]
            or low[i : i + 3] == ["in", "style", "of"]
            or low[i : i + 2]
            in (["trending", "on"], ["art", "by"], ["painted", "by"], ["photographed", "by"], ["illustrated", "by"])
        ):
            if low[i] in ("painted", "photographed", "illustrated") and not _names(segment[i + 2 :]):
                continue
            _drop(segment[i:], prompt, out)
            return segment[:i]
        if (
            low[i] == "by"
            and _names(segment[i + 1 :])
            and any(word in w.MEDIA for word in low[:i])
            and not low[i - 1].endswith(("ed", "en"))
        ):
            _drop(segment[i:], prompt, out)
            return segment[:i]
        if low[i] == "in" and i + 2 < len(low) and low[-1] == "style":
            _drop(segment[i:], prompt, out)
            return segment[:i]
    return segment


def _names(words: list[Word]) -> bool:
    return len(words) > 1 and all(
        word.text[0].isupper() or word.low in ("and", "van", "de", "da", "von", "der") for word in words
    )


def _strip_medium(segment: list[Word], prompt: str, out: Prepared) -> list[Word]:
    """Take 'a wide cinematic shot of' off the front of a segment."""
    lead = 1 if segment and segment[0].text == "," else 0
    low = [word.low for word in segment[lead:]]
    for i, word in enumerate(low[:14]):
        if word in ("of", "depicting", "showing", "featuring") and i > 0:
            before = low[:i]
            while before[:1] and (before[:2] in (["this", "is"], ["it", "is"], ["here", "is"], ["there", "is"])):
                before = before[2:]
            if before[-2:] == ["close", "up"]:
                before[-2:] = ["close-up"]
            if before and before[-1] in w.MEDIA and i + 1 < len(low) and _medium_words(before[:-1]):
                _drop(segment[lead : lead + i + 1], prompt, out)
                return segment[:lead] + _strip_medium(segment[lead + i + 1 :], prompt, out)
            return segment
        if (word in w.PREPOSITIONS and word not in ("in", "with", "on", "by", "up", "from")) or (word in w.BE and i != 1):
            return segment
    return segment


def _medium_words(words: list[str]) -> bool:
    """Whether the words before 'photo' describe the photo rather than a scene that ends in one."""
    if any(word in ("a", "an", "the", "his", "her", "their") for word in words[1:]):
        return False
    return not any(
        word.endswith("ing")
        and word not in w.STYLE_WORDS
        and word not in ("stunning", "amazing", "charming", "breathtaking", "striking", "captivating")
        for word in words
    ) and not any(word in ("holding", "in", "with", "on", "by", "from") for word in words)


# ---------------------------------------------------------------------------------------------- compound prepositions

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


def _merge_prepositions(words: list[Word]) -> list[Word]:
    low = [word.low if not word.quote else "" for word in words]
    out, i = [], 0
    while i < len(words):
        n = (
            compound_at(low, i)
            or idiom_at(low, i)
            or (2 if tuple(low[i : i + 2]) in (("each", "other"), ("one", "another")) else 0)
        )
        if n:
            parts = tuple(part for word in words[i : i + n] for part in word.parts)
            out.append(Word(" ".join(low[i : i + n]), parts))
            i += n
        else:
            out.append(words[i])
            i += 1
    return out
