"""Headless Chromium by the DevTools protocol: just enough to load a page, run scripts in it and take pictures."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-allow-origins=*",
    "--remote-debugging-port=0",
]


def find_chromium() -> str | None:
    """The browser's command, if there is one."""
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


class Chromium:
    """Opens one page on entry, closes the browser on exit."""

    def __init__(self, url: str, profile: Path, size: tuple[int, int] = (2200, 1400)) -> None:
        self.url, self.profile, self.size = url, profile, size
        self._count = 0

    def __enter__(self) -> Chromium:
        import websocket

        command = [str(find_chromium()), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        command.insert(1, f"--window-size={self.size[0]},{self.size[1]}")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._socket = websocket.create_connection(self._address(), timeout=120)
            self.send("Page.enable")
            self.send("Page.navigate", url=self.url)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _address(self) -> str:
        file = self.profile / "DevToolsActivePort"
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            if file.is_file() and len(lines := file.read_text().split()) >= 2:
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json", timeout=30) as answer:
                    pages = [p for p in json.loads(answer.read()) if p["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.2)
        raise RuntimeError("Chromium did not open its debugging port within 60 s")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command and its result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script[:80]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 120) -> Any:
        """Ask until the expression is true; its value."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.5)
        raise AssertionError(f"still not true after {seconds:g} s: {script}")

    def picture(self, path: Path) -> None:
        """A PNG of the page."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
