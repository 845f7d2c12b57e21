"""A server in a process of its own, whose memory, files, threads and end can be seen."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.journeys.commands import PROGRAM, QUIET
from tests.serving.client import HUNG_S, Client, wait_until

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Process(Client):
    """One process that serves."""

    popen: subprocess.Popen[str]
    said: str
    """Its first line."""

    @property
    def folder(self) -> Path:
        return Path(f"/proc/{self.popen.pid}")

    def kilobytes(self, field: str) -> int:
        """A size in its status: VmRSS now, VmHWM at most so far."""
        found = re.search(rf"^{field}:\s+(\d+) kB$", (self.folder / "status").read_text(), re.M)
        assert found is not None
        return int(found[1])

    @property
    def cpu_seconds(self) -> float:
        fields = (self.folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def num_files(self) -> int:
        return len(list((self.folder / "fd").iterdir()))

    @property
    def num_threads(self) -> int:
        return len(list((self.folder / "task").iterdir()))


@contextlib.contextmanager
def program(*words: Any, ready: bool = True, installed: bool = True) -> Iterator[Process]:
    """`deitkit serve WORDS`, or where not `installed` a Python module of the tests."""
    start = [str(PROGRAM), "serve"] if installed else [sys.executable, "-m"]
    popen = subprocess.Popen(
        [*start, *map(str, words)],
        cwd=ROOT,
        env=os.environ | QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None and popen.stderr is not None
    try:
        first = popen.stdout.readline()
        found = re.search(r"http://[\d.]+:(\d+)", first)
        assert found is not None, first + popen.stderr.read()
        here = Process(int(found[1]), popen, first)
        if ready:
            wait_until(lambda: here.get("/readyz").status_code == 200)
        yield here
        here.http.close()
    finally:
        if popen.poll() is None:
            popen.terminate()
        popen.wait(HUNG_S)
        popen.stdout.close()
        popen.stderr.close()
