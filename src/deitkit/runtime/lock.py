"""Taking a run's folder: it can be written, it has space, and nobody else works in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from deitkit.errors import ResourceError
from deitkit.runtime.disk_faults import disk_fault, free_space_bytes
from deitkit.runtime.durable import (
    faults_told,
    make_folder,
    removed_on_failure,
    write_new_file,
)
from deitkit.runtime.temporary_names import temporary_name

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN)
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
_fork_hook_is_set = False


def check_output_folder(path: Path) -> None:
    """Create the run's folder, or find out that it can be written to, by writing to it.

    Raises ResourceError naming the errno. Cheap: call it before torch is imported and before
    the data is read.
    """
    path = Path(path)
    with faults_told(path):
        make_folder(path)
        with temporary_name(path / "probe") as probe, removed_on_failure(probe):
            write_new_file(probe, b"can this folder be written to?")
            probe.unlink()


def check_free_space(path: Path, bytes_needed: int) -> None:
    """Refuse to begin what the disk cannot hold. Raises ResourceError ENOSPC."""
    free = free_space_bytes(Path(path))
    if free is not None and free < bytes_needed:
        raise ResourceError(
            "ENOSPC",
            path,
            f"{bytes_needed:,} bytes needed, {free:,} free",
            "free some space or choose another folder with out=",
        )


class RunLock:
    """Hold `folder` for one run: `with RunLock(folder): ...`.

    An advisory `flock` on `<folder>/.lock`, so that `kill -9` frees it at once; the text inside
    (pid, host, start) is only there to be read by the next one. The file stays: removing it
    would let two runs lock two files of one name. Raises ResourceError LOCKED, naming the owner,
    or the errno's name where the folder cannot be written or its filesystem cannot lock.
    `enabled` is False on all ranks but the main one: they work under its lock.
    """

    def __init__(self, folder: Path, *, enabled: bool = True) -> None:
        self.path = Path(folder) / ".lock"
        self.enabled = enabled
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        if not self.enabled:
            return self
        _close_in_forked_children()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise disk_fault(error, self.path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_owner(descriptor)
        except OSError as error:
            try:
                raise self._refusal(descriptor, error) from error
            finally:
                os.close(descriptor)
        self._descriptor = descriptor
        _held.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _write_owner(descriptor: int) -> None:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(owner) + "\n").encode("ascii"), 0)

    def _refusal(self, descriptor: int, error: OSError) -> ResourceError:
        if error.errno not in _BUSY:
            return disk_fault(error, self.path)
        # The owner writes its name just after it took the lock: give it a moment.
        for _ in range(10):
            owner = _owner_in(os.pread(descriptor, 4096, 0))
            if owner is not None:
                break
            time.sleep(0.05)
        return ResourceError(
            "LOCKED",
            self.path.parent,
            f"another run works in this folder ({owner or 'owner unknown'})",
            "wait for it or stop it, or choose another folder with out=",
        )


def _owner_in(text: bytes) -> str | None:
    try:
        owner = json.loads(text)
        return f"pid {owner['pid']} on {owner['host']}, started {owner['start']}"
    except (ValueError, TypeError, KeyError):
        return None


def _close_in_forked_children() -> None:
    """A forked loader worker shares the lock, and would keep it when its dead parent cannot."""
    global _fork_hook_is_set
    if not _fork_hook_is_set:
        os.register_at_fork(after_in_child=_close_all)
        _fork_hook_is_set = True


def _close_all() -> None:
    for lock in list(_held):
        lock._close()
