"""Running `deitkit`: as the installed program, or forked from a process that has torch."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = Path(sys.executable).with_name("deitkit")
SERVER = Path(__file__).with_name("fork_server.py")
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """How a command ended. A negative code is the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that are errors."""
        return [line for line in self.err.splitlines() if line.startswith("deitkit: error ")]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Started:
    """A forked command that is still running."""

    server: Commands
    pid: int
    out: Path
    err: Path

    def is_running(self) -> bool:
        """Whether it has not ended; until `wait`, an ended one is a zombie."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(") ")[2][0] != "Z"

    def address(self) -> str | None:
        """Where it says that it answers; None before."""
        return _address_in(self.out.read_text(encoding="utf-8")) if self.out.exists() else None

    def wait(self) -> Ended:
        status = self.server.ask({"wait": self.pid})["status"]
        code = os.waitstatus_to_exitcode(status)
        out, err = (path.read_text(encoding="utf-8") for path in (self.out, self.err))
        return Ended(code, out, err)


@dataclass
class Commands:
    """`commands("train", "data=photos")` runs one command in `folder` and returns how it ended."""

    folder: Path
    logs: Path
    _process: subprocess.Popen[str] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __enter__(self) -> Commands:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | QUIET,
        )
        assert self._read() == {"ready": True}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def __call__(self, *argv: Any, **options: Any) -> Ended:
        return self.start(*argv, **options).wait()

    def start(
        self,
        *argv: Any,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        hooks: dict[str, Any] | None = None,
        file_size_limit: int | None = None,
    ) -> Started:
        """Begin a command; `hooks` are `names` in HOOKABLE and what to do `at` one of the calls:
        send this process `signal`, so many `times`; `trace` is a file for the names of all calls.
        """
        number = next(self._numbers)
        out, err = self.logs / f"{number}.out", self.logs / f"{number}.err"
        request = {
            "argv": [str(word) for word in argv],
            "folder": str(folder or self.folder),
            "environment": environment or {},
            "out": str(out),
            "err": str(err),
            "hooks": hooks or {},
            "file_size_limit": file_size_limit,
        }
        return Started(self, self.ask({"start": request})["pid"], out, err)

    @contextmanager
    def serving(self, *words: Any, folder: Path | None = None) -> Iterator[str]:
        """The address at which `deitkit serve` (or review) answers; it must end well."""
        verb = () if words[0] == "review" else ("serve",)
        server = self.start(*verb, *words, "port=0", folder=folder)
        try:
            while (address := server.address()) is None:
                assert server.is_running(), server.err.read_text(encoding="utf-8")
                time.sleep(0.01)
            yield address
        finally:
            os.kill(server.pid, signal.SIGTERM)
            ended = server.wait()
        assert ended.code == 0, ended.out + ended.err

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def installed(*argv: Any, folder: Path, **options: Any) -> Ended:
    """The program beside this Python, as a user starts it."""
    environment = os.environ | QUIET | options.pop("environment", {})
    done = subprocess.run(
        [str(PROGRAM), *map(str, argv)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _address_in(said: str) -> str | None:
    found = re.search(r"http://127\.0\.0\.1:\d+(?=\s)", said)
    return None if found is None else found[0]


@contextmanager
def serving(*words: Any, folder: Path | None = None) -> Iterator[str]:
    """The address at which the installed `deitkit serve` (or review) answers; it must end well."""
    verb = () if words[0] == "review" else ("serve",)
    server = subprocess.Popen(
        [str(PROGRAM), *verb, *map(str, words), "port=0"],
        cwd=folder,
        env=os.environ | QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    said, address = [], None
    try:
        for line in server.stdout:
            said.append(line)
            if address := _address_in(line):
                break
        assert address is not None, "".join(said)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    assert code == 0, "".join(said)
