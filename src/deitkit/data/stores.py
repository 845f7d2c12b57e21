"""Where encoded pictures come from, row by row: the protocol, and files on disk.

A store is columns, not objects: a file costs its path and 24 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from deitkit.data.containers import EXTENSIONS
from deitkit.data.display import printable
from deitkit.data.faults import DecodeFault
from deitkit.data.reading import Stamp, read_image_file
from deitkit.data.scan_memory import UNKNOWN, file_numbers, key_of
from deitkit.errors import DataError

LIMIT_FILE_BYTES = 1 << 30
"""A larger file is refused unread: 50 million pixels of 16-bit RGBA fill 400 MB."""

Raw = Any
"""Encoded bytes, a Pillow image or a uint8 array."""


class RecordStore(Protocol):
    """Rows of encoded pictures; can be sent to a worker process."""

    parallel: bool
    """Whether several threads may read at once."""

    def __len__(self) -> int: ...

    def describe(self, row: int) -> str:
        """What a person calls this row: its path, or its place in a table."""

    def promised_format(self, row: int) -> str | None:
        """The format its file name promises, None where there is no such name."""

    def read(self, row: int) -> Raw:
        """For the scan. Raises DecodeFault; remembers what tells a later change."""

    def reread(self, row: int) -> Raw:
        """After the scan. Raises DataError FILE_GONE, FILE_CHANGED, UNREADABLE or IO_ERROR."""

    def keys(self) -> list[bytes]:
        """Of each row, what differs once its name or content does (`scan_memory`), found out
        without reading it; empty where nothing tells. Rows the scan knows by it are not read."""

    def take(self, rows: np.ndarray) -> RecordStore:
        """The store of these rows, in this order."""


def reread_file(path: bytes, scanned: Stamp) -> bytes:
    """The bytes of a file that must still be the one the scan saw; raises DataError."""
    shown = printable(path)
    try:
        encoded, stamp = read_image_file(path, limit_bytes=LIMIT_FILE_BYTES)
    except DecodeFault as fault:
        if fault.reason in ("missing_file", "not_a_regular_file"):
            raise DataError(
                "FILE_GONE",
                shown,
                "was there when the data was scanned and is gone",
                "put it back and run the same command again",
            ) from fault
        raise DataError(
            "UNREADABLE", shown, str(fault), "make it readable and run the same command again"
        ) from fault
    if stamp != scanned:
        raise changed_file(shown)
    return encoded


def changed_file(shown: str) -> DataError:
    return DataError(
        "FILE_CHANGED",
        shown,
        "its size or modification time is not what the scan saw",
        "put the old file back, or start a new run on the changed data",
    )


class PathColumn:
    """Many paths in one bytes object, relative to a root or absolute."""

    def __init__(self, root: bytes, paths: Sequence[bytes]) -> None:
        self.root = root
        self._joined = b"".join(paths)
        self._ends = np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> bytes:
        start = self._ends[row - 1] if row else 0
        return os.path.join(self.root, self._joined[start : self._ends[row]])

    def take(self, rows: np.ndarray) -> PathColumn:
        starts = np.concatenate(([0], self._ends[:-1]))
        return PathColumn(
            self.root, [self._joined[starts[row] : self._ends[row]] for row in rows.tolist()]
        )


class FileStore:
    """One image file a row; each is read when asked for, and known by size and mtime."""

    parallel = True

    def __init__(
        self, root: bytes, paths: Sequence[bytes] | PathColumn, stamps_N2: np.ndarray | None = None
    ) -> None:
        self.paths = paths if isinstance(paths, PathColumn) else PathColumn(root, paths)
        self._stamps_N2 = (
            np.full((len(self.paths), 2), -1, np.int64) if stamps_N2 is None else stamps_N2
        )

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, row: int) -> str:
        return os.fsdecode(self.paths[row])

    def promised_format(self, row: int) -> str | None:
        return EXTENSIONS.get(os.fsdecode(os.path.splitext(self.paths[row])[1]).lower())

    def read(self, row: int) -> bytes:
        encoded, stamp = read_image_file(self.paths[row], limit_bytes=LIMIT_FILE_BYTES)
        self._stamps_N2[row] = stamp
        return encoded

    def keys(self) -> list[bytes]:
        found = []
        for row in range(len(self)):
            path = self.paths[row]
            numbers = file_numbers(path)
            if numbers is not None:
                self._stamps_N2[row] = numbers[:2]
            found.append(UNKNOWN if numbers is None else key_of(path, *numbers))
        return found

    def reread(self, row: int) -> bytes:
        size_bytes, mtime_ns = self._stamps_N2[row].tolist()
        return reread_file(self.paths[row], Stamp(size_bytes, mtime_ns))

    def take(self, rows: np.ndarray) -> FileStore:
        return FileStore(self.paths.root, self.paths.take(rows), self._stamps_N2[rows])
