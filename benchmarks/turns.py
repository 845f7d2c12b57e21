"""Programs that take turns: each in its own process, set up as its users set it up. Used by step.py
and whole_run.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SAME_FOR_ALL = {
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
}
"""What `deitkit.runtime.threads` sets for itself, for every program."""


class Worker:
    """A program that does one of its tasks when told to, and nothing in between."""

    def __init__(
        self, arguments: Sequence[str], *, threads: int, environment: Mapping[str, str]
    ) -> None:
        own = {**os.environ, "OMP_NUM_THREADS": str(threads), **environment}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own,
        )
        self.hello = self._answer()
        """What it says when it is ready; {"absent": reason} where it cannot run here."""

    def do(self, task: str) -> float:
        """Seconds that the task took."""
        assert self._process.stdin is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Libraries print, too.
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self._process.args} ended with code {self._process.wait()}")


def obey(tasks: Mapping[str, Callable[[], Any]], hello: Mapping[str, Any]) -> None:
    """Be such a program until nobody asks any more."""
    _say(hello)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        _say({"seconds": time.perf_counter() - start})


def absent(reason: str) -> None:
    """Say that this program cannot run here."""
    _say({"absent": reason})


def in_turn(
    tasks: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    limit_s: float,
    warm_rounds: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each task in each round, one after the other, the order turned by one each round.
    Rounds before the first warm up and are left out; after `limit_s` no round begins any more."""
    begun = time.monotonic()
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_rounds, rounds):
        if number > 0 and time.monotonic() - begun > limit_s:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            taken = tasks[name]()
            if number >= 0:
                seconds[name].append(taken)
        said = ", ".join(f"{name} {times[-1]:.2f}" for name, times in seconds.items() if times)
        print(f"round {number}: {said or 'warm'}", file=sys.stderr, flush=True)
    return seconds


def _say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)
