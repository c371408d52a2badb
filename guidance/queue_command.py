"""``interplay queue``: one workflow for many prompts and seeds, through the queue of a running ComfyUI."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InterplayError
from .queue_server import Finished, Picture, Server
from .queueing import Change, filled, prompt_of, read_workflow, seed_of, title_of

AHEAD = 2  # runs in the queue at a time: one is drawn, one waits, so that nothing stands idle and stopping loses little
RUNS, PICTURES = "queue.jsonl", "pictures.jsonl"
FREE_TEXT = ("--prompt", "--set")


@dataclass(frozen=True)
class Job:
    """One run. number: from 1, as in the names of its pictures; key: what the server is asked for, as a checksum."""

    number: int
    prompt: str
    seed: int | None
    workflow: dict[str, Any]
    key: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("workflow", help="a file in API format (Workflow > Export (API)), or a shipped one by its name")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be given again")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with a prompt a line")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds; every prompt is drawn with each")
    parser.add_argument("--count", type=int, metavar="N", help="so many seeds in a row, from the workflow's own")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", dest="changes",
                        help="another value; NODE is an id, a title or a type; may be given again")  # fmt: skip
    parser.add_argument("--previews", action="store_true", help="fetch pictures that are only previewed, too")
    parser.add_argument("--server", default="127.0.0.1:8188", metavar="ADDRESS", help="where ComfyUI is (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("queued"), metavar="DIR", help="folder (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Queue what is not in the folder yet, and fetch it. 0 where all went well, 2 where a run failed."""
    jobs = list(_jobs(args))
    _make(args.out)
    done = _done(args.out)
    left = [job for job in jobs if job.key not in done]
    if len(left) < len(jobs):
        _say(f"{len(jobs) - len(left)} of {len(jobs)} are in {args.out} already.")
    server = Server(args.server)
    server.check()
    drawn = _drawn(server, left)
    failed = sum(not _kept(server, job, finished, seconds, args, len(jobs)) for job, finished, seconds in drawn)
    if failed:
        why = f"{args.out / RUNS} says why, and the same command tries them again"
        raise InterplayError(f"{failed} of {len(left)} runs failed; {why}.")
    print(args.out)
    return 0


def _jobs(args: argparse.Namespace) -> Iterator[Job]:
    workflow = read_workflow(args.workflow)
    changes = tuple(Change.read(text) for text in args.changes)
    number = 0
    for prompt in _prompts(args):
        for seed in _seeds(args, workflow):
            number += 1
            asked = filled(workflow, prompt, seed, changes)
            key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
            yield Job(number, prompt_of(asked), seed_of(asked), asked, key)


def _prompts(args: argparse.Namespace) -> list[str | None]:
    from .bench.protocol_data import prompts_of_file

    found = [*args.prompt, *(prompts_of_file(args.prompts) if args.prompts else ())]
    return list(found) or [None]


def _seeds(args: argparse.Namespace, workflow: dict[str, Any]) -> Sequence[int | None]:
    if args.count is None:
        return args.seeds or [None]
    if args.count < 1:
        raise InterplayError(f"--count is {args.count}; ask for one seed or more.")
    if args.seeds and len(args.seeds) > 1:
        raise InterplayError("Give either --seeds with all of them, or one of them with --count.")
    first = args.seeds[0] if args.seeds else seed_of(workflow) or 0
    return range(first, first + args.count)


def _drawn(server: Server, jobs: list[Job]) -> Iterator[tuple[Job, Finished, float]]:
    """Every job with what came of it and how long it was waited for, in their order."""
    waiting: deque[tuple[Job, str]] = deque()
    todo = deque(jobs)
    try:
        while todo or waiting:
            while todo and len(waiting) < AHEAD:
                job = todo.popleft()
                waiting.append((job, server.queue(job.workflow)))
            start = time.monotonic()
            job, id = waiting[0]
            finished = server.wait(id)
            waiting.popleft()
            yield job, finished, time.monotonic() - start
    finally:
        if waiting:
            server.withdraw([id for _, id in waiting])


def _kept(server: Server, job: Job, finished: Finished, seconds: float, args: argparse.Namespace, of: int) -> bool:
    """Fetch the pictures of a run and note it; whether it went well."""
    kinds = ("output", "temp") if args.previews else ("output",)
    pictures = [] if finished.error else [picture for picture in finished.pictures if picture.kind in kinds]
    # In the order of the workflow: that in which nodes end differs from run to run.
    pictures.sort(key=lambda picture: list(job.workflow).index(picture.node))
    files = [(picture, _fetch(server, job, picture, index, args.out)) for index, picture in enumerate(pictures)]
    for picture, name in files:
        node = title_of(job.workflow, picture.node)
        _append(args.out / PICTURES, {"file": name, "prompt": job.prompt, "seed": job.seed, "node": node})
    texts = {title_of(job.workflow, node): list(text) for node, text in finished.texts.items()}
    row = {"number": job.number, "key": job.key, "prompt": job.prompt, "seed": job.seed}
    row |= {"error": finished.error, "files": [name for _, name in files], "texts": texts}
    _append(args.out / RUNS, row)
    said = finished.error or f"{len(files)} picture{'s' * (len(files) != 1)}"
    _say(f"{job.number} of {of} · {seconds:.1f} s · seed {job.seed} · {job.prompt[:60]} · {said}")
    return not finished.error


def _fetch(server: Server, job: Job, picture: Picture, index: int, out: Path) -> str:
    title = "".join(c if c.isalnum() else "_" for c in title_of(job.workflow, picture.node)).strip("_")
    name = f"{job.number:04d}_{job.key[:6]}_{title[:40]}_{index}{Path(picture.filename).suffix}"
    part = out / f"{name}.part"
    part.write_bytes(server.picture(picture))
    os.replace(part, out / name)
    return name


def _done(out: Path) -> set[str]:
    """Keys of the runs that went well and whose pictures are still there."""
    if not (out / RUNS).is_file():
        return set()
    done = set()
    for line in (out / RUNS).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was ended while it wrote
        if not row["error"] and all((out / name).is_file() for name in row["files"]):
            done.add(row["key"])
    return done


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InterplayError(f"The folder {out} cannot be made ({error}); name another with --out.") from error


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
