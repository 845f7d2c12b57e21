"""What a server in this process does to the machine, seen by an audit hook: a negative proven."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

WATCHED = ("open", "os.", "socket.", "subprocess.", "shutil.", "tempfile.", "ctypes.dlopen", "exec")
_seen: list[tuple[str, tuple[Any, ...]]] | None = None
_watcher: threading.Thread | None = None
_is_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # A hook cannot be taken away again: it must cost nothing while nobody watches.
    if _seen is None or not event.startswith(WATCHED):
        return
    if threading.current_thread() is not _watcher:
        _seen.append((event, arguments))


@contextlib.contextmanager
def watching() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """(event, arguments) of all other threads, while the block runs."""
    global _seen, _watcher, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_hook)
        _is_hooked = True
    found: list[tuple[str, tuple[Any, ...]]] = []
    _seen, _watcher = found, threading.current_thread()
    try:
        yield found
    finally:
        _seen = None


def written(events: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """What of that made or changed a file."""
    flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    opened = [e for e in events if e[0] == "open" and (e[1][2] or 0) & flags]
    changed = ("os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.truncate")
    return opened + [e for e in events if e[0].startswith((*changed, "shutil.", "tempfile."))]


def reached_out(events: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """What of that looked for another machine, or started a program."""
    outward = ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.sendto")
    started = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
    return [e for e in events if e[0].startswith((*outward, *started))]
