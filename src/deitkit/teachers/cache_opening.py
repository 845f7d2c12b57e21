"""Finding or beginning a cache on disk, and what other caches beside it are good for."""

# Shapes: N images of the data set, M of an earlier one, S records beside each other.

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import ModelFileError, ResourceError
from deitkit.runtime.disk_faults import free_space_bytes
from deitkit.runtime.disk_space import readable_bytes
from deitkit.runtime.memory import available_memory_bytes
from deitkit.runtime.shared_folder import (
    READ_ONLY_ERRNOS,
    SharedLock,
    lock_folder,
    remove_unused,
)
from deitkit.runtime.temporary_names import remove_leftovers
from deitkit.teachers.cache_files import (
    DiskFiles,
    cache_faults,
    check_cache_space,
)
from deitkit.teachers.cache_folder import (
    CacheIdentity,
    Ids,
    cache_folders,
    create_folder,
    read_header,
    read_ids,
    repair_folder,
)
from deitkit.teachers.cache_records import cache_bytes

Tell = Callable[[str], None]

MAX_SHARE_GONE = 0.1
"""An earlier data set's cache is replaced where at most this share of its images is gone. One that
has more which the new one lacks stays: a run on a tenth of the data does not cost the whole."""
_MAX_OTHERS_TOLD = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class WantedCache:
    """Which cache is opened, for which images and how many stored epochs of views."""

    identity: CacheIdentity
    ids_N: Ids
    """Ascending, each once."""
    num_view_epochs: int

    @property
    def num_slots(self) -> int:
        """Places of one file."""
        return len(self.ids_N) * self.identity.num_repeats

    @property
    def num_bytes(self) -> int:
        """Of all files when they are full."""
        return cache_bytes(
            self.identity.records,
            len(self.ids_N),
            self.num_view_epochs,
            num_repeats=self.identity.num_repeats,
        )

    @property
    def size(self) -> str:
        """In words."""
        return (
            f"{readable_bytes(self.num_bytes)} for {self.num_view_epochs:,} view epochs of "
            f"{len(self.ids_N):,} images"
        )

    def files(self, folder: Path, *, writable: bool = True) -> DiskFiles:
        return DiskFiles(
            folder,
            record_bytes=self.identity.records.num_bytes,
            num_slots=self.num_slots,
            writable=writable,
        )


class Earlier(NamedTuple):
    """Another data set's cache under the same identity."""

    folder: Path
    ids_M: Ids
    num_kept: int
    """Images that are in both."""


def tell_nobody(text: str) -> None:
    return None


def tell_read_only(folder: Path, tell: Tell) -> None:
    tell(f"teacher cache {folder} cannot be written to: what it lacks is kept in memory only")


def check_memory(bytes_needed: int) -> None:
    """Refuse to begin what memory cannot hold. Raises ResourceError MEMORY."""
    available = available_memory_bytes()
    if available is not None and available < bytes_needed:
        raise ResourceError(
            "MEMORY",
            "teacher cache",
            f"it needs {bytes_needed:,} bytes of memory, {available:,} are available",
            "store fewer view epochs, or keep the cache on disk",
        )


def open_on_disk(
    root: Path, wanted: WantedCache, *, writable: bool, tell: Tell
) -> tuple[DiskFiles | None, SharedLock | None]:
    """The cache's files, locked, made if they were not there; None where that cannot be.

    Raises ResourceError.
    """
    place = root / wanted.identity.folder_name(wanted.ids_N)
    with cache_faults(place):
        lock = lock_folder(place, lambda: writable and _began(place, wanted, tell))
        if lock is None:
            tell_read_only(root, tell)
            return None, None
        try:
            disk = wanted.files(place, writable=writable and os.access(place, os.W_OK))
            _look_around(disk, lock, wanted, tell)
        except BaseException:
            lock.release()
            raise
    return disk, lock


def _began(place: Path, wanted: WantedCache, tell: Tell) -> bool:
    """Make the folder, with what an earlier data set's cache has; False where it is read-only."""
    tell_others_ignored(place.parent, wanted.identity, tell)
    check_cache_space(place.parent, wanted.num_bytes)
    remove_leftovers(place.parent)
    earlier = _most_alike(place, wanted)
    try:
        if earlier is None:
            create_folder(place, wanted.identity, wanted.ids_N, lambda folder: None)
        else:
            _take_over(place, wanted, earlier, tell)
    except OSError as error:
        if error.errno not in READ_ONLY_ERRNOS:
            raise
        return False
    return True


def _look_around(disk: DiskFiles, lock: SharedLock, wanted: WantedCache, tell: Tell) -> None:
    """Say what is there and what will be, see that it fits, and mend the header."""
    there = disk.allocated_bytes()
    free = free_space_bytes(disk.folder)
    left = "" if free is None else f", {readable_bytes(free)} free"
    tell(f"teacher cache {disk.folder}: up to {wanted.size}, {readable_bytes(there)} there{left}")
    if not lock.is_alone:
        tell("another process uses this teacher cache: both read it and fill it")
    if not disk.writable:
        tell_read_only(disk.folder, tell)
        return
    check_cache_space(disk.folder, wanted.num_bytes - there)
    try:
        if repair_folder(disk.folder, wanted.identity, wanted.ids_N):
            tell(f"teacher cache {disk.folder}: its header was damaged and is written again")
    except ResourceError as error:
        if error.code not in ("EACCES", "EPERM", "EROFS"):
            raise


def tell_others_ignored(root: Path, identity: CacheIdentity, tell: Tell) -> None:
    """Say which caches are of no use here, and why."""
    told = []
    for folder in cache_folders(root):
        if folder.name.startswith(identity.digest()):
            continue
        try:
            header = read_header(folder)
        except (ModelFileError, OSError):
            continue
        differs = [
            text
            for key, text, mine in (
                ("teacher_digest", "other weights or preprocessing", identity.teacher_digest),
                ("class_names", "other classes or order", list(identity.class_names)),
                ("policy_digest", "other views", identity.policy_digest),
                ("num_repeats", "other repeats", identity.num_repeats),
                ("dtype", f"stored as {header.get('dtype')}", identity.records.dtype),
                ("top_k", "other top-k", identity.records.top_k),
            )
            if header.get(key) != mine
        ]
        told.append(
            f"cache for teacher {header.get('teacher')} ignored ({', '.join(differs)}), "
            f"building {identity.teacher_name}"
        )
    for text in told[:_MAX_OTHERS_TOLD]:
        tell(text)
    if len(told) > _MAX_OTHERS_TOLD:
        tell(f"{len(told) - _MAX_OTHERS_TOLD} more teacher caches in {root} ignored")


def _most_alike(place: Path, wanted: WantedCache) -> Earlier | None:
    """The one beside `place` with the most of the images; `place` itself may be there by now."""
    best: Earlier | None = None
    identity = wanted.identity.digest()
    for folder in cache_folders(place.parent):
        is_earlier = folder.name.startswith(identity) and folder.name != place.name
        ids_M = read_ids(folder) if is_earlier else None
        if ids_M is None:
            continue
        num_kept = len(np.intersect1d(wanted.ids_N, ids_M, assume_unique=True))
        if num_kept > (best.num_kept if best else 0):
            best = Earlier(folder, ids_M, num_kept)
    return best


def _take_over(place: Path, wanted: WantedCache, earlier: Earlier, tell: Tell) -> None:
    """Begin with the records of images that are still there, each in its new place."""
    num_taken = 0
    before = replace(wanted, ids_N=earlier.ids_M)

    def fill(folder: Path) -> None:
        nonlocal num_taken
        with (
            contextlib.closing(wanted.files(folder)) as new,
            contextlib.closing(before.files(earlier.folder, writable=False)) as old,
        ):
            places = _new_places(earlier.ids_M, wanted.ids_N, wanted.identity.num_repeats)
            for epoch in old.epochs():
                for first, rows_SR in old.scan(epoch):
                    slots_S = places[first : first + len(rows_SR)]
                    good_S = wanted.identity.records.valid(rows_SR) & (slots_S >= 0)
                    if good_S.any():
                        new.write(epoch, slots_S[good_S], rows_SR[good_S])
                    num_taken += int(good_S.sum())

    try:
        lock = SharedLock(earlier.folder)
    except FileNotFoundError:
        # Another process took it over and removed it: what it made is found next.
        return
    try:
        if lock.is_removed:
            return
        create_folder(place, wanted.identity, wanted.ids_N, fill)
    finally:
        lock.release()
    num_gone = len(earlier.ids_M) - earlier.num_kept
    tell(
        f"the images changed: {num_taken:,} records of {earlier.num_kept:,} images taken over, "
        f"{num_gone:,} images are gone, {len(wanted.ids_N) - earlier.num_kept:,} are new"
    )
    is_small = num_gone <= MAX_SHARE_GONE * len(earlier.ids_M)
    if not (is_small and remove_unused(earlier.folder)):
        tell(f"the earlier cache stays in {earlier.folder}; deitkit cache prune removes it")


def _new_places(ids_M: Ids, ids_N: Ids, num_repeats: int) -> NDArray[np.int64]:
    """For each place of the earlier layout its new one, -1 where the image is gone."""
    rank_M = np.searchsorted(ids_N, ids_M)
    kept_M = ids_N[np.minimum(rank_M, len(ids_N) - 1)] == ids_M
    places_MR = rank_M[:, None] * num_repeats + np.arange(num_repeats)
    return np.where(kept_M[:, None], places_MR, -1).reshape(-1)
