"""Reading parts of large files that must stay what they were."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deitkit.data.display import printable
from deitkit.data.reading import Stamp
from deitkit.data.stores import changed_file
from deitkit.errors import DataError

_RETRY_WAITS_S = (0.1, 0.5)
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

Result = TypeVar("Result")


def read_range(path: Path, offset: int, size: int, scanned: Stamp) -> bytes:
    """`size` bytes of a file that must still be the one that was scanned.

    Raises DataError FILE_GONE, FILE_CHANGED, UNREADABLE or, when the device fails three times,
    IO_ERROR.
    """
    return with_open_file(path, lambda file: _read_at(file, path, offset, size, scanned))


def _read_at(descriptor: int, path: Path, offset: int, size: int, scanned: Stamp) -> bytes:
    parts, missing = [], size
    if stamp_of_open(descriptor) == scanned:
        os.lseek(descriptor, offset, os.SEEK_SET)
        while missing and (part := os.read(descriptor, missing)):
            parts.append(part)
            missing -= len(part)
    if missing or stamp_of_open(descriptor) != scanned:
        raise changed_file(printable(path))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def stamp_of_open(descriptor: int) -> Stamp:
    """Size and modification time of an open file."""
    found = os.fstat(descriptor)
    return Stamp(found.st_size, found.st_mtime_ns)


def with_open_file(path: Path, use: Callable[[int], Result]) -> Result:
    """What `use` makes of an open regular file; again from the beginning where the device fails.

    Raises DataError FILE_GONE, UNREADABLE or IO_ERROR.
    """
    for wait_s in (*_RETRY_WAITS_S, None):
        try:
            # stat before open: opening a device can already do something.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise _unreadable(path, "is no regular file", "put the shard in its place")
            descriptor = os.open(path, _OPEN_FLAGS)
            try:
                return use(descriptor)
            finally:
                os.close(descriptor)
        except OSError as fault:
            if fault.errno == errno.EIO and wait_s is not None:
                time.sleep(wait_s)
                continue
            raise _told(path, fault) from fault
    raise AssertionError("the last attempt either returns or raises")


def _told(path: Path, fault: OSError) -> DataError:
    if fault.errno in (errno.ENOENT, errno.ENOTDIR):
        return DataError(
            "FILE_GONE",
            printable(path),
            "was there when the data was listed and is gone",
            "put it back and run the same command again",
        )
    if fault.errno in (errno.EACCES, errno.EPERM):
        return _unreadable(path, "may not be read", "make it readable for this user")
    name = errno.errorcode.get(fault.errno or 0, "OSError")
    return DataError(
        "IO_ERROR",
        printable(path),
        f"could not be read ({name}: {fault.strerror})",
        "check the disk or network mount, then run the same command again",
    )


def _unreadable(path: Path, why: str, do: str) -> DataError:
    return DataError("UNREADABLE", printable(path), why, do)
