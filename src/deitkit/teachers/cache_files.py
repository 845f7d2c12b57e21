"""Where records lie: one file for each stored epoch, on disk or in memory.

A file has one place of fixed size for each record and is as long as all of them from the start,
so any number of processes may write theirs in any order and end with the same bytes. A record is
read and written with one call; what a reader meets half-way through a write has a wrong checksum.
"""

# Shapes: B records, S records that stand beside each other, R bytes of a record.

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import CheckpointError, ResourceError
from deitkit.runtime.disk_faults import disk_fault, free_space_bytes
from deitkit.runtime.disk_space import give_full_length
from deitkit.teachers.cache_records import RecordFormat, empty_rows

Rows = NDArray[np.uint8]
Slots = NDArray[np.int64]

_MAX_OPEN = 4
"""An epoch uses one file; a few more for the ends of epochs and for looking around."""
_SCAN_BYTES = 1 << 22
_DO = "free some space, store fewer view epochs, or choose another folder for the teacher cache"


class FileReport(NamedTuple):
    """What one file of a cache holds."""

    epoch: int
    """The first view epoch it is for."""
    num_good: int
    num_empty: int
    """Never written."""
    num_bad: int
    """Damaged; each is asked for again when it is next needed."""
    has_full_length: bool
    """False where the file was cut off, or something was written behind its end."""


class RecordFiles(Protocol):
    """Files of records, each named by the first epoch it holds."""

    def read(self, epoch: int, slots_B: Slots) -> Rows:
        """Records [B, R]; zeros where nothing was written."""

    def write(self, epoch: int, slots_B: Slots, rows_BR: Rows) -> None:
        """Put records into their places."""

    def scan(self, epoch: int) -> Iterator[tuple[int, Rows]]:
        """All records of a file in order, in blocks with the place of their first."""

    def epochs(self) -> list[int]:
        """First epochs of the files that exist."""

    def has_full_length(self, epoch: int) -> bool:
        """Whether the file is as long as all its records."""

    def flush(self) -> None:
        """What was written outlasts a power cut."""

    def close(self) -> None:
        """Flush and let go."""


class MemoryFiles:
    """Records that end with the process. Memory is taken as places are written."""

    def __init__(self, *, record_bytes: int, num_slots: int) -> None:
        self.shape = (num_slots, record_bytes)
        self._files: dict[int, Rows] = {}

    def read(self, epoch: int, slots_B: Slots) -> Rows:
        if epoch not in self._files:
            return np.zeros((len(slots_B), self.shape[1]), dtype=np.uint8)
        return self._files[epoch][slots_B]

    def write(self, epoch: int, slots_B: Slots, rows_BR: Rows) -> None:
        if epoch not in self._files:
            self._files[epoch] = np.zeros(self.shape, dtype=np.uint8)
        self._files[epoch][slots_B] = rows_BR

    def scan(self, epoch: int) -> Iterator[tuple[int, Rows]]:
        if epoch in self._files:
            yield 0, self._files[epoch]

    def epochs(self) -> list[int]:
        return sorted(self._files)

    def has_full_length(self, epoch: int) -> bool:
        return True

    def flush(self) -> None:
        return None

    def close(self) -> None:
        self._files.clear()


class DiskFiles:
    """Records in `<folder>/epoch-00000.bin` and so on; OSError as it comes, but for CACHE_GONE."""

    def __init__(
        self, folder: Path, *, record_bytes: int, num_slots: int, writable: bool = True
    ) -> None:
        self.folder = folder
        self.record_bytes = record_bytes
        self.num_slots = num_slots
        self.writable = writable
        self._descriptors: dict[int, int] = {}
        """The least recently used first."""
        self._unsynced: set[int] = set()
        self._fitted: set[int] = set()
        """Of the open files, those known to have their full length."""
        self._place = _identity_of(folder)

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05d}.bin"

    def read(self, epoch: int, slots_B: Slots) -> Rows:
        rows_BR = np.zeros((len(slots_B), self.record_bytes), dtype=np.uint8)
        descriptor = self._opened(epoch, create=False)
        if descriptor is not None:
            for row, slot in zip(rows_BR, slots_B.tolist(), strict=True):
                data = os.pread(descriptor, self.record_bytes, slot * self.record_bytes)
                row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        return rows_BR

    def write(self, epoch: int, slots_B: Slots, rows_BR: Rows) -> None:
        descriptor = self._opened(epoch, create=True)
        assert descriptor is not None
        self._unsynced.add(epoch)
        for row, slot in zip(rows_BR, slots_B.tolist(), strict=True):
            place, rest = slot * self.record_bytes, row.tobytes()
            while rest:
                num_written = os.pwrite(descriptor, rest, place)
                place, rest = place + num_written, rest[num_written:]

    def scan(self, epoch: int) -> Iterator[tuple[int, Rows]]:
        at_once = max(1, _SCAN_BYTES // self.record_bytes)
        for first in range(0, self.num_slots, at_once):
            # Reading others in between may have closed this one.
            descriptor = self._opened(epoch, create=False)
            if descriptor is None:
                return
            num = min(at_once, self.num_slots - first)
            rows_BR = np.zeros((num, self.record_bytes), dtype=np.uint8)
            data = os.pread(descriptor, rows_BR.size, first * self.record_bytes)
            rows_BR.reshape(-1)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
            yield first, rows_BR

    def flush(self) -> None:
        for epoch in sorted(self._unsynced):
            os.fsync(self._descriptors[epoch])
        self._unsynced.clear()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            for record in (self._descriptors, self._unsynced, self._fitted):
                record.clear()

    def epochs(self) -> list[int]:
        names = [path.stem.removeprefix("epoch-") for path in self.folder.glob("epoch-*.bin")]
        return sorted(int(name) for name in names if name.isdecimal())

    def has_full_length(self, epoch: int) -> bool:
        return self.path(epoch).stat().st_size == self.num_slots * self.record_bytes

    def allocated_bytes(self) -> int:
        """What the files already take of the disk."""
        taken = 0
        for epoch in self.epochs():
            with contextlib.suppress(FileNotFoundError):
                taken += self.path(epoch).stat().st_blocks * 512
        return taken

    def _opened(self, epoch: int, *, create: bool) -> int | None:
        self._check_there(epoch)
        descriptor = self._descriptors.pop(epoch, None)
        if descriptor is None:
            flags = os.O_RDWR if self.writable else os.O_RDONLY
            try:
                descriptor = os.open(self.path(epoch), flags | (os.O_CREAT if create else 0), 0o666)
            except FileNotFoundError:
                if create:
                    raise
                return None
            self._make_room()
        self._descriptors[epoch] = descriptor
        if create and epoch not in self._fitted:
            give_full_length(descriptor, self.num_slots * self.record_bytes)
            self._fitted.add(epoch)
        return descriptor

    def _make_room(self) -> None:
        while len(self._descriptors) >= _MAX_OPEN:
            epoch = next(iter(self._descriptors))
            if epoch in self._unsynced:
                os.fsync(self._descriptors[epoch])
                self._unsynced.discard(epoch)
            self._fitted.discard(epoch)
            os.close(self._descriptors.pop(epoch))

    def _check_there(self, epoch: int) -> None:
        """A removed file still takes what is written to it: nobody would ever find it again."""
        descriptor = self._descriptors.get(epoch)
        removed = descriptor is not None and os.fstat(descriptor).st_nlink == 0
        if removed or _identity_of(self.folder) != self._place:
            raise CheckpointError(
                "CACHE_GONE",
                self.folder,
                "the teacher cache was removed while it was in use",
                "run the same command again: it goes on and builds the cache anew",
            )


def verify_files(records: RecordFormat, files: RecordFiles) -> list[FileReport]:
    """Check every record of every file."""
    reports = []
    for epoch in files.epochs():
        num_good = num_empty = num_bad = 0
        for _, rows_SR in files.scan(epoch):
            valid_S, empty_S = records.valid(rows_SR), empty_rows(rows_SR)
            num_good += int(valid_S.sum())
            num_empty += int(empty_S.sum())
            num_bad += int((~valid_S & ~empty_S).sum())
        whole = files.has_full_length(epoch)
        reports.append(FileReport(epoch, num_good, num_empty, num_bad, whole))
    return reports


@contextlib.contextmanager
def cache_faults(path: Path, *, bytes_needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into the ResourceError that says what to do."""
    try:
        yield
    except OSError as error:
        raise cache_fault(error, path, bytes_needed=bytes_needed) from error


def cache_fault(error: OSError, path: Path, *, bytes_needed: int | None = None) -> ResourceError:
    """The ResourceError for a failed call on the cache's files."""
    fault = disk_fault(error, path, bytes_needed=bytes_needed)
    do = _DO if fault.code in ("ENOSPC", "EDQUOT", "EFBIG") else fault.do.replace(" with out=", "")
    return ResourceError(fault.code, fault.subject, fault.why, do)


def check_cache_space(folder: Path, bytes_needed: int) -> None:
    """Refuse to begin what the disk cannot hold. Raises ResourceError ENOSPC."""
    free = free_space_bytes(folder)
    if free is not None and free < bytes_needed:
        why = f"the teacher cache needs {bytes_needed:,} more bytes, {free:,} are free"
        raise ResourceError("ENOSPC", folder, why, _DO)


def _identity_of(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
