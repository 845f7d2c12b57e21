"""A folder that many processes use at once: nobody removes it meanwhile, one at a time fills it.

`.lock` in it is held shared by everyone who uses it and exclusively by who removes it, `.filling`
exclusively by who puts something into it that all will read. Both are freed by any death.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deitkit.runtime.durable import remove_durably

LOCK_FILE = ".lock"
FILL_FILE = ".filling"
READ_ONLY_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS)
_LOOK_AGAIN_S = 0.2


class SharedLock:
    """Held by everyone who uses a folder, so that nobody removes it meanwhile.

    `is_alone` says whether anybody else held it when it was taken. A folder that cannot be written
    and has no lock file is used without. Who only looks into it (`counts` False) does not make it
    the one that was used last.
    """

    def __init__(self, place: Path, *, counts: bool = True) -> None:
        self.is_alone = True
        self._descriptor: int | None = None
        path = place / LOCK_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in READ_ONLY_ERRNOS:
                raise
            self._descriptor = _open_for_reading(path)
        if self._descriptor is None:
            return
        try:
            self.is_alone = not _is_busy(self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        except BaseException:
            self.release()
            raise
        if counts:
            with contextlib.suppress(OSError):
                # `prune` asks when it was last used.
                os.utime(self._descriptor)

    @property
    def is_removed(self) -> bool:
        """Whether the folder was removed before the lock was taken."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_folder(place: Path, make: Callable[[], bool]) -> SharedLock | None:
    """The lock of `place`, which `make` makes where it is not there; None where it says it cannot.

    Whoever removes the folder between the two is outwaited. OSError as it comes.
    """
    while True:
        if not place.is_dir() and not make():
            return None
        try:
            lock = SharedLock(place)
        except FileNotFoundError:
            continue
        if not lock.is_removed:
            return lock
        lock.release()


@contextlib.contextmanager
def filling(place: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only one who fills `place`; `waiting` is called again and again while another does.

    What `waiting` raises ends the waiting. OSError as it comes.
    """
    descriptor = os.open(place / FILL_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while _is_busy(descriptor):
            waiting()
            time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def remove_unused(place: Path) -> bool:
    """Remove a folder unless somebody uses it; whether it went. Raises ResourceError."""
    try:
        descriptor = os.open(place / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return False
    try:
        if _is_busy(descriptor):
            return False
        remove_durably(place)
    finally:
        os.close(descriptor)
    return True


def is_in_use(place: Path) -> bool:
    """Whether some process holds the folder now."""
    descriptor = _open_for_reading(place / LOCK_FILE)
    if descriptor is None:
        return False
    try:
        return _is_busy(descriptor)
    finally:
        os.close(descriptor)


def _is_busy(descriptor: int) -> bool:
    """Whether another holds the lock; where it is free, it is held alone after this."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        # Over NFS only what may be written can be locked for removal.
        if error.errno != errno.EBADF:
            raise
    return False


def _open_for_reading(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
