"""JSON out of what language models write: fences, thoughts and prose off, then the usual slips mended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LONGEST = 200_000  # characters that are looked at
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null", "nan": "null", "infinity": "null"}
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "”": "”", "„": "“"}
_CLOSING = {"{": "}", "[": "]"}
_BARE = re.compile(r"[A-Za-z_][\w .-]*|[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_AFTER = re.compile(r"""\s*(?:[,:;}\]]|=>|\Z)|\s+(["'])[^"']*\1\s*[:,}\]]""")  # a comma may be forgotten
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """JSON that stood in a text; repaired: it was none before."""

    value: Any
    repaired: bool


def candidates(text: str) -> Iterator[Found]:
    """Every reading of a text as a JSON object or list: as it is first, mended last.

    Never raises: text that cannot be read has no candidates.
    """
    bodies = list(dict.fromkeys(_bodies(text[:LONGEST])))
    for body in bodies:
        value = _loads(body)
        if isinstance(value, (dict, list)):
            yield Found(value, False)
    for body in bodies:
        value = _loads(mend(body))
        if isinstance(value, (dict, list)):
            yield Found(value, True)


def without_thoughts(text: str) -> str:
    """What follows the last thought; a thought that never ends hides nothing."""
    plain = re.sub(r"<(think|thinking|reasoning)>.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
    return re.split(r"</(?:think|thinking|reasoning)>", plain, flags=re.IGNORECASE)[-1]


def _bodies(text: str) -> Iterator[str]:
    plain = without_thoughts(text).strip().lstrip("\ufeff")
    sources = [*(m[1] for m in _FENCE.finditer(plain)), plain]
    for source in sources:
        yield source.strip()
        for opening, closing in (("{", "}"), ("[", "]")):
            start, end = source.find(opening), source.rfind(closing)
            if start >= 0:
                if end > start:
                    yield source[start : end + 1]
                yield from _first_whole(source, start)
    for source in sources:
        starts = [i for i in (source.find("{"), source.find("[")) if i >= 0]
        if starts:
            yield source[min(starts) :]  # cut off: its end is made up by ``mend``


def _first_whole(source: str, start: int) -> Iterator[str]:
    """The first object or list that is whole, where more brackets follow in the prose behind."""
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(source, start)
    except (ValueError, RecursionError):
        return
    yield source[start:end]


def _loads(body: str) -> Any:
    try:
        return json.loads(body, strict=False)
    except (ValueError, RecursionError):
        return None


def mend(text: str) -> str:
    """The same with double quotes, JSON's literals, no comments, one comma between items, and brackets closed.

    Text after the first whole object or list is dropped. The result need not be JSON.
    """
    return _Mender(text).run()


class _Mender:
    """Reads tokens and writes them as JSON; ``open`` holds the closing brackets that are still to come."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.out: list[str] = []
        self.open: list[str] = []

    def run(self) -> str:
        while self.at < len(self.text):
            self._step(self.text[self.at])
            if self.out and not self.open:
                break
        self._trim()
        return "".join([*self.out, *reversed(self.open)])

    def _step(self, char: str) -> None:
        if char in _CLOSING:
            self._value(char)
            self.open.append(_CLOSING[char])
            self.at += 1
        elif not self.open or char.isspace():
            self.at += 1
        elif char in "}]":
            self._close(char)
        elif char in ",;":
            self._comma()
        elif char == ":" or self.text.startswith("=>", self.at):
            self.out += [":"] if self.out[-1] != ":" else []
            self.at += 1 if char == ":" else 2
        elif char in _QUOTES:
            self._value(json.dumps(self._string(char), ensure_ascii=False))
        elif comment := _COMMENT.match(self.text, self.at):
            self.at = comment.end()
        elif bare := _BARE.match(self.text, self.at):
            self.at = bare.end()
            self._value(_bare(bare[0].strip()))
        else:
            self.at += 1

    def _value(self, piece: str) -> None:
        """A value or key; where the comma before it was forgotten, it is put there."""
        if self.out and self.out[-1] not in (",", ":", "{", "["):
            self.out.append(",")
        self.out.append(piece)

    def _comma(self) -> None:
        self.at += 1
        if self.out[-1] not in (",", ":", "{", "["):
            self.out.append(",")

    def _close(self, char: str) -> None:
        self.at += 1
        if char not in self.open:
            return
        while True:
            self._trim()
            closing = self.open.pop()
            self.out.append(closing)
            if closing == char:
                return

    def _trim(self) -> None:
        """Drop a comma before a bracket; a key without a value gets null."""
        while self.out and self.out[-1] == ",":
            self.out.pop()
        if self.out and self.out[-1] == ":":
            self.out.append("null")
        elif self.open and self.open[-1] == "}" and len(self.out) > 1 and self.out[-2] in ("{", ","):
            self.out += [":", "null"] if self.out[-1].startswith('"') else []

    def _string(self, quote: str) -> str:
        """A string in quotes of any kind; a quote that closes is followed by what may follow a string."""
        end, pieces = _QUOTES[quote], list[str]()
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\" and self.at + 1 < len(self.text):
                piece, self.at = _escape(self.text, self.at)
                pieces.append(piece)
                continue
            self.at += 1
            if char in (end, quote) and _AFTER.match(self.text[self.at : self.at + 80]):
                break
            if char == "\n" and re.match(r"""\s*["'}\]]""", self.text[self.at : self.at + 40]):
                break  # the closing quote was forgotten
            pieces.append(char)
        return "".join(pieces)


def _escape(text: str, at: int) -> tuple[str, int]:
    """A character after a backslash, and the place behind it."""
    code = text[at + 1]
    if code == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", text[at + 2 : at + 6]):
        return chr(int(text[at + 2 : at + 6], 16)), at + 6
    return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(code, code), at + 2


def _bare(word: str) -> str:
    """A word without quotes: a literal, a number, or a string."""
    low = word.lower().lstrip("+-")
    if low in _WORDS:
        return _WORDS[low]
    number = word.lstrip("+")
    number = re.sub(r"^(-?)\.", r"\g<1>0.", number)
    number = re.sub(r"\.(?=$|[eE])", "", number)
    try:
        float(number)
    except ValueError:
        return json.dumps(word, ensure_ascii=False)
    return re.sub(r"^(-?)0+(?=\d)", r"\1", number)
