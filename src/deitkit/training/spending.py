"""Where the seconds of a command go: what was spent so far, part by part."""

from __future__ import annotations

import time

START_UP, READING, TEACHER, ASKING = "start_up", "reading", "teacher", "asking"
IMAGE_CACHE, CHOOSING = "image_cache", "choosing"
STEPS, EVALUATIONS, CHECKPOINTS, CONCLUSION = "steps", "evaluations", "checkpoints", "conclusion"
PARTS = (
    START_UP,
    READING,
    TEACHER,
    ASKING,
    IMAGE_CACHE,
    CHOOSING,
    STEPS,
    EVALUATIONS,
    CHECKPOINTS,
    CONCLUSION,
)
"""Of a training command, in the order they come: loading torch; reading and checking the images;
training the teacher of teacher=auto; asking any teacher before training; filling the image cache;
timing a few steps and choosing; the steps; evaluations; checkpoints; calibration and report."""


class Spending:
    """A stopwatch whose time is always given to a part: every second counts once."""

    def __init__(self, started: float) -> None:
        """`started` is the monotonic time at which the command began."""
        self.seconds: dict[str, float] = {}
        """By part; parts that took no time are missing."""
        self._started = self._marked = started
        self._ahead_s = 0.0

    def mark(self, part: str) -> float:
        """Give the time since the last mark to `part`, and return it in seconds."""
        now = time.monotonic()
        spent_s, self._marked = now - self._marked, now
        self.seconds[part] = self.seconds.get(part, 0.0) + spent_s
        return spent_s

    def expect(self, part: str, seconds: float) -> None:
        """Count work as done that only a plan leaves undone."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        self._ahead_s += seconds

    def elapsed_s(self) -> float:
        """Since the command began, with what is expected."""
        return time.monotonic() - self._started + self._ahead_s
