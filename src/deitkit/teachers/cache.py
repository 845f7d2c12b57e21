"""Teacher logits of mixed views, kept: asked once, read ever after.

Epoch `e` of a run shows the views of view epoch `e % V`. A record belongs to one view epoch, one
copy of the image (repeated augmentation) and one image, and counts only while its word says that
it was the teacher's answer to the very pixels that are shown now.
"""

# Shapes: B views, K classes, N images of the data set, S places of a file.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import ConfigError
from deitkit.runtime.shared_folder import READ_ONLY_ERRNOS, SharedLock
from deitkit.teachers.cache_files import (
    DiskFiles,
    FileReport,
    MemoryFiles,
    RecordFiles,
    cache_fault,
    cache_faults,
    verify_files,
)
from deitkit.teachers.cache_folder import CacheIdentity, Ids
from deitkit.teachers.cache_opening import (
    Tell,
    WantedCache,
    check_memory,
    open_on_disk,
    tell_nobody,
    tell_read_only,
)
from deitkit.teachers.cache_records import RecordFormat, Rows, empty_rows

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

MODES = ("disk", "memory")


class TeacherCache:
    """Records of one teacher's answers about one data set under one view policy.

    With `num_repeats` R above 1 an epoch shows a part of the images R times, and R epochs show
    them all; one file then holds R view epochs, so V is best a multiple of R. `num_bad` and
    `num_stale` count records that were read and found damaged, or of other views, since the cache
    was opened.
    """

    def __init__(
        self,
        wanted: WantedCache,
        *,
        disk: DiskFiles | None,
        lock: SharedLock | None,
        tell: Tell,
    ) -> None:
        """Use `open`. Without `disk`, or where it is not writable, new records stay in memory."""
        self.identity = wanted.identity
        self.records = wanted.identity.records
        self.num_view_epochs = wanted.num_view_epochs
        self.num_bad = 0
        self.num_stale = 0
        self._ids_N = wanted.ids_N
        self._num_slots = wanted.num_slots
        self._disk = disk
        self._lock = lock
        self._tell = tell
        self._told_bad = 0
        self._filled_S: dict[int, Bools] = {}
        self._memory: MemoryFiles | None = None
        if disk is None or not disk.writable:
            self._memory = self._new_memory()

    @classmethod
    def open(
        cls,
        folder: Path | str | None,
        *,
        teacher_digest: str,
        teacher_name: str,
        class_names: Sequence[str],
        policy_digest: str,
        sample_ids: Ids,
        num_view_epochs: int,
        num_repeats: int = 1,
        dtype: str = "float16",
        top_k: int | None = None,
        mode: str = "disk",
        writable: bool = True,
        about: Mapping[str, Any] | None = None,
        tell: Tell = tell_nobody,
    ) -> TeacherCache:
        """Find or begin the cache of this teacher, class order, view policy and data set.

        `folder` is the root of all caches (mode "memory" reads none). `sample_ids` are
        `augmentation.view_words.record_ids` of the training images in any order. Names and
        `about` are for people. `tell` takes sentences for the user: the size, what another data
        set's cache gave, whose caches are ignored, who else is here. Records of another data set
        under the same identity are taken over by id: of several ranks let the first open it
        before the others, or each begins by copying them.

        Raises:
            ConfigError: CACHE_MODE, CACHE_FORMAT.
            ResourceError: ENOSPC or MEMORY where the whole would not fit; the disk's own faults.
        """
        if mode not in MODES:
            raise ConfigError("CACHE_MODE", f"mode={mode}", "no such mode", "use disk or memory")
        assert num_view_epochs >= 1 and num_repeats >= 1
        identity = CacheIdentity(
            teacher_digest=teacher_digest,
            teacher_name=teacher_name,
            class_names=tuple(class_names),
            policy_digest=policy_digest,
            num_repeats=num_repeats,
            records=RecordFormat(num_classes=len(class_names), dtype=dtype, top_k=top_k),
            about=about or {},
        )
        ids_N = np.unique(np.asarray(sample_ids, dtype=np.uint64))
        wanted = WantedCache(identity=identity, ids_N=ids_N, num_view_epochs=num_view_epochs)
        if mode == "memory":
            check_memory(wanted.num_bytes)
            tell(f"teacher cache in memory: up to {wanted.size}")
            return cls(wanted, disk=None, lock=None, tell=tell)
        assert folder is not None, "a cache on disk has a folder"
        root = Path(folder).expanduser()
        disk, lock = open_on_disk(root, wanted, writable=writable, tell=tell)
        return cls(wanted, disk=disk, lock=lock, tell=tell)

    @property
    def num_bytes(self) -> int:
        """Of all records when every one is stored."""
        return self.num_view_epochs * len(self._ids_N) * self.records.num_bytes

    @property
    def folder(self) -> Path | None:
        """Where the records are; None in memory."""
        return None if self._disk is None else self._disk.folder

    def read(
        self,
        view_epoch: int,
        repeat_B: NDArray[np.integer],
        sample_ids_B: Ids,
        words_B: NDArray[np.uint64],
    ) -> tuple[Floats, Bools]:
        """Stored logits [B, K] of these views, and which of them there are; zeros elsewhere.

        Raises CheckpointError CACHE_GONE where the folder was removed, ResourceError where the
        disk cannot be read.
        """
        rows_BR = self._read_rows(self._file_of(view_epoch), self._slots(repeat_B, sample_ids_B))
        found = self.records.decode(rows_BR)
        hit_B = found.valid_B & (found.words_B == words_B)
        self.num_bad += int((~found.valid_B & ~empty_rows(rows_BR)).sum())
        self.num_stale += int((found.valid_B & ~hit_B).sum())
        return np.where(hit_B[:, None], found.logits_BK, np.float32(0.0)), hit_B

    def write(
        self,
        view_epoch: int,
        repeat_B: NDArray[np.integer],
        sample_ids_B: Ids,
        words_B: NDArray[np.uint64],
        logits_BK: Floats,
    ) -> None:
        """Store the teacher's logits of these views.

        Raises:
            ModelFileError: TEACHER_OUTPUT; nothing of this call is stored then.
            CheckpointError: CACHE_GONE.
            ResourceError: the disk refused, with the bytes a file needs; what is there stays good.
        """
        self.records.check(logits_BK, self.identity.teacher_name)
        if len(logits_BK) == 0:
            return
        epoch, slots_B = self._file_of(view_epoch), self._slots(repeat_B, sample_ids_B)
        rows_BR = self.records.encode(words_B, logits_BK)
        if self._memory is None:
            assert self._disk is not None
            try:
                self._disk.write(epoch, slots_B, rows_BR)
            except OSError as error:
                if error.errno not in READ_ONLY_ERRNOS:
                    needed = self._num_slots * self.records.num_bytes
                    raise cache_fault(error, self._disk.path(epoch), bytes_needed=needed) from error
                self._stop_writing()
        if self._memory is not None:
            self._memory.write(epoch, slots_B, rows_BR)
        if epoch in self._filled_S:
            self._filled_S[epoch][slots_B] = True

    def stored(self, logits_BK: Floats) -> Floats:
        """Logits as they would be read back."""
        return self.records.stored(logits_BK)

    def coverage(self, view_epoch: int) -> float:
        """Share of the view epoch's file that holds whole records; their words are not compared."""
        epoch = self._file_of(view_epoch)
        filled_S = self._filled_S.setdefault(epoch, np.zeros(self._num_slots, dtype=np.bool_))
        if not filled_S.all():
            for layer in self._layers():
                for first, rows_SR in self._scanned(layer, epoch):
                    filled_S[first : first + len(rows_SR)] |= self.records.valid(rows_SR)
        return float(filled_S.mean()) if self._num_slots else 1.0

    def is_complete(self, view_epoch: int) -> bool:
        """Whether every place of the view epoch's file holds a whole record."""
        return self.coverage(view_epoch) == 1.0

    def verify(self) -> list[FileReport]:
        """Check every record of every file; damaged ones are asked for again when needed."""
        files = self._layers()[-1]
        with cache_faults(self._path_of(0)):
            return verify_files(self.records, files)

    def flush(self) -> None:
        """What was stored so far outlasts a power cut; damaged records met so far are told."""
        if self._disk is not None:
            with cache_faults(self._disk.folder):
                self._disk.flush()
        if self.num_bad > self._told_bad:
            num = self.num_bad - self._told_bad
            self._tell(f"{num:,} damaged records of the teacher cache were asked for again")
            self._told_bad = self.num_bad

    def close(self) -> None:
        """Flush and let others remove the cache. A second time does nothing."""
        try:
            self.flush()
        finally:
            if self._disk is not None:
                with cache_faults(self._disk.folder):
                    self._disk.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> TeacherCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _file_of(self, view_epoch: int) -> int:
        assert 0 <= view_epoch < self.num_view_epochs, f"view epoch {view_epoch} is not stored"
        return view_epoch - view_epoch % self.identity.num_repeats

    def _slots(self, repeat_B: NDArray[np.integer], sample_ids_B: Ids) -> NDArray[np.int64]:
        """Places in the file: all copies of an image stand beside each other."""
        rank_B = np.searchsorted(self._ids_N, sample_ids_B)
        known_B = self._ids_N[np.minimum(rank_B, len(self._ids_N) - 1)] == sample_ids_B
        assert known_B.all(), "an image that the cache was not opened for"
        assert (repeat_B < self.identity.num_repeats).all()
        return (rank_B * self.identity.num_repeats + repeat_B).astype(np.int64)

    def _new_memory(self) -> MemoryFiles:
        return MemoryFiles(record_bytes=self.records.num_bytes, num_slots=self._num_slots)

    def _layers(self) -> list[RecordFiles]:
        """From the first looked at to the last: what is new in memory hides the disk."""
        return [layer for layer in (self._memory, self._disk) if layer is not None]

    def _read_rows(self, epoch: int, slots_B: NDArray[np.int64]) -> Rows:
        rows_BR = np.zeros((len(slots_B), self.records.num_bytes), dtype=np.uint8)
        for layer in self._layers():
            missing_B = empty_rows(rows_BR)
            if not missing_B.any():
                break
            try:
                rows_BR[missing_B] = layer.read(epoch, slots_B[missing_B])
            except OSError as error:
                if error.errno not in READ_ONLY_ERRNOS or self._memory is not None:
                    raise cache_fault(error, self._path_of(epoch)) from error
                self._stop_writing()
                return self._read_rows(epoch, slots_B)
        return rows_BR

    def _scanned(self, layer: RecordFiles, epoch: int) -> Iterator[tuple[int, Rows]]:
        with cache_faults(self._path_of(epoch)):
            yield from layer.scan(epoch)

    def _path_of(self, epoch: int) -> Path:
        return Path() if self._disk is None else self._disk.path(epoch)

    def _stop_writing(self) -> None:
        assert self._disk is not None
        self._disk.close()
        self._disk.writable = False
        self._memory = self._new_memory()
        tell_read_only(self._disk.folder, self._tell)
