"""Verdicts on tags: which things found in a picture its prompt asks for, and in which words.

After "RealignDiff", the local dense caption stage: an object gets a score s of 2 (certain), 0.5 (may appear) or 0
(unlikely) and a local phrase; both steer the re-weighting of attention (Eq. 6-10, see ``guidance.modulation``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InterplayError
from ...parsing.hypergraph import Hypergraph

CERTAIN, POSSIBLE, UNLIKELY = 2.0, 0.5, 0.0
SCORES: Mapping[str, float] = {"certain": CERTAIN, "possible": POSSIBLE, "unlikely": UNLIKELY}
STATUSES = ("rules", "llm", "repaired", "retry", "pasted")
"""Where verdicts come from; a status may go on after a colon, with the reason: "rules: the server did not answer"."""


@dataclass(frozen=True)
class TagVerdict:
    """What the prompt says of one tag.

    tag: as it was given; score: 2 certain, 0.5 possible, 0 unlikely; phrase: the words of the prompt that it answers to
    ("red book"), without weights and brackets, "" if none; reason: one short clause for people; others: further phrases
    of the prompt that answer to it as well ("yellow book"); description: how a language model would have it look, in at
    most twelve words, "" by rule.
    """

    tag: str
    score: float
    phrase: str = ""
    reason: str = ""
    others: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.score) or self.score < 0:
            raise InterplayError(f"The verdict on '{self.tag}' is {self.score}; use 2, 0.5 or 0.")


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on all tags of a picture, in their order; missing: phrases of the prompt that no tag answers to; status:
    see ``STATUSES``; raw: what the judge wrote, "" for rules.
    """

    items: tuple[TagVerdict, ...] = ()
    status: str = "rules"
    raw: str = ""
    missing: tuple[str, ...] = ()

    def by_tag(self) -> dict[str, tuple[float, str]]:
        """Score and phrase by the tag in lower case, as ``objects.with_verdicts`` takes them."""
        return {item.tag.lower(): (item.score, item.phrase) for item in self.items}

    def wanted(self) -> tuple[TagVerdict, ...]:
        """Those that the prompt asks for or that may be there: the ones worth looking for in the picture."""
        return tuple(item for item in self.items if item.score > 0)

    def phrases(self) -> tuple[str, ...]:
        """All local phrases, each once."""
        found = (phrase for item in self.items for phrase in (item.phrase, *item.others) if phrase)
        return tuple(dict.fromkeys(found))

    def rescaled(self, certain: float = CERTAIN, possible: float = POSSIBLE, unlikely: float = UNLIKELY) -> Verdicts:
        """The same with other numbers for the three verdicts."""
        scale = {CERTAIN: certain, POSSIBLE: possible, UNLIKELY: unlikely}
        return replace(self, items=tuple(replace(i, score=float(scale.get(i.score, i.score))) for i in self.items))

    def table(self) -> str:
        """For people: a line for each tag, what is missing, and the status."""
        lines = [_line(item) for item in self.items]
        lines += [f"missing: {', '.join(self.missing)}"] if self.missing else []
        return "\n".join([*lines, f"status: {self.status}"])

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, without ``raw``."""
        verdicts = [_plain(item) for item in self.items]
        return {"verdicts": verdicts, "missing": list(self.missing), "status": self.status}

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Verdicts:
        """Read what ``to_json`` wrote.

        Raises:
            InterplayError: it is no such JSON.
        """
        try:
            data = json.loads(text)
            items = tuple(_item(entry) for entry in data["verdicts"])
            missing = tuple(str(name) for name in data.get("missing", ()))
            return cls(items, str(data.get("status", "pasted")), "", missing)
        except InterplayError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InterplayError(f"These are no verdicts ({error}); connect the verdicts of Judge Tags.") from error


def batch_json(found: Sequence[Verdicts]) -> str:
    """The verdicts of a batch: as ``Verdicts.to_json`` for one picture, else under "pictures", in their order."""
    if len(found) == 1:
        return found[0].to_json()
    whole = {"pictures": [one.to_dict() for one in found], "status": batch_status(found)}
    return json.dumps(whole, ensure_ascii=False, indent=1)


def batch_status(found: Sequence[Verdicts]) -> str:
    """The status of all, told apart by picture (counted from 1) where they differ."""
    said = [one.status for one in found]
    if len(set(said)) <= 1:
        return said[0] if said else "rules: there are no pictures"
    return "; ".join(f"picture {i}: {status}" for i, status in enumerate(said, 1))


def batch_text(texts: Sequence[str]) -> str:
    """Texts for people, under the number of their picture where there are several."""
    if len(texts) == 1:
        return texts[0]
    return "\n".join(f"--- picture {i} ---\n{text}" for i, text in enumerate(texts, 1)) if any(texts) else ""


def _line(item: TagVerdict) -> str:
    why = "; ".join(part for part in (item.reason, item.description) if part)
    return f"{item.score:g}  {item.tag}{f' = {item.phrase}' if item.phrase else ''}{f'  ({why})' if why else ''}"


def _plain(item: TagVerdict) -> dict[str, Any]:
    out: dict[str, Any] = {"tag": item.tag, "score": item.score, "phrase": item.phrase, "reason": item.reason}
    more: dict[str, Any] = {"others": list(item.others), "description": item.description}
    return {**out, **{name: value for name, value in more.items() if value}}


def _item(entry: Mapping[str, Any]) -> TagVerdict:
    others = tuple(str(phrase) for phrase in entry.get("others", ()))
    phrase, reason, description = (str(entry.get(name, "")) for name in ("phrase", "reason", "description"))
    return TagVerdict(str(entry["tag"]), float(entry["score"]), phrase, reason, others, description)


def judge_offline(prompt: str, tags: Sequence[str], graph: Hypergraph | None = None) -> Verdicts:
    """Verdicts by rule: the pack's parser reads the prompt, a table of nouns says what goes with what.

    graph: the prompt's hypergraph where it is known already, None to parse; tags: names, in any case, number or order.
    """
    from .verdicts_rules import judge

    return judge(prompt, tags, graph)
