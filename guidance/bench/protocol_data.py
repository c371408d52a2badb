"""The prompts of the papers' protocols and the numbers they published, read from ``data``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from ...errors import InterplayError

DATA = Path(__file__).parent / "data"
AE_SETS = ("animal-animal", "animal-object", "object-object")


@dataclass(frozen=True)
class Published:
    """A number from a paper. metric: a column name of ours ("tifa", "clip") or one that we have not ("fid"); note: what
    one has to know to compare it.
    """

    protocol: str
    table: str
    set: str
    method: str
    metric: str
    value: float
    source: str
    note: str = ""


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every published number that the tables set beside ours."""
    return tuple(Published(**line) for line in _lines("published.jsonl"))


def paper_prompts(name: str) -> list[str]:
    """The prompts that a paper prints: "shyi" (its fourteen), "shyi-figures", "realign"."""
    return [line["prompt"] for line in _lines("prompts.jsonl") if line["set"] == name]


@lru_cache(maxsize=1)
def attend_and_excite() -> dict[str, tuple[str, ...]]:
    """The 276 prompts of Attend-and-Excite (Chefer et al. 2023) by subset: 66, 144 and 66.

    Made from the authors' templates: every two of twelve animals; every animal with every one of twelve objects (three
    are worn, nine have a colour); every two objects, each with a colour. The colours were drawn once by the authors and
    are facts of their list; articles are theirs, too ("a elephant").
    """
    head, *rows = _lines("attend_and_excite.jsonl")
    animals, objects, worn = head["animals"], head["objects"], set(head["worn"])
    colours = {row["animal"]: row["colours"] for row in rows if "animal" in row}
    pairs = {tuple(row["objects"]): row["colours"] for row in rows if "objects" in row}
    return {
        "animal-animal": tuple(f"a {a} and a {b}" for a, b in combinations(animals, 2)),
        "animal-object": tuple(
            f"a {animal} with a {thing}" if thing in worn else f"a {animal} and a {colours[animal][thing]} {thing}"
            for animal in animals
            for thing in objects
        ),
        "object-object": tuple(
            f"a {pairs[a, b][0]} {a} and a {pairs[a, b][1]} {b}" for a, b in combinations(objects, 2)
        ),
    }


def prompts_of_file(path: Path) -> list[str]:
    """One prompt a line; empty lines and repetitions are left out.

    Raises:
        InterplayError: the file cannot be read or has no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InterplayError(f"The prompts in {path} cannot be read ({error}); give a UTF-8 text file.") from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise InterplayError(f"{path} holds no prompt; write one a line.")
    return found
