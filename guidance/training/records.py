"""Training data as people keep it: captions.jsonl, an imagefolder, kohya's folders, NegCLIP's table."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InterplayError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TABLES = ("train_neg_clip.tsv", "valid_neg_clip.tsv")


@dataclass(frozen=True)
class Record:
    """A picture (path, or a name where its latent is at hand), its caption, captions that it does not match, captions
    that say the same in other words, and how often it counts.
    """

    image: str
    caption: str
    negatives: tuple[str, ...] = ()
    positives: tuple[str, ...] = ()
    weight: float = 1.0
    neg_images: tuple[str, ...] = ()


def read_records(place: Path) -> list[Record]:
    """The records of a file or folder: ``captions.jsonl`` (image, caption, negatives, positives, weight), a folder with
    ``metadata.jsonl`` (file_name, text) or ``metadata.csv``, kohya's ``N_name`` folders (picture + .txt + .neg.txt), or
    NegCLIP's .tsv (title, filepath, neg_caption). Pictures are looked for beside the file.

    Raises:
        InterplayError: nothing of the kind is there, a line is not as expected, or a picture is missing.
    """
    place = Path(place)
    if not place.exists():
        raise InterplayError(f"There is no file or folder {place}; give the training data.")
    file = _table(place)
    if file is None:
        found = list(_kohya(place))
    elif file.suffix == ".tsv":
        found = list(_negclip(file))
    else:
        found = list(_lines(file))
    if not found:
        raise InterplayError(
            f"There is no training data in {place}: it holds neither captions.jsonl, metadata.jsonl, a NegCLIP .tsv "
            "nor pictures with .txt captions."
        )
    return found


def _table(place: Path) -> Path | None:
    if place.is_file():
        return place
    for name in ("captions.jsonl", "metadata.jsonl", "metadata.csv", *TABLES):
        if (place / name).is_file():
            return place / name
    return None


def _lines(file: Path) -> Iterator[Record]:
    """captions.jsonl, metadata.jsonl, metadata.csv."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InterplayError(f"{file} cannot be read ({error}); it has to be text in UTF-8.") from error
    if file.suffix == ".csv":
        rows: list[tuple[int, Any]] = list(enumerate(csv.DictReader(text.splitlines()), 2))
    else:
        rows = [(i, _json(line, file, i)) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, row in rows:
        yield _record(row, file, number)


def _json(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise InterplayError(f"Line {number} of {file} is not JSON; correct it.") from None


def _record(row: Any, file: Path, number: int) -> Record:
    if not isinstance(row, Mapping):
        raise InterplayError(
            f'Line {number} of {file} has to be an object such as {{"image": "a.png", "caption": "a cat"}}.'
        )
    image, caption = row.get("image", row.get("file_name")), row.get("caption", row.get("text"))
    if not isinstance(image, str) or not isinstance(caption, str) or not caption.strip():
        raise InterplayError(f"Line {number} of {file} needs an image (or file_name) and a caption (or text).")
    lists = {}
    for name in ("negatives", "positives", "neg_images"):
        value = row.get(name) or []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
            raise InterplayError(f"Line {number} of {file}: {name} has to be a list of texts.")
        lists[name] = tuple(v.strip() for v in value if v.strip())
    weight = row.get("weight", 1.0)
    if not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise InterplayError(f"Line {number} of {file}: weight has to be a number above 0.")
    lists["neg_images"] = tuple(_picture(file.parent, v) for v in lists["neg_images"])
    return Record(_picture(file.parent, image), caption.strip(), weight=float(weight), **lists)


def _kohya(folder: Path) -> Iterator[Record]:
    """``N_name`` folders, N the times each picture counts; a folder without them counts once."""
    named = [p for p in sorted(folder.iterdir()) if p.is_dir() and re.match(r"\d+_", p.name)]
    for part in named or [folder]:
        times = int(part.name.split("_")[0]) if named else 1
        for picture in sorted(p for p in part.iterdir() if p.suffix.lower() in SUFFIXES):
            said = _text(picture, ".txt") or _text(picture, ".caption")
            if not said:
                raise InterplayError(
                    f"The picture {picture} has no caption; write one to {picture.with_suffix('.txt').name}."
                )
            negatives = tuple(line.strip() for line in _text(picture, ".neg.txt").splitlines() if line.strip())
            if times:
                yield Record(str(picture), " ".join(said.split()), negatives, weight=float(times))


def _text(picture: Path, suffix: str) -> str:
    file = picture.with_name(picture.stem + suffix)
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _negclip(file: Path) -> Iterator[Record]:
    """NegCLIP's table: title, filepath, neg_caption (a list as Python prints it)."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    paths = [row.get("filepath") or "" for row in rows]
    for number, row in enumerate(rows, 2):
        if not row.get("title") or not row.get("filepath"):
            raise InterplayError(f"Line {number} of {file} lacks title or filepath; it has to be NegCLIP's table.")
        negatives = _listed(row.get("neg_caption"), file, number)
        near = [paths[int(i)] for i in _listed(row.get("neg_image"), file, number) if 0 <= int(i) < len(paths)]
        neg_images = tuple(_picture(file.parent, path) for path in near)
        found = tuple(str(n).strip() for n in negatives if str(n).strip())
        yield Record(_picture(file.parent, row["filepath"]), row["title"].strip(), found, neg_images=neg_images)


def _listed(text: str | None, file: Path, number: int) -> list[Any]:
    try:
        found = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, (list, tuple)):
        raise InterplayError(f"Line {number} of {file}: neg_caption and neg_image have to be lists such as ['a', 'b'].")
    return list(found)


def _picture(folder: Path, name: str) -> str:
    for place in (
        folder / name,
        folder / "images" / name,
        folder / Path(name).name,
        folder / "images" / Path(name).name,
    ):
        if place.is_file():
            return str(place)
    raise InterplayError(f"The picture '{name}' is missing in {folder} and its folder 'images'; put it there.")


def write_records(records: Sequence[Record], file: Path) -> Path:
    """captions.jsonl; pictures that lie below the file's folder are named from there."""
    lines = []
    for record in records:
        image = Path(record.image) if record.image else Path()
        if image.is_absolute() and file.parent.resolve() in image.resolve().parents:
            image = image.resolve().relative_to(file.parent.resolve())
        line: dict[str, Any] = {
            "image": image.as_posix(),
            "caption": record.caption,
            "negatives": list(record.negatives),
        }
        line |= {"positives": list(record.positives)} if record.positives else {}
        line |= {"neg_images": list(record.neg_images)} if record.neg_images else {}
        line |= {"weight": record.weight} if record.weight != 1.0 else {}
        lines.append(json.dumps(line, ensure_ascii=False))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InterplayError(f"{file} can't be written ({error.strerror}); choose another place.") from None
    return file


def data_hash(records: Sequence[Record]) -> str:
    """A short hash of what is said of which pictures."""
    text = json.dumps([(Path(r.image).name, r.caption, r.negatives, r.positives, r.weight) for r in records])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
