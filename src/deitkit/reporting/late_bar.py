"""A progress bar whose libraries are loaded once there is something to wait for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deitkit.reporting.console import TrainingConsole

LOADED_AFTER_S = 0.5


class LateBar:
    """`TrainingConsole.progress`; what ends before half a second shows, and loads, nothing."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._console: TrainingConsole | None = None

    def progress(self, what: str, done: int, total: int | None) -> None:
        if self._console is None:
            if time.monotonic() - self._start < LOADED_AFTER_S or done == total:
                return
            from deitkit.reporting.console import TrainingConsole

            self._console = TrainingConsole()
        self._console.progress(what, done, total)

    def close(self) -> None:
        if self._console is not None:
            self._console.close()
