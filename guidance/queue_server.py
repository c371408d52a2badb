"""A running ComfyUI, by its HTTP interface: queue a workflow, wait for it, fetch what it drew."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from ..errors import InterplayError

POLL = 0.5  # seconds between two looks at the history
PATIENCE = 60.0  # seconds for one answer
Workflow = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture of a finished run: the node it came from, and where ComfyUI keeps it. kind: output or temp."""

    node: str
    filename: str
    subfolder: str
    kind: str


@dataclass(frozen=True)
class Finished:
    """A run that ended. error: one sentence, empty where all went well. texts: what nodes showed, by node."""

    pictures: tuple[Picture, ...]
    texts: dict[str, tuple[str, ...]]
    error: str


class Server:
    """One ComfyUI.

    Every method raises InterplayError where the server cannot be reached or refuses.
    """

    def __init__(self, address: str) -> None:
        base = address if "://" in address else f"http://{address}"
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InterplayError(f"'{address}' is no address of a ComfyUI; give one like 127.0.0.1:8188.")
        self.url = base.rstrip("/")
        self.client = uuid.uuid4().hex

    def check(self) -> None:
        """Make sure that a ComfyUI answers there."""
        found = self._json("/system_stats")
        if not isinstance(found, dict) or "system" not in found:
            raise InterplayError(f"What answers at {self.url} is not ComfyUI; check the address and the port.")

    def queue(self, workflow: Workflow) -> str:
        """Put a workflow in API format into the queue; returns its id."""
        body = json.dumps({"prompt": workflow, "client_id": self.client}).encode()
        try:
            answer = json.loads(self._send("/prompt", body))
        except urllib.error.HTTPError as error:
            raise InterplayError(_refusal(_answer(error), workflow)) from error
        if answer.get("node_errors"):
            # ComfyUI draws what it can and leaves the rest out; half of what was asked for is not what was asked for.
            self.withdraw([answer["prompt_id"]])
            raise InterplayError(_refusal(answer, workflow))
        return str(answer["prompt_id"])

    def wait(self, run: str) -> Finished:
        """Wait until a queued run has ended, however it ended."""
        while True:
            entry = self._entry(run)
            if entry is None and not self._queued(run):
                # It may have ended between the two questions.
                entry = self._entry(run)
                if entry is None:
                    return Finished((), {}, "It was taken out of ComfyUI's queue.")
            if entry is not None:
                return _finished(entry)
            time.sleep(POLL)

    def picture(self, picture: Picture) -> bytes:
        """The file of a picture."""
        asked = {"filename": picture.filename, "subfolder": picture.subfolder, "type": picture.kind}
        try:
            return self._send(f"/view?{urllib.parse.urlencode(asked)}")
        except urllib.error.HTTPError as error:
            raise InterplayError(f"ComfyUI no longer has {picture.filename} ({error}); queue it again.") from error

    def withdraw(self, runs: list[str]) -> None:
        """Take runs out of the queue; one that is being drawn is interrupted. Others' runs are left alone."""
        self._send("/queue", json.dumps({"delete": runs}).encode())
        for run in self._ids("queue_running"):
            if run in runs:
                # A version that does not read the id interrupts whatever runs: this was ours a moment ago.
                self._send("/interrupt", json.dumps({"prompt_id": run}).encode())

    def _entry(self, run: str) -> dict[str, Any] | None:
        entry = self._json(f"/history/{run}").get(run)
        return entry if isinstance(entry, dict) else None

    def _queued(self, run: str) -> bool:
        return run in self._ids("queue_running", "queue_pending")

    def _ids(self, *lists: str) -> list[str]:
        queue = self._json("/queue")
        return [str(item[1]) for name in lists for item in queue.get(name, ())]

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._send(path))
        except (urllib.error.HTTPError, ValueError) as error:
            raise InterplayError(f"{self.url}{path} did not answer as ComfyUI does ({error}).") from error

    def _send(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"} if body else {})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise InterplayError(
                f"No ComfyUI answers at {self.url} ({reason}); start it, or name another with --server."
            ) from error


def _finished(entry: dict[str, Any]) -> Finished:
    pictures, texts = [], {}
    for node, output in entry.get("outputs", {}).items():
        for image in output.get("images", ()):
            if {"filename", "type"} <= image.keys():
                pictures.append(Picture(node, image["filename"], image.get("subfolder", ""), image["type"]))
        if output.get("text"):
            texts[node] = tuple(str(text) for text in output["text"])
    return Finished(tuple(pictures), texts, _failure(entry.get("status", {})))


def _failure(status: dict[str, Any]) -> str:
    """Why a run failed, in one sentence; empty where it did not."""
    for name, data in status.get("messages", ()):
        if name == "execution_error":
            said = " ".join(str(data.get("exception_message", "")).split())
            return f"{data.get('node_type')} (node {data.get('node_id')}) failed: {said}"
        if name == "execution_interrupted":
            return "It was interrupted in ComfyUI."
    return "" if status.get("status_str", "success") == "success" else "ComfyUI reports an error without a reason."


def _answer(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        found = json.loads(error.read())
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": str(error)}


def _refusal(answer: dict[str, Any], workflow: Workflow) -> str:
    """One sentence from what ComfyUI answers when a workflow does not fit."""
    for node, found in (answer.get("node_errors") or {}).items():
        for problem in found.get("errors", ()):
            kind = workflow.get(node, {}).get("class_type", "?")
            said = ": ".join(str(problem[key]) for key in ("message", "details") if problem.get(key))
            return f"ComfyUI refused the workflow at node {node} ({kind}): {' '.join(said.split())}"
    top = answer.get("error")
    said = top.get("message", "") if isinstance(top, dict) else str(top)
    return f"ComfyUI refused the workflow: {' '.join(str(said).split())}"
