"""Signals ask first, then end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from deitkit.runtime.signals import StopRequest

ASKED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def terminal_signals():
    """SIGHUP as in a terminal, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ASKED)
def test_first_signal_is_a_request(number, terminal_signals):
    """T10, T12, T15."""
    before = [signal.getsignal(n) for n in ASKED]
    with StopRequest() as stop:
        assert stop.signal_number is None and not stop.requested
        signal.raise_signal(number)
        assert stop.signal_number == number and stop.requested
        if number != signal.SIGINT:
            signal.raise_signal(number)
    assert [signal.getsignal(n) for n in ASKED] == before


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_sigint_after_a_request_leaves_at_once_with_130(first):
    """T13."""
    script = f"""
import atexit, signal
from deitkit.runtime.signals import StopRequest
atexit.register(print, "wrote something")
with StopRequest() as stop:
    signal.raise_signal(signal.{first})
    print(int(stop.signal_number), flush=True)
    signal.raise_signal(signal.SIGINT)
    print("went on")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == f"{int(signal.Signals[first])}\n"
    assert done.stderr == ""


def test_outside_the_main_thread_nothing_happens():
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def enter() -> None:
        with StopRequest() as stop:
            seen.extend([stop.signal_number, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None, before]


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal_number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number, ends_by", [(signal.SIGINT, 0), (signal.SIGTERM, signal.SIGTERM)])
def test_forked_worker_leaves_ctrl_c_to_its_parent_and_obeys_sigterm(number, ends_by):
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0) == ends_by
        assert stop.signal_number is None
