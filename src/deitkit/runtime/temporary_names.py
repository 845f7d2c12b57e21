"""Names of files and folders still being written, and the removal of those whose writer died.

A temporary name stands beside its target, so that the final rename stays on one filesystem and
is atomic wherever TMPDIR points: `.<name>.tmp-<host>-<pid>-<n>`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"^\..+\.tmp-(?P<host>.+)-(?P<pid>\d+)-\d+$", re.DOTALL)
_numbers = itertools.count()
_in_use: set[str] = set()
"""Names this very process is writing. A container restarts with the same host and pid, so the
pid alone cannot tell our own half-written file from that of the life before."""


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "host"


@contextlib.contextmanager
def temporary_name(target: Path) -> Iterator[Path]:
    """A free name beside `target`, held as ours until the block ends."""
    while True:
        name = f".{target.name}.tmp-{_host()}-{os.getpid()}-{next(_numbers)}"
        path = target.with_name(name)
        if not os.path.lexists(path):
            break
    _in_use.add(name)
    try:
        yield path
    finally:
        _in_use.discard(name)


def is_temporary(name: str) -> bool:
    """Whether the file or folder name is one of ours for something unfinished."""
    return _NAME.match(name) is not None


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what writers on this host left unfinished when they died; returns what went.

    Names of living processes, of other hosts and of other programs stay.
    """
    removed: list[Path] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return removed
    for path in entries:
        match = _NAME.match(path.name)
        if match is None or match["host"] != _host() or path.name in _in_use:
            continue
        pid = int(match["pid"])
        if pid != os.getpid() and _is_alive(pid):
            continue
        with contextlib.suppress(OSError):
            remove_tree(path)
            removed.append(path)
    return removed


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all in it; links are removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            remove_tree(child)
        path.rmdir()
    else:
        path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
