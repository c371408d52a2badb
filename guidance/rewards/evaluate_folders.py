"""Winoground, ImageCoDe and ARO as they lie in a folder, in the form that their makers give them out. No downloads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InterplayError
from .evaluate import Item

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_items(task: str, folder: Path) -> list[Item]:
    """The items of "winoground", "imagecode" or "aro" in a folder.

    Raises:
        InterplayError: a file is missing or not as expected.
    """
    if not folder.is_dir():
        raise InterplayError(f"There is no folder {folder}; give the one that holds the {task} data.")
    try:
        return list({"winoground": _winoground, "imagecode": _imagecode, "aro": _aro}[task](folder))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InterplayError):
            raise
        raise InterplayError(
            f"The {task} data in {folder} are not as expected ({error!r}); see docs/scores.md for the layout."
        ) from error


def _winoground(folder: Path) -> Iterator[Item]:
    for row in read_jsonl(_first(folder, "winoground", "examples.jsonl", "data/examples.jsonl")):
        pictures = tuple(_picture(folder, str(row[name])) for name in ("image_0", "image_1"))
        kind = str(row.get("collapsed_tag") or row.get("tag") or "")
        yield Item(pictures, (str(row["caption_0"]), str(row["caption_1"])), kind=kind)


def _imagecode(folder: Path) -> Iterator[Item]:
    file = _first(folder, "imagecode", "valid_data.json", "data/valid_data.json", "test_data.json")
    sets = _first(folder, "imagecode", "image-sets", "data/image-sets", "images")
    for name, texts in json.loads(file.read_text(encoding="utf-8")).items():
        pictures = tuple(sorted((p for p in (sets / name).glob("*") if p.suffix.lower() in SUFFIXES), key=_number))
        if not pictures:
            raise InterplayError(f"There are no pictures in {sets / name}; unpack ImageCoDe's image sets there.")
        kind = "static" if "open-images" in name else "video"
        for index, text in texts.items():
            yield Item(pictures, (str(text),), int(index), kind)


def _aro(folder: Path) -> Iterator[Item]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InterplayError(f"There is no .json file of ARO in {folder}, such as visual_genome_relation.json.")
    for file in files:
        for row in json.loads(file.read_text(encoding="utf-8")):
            if "caption_options" in row:
                texts = tuple(map(str, row["caption_options"]))
            else:
                texts = (str(row["true_caption"]), str(row["false_caption"]))
            picture = _picture(folder, str(row.get("image_path") or row["image"]))
            yield Item((picture,), texts, 0, file.stem, _box(row))


def _box(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    if "bbox_x" not in row:
        return None
    x, y, w, h = (float(row[f"bbox_{name}"]) for name in "xywh")
    return x, y, x + w, y + h


def _first(folder: Path, task: str, *names: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise InterplayError(f"There is no {names[0]} in {folder}; give the folder that holds the {task} data.")


def _picture(folder: Path, name: str) -> Path:
    """A picture by its name, with or without suffix, in the folder or in its ``images``."""
    for place in (folder, folder / "images", folder / "data" / "images"):
        for suffix in ("", *SUFFIXES):
            if (place / (name + suffix)).is_file():
                return place / (name + suffix)
    raise InterplayError(f"The picture '{name}' is missing in {folder} and its folder 'images'; put it there.")


def _number(path: Path) -> tuple[int, str]:
    found = re.findall(r"\d+", path.stem)
    return (int(found[-1]) if found else 0, path.name)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One object a line. InterplayError when the file is missing or a line is no object."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InterplayError(f"There is no file {path}; check its name.") from None
    except ValueError as error:
        raise InterplayError(f"A line of {path} is not JSON ({error}); correct it.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InterplayError(f'Every line of {path} must be an object such as {{"image": "a.png", "prompt": "a cat"}}.')
    return rows
