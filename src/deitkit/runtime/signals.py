"""Stopping on request: the first signal asks, the run finishes its step, a second Ctrl-C ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequest:
    """Turn SIGINT, SIGTERM and SIGHUP into a question the loop asks after each step.

    `signal_number` is None until one arrives. A SIGINT after that leaves at once with code 130
    and writes nothing: what is on disk is whole at every moment. Outside the main thread (some
    notebooks, servers) Python allows no handlers, so there it does nothing. The handlers of
    before come back at the end of the block.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}
        self._owner_pid = os.getpid()

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in _NAMES:
            number = getattr(signal, name, None)
            # nohup sets SIGHUP to "ignore", and means it.
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous in self._previous.items():
            # None: the handler was not set by Python, which cannot put it back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner_pid:
            _handle_in_forked_child(number)
        elif self.signal_number is None:
            self.signal_number = number
        elif number == signal.SIGINT:
            os._exit(128 + number)


def _handle_in_forked_child(number: int) -> None:
    """A worker leaves Ctrl-C to its parent, and must still die when it is told to."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
