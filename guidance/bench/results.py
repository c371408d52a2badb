"""A bench directory: ``bench.json`` says what was run, ``results.csv`` has one row per picture, ``pictures/`` has them.

Rows are appended as pictures are made, so that a run killed at any moment can go on: a last line without its end counts
as not written.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import InterplayError

SETTINGS = "bench.json"
RESULTS = "results.csv"
PICTURES = "pictures"


@dataclass(frozen=True)
class Row:
    """One picture and what was read from it; None where a column does not apply.

    method, prompt_set, prompt: as named in ``bench.json``; seed: of the initial noise; presence, binding: share of the
    asked objects that are there, and there in their colours; objects_right: all of them; action_right, all_right:
    as asked; mixture: an object of no prevailing colour; quality: distance from the world, lower is better;
    unet_passes: U-Net forwards of one row, or their worth; seconds: of computing; extra: further columns as text.
    """

    method: str
    prompt_set: str
    prompt: str
    seed: int
    presence: float | None = None
    binding: float | None = None
    objects_right: bool | None = None
    action_right: bool | None = None
    all_right: bool | None = None
    mixture: bool | None = None
    quality: float | None = None
    unet_passes: float | None = None
    seconds: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The picture's path relative to the bench directory; empty when there is none."""
        return self.extra.get("file", "")

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes a row one of its kind: method, prompt set, prompt and seed."""
        return self.method, self.prompt_set, self.prompt, self.seed

    def value(self, column: str) -> float | None:
        """The number in a column (truth values as 0 and 1); None where the cell is empty or the column is missing."""
        found = getattr(self, column) if column in COLUMNS else self.extra.get(column) or None
        return None if found is None else float(found)


COLUMNS = tuple(f.name for f in fields(Row) if f.name != "extra")
_TRUTH = ("objects_right", "action_right", "all_right", "mixture")
_NUMBERS = ("presence", "binding", "quality", "unet_passes", "seconds")


def slug(name: str) -> str:
    """A name as part of a file name: "SHY (paper)" becomes "shy-paper"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def picture_file(prompt_set: str, number: int, seed: int, method: str) -> str:
    """Where a picture lies, relative to the bench directory. number: row of the prompt in its set, from 0."""
    return f"{PICTURES}/{slug(prompt_set)}/{number:03d}-{seed}-{slug(method)}.png"


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``bench.json``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SETTINGS, (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode())


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``bench.json`` holds.

    Raises:
        InterplayError: there is none, or it is damaged.
    """
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InterplayError(f"{folder} is no bench directory: it has no {SETTINGS}.") from None
    except (OSError, ValueError) as error:
        raise InterplayError(f"{path} cannot be read ({error}); restore it or choose another --out.") from None
    if not isinstance(found, dict):
        raise InterplayError(f"{path} does not hold a bench's settings; restore it or choose another --out.")
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def append_row(folder: Path, row: Row) -> None:
    """Add a row to ``results.csv``; the first one decides the further columns.

    Raises:
        InterplayError: the row has a further column that the file has not, or a line break in a cell.
    """
    path = folder / RESULTS
    _drop_unfinished(path)
    cells = _cells(row)
    if any("\n" in cell or "\r" in cell for cell in cells.values()):
        raise InterplayError(f"A cell of {path} cannot hold a line break; the row of {row.prompt!r} has one.")
    if not path.is_file() or path.stat().st_size == 0:
        folder.mkdir(parents=True, exist_ok=True)
        header, text = list(cells), _line(list(cells))
    else:
        with path.open(encoding="utf-8", newline="") as file:
            header, text = next(csv.reader(file)), ""
    unknown = [name for name in cells if name not in header]
    if unknown:
        raise InterplayError(f"{path} has no column {unknown[0]!r}; write such rows to a bench directory of their own.")
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text + _line([cells.get(name, "") for name in header]))


def read_results(folder: Path) -> list[Row]:
    """The rows of ``results.csv`` in the order they were written; none when there is no such file.

    Raises:
        InterplayError: the file is not one of ours.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    content = path.read_bytes()
    text = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if text and missing:
        raise InterplayError(f"{path} lacks the column {missing[0]!r}; it is not the results of a bench.")
    rows = []
    for cells in reader:
        try:
            rows.append(_row(cells))
        except (TypeError, ValueError, AttributeError):
            raise InterplayError(f"Line {reader.line_num} of {path} is damaged; delete that line and resume.") from None
    return rows


def _drop_unfinished(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if not path.is_file():
        return
    content = path.read_bytes()[-65536:]
    if content and not content.endswith(b"\n"):
        os.truncate(path, path.stat().st_size - (len(content) - content.rfind(b"\n") - 1))


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _cells(row: Row) -> dict[str, str]:
    out = {}
    for name in COLUMNS:
        value = getattr(row, name)
        out[name] = "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)
    return {**out, **row.extra}


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {name: cells[name] for name in ("method", "prompt_set", "prompt")}
    for name in _TRUTH:
        if cells[name] not in ("", "0", "1"):
            raise ValueError(name)
        values[name] = cells[name] == "1" if cells[name] else None
    for name in _NUMBERS:
        values[name] = float(cells[name]) if cells[name] else None
    extra = {name: cell or "" for name, cell in cells.items() if name not in COLUMNS}
    return Row(**values, seed=int(cells["seed"]), extra=extra)
