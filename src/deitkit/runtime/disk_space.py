"""Room on the disk: how much in words, and taken before it is needed."""

from __future__ import annotations

import errno
import os

_CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def readable_bytes(num_bytes: int) -> str:
    """As 1.2 GB or 340 KB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} bytes"


def give_full_length(descriptor: int, num_bytes: int) -> None:
    """Make an open file so long, zeros behind what it holds, with its space on the disk reserved
    where the filesystem can. OSError as it comes."""
    size = os.fstat(descriptor).st_size
    if size == num_bytes:
        return
    if size < num_bytes and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
            return
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
    os.ftruncate(descriptor, num_bytes)
