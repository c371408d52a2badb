"""A small bench directory, and answers to its page as a browser would save them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interplay.guidance.bench import results, study, study_key

METHODS = ("CONFORM", "SHYI")


def png(colour: tuple[int, int, int], text: str = "", size: int = 8) -> bytes:
    """A plain square that may tell its method in a text chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    said = chunk(b"tEXt", b"method\0" + text.encode()) if text else b""
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    lines = (b"\0" + bytes(colour) * size) * size
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + said + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def write_bench(folder: Path, methods: tuple[str, ...] = METHODS, prompts: int = 4, seeds: int = 3) -> Path:
    """Every method's picture of every prompt and seed has a colour of its own."""
    results.write_settings(folder, {"bench": "shyi", "methods": list(methods), "sets": ["acts"]})
    for p in range(prompts):
        for s in range(seeds):
            for m, method in enumerate(methods):
                file = results.picture_file("acts", p, 4913 + s, method)
                colour = (40 * p + 20, 50 * s + 20, 80 * m + 20)
                results.write_whole(folder / file, png(colour, method))
                row = results.Row(method, "acts", f"cat <{p}> chasing mouse & dog", 4913 + s, extra={"file": file})
                results.append_row(folder, row)
    return folder


def page_data(html: str) -> dict[str, Any]:
    """What the page's script reads."""
    start = html.index('<script type="application/json" id="study">') + len(
        '<script type="application/json" id="study">'
    )
    return dict(json.loads(html[start : html.index("</script>", start)]))


def answer(
    html: str, rater: str, choose: Callable[[dict[str, Any], str, str], str], answers: int | None = None
) -> dict[str, Any]:
    """A saved file. choose: (pair of the key, question, method on the left) -> the method to choose."""
    shown, dice = page_data(html), random.Random(rater)
    key = study_key.unseal(shown["key"])
    out = []
    for pair in dice.sample(shown["pairs"], len(shown["pairs"])):
        left, right = dice.sample(pair["pictures"], 2)
        for question, _ in study.QUESTIONS:
            wanted = choose(key["pairs"][pair["id"]], question, key["pictures"][left])
            choice = left if key["pictures"][left] == wanted else right
            out.append(
                {
                    "pair": pair["id"],
                    "question": question,
                    "left": left,
                    "right": right,
                    "choice": choice,
                    "seconds": 3.0,
                }
            )
    asked = len(out)
    out = out[:answers]
    return {
        "format": "interplay-study-answers-1",
        "study": shown["id"],
        "rater": rater,
        "asked": asked,
        "complete": len(out) == asked,
        "questions": shown["questions"],
        "answers": out,
        "key": shown["key"],
    }
