"""Negatives by a language model behind an OpenAI-compatible address; its captions pass the same filters as the rules'.

The model writes better English than the rules, and is wrong more often: it adds, drops, replaces where it should swap,
takes a synonym for a change, or mends the caption. What does not hold is told to it once, with the reason; then the
rules' own captions have to do. Answers are kept by the hash of what was asked.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..grounding.verdicts_judge import JudgeError
from ..grounding.verdicts_repair import candidates as readings
from .negative_filters import OPS, reason_against, repaired
from .negatives import Negative, _place

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]
Ask = Callable[[Messages], str]
MOST = 3
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "negatives": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "op": {"type": "string", "enum": list(OPS)},
                    "changed": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["text", "op", "changed"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["negatives"],
    "additionalProperties": False,
}
_TASK = (
    "You write captions that a picture does NOT match. Given its true caption, answer with JSON "
    '{"negatives": [{"text": ..., "op": ..., "changed": [before, after]}]} of at most 3. '
    "The ops are: swap_attr (two things exchange their properties), swap_role (who acts and who is acted upon change "
    "places), swap_rel (two things around a place word change places), swap_count (two numbers change places), "
    "swap_verb (two actions change places), replace_attr, replace_obj, replace_rel (one word gives way to one of the "
    "same kind that is not in the caption). Swaps use exactly the same words: different who, where or which. Never a "
    "synonym, never a caption that means the same, never added or dropped words. If nothing can be swapped, replace."
)


@dataclass
class Answers:
    """Answers by hash, in a folder; in memory only where there is none."""

    folder: Path | None = None
    held: dict[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str | None:
        """What is kept, or None."""
        if key not in self.held and self.folder is not None and (self.folder / f"{key}.txt").is_file():
            self.held[key] = (self.folder / f"{key}.txt").read_text(encoding="utf-8")
        return self.held.get(key)

    def put(self, key: str, text: str) -> None:
        """Keep an answer."""
        self.held[key] = text
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            half = self.folder / f"{key}.tmp"
            half.write_text(text, encoding="utf-8")
            half.replace(self.folder / f"{key}.txt")


def endpoint_ask() -> tuple[Ask, str]:
    """The endpoint that the environment names (see docs/verdicts.md), and its model's name."""
    from ..grounding.llm_http import chat, endpoint_from_environment

    endpoint = endpoint_from_environment()
    return chat(endpoint, schema=SCHEMA), endpoint.model


def llm_negatives(caption: str, ask: Ask, answers: Answers | None = None, model: str = "") -> list[Negative]:
    """Everything that the model offers, with the reason against what does not hold; asked again once where nothing
    holds. Empty where the model cannot be reached or answers nothing that can be read.
    """
    kept = answers or Answers()
    messages = [{"role": "system", "content": _TASK}, {"role": "user", "content": f"Caption: {caption}"}]
    found: list[Negative] = []
    for _ in range(2):
        reply = _asked(messages, ask, kept, model)
        if reply is None:
            return found
        offered = judged(caption, reply)
        found += [n for n in offered if n.text.lower() not in {f.text.lower() for f in found}]
        if any(not n.reason for n in found):
            break
        told = "; ".join(f"'{n.text}': {REASONS[n.reason]}" for n in offered) or "the answer held no captions"
        messages = [
            *messages,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": f"Again, please. {told}."},
        ]
    return found


REASONS = {
    "empty": "it is empty",
    "same": "it is the caption itself",
    "compound": "it breaks the name of a thing or 'a couple of'",
    "article": "a and an are wrong",
    "words": "it adds, drops or changes words that a swap keeps (a replacement changes one or two)",
    "synonym": "it takes a synonym, so it means the same",
    "meaning": "it means the same",
    "broken": "it no longer says who does what to whom",
    "implausible": "no picture shows it",
    "op": "its op is none of those named",
}


def _asked(messages: Messages, ask: Ask, kept: Answers, model: str) -> str | None:
    key = hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()[:32]
    reply = kept.get(key)
    if reply is None:
        try:
            reply = ask(messages)
        except JudgeError as error:
            logger.warning("no negatives by a language model: %s", error)
            return None
        kept.put(key, reply)
    return reply


def judged(caption: str, reply: str) -> list[Negative]:
    """The captions of an answer, at most three, each with the reason against it; none where it can't be read."""
    for found in readings(reply):
        rows = found.value.get("negatives") if isinstance(found.value, dict) else found.value
        if isinstance(rows, list):
            return [_one(caption, row) for row in rows[:MOST] if isinstance(row, dict)]
    return []


def _one(caption: str, row: dict[str, Any]) -> Negative:
    text, op = row.get("text"), row.get("op")
    changed = row.get("changed")
    pair = tuple(map(str, changed[:2])) if isinstance(changed, list) and len(changed) >= 2 else ("", "")
    text = repaired(text.strip()) if isinstance(text, str) else ""
    if op not in OPS:
        return Negative(text, str(op), (pair[0], pair[1]), reason="op")
    reason = reason_against(caption, text, op)
    return Negative(text, op, (pair[0], pair[1]), _place(text, pair[1]), f"{op} by a language model", reason)


def with_model(rules: Sequence[Negative], model: Sequence[Negative], limit: int) -> list[Negative]:
    """Both ways together: what holds of the model's captions first (better English), then the rules' (certain)."""
    out: dict[str, Negative] = {}
    for n in (*model, *rules):
        if not n.reason:
            out.setdefault(n.text.lower(), n)
    return list(out.values())[:limit]
