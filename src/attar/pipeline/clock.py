"""Speed and remaining time of a stage, from what this start of the run has done so far."""

from __future__ import annotations

import time
from collections import deque


class Clock:
    """Counts work (images seen) against wall time over a sliding window."""

    def __init__(self, total: float, done: float = 0.0, window: float = 30.0) -> None:
        self.total, self.window = total, window
        self.marks: deque[tuple[float, float]] = deque([(time.monotonic(), done)])

    def tick(self, done: float) -> tuple[float, float | None]:
        """Note that `done` of `total` is done; returns (per second, seconds left or None while unknown)."""
        now = time.monotonic()
        self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[0][0] > self.window:
            self.marks.popleft()
        start, before = self.marks[0]
        speed = (done - before) / (now - start) if now > start else 0.0
        return speed, (self.total - done) / speed if speed > 0 else None
