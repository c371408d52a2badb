"""Runs a paper's protocol into a bench directory: methods × prompts × seeds, one picture at a time, then the scores.

A run goes on where it was ended. Scores that a row lacks (a scorer was given later) are added from the pictures.
"""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InterplayError
from ..rewards import Scorer
from . import runner
from .counting import Counter, Prices, measure_prices
from .methods import Batch, Drawn, Method
from .progress import Progress
from .protocol_models import PIXELWORLD, Model
from .quiet import quiet
from .results import RESULTS, Row, append_row, picture_file, read_results, read_settings, write_settings, write_whole

logger = logging.getLogger(__name__)

ABOUT = ("file", "model", "weights", "blank", "flops", "environment_right", "guided_steps", "moved")


@dataclass(frozen=True)
class Plan:
    """bench: "shyi" or "realign"; sets: prompts by the name of their set; size: of the pictures in pixels, None = the
    model's own.
    """

    bench: str
    model: Model
    methods: tuple[Method, ...]
    sets: Mapping[str, Sequence[str]]
    seeds: tuple[int, ...]
    steps: int
    cfg: float
    size: int | None = None
    scorers: tuple[Scorer, ...] = ()

    def settings(self) -> dict[str, Any]:
        """``bench.json`` of this run."""
        return {
            "bench": self.bench,
            "interplay": runner._version(),
            "model": {"name": self.model.name, "sha256": self.model.sha256, "weights": self.model.weights},
            "settings": {"steps": self.steps, "cfg": self.cfg, "sampler": "the model's own", "size": self.size},
            "methods": [method.name for method in self.methods],
            "sets": list(self.sets),
            "method_settings": {method.name: runner._plain(method.settings) for method in self.methods},
        }


@dataclass(frozen=True)
class Job:
    """One picture: number is the prompt's row in its set."""

    method: Method
    prompt_set: str
    number: int
    prompt: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """As ``Row.key``."""
        return self.method.name, self.prompt_set, self.prompt, self.seed


def execute(folder: Path, plan: Plan) -> list[Row]:
    """Draw and score what is missing; returns every row of the folder.

    Raises:
        InterplayError: the folder holds something else, or a model or scorer cannot work.
    """
    _prepare(folder, plan)
    have = {row.key for row in read_results(folder)}
    todo = [job for job in jobs(plan) if job.key not in have]
    rescore(folder, plan.scorers)
    if todo:
        with quiet():
            _draw(folder, plan, todo, len(have))
    return read_results(folder)


def jobs(plan: Plan) -> Iterator[Job]:
    """Methods take turns on each prompt, so that a run that is ended early still compares them."""
    for name, prompts in plan.sets.items():
        for number, prompt in enumerate(prompts):
            for seed in plan.seeds:
                for method in plan.methods:
                    yield Job(method, name, number, prompt, seed)


def _prepare(folder: Path, plan: Plan) -> None:
    ours = plan.settings()
    if (folder / "bench.json").is_file():
        ours = runner._merged(folder, read_settings(folder), ours)
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InterplayError(f"{folder} holds something that is not a bench; choose another --out.")
    readers = {s.name: s.needs for s in plan.scorers}
    write_settings(folder, {**ours, "scorers": {**ours.get("scorers", {}), **readers}})


# --- drawing ----------------------------------------------------------------------------------------------------------


def _draw(folder: Path, plan: Plan, todo: Sequence[Job], done: int) -> None:
    pipeline = plan.model.load()
    with _sized(pipeline, plan.size):
        prices = _prices(pipeline)
    progress = Progress(dict(Tally(job.method.name for job in todo)), done, 1)
    progress.show()
    columns = _columns(folder, plan.scorers)
    for job in todo:
        drawn, row = draw(pipeline, prices, plan, job)
        row = scored(row, drawn.image, plan.scorers)
        write_whole(folder / row.file, _png(drawn.image))
        append_row(folder, replace(row, extra={name: row.extra.get(name, "") for name in columns}))
        progress.made(job.method.name, 1, row.seconds or 0.0)


def draw(pipeline: Any, prices: Prices | None, plan: Plan, job: Job) -> tuple[Drawn, Row]:
    """One picture and its row, not scored yet. Seconds: CPU time, or the clock's on an accelerator."""
    batch = Batch((job.prompt,), (job.seed,), plan.steps, plan.cfg, job.seed)
    counter = Counter(pipeline, batch.prompts, prices) if prices else None
    clock: Callable[[], float] = time.process_time if pipeline.device.type == "cpu" else time.perf_counter
    start = clock()
    with _sized(pipeline, plan.size):
        if counter:
            with counter.counting():
                drawn = job.method.draw(pipeline, batch)[0]
        else:
            drawn = job.method.draw(pipeline, batch)[0]
    about = {
        "file": picture_file(job.prompt_set, job.number, job.seed, job.method.name),
        "model": plan.model.name,
        "weights": plan.model.weights,
        "blank": "" if drawn.image.any() else "1",
        "flops": f"{counter.flops[0]:.6g}" if counter else "",
        **drawn.notes,
    }
    row = Row(job.method.name, job.prompt_set, job.prompt, job.seed, seconds=round(clock() - start, 4), extra=about)
    if counter:
        row = replace(row, unet_passes=round(counter.passes[0], 3))
    return drawn, _judged(row, drawn.image) if plan.model.weights == PIXELWORLD else row


def _prices(pipeline: Any) -> Prices | None:
    """What the U-Net's passes cost; None for pipelines that the counter does not know."""
    if type(pipeline).__name__ != "StableDiffusionPipeline":
        return None
    return measure_prices(pipeline)


class _sized:
    """The pipeline draws ``size`` pixels inside; None leaves it alone."""

    def __init__(self, pipeline: Any, size: int | None) -> None:
        self.unet, self.size = pipeline.unet, size
        self.cells = size and size // pipeline.vae_scale_factor

    def __enter__(self) -> None:
        self.before = self.unet.config.sample_size
        if self.cells:
            self.unet.register_to_config(sample_size=self.cells)

    def __exit__(self, *error: object) -> None:
        self.unet.register_to_config(sample_size=self.before)


def _judged(row: Row, image: np.ndarray) -> Row:
    """With PixelWorld's verdict, where the prompt speaks of its world."""
    from ..pixelworld.detect import judge

    try:
        verdict = judge(row.prompt, image)
    except InterplayError:  # none of its objects is asked for
        return row
    return replace(
        row,
        presence=verdict.presence,
        binding=verdict.binding,
        objects_right=verdict.objects_right,
        action_right=verdict.action_right,
        all_right=verdict.all_right,
        mixture=verdict.mixture,
        quality=round(verdict.quality, 6),
        extra={**row.extra, "environment_right": runner._cell(verdict.environment_right)},
    )


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


# --- scoring ----------------------------------------------------------------------------------------------------------


def columns_of(scorer: Scorer) -> tuple[str, ...]:
    """All columns of a scorer: its figures, then what a person wants to see with them."""
    return (*scorer.columns, f"{scorer.name}_said")


def scored(row: Row, image: np.ndarray, scorers: Sequence[Scorer]) -> Row:
    """The row with the scorers' figures; a black picture has none, since a safety checker has taken the model's own."""
    from PIL import Image

    cells = dict(row.extra)
    for scorer in scorers if image.any() else ():
        reading = scorer.score([Image.fromarray(image)], [row.prompt])[0]
        figures = scorer.cells(reading)
        cells |= {name: "" if value is None else f"{value:.6g}" for name, value in figures.items()}
        cells[f"{scorer.name}_said"] = " / ".join(" ".join(note.split()) for note in reading.notes.values())
    return replace(row, extra=cells)


def rescore(folder: Path, scorers: Sequence[Scorer]) -> int:
    """Read the pictures whose rows lack a scorer's columns; returns how many. The file is replaced whole, or not."""
    from PIL import Image

    rows, changed = read_results(folder), 0
    for i, row in enumerate(rows):
        missing = [scorer for scorer in scorers if _unread(row, scorer) and not row.extra.get("blank")]
        path = folder / row.file
        if missing and path.is_file():
            with Image.open(path) as image:
                rows[i] = scored(row, np.asarray(image.convert("RGB")), missing)
            changed += 1
    if changed:
        _rewrite(folder, rows)
    return changed


def _unread(row: Row, scorer: Scorer) -> bool:
    return not any(row.extra.get(name) for name in columns_of(scorer))


def _rewrite(folder: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row.extra))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for row in rows:
            append_row(Path(place), replace(row, extra={name: row.extra.get(name, "") for name in columns}))
        shutil.move(str(Path(place) / RESULTS), str(folder / RESULTS))


def _columns(folder: Path, scorers: Sequence[Scorer]) -> list[str]:
    """Further columns of the folder's rows, in order."""
    before = next((list(row.extra) for row in read_results(folder)), [])
    ours = [*ABOUT, *(name for scorer in scorers for name in columns_of(scorer))]
    columns = list(dict.fromkeys([*before, *ours]))
    if before and columns != before:
        _rewrite(
            folder, [replace(row, extra={**dict.fromkeys(columns, ""), **row.extra}) for row in read_results(folder)]
        )
    return columns
