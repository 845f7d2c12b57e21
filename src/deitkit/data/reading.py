"""Reading a file whole, without ever hanging on something that is no file."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import NamedTuple

from deitkit.data.display import printable
from deitkit.data.faults import DecodeFault
from deitkit.errors import DataError

_RETRY_WAITS_S = (0.1, 0.5)
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class Stamp(NamedTuple):
    """What changes when a file is replaced."""

    size_bytes: int
    mtime_ns: int


def stamp_of(path: str | bytes) -> Stamp:
    """Size and modification time now; raises OSError."""
    found = os.stat(path)
    return Stamp(found.st_size, found.st_mtime_ns)


def read_image_file(path: bytes, *, limit_bytes: int) -> tuple[bytes, Stamp]:
    """Bytes and stamp of a regular file.

    Raises DecodeFault (permission, not_a_regular_file, path_too_long, missing_file, or too_large
    above `limit_bytes`), and DataError IO_ERROR when the device fails three times.
    """
    for wait_s in (*_RETRY_WAITS_S, None):
        try:
            return _read_once(path, limit_bytes)
        except OSError as fault:
            known = _known_fault(fault, path)
            if known is not None:
                raise known from fault
            if fault.errno == errno.EIO and wait_s is not None:
                time.sleep(wait_s)
                continue
            name = errno.errorcode.get(fault.errno or 0, "OSError")
            raise DataError(
                "IO_ERROR",
                printable(path),
                f"could not be read ({name}: {fault.strerror})",
                "check the disk or network mount, then run the same command again",
            ) from fault
    raise AssertionError("the last attempt either returns or raises")


def _read_once(path: bytes, limit_bytes: int) -> tuple[bytes, Stamp]:
    # stat before open: opening a device can already do something.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DecodeFault("not_a_regular_file")
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DecodeFault("not_a_regular_file")
        if found.st_size > limit_bytes:
            raise DecodeFault("too_large", f"a file of {found.st_size} bytes")
        parts = []
        while part := os.read(descriptor, max(found.st_size + 1, 4096)):
            parts.append(part)
    finally:
        os.close(descriptor)
    encoded = parts[0] if len(parts) == 1 else b"".join(parts)
    return encoded, Stamp(found.st_size, found.st_mtime_ns)


def _known_fault(fault: OSError, path: bytes) -> DecodeFault | None:
    if fault.errno in (errno.EACCES, errno.EPERM):
        return DecodeFault("permission")
    if fault.errno == errno.ENAMETOOLONG:
        return DecodeFault("path_too_long")
    if fault.errno in (errno.ELOOP, errno.ENXIO):
        return DecodeFault("not_a_regular_file")
    if fault.errno in (errno.ENOENT, errno.ENOTDIR):
        return DecodeFault("not_a_regular_file" if os.path.islink(path) else "missing_file")
    return None
