"""Runs methods × prompts × seeds into a bench directory, in worker processes, and goes on where a run was ended."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InterplayError
from ..pixelworld import MANIFEST, weights_dir, world
from ..pixelworld.detect import judge
from . import methods as registry
from .counting import Counter, Prices, measure_prices
from .methods import Batch, Drawn, Method
from .progress import Progress
from .quiet import quiet, silence
from .results import Row, append_row, picture_file, read_results, read_settings, write_settings, write_whole

BATCH = 8  # pictures drawn together; part of what a run is, because it decides the last bits of a picture
SEED_STRIDE = 10_000  # between the noise seeds of the first and the second picture of a prompt
EXTRA = (
    "file",
    "flops",
    "environment_right",
    "attributes_right",
    "bystander_right",
    "extra",
    "palette_distance",
    "explained",
    "guided_steps",
    "moved",
)


@dataclass(frozen=True)
class Plan:
    """A run: n prompts of each set, ``seeds`` pictures of each prompt; everything else as ``Batch`` has it.

    slow_n: prompts that slow methods draw, of each set.
    """

    methods: tuple[Method, ...]
    sets: tuple[str, ...]
    n: int
    seed: int = 0
    seeds: int = 1
    steps: int = 25
    cfg: float = 5.0
    slow_n: int | None = None
    weights: Path | None = None

    def settings(self) -> dict[str, Any]:
        """What every row of a folder has in common."""
        return {
            "steps": self.steps,
            "cfg": self.cfg,
            "sampler": "DDIM",
            "n": self.n,
            "seed": self.seed,
            "seeds": self.seeds,
            "batch": BATCH,
        }

    def prompts(self, prompt_set: str) -> list[str]:
        """The prompts of a set."""
        return prompts(prompt_set, self.n, self.seed)


@dataclass(frozen=True)
class Unit:
    """What is drawn together: pictures of one method. numbers: rows of the prompts in their set."""

    method: Method = field(repr=False)
    prompt_set: str
    numbers: tuple[int, ...]
    batch: Batch

    def row_keys(self) -> list[tuple[str, str, str, int]]:
        """``Row.key`` of its pictures."""
        pairs = zip(self.batch.prompts, self.batch.seeds, strict=True)
        return [(self.method.name, self.prompt_set, prompt, seed) for prompt, seed in pairs]


@dataclass(frozen=True)
class Made:
    """A picture with its row; png: the file's content."""

    row: Row
    png: bytes


def prompts(prompt_set: str, n: int, seed: int) -> list[str]:
    """``n`` prompts of a set of ``world.PROMPT_SETS``."""
    if prompt_set not in world.PROMPT_SETS:
        raise InterplayError(f"There is no prompt set '{prompt_set}'; choose of {', '.join(world.PROMPT_SETS)}.")
    return world.PROMPT_SETS[prompt_set](n, seed)


def model(weights: Path | None) -> dict[str, str]:
    """Name and SHA-256 of the weights: the digest of their manifest, which holds a digest of each file."""
    folder = weights_dir(weights)
    manifest = (folder / MANIFEST).read_bytes().replace(b"\r\n", b"\n")
    return {"name": "PixelWorld" if weights is None else weights.name, "sha256": hashlib.sha256(manifest).hexdigest()}


def units(plan: Plan) -> list[Unit]:
    """All there is to draw, methods taking turns, so that a run that is ended early still compares them."""
    texts = {name: plan.prompts(name) for name in plan.sets}
    out = []
    for again in range(plan.seeds):
        for start in range(0, plan.n, BATCH):
            for name in plan.sets:
                out += [u for m in plan.methods if (u := _unit(plan, m, name, texts[name], start, again))]
    return out


def _unit(plan: Plan, method: Method, prompt_set: str, texts: Sequence[str], start: int, again: int) -> Unit | None:
    limit = plan.slow_n if method.slow and plan.slow_n is not None else plan.n
    numbers = tuple(range(start, min(start + BATCH, limit)))
    if not numbers:
        return None
    seeds = tuple(plan.seed + i + SEED_STRIDE * again for i in numbers)
    batch = Batch(tuple(texts[i] for i in numbers), seeds, plan.steps, plan.cfg, plan.seed)
    return Unit(method, prompt_set, numbers, batch)


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(pipeline: Any, prices: Prices, unit: Unit) -> list[Made]:
    """The unit's pictures, judged. Seconds are CPU time of this process, so that a busy machine does not count."""
    counter = Counter(pipeline, unit.batch.prompts, prices)
    start = time.process_time()
    with counter.counting():
        drawn = unit.method.draw(pipeline, unit.batch)
    seconds = (time.process_time() - start) / len(drawn)
    return [_made(unit, i, picture, counter, seconds) for i, picture in enumerate(drawn)]


def _made(unit: Unit, i: int, drawn: Drawn, counter: Counter, seconds: float) -> Made:
    prompt, seed = unit.batch.prompts[i], unit.batch.seeds[i]
    verdict = judge(prompt, drawn.image)
    notes = {
        "file": picture_file(unit.prompt_set, unit.numbers[i], seed, unit.method.name),
        "flops": f"{counter.flops[i]:.6g}",
        "environment_right": _cell(verdict.environment_right),
        "attributes_right": _cell(verdict.attributes_right),
        "bystander_right": _cell(verdict.bystander_right),
        "extra": str(verdict.extra),
        "palette_distance": f"{verdict.palette_distance:.6g}",
        "explained": f"{verdict.explained:.6g}",
        **drawn.notes,
    }
    row = Row(
        unit.method.name,
        unit.prompt_set,
        prompt,
        seed,
        verdict.presence,
        verdict.binding,
        verdict.objects_right,
        verdict.action_right,
        verdict.all_right,
        verdict.mixture,
        round(verdict.quality, 6),
        round(counter.passes[i], 3),
        round(seconds, 4),
        {name: notes.get(name, "") for name in EXTRA},
    )
    return Made(row, _png(drawn.image))


def _cell(value: bool | None) -> str:
    return "" if value is None else str(int(value))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


# --- worker processes -------------------------------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _load(weights: Path | None) -> tuple[Any, Prices]:
    from ..hosts.diffusers.pixelworld import load_pixelworld

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = load_pixelworld(folder=weights)
    return pipeline, measure_prices(pipeline)


def _start_worker(weights: Path | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_outlive, args=(parent,), daemon=True).start()
    from tqdm.std import tqdm

    tqdm.set_lock(threading.RLock())  # its own lock would be left behind by a worker that is ended
    silence()
    torch.set_num_threads(1)
    _worker["loaded"] = _load(weights)


def _outlive(parent: Any) -> None:
    """A killed parent must not leave its workers behind."""
    parent.join()
    os._exit(1)


def _work(settings: Mapping[str, Any], unit: tuple[Any, ...]) -> list[Made]:
    name, prompt_set, numbers, batch = unit
    pipeline, prices = _worker["loaded"]
    return draw(pipeline, prices, Unit(_remade(name, settings), prompt_set, numbers, batch))


def _remade(name: str, settings: Mapping[str, Any]) -> Method:
    """Methods hold functions, which do not travel between processes; their settings do."""
    made: dict[str, Method] = _worker.setdefault("methods", {})
    if name not in made:
        made[name] = registry.make(name, settings)
    return made[name]


def _drawn(plan: Plan, todo: Sequence[Unit], processes: int) -> Iterator[tuple[Unit, list[Made]]]:
    """The units as they are done."""
    if processes <= 1:
        torch.set_num_threads(1)
        with quiet():
            pipeline, prices = _load(plan.weights)
            for unit in todo:
                yield unit, draw(pipeline, prices, unit)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (plan.weights,))
    try:
        yield from _gathered(pool, todo, 2 * processes)
    except BrokenProcessPool:
        raise InterplayError("A worker process was ended from outside; run the same command again to go on.") from None
    except BaseException:
        for process in list((pool._processes or {}).values()):  # a batch may take half a minute; nothing of it is kept
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _gathered(pool: ProcessPoolExecutor, todo: Sequence[Unit], ahead: int) -> Iterator[tuple[Unit, list[Made]]]:
    waiting = iter(todo)
    running: dict[Future[list[Made]], Unit] = {}

    def submit(units: Iterable[Unit]) -> None:
        for unit in units:
            plain = (unit.method.name, unit.prompt_set, unit.numbers, unit.batch)
            running[pool.submit(_work, unit.method.settings, plain)] = unit

    submit(islice(waiting, ahead))
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            unit = running.pop(future)
            submit(islice(waiting, 1))
            yield unit, future.result()


# --- a run ------------------------------------------------------------------------------------------------------------


def execute(folder: Path, plan: Plan, processes: int = 1) -> list[Row]:
    """Make what ``folder`` still lacks of ``plan``. Returns all of its rows.

    A batch that was ended in its middle is drawn again as a whole, so that its pictures are the same to the last bit.
    """
    everything = units(plan)
    prepare(folder, plan)
    have = {row.key for row in read_results(folder) if (folder / row.file).is_file()}
    todo = [unit for unit in everything if not have.issuperset(unit.row_keys())]
    missing: dict[str, int] = {}
    for unit in todo:
        missing[unit.method.name] = missing.get(unit.method.name, 0) + len(unit.numbers)
    total = sum(len(unit.numbers) for unit in everything)
    progress = Progress(missing, total - sum(missing.values()), processes)
    written = {row.key for row in read_results(folder)}
    if todo:
        progress.show()
        for unit, pictures in _drawn(plan, todo, processes):
            for made in pictures:
                write_whole(folder / made.row.file, made.png)
                if made.row.key not in written:
                    append_row(folder, made.row)
            progress.made(unit.method.name, len(pictures), sum(made.row.seconds or 0.0 for made in pictures))
    return read_results(folder)


def prepare(folder: Path, plan: Plan) -> None:
    """Write ``bench.json``, or hold the plan against the one that is there. Methods and sets may be added.

    Raises:
        InterplayError: the folder holds a run with other settings, or something else.
    """
    ours = {
        "bench": "pixelworld",
        "interplay": _version(),
        "model": model(plan.weights),
        "settings": plan.settings(),
        "methods": [method.name for method in plan.methods],
        "sets": list(plan.sets),
        "method_settings": {method.name: _plain(method.settings) for method in plan.methods},
    }
    if (folder / "bench.json").is_file():
        ours = _merged(folder, read_settings(folder), ours)
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InterplayError(f"{folder} holds something that is not a bench; choose another --out.")
    write_settings(folder, ours)


def _merged(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    for label, a, b in _differences(theirs, ours):
        raise InterplayError(
            f"{folder} holds a run with {label} {a} and cannot take one with {b}; "
            "choose another --out or the same settings."
        )
    merged = {**theirs}
    for key in ("methods", "sets"):
        merged[key] = list(dict.fromkeys([*theirs[key], *ours[key]]))
    merged["method_settings"] = {**theirs["method_settings"], **ours["method_settings"]}
    return merged


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    if theirs.get("bench") != ours["bench"]:
        yield "of the kind", theirs.get("bench"), ours["bench"]
        return
    model_a, model_b = theirs["model"], ours["model"]
    if model_a["sha256"] != model_b["sha256"]:
        yield "the model", model_a["sha256"][:12], model_b["sha256"][:12]
    for key, value in ours["settings"].items():
        if theirs["settings"].get(key) != value:
            yield key, theirs["settings"].get(key), value
    for name, settings in ours["method_settings"].items():
        before = theirs["method_settings"].get(name, settings)
        for key in [*settings, *before]:
            if before.get(key) != settings.get(key):
                yield f"the method '{name}' at {key}", before.get(key), settings.get(key)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _version() -> str:
    import sys

    return str(getattr(sys.modules[(__package__ or "interplay").split(".guidance")[0]], "__version__", ""))
