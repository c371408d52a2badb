"""Does looking at a picture and drawing it again with re-weighted attention help, and more than another noise would?

    interplay bench pixelworld --out DIR --methods plain SHY --sets actions "two objects"
    python benchmarks/reweight.py DIR [--methods NAME ...] [--n N]

Takes the first drawings from a bench directory, draws the wrong ones once more with every method of reweight.json that
is of the kind "again", and writes them to DIR/again.csv and DIR/again/. What two methods draw alike (the same settings
from the same noise) is drawn once. When it was ended it goes on where it was; with --table it only prints. "second"
takes the second drawing wherever the first was wrong, "better" the better of both by the detector's score. Both are
held against another noise with the same choice, hence the same budget.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from interplay.guidance.bench.methods import Batch
from interplay.guidance.bench.quiet import quiet
from interplay.guidance.bench.results import Row, read_results, read_settings, slug, write_whole
from interplay.guidance.bench.reweight import Options, Seen, fresh, score, second_drawing
from interplay.guidance.bench.stats import mcnemar_exact, paired_difference, wilson
from interplay.guidance.modulation import ModulationConfig, modulation
from interplay.guidance.pixelworld.detect import Verdict, judge
from PIL import Image

CONFIG = Path(__file__).with_suffix(".json")
CHUNK = 8
FIELDS = ("method", "prompt_set", "prompt", "seed", "file")


@dataclass(frozen=True)
class Variant:
    """A way to draw again. config None: from another noise."""

    name: str
    options: Options
    config: ModulationConfig | None


@dataclass(frozen=True)
class Look:
    """A picture's verdict and score."""

    verdict: Verdict
    score: float

    @property
    def wrong_colour(self) -> bool:
        """All objects there, not all in their colours."""
        return self.verdict.presence == 1 and self.verdict.binding < 1


def variants(path: Path, names: Sequence[str] | None) -> list[Variant]:
    """The "again" methods of a configuration, in its order."""
    found = []
    for name, settings in json.loads(path.read_text(encoding="utf-8")).items():
        if settings.get("kind") != "again" or (names and name not in names):
            continue
        known = Options.__dataclass_fields__
        options = Options(**{key: value for key, value in settings.items() if key in known})
        rest = {k: v for k, v in settings.items() if k not in known and k != "kind"}
        base = rest.pop("preset", "RealignDiff (recommended)")
        found.append(Variant(name, options, None if options.how == "resample" else modulation(base, **rest)))
    return found


def look(folder: Path, file: str, prompt: str) -> tuple[np.ndarray, Look]:
    image = np.array(Image.open(folder / file))
    return image, Look(judge(prompt, image), score(prompt, image))


def firsts(folder: Path, base: str, n: int | None) -> dict[tuple[str, str, int], Row]:
    """The first drawings of a base method, by set, prompt and seed."""
    rows = [row for row in read_results(folder) if row.method == base]
    kept: dict[str, list[Row]] = {}
    for row in rows:
        kept.setdefault(row.prompt_set, []).append(row)
    return {(r.prompt_set, r.prompt, r.seed): r for found in kept.values() for r in found[:n]}


def done(folder: Path) -> dict[tuple[str, str, str, int], str]:
    """What again.csv holds: file by method, set, prompt and seed."""
    path = folder / "again.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["method"], r["prompt_set"], r["prompt"], int(r["seed"])): r["file"] for r in csv.DictReader(file)}


def draw(folder: Path, chosen: Sequence[Variant], n: int | None) -> None:
    """Make what is missing, methods taking turns."""
    from interplay.guidance.hosts.diffusers.pixelworld import load_pixelworld

    settings = read_settings(folder)["settings"]
    twins = Twins(folder)
    for variant in chosen:
        twins.copy(variant, chosen, n)
    have = done(folder)
    jobs = [list(_jobs(folder, variant, n, have)) for variant in chosen]
    turns = [job for turn in range(max(map(len, jobs), default=0)) for found in jobs for job in found[turn : turn + 1]]
    if not turns:
        return
    with quiet():
        pipeline = load_pixelworld()
        for variant, rows in turns:
            images = [look(folder, row.file, row.prompt)[0] for row in rows]
            batch = Batch(
                tuple(r.prompt for r in rows), tuple(r.seed for r in rows), settings["steps"], settings["cfg"]
            )
            known = done(folder)
            todo = [i for i, row in enumerate(rows) if (variant.name, *row.key[1:]) not in known]
            made = second_drawing(pipeline, batch, todo, images, variant.options, variant.config)
            for i, image in zip(todo, made, strict=True):
                _keep(folder, variant.name, rows[i], image)
            for other in chosen:
                twins.copy(other, [variant], n, rows)
            print(f"{variant.name}: {rows[0].prompt_set}, {len(todo)} pictures", flush=True)


class Twins:
    """Second drawings that two methods make alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fresh: dict[tuple[str, str], bool] = {}

    def _what(self, variant: Variant, row: Row) -> Any:
        """What a second drawing is made of; another noise is the same whatever would have been re-weighted."""
        options, config = variant.options, variant.config
        regions = "" if config is None else config.regions
        if (row.file, regions) not in self._fresh:
            image = np.array(Image.open(self.folder / row.file))
            as_needed = Options(noise="as needed")
            self._fresh[row.file, regions] = fresh(Seen.of(row.prompt, image, config), as_needed, config)
        new = config is None or (options.noise == "as needed" and self._fresh[row.file, regions])
        return options.base, options.second, options.presence, None if new else replace(config, preset="")

    def copy(
        self, variant: Variant, others: Sequence[Variant], n: int | None, rows: Sequence[Row] | None = None
    ) -> None:
        """Enter for a method what another has drawn in the same way."""
        have = done(self.folder)
        for row in firsts(self.folder, variant.options.base, n).values() if rows is None else rows:
            for other in others:
                file = have.get((other.name, *row.key[1:]))
                missing = file and (variant.name, *row.key[1:]) not in have
                same = missing and other.options.base == variant.options.base == row.method
                if same and self._what(other, row) == self._what(variant, row):
                    _enter(self.folder, variant.name, row, str(file))
                    break


def _jobs(folder: Path, variant: Variant, n: int | None, have: Any) -> Iterator[tuple[Variant, list[Row]]]:
    by_set: dict[str, list[Row]] = {}
    for row in firsts(folder, variant.options.base, n).values():
        known = (variant.name, row.prompt_set, row.prompt, row.seed) in have
        if not known and look(folder, row.file, row.prompt)[1].score < 1:
            by_set.setdefault(row.prompt_set, []).append(row)
    chunks = [[rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)] for rows in by_set.values()]
    for turn in range(max(map(len, chunks), default=0)):
        yield from ((variant, found[turn]) for found in chunks if turn < len(found))


def _keep(folder: Path, name: str, row: Row, image: np.ndarray) -> None:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    file = f"again/{slug(name)}/{Path(row.file).name}"
    file = file.replace(Path(row.file).name, f"{slug(row.prompt_set)}-{Path(row.file).name}")
    write_whole(folder / file, out.getvalue())
    _enter(folder, name, row, file)


def _enter(folder: Path, name: str, row: Row, file: str) -> None:
    line, path = io.StringIO(), folder / "again.csv"
    writer = csv.writer(line, lineterminator="\n")
    if not path.is_file():
        writer.writerow(FIELDS)
    writer.writerow([name, row.prompt_set, row.prompt, row.seed, file])
    with path.open("a", encoding="utf-8", newline="") as handle:
        handle.write(line.getvalue())


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A first drawing, and the second of a method where the first was wrong."""

    key: tuple[str, str, int]
    first: Look
    second: Look

    def taken(self, choice: str) -> Look:
        """What is handed on: "second", or the "better" of both."""
        if self.first.score >= 1 or (choice == "better" and self.second.score <= self.first.score):
            return self.first
        return self.second


def pairs(folder: Path, variant: Variant, n: int | None, have: Any, cache: dict[Any, Look]) -> list[Pair]:
    """All first drawings of the variant's base whose second is there or not needed."""
    found = []
    for key, row in firsts(folder, variant.options.base, n).items():
        first = _cached(cache, folder, row.file, row.prompt)
        file = have.get((variant.name, *key))
        if first.score >= 1 or file:
            second = _cached(cache, folder, file, row.prompt) if file and first.score < 1 else first
            found.append(Pair(key, first, second))
    return found


def _cached(cache: dict[Any, Look], folder: Path, file: str, prompt: str) -> Look:
    if file not in cache:
        cache[file] = look(folder, file, prompt)[1]
    return cache[file]


def table(folder: Path, chosen: Sequence[Variant], n: int | None) -> str:
    """Markdown: what each method makes of wrong colours and of everything, and its lead over another noise."""
    have, cache = done(folder), dict[Any, Look]()
    every = {variant.name: pairs(folder, variant, n, have, cache) for variant in chosen}
    lines = []
    for prompt_set in [None, *dict.fromkeys(p.key[0] for found in every.values() for p in found)]:
        lines += ["", f"### {prompt_set or 'All sets'}", "", *_head()]
        for variant in chosen:
            mine = [p for p in every[variant.name] if prompt_set in (None, p.key[0])]
            control = _control(variant, chosen)
            other = {p.key: p for p in every.get(control, []) if prompt_set in (None, p.key[0])}
            if mine:
                lines.append(_line(variant, mine, other if control != variant.name else {}))
    return "\n".join(lines)


def _control(variant: Variant, chosen: Sequence[Variant]) -> str:
    same = [v.name for v in chosen if v.config is None and v.options.base == variant.options.base]
    return same[0] if same else ""


def _head() -> list[str]:
    names = (
        "drawn again by", "first", "wrong colours", "binding there", "binding, points over another noise",
        "all right: first", "second", "better of both", "better, points over another noise", "+/−", "p", "quality",
    )  # fmt: skip
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _line(variant: Variant, found: list[Pair], other: dict[Any, Pair]) -> str:
    colour = [p for p in found if p.first.wrong_colour]
    shared = [p for p in found if p.key in other]
    shared_colour = [p for p in shared if p.first.wrong_colour]
    before, after = (_mean([getattr(p, s).verdict.binding for p in colour]) for s in ("first", "second"))
    lead = paired_difference(
        [p.second.verdict.binding for p in shared_colour], [other[p.key].second.verdict.binding for p in shared_colour]
    )
    right = [[float(p.taken("better").verdict.all_right) for p in shared], []]
    right[1] = [float(other[p.key].taken("better").verdict.all_right) for p in shared]
    gained = sum(a > b for a, b in zip(*right, strict=True))
    gone = sum(a < b for a, b in zip(*right, strict=True))
    better = [p.taken("better").verdict.all_right for p in found]
    low, high = wilson(sum(better), len(better))
    cells = [
        variant.name, f"{variant.options.base}, {len(found)}", str(len(colour)), f"{before:.3f} → {after:.3f}",
        _points(lead), f"{_mean([p.first.verdict.all_right for p in found]):.3f}",
        f"{_mean([p.taken('second').verdict.all_right for p in found]):.3f}",
        f"{_mean(better):.3f} [{low:.3f}, {high:.3f}]", _points(paired_difference(*right)),
        f"{gained}/{gone}" if shared else "", f"{mcnemar_exact(gained, gone):.2g}" if shared else "",
        f"{_mean([p.taken('better').verdict.quality for p in found]):.4f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _points(difference: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in difference)
    return "" if math.isnan(mean) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="bench directory with the first drawings")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="methods (reweight.json)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--n", type=int, help="only the first N prompts of each set")
    parser.add_argument("--table", action="store_true", help="draw nothing, only print")
    args = parser.parse_args()
    chosen = variants(args.config, args.methods)
    if not args.table:
        draw(args.folder, chosen, args.n)
    print(table(args.folder, chosen, args.n))


if __name__ == "__main__":
    main()
