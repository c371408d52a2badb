"""A progress bar with the time that is left, on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter

PATIENCE = 30.0  # seconds between lines where nobody watches


class Progress:
    """Counts pictures by method, since methods differ in cost. left: pictures to make of each; workers: at a time."""

    def __init__(self, left: dict[str, int], done: int, workers: int) -> None:
        self.left, self.workers = Counter(left), workers
        self.done, self.total = done, done + sum(left.values())
        self._seconds: dict[str, float] = {}
        self._made: Counter[str] = Counter()
        self._watched = sys.stderr.isatty()
        self._last = 0.0
        self._width = 0

    def made(self, method: str, pictures: int, seconds: float) -> None:
        """So many pictures of a method took so many seconds of one worker."""
        self.done += pictures
        self.left[method] -= pictures
        self._made[method] += pictures
        self._seconds[method] = self._seconds.get(method, 0.0) + seconds
        self.show(method)

    def time_left(self) -> float | None:
        """Seconds; methods that were not met yet count like the mean of the others. None before the first picture."""
        if not self._made:
            return None
        mean = sum(self._seconds.values()) / sum(self._made.values())
        each = {m: self._seconds[m] / n for m, n in self._made.items()}
        return sum(n * each.get(m, mean) for m, n in self.left.items()) / self.workers

    def show(self, doing: str = "") -> None:
        """Write the line."""
        finished = self.done >= self.total
        now = time.monotonic()
        if not self._watched and not finished and now - self._last < PATIENCE:
            return
        self._last = now
        left = self.time_left()
        parts = [f"{self.done} of {self.total} pictures", doing]
        if left is not None and not finished:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
        line = " · ".join(part for part in parts if part)
        if self._watched:
            filled = 24 * self.done // max(1, self.total)
            line = f"[{'#' * filled}{'.' * (24 - filled)}] {line}"
            print("\r" + line.ljust(self._width), end="\n" if finished else "", file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)
