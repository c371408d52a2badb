"""Tags and verdicts as text, as they travel between nodes and as people type them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InterplayError

Verdicts = dict[str, tuple[float | None, str]]
WORDS = {"certain": 2.0, "possible": 0.5, "may appear": 0.5, "unlikely": 0.0}
_NAMES = ("tag", "label", "name", "object")
_LISTS = ("pictures", "images", "batch")
_ITEMS = ("objects", "items", "tags", "verdicts")


def read_tags(text: str, count: int) -> list[tuple[str, ...]]:
    """The tags of ``count`` pictures from "robot, box" (a line a picture, or one line for all), or from JSON.

    JSON: a list of names or of {"name": ...}, for all pictures; a list of such lists; or {"pictures": [{"tags": ...}]}.
    InterplayError when it is neither, or of another number of pictures.
    """
    text = text.strip()
    if not text.startswith(("[", "{")):
        lines = [line for line in text.splitlines() if line.strip()]
        rows = [tuple(t.strip() for t in line.replace(";", ",").split(",") if t.strip()) for line in lines]
        return _spread(rows or [()], count, "tags") if len(rows) in (0, 1, count) else [sum(rows, ())] * count
    return _spread([tuple(n for n in map(_name, part) if n) for part in _parts(_parsed(text, "tags"))], count, "tags")


def read_verdicts(text: str, count: int) -> list[Verdicts]:
    """Score and phrase by tag (lower case) of ``count`` pictures, from JSON as 'Judge Tags' gives it.

    Each item names its tag and holds "score" or "verdict", a number or one of ``WORDS``, and perhaps a "phrase".
    InterplayError when it cannot be read, or is of another number of pictures.
    """
    if not text.strip():
        return [{} for _ in range(count)]
    rows = []
    for part in _parts(_parsed(text, "verdicts")):
        row: Verdicts = {}
        for item in part:
            if isinstance(item, Mapping) and _name(item):
                row[_name(item).lower()] = (_score(item), str(item.get("phrase") or ""))
        rows.append(row)
    return _spread(rows, count, "verdicts")


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InterplayError(f"The {what} are not readable JSON ({error}); connect the node that makes them.") from None


def _parts(data: Any) -> list[list[Any]]:
    """The items of each picture."""
    if isinstance(data, Mapping):
        for key in _LISTS:
            if isinstance(data.get(key), list):
                return [_items(part) for part in data[key]]
        return [_items(data)]
    if isinstance(data, list) and data and all(isinstance(p, list) or _holds(p) for p in data):
        return [_items(part) for part in data]
    return [_items(data)]


def _holds(part: Any) -> bool:
    return isinstance(part, Mapping) and any(isinstance(part.get(key), (list, dict)) for key in _ITEMS)


def _items(part: Any) -> list[Any]:
    if isinstance(part, Mapping):
        for key in _ITEMS:
            if isinstance(part.get(key), list):
                return list(part[key])
        return [{"tag": k, **(v if isinstance(v, Mapping) else {"score": v})} for k, v in part.items()]
    return list(part) if isinstance(part, list) else []


def _name(item: Any) -> str:
    if isinstance(item, Mapping):
        return next((str(item[key]).strip() for key in _NAMES if item.get(key)), "")
    return str(item).strip() if isinstance(item, str) else ""


def _score(item: Mapping[str, Any]) -> float | None:
    for key in ("score", "verdict", "weight"):
        value = item.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and value.strip().lower() in WORDS:
            return WORDS[value.strip().lower()]
    return None


def _spread(rows: Sequence[Any], count: int, what: str) -> list[Any]:
    if len(rows) == 1:
        return [rows[0]] * count
    if len(rows) != count:
        raise InterplayError(
            f"There are {what} of {len(rows)} pictures but {count} pictures; connect those of this batch."
        )
    return list(rows)
