"""A real ComfyUI server in a folder of its own, with this checkout as one of its custom nodes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "any-name.2"  # the pack must work under whatever name its folder has
START_SECONDS = 600
RUN_SECONDS = 600


def api_workflow(name: str) -> dict[str, Any]:
    """An example workflow in API format."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(prompt: dict[str, Any], kind: str) -> list[str]:
    """Ids of all nodes of a type, in their order."""
    return [id for id, node in prompt.items() if node["class_type"] == kind]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ComfyServer:
    """Starts on entry, ends on exit; ``log`` holds what it printed."""

    def __init__(self, comfyui: Path, base: Path) -> None:
        self.comfyui, self.base, self.port = comfyui, base, _free_port()
        self.log_path = base / "server.log"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that the server printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> ComfyServer:
        (self.base / "custom_nodes").mkdir(parents=True)
        (self.base / "custom_nodes" / FOLDER).symlink_to(ROOT, target_is_directory=True)
        command = [sys.executable, "main.py", "--cpu", "--base-directory", str(self.base), "--port", str(self.port)]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.comfyui,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_up(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log[-3000:]}")

    def read(self, path: str) -> bytes:
        """Body of a GET; raises ``urllib.error.HTTPError`` for other answers than 200."""
        with urllib.request.urlopen(self.url + urllib.parse.quote(path, safe="/?&=%"), timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        """JSON of a GET."""
        return json.loads(self.read(path))

    def post(self, prompt: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Queue a prompt in API format: status and answer."""
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue a prompt and wait for its entry in the history."""
        status, answer = self.post(prompt)
        assert status == 200, answer
        return self.wait(answer["prompt_id"])

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """Wait for a queued prompt's entry in the history."""
        limit = time.monotonic() + RUN_SECONDS
        while time.monotonic() < limit:
            history = self.get(f"/history/{prompt_id}")
            if history:
                return dict(history[prompt_id])
            time.sleep(0.2)
        raise RuntimeError(f"the prompt did not finish within {RUN_SECONDS} s:\n{self.log[-3000:]}")

    def error(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a prompt that must fail: node type, exception type and message."""
        status, answer = self.post(prompt)
        assert status == 200, answer
        return self.wait_for_error(answer["prompt_id"])

    def wait_for_error(self, prompt_id: str) -> dict[str, Any]:
        """The error of a queued prompt that must fail."""
        entry = self.wait(prompt_id)
        errors = [data for name, data in entry["status"]["messages"] if name == "execution_error"]
        assert len(errors) == 1, entry["status"]
        return dict(errors[0])

    def pictures(self, entry: dict[str, Any], node: str) -> list[Image.Image]:
        """The pictures that a node saved or showed."""
        out = []
        for image in entry["outputs"][node]["images"]:
            query = urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
            out.append(Image.open(io.BytesIO(self.read(f"/view?{query}"))).convert("RGB"))
        return out
