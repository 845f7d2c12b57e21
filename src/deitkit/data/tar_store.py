"""Pictures inside tar shards, each known by its offset: read with their block, or alone.

Memory: a picture costs its member's name and some 40 bytes; of the archives only blocks are held,
up to a number of bytes, the least recently used going first. A file is open for one read, so any
number of shards, threads and worker processes keep few of them open.
"""

# Shapes: N images, G blocks.

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data.blocks import Blocks, HeldBlocks
from deitkit.data.containers import EXTENSIONS
from deitkit.data.faults import DecodeFault
from deitkit.data.reading import Stamp
from deitkit.data.scan_memory import keys_in_shard
from deitkit.data.shard_reading import read_range
from deitkit.data.stores import LIMIT_FILE_BYTES, PathColumn

BLOCK_BYTES = 4 << 20
"""About what is read at once: long enough that a disk's arm does not count, short enough that many
blocks make a window."""
HELD_BYTES = 64 << 20
"""Held where images are read in the order of the shards, as in the scan."""
_MIN_SHARE = 0.25
"""Of a block's pictures, how many must be of the set for the block to be read whole."""


@dataclass(frozen=True, slots=True)
class TarColumns:
    """Where each picture is."""

    names: PathColumn
    shards_N: np.ndarray
    """int32 [N]."""
    offsets_N: np.ndarray
    sizes_N: np.ndarray
    blocks_N: np.ndarray
    """int32 [N]."""

    def take(self, rows: np.ndarray) -> TarColumns:
        return TarColumns(
            self.names.take(rows),
            self.shards_N[rows],
            self.offsets_N[rows],
            self.sizes_N[rows],
            self.blocks_N[rows],
        )


class TarStore:
    """Pictures of several shards, numbered through."""

    parallel = True
    reads_singly = True

    def __init__(
        self,
        shards: Sequence[Path],
        stamps: Sequence[Stamp],
        columns: TarColumns,
        spans_G4: np.ndarray,
        held_bytes: int | None = None,
    ) -> None:
        """`spans_G4` are shard, first byte, end and number of pictures of each block."""
        self._shards, self._stamps = tuple(shards), tuple(stamps)
        self._columns, self._spans_G4 = columns, spans_G4
        self._held = HeldBlocks(HELD_BYTES if held_bytes is None else held_bytes)
        wanted_G = np.bincount(columns.blocks_N, minlength=len(spans_G4))
        is_dense_G = wanted_G >= _MIN_SHARE * spans_G4[:, 3]
        self._is_whole_G = is_dense_G & (self._held.limit_bytes > 0)

    def __len__(self) -> int:
        return len(self._columns.names)

    def _name(self, row: int) -> str:
        return os.fsdecode(self._columns.names[row])

    def describe(self, row: int) -> str:
        return f"{self._shards[self._columns.shards_N[row]]}:{self._name(row)}"

    def promised_format(self, row: int) -> str | None:
        return EXTENSIONS.get(os.path.splitext(self._name(row))[1].lower())

    def read(self, row: int) -> bytes:
        size = int(self._columns.sizes_N[row])
        if size > LIMIT_FILE_BYTES:
            raise DecodeFault("too_large", f"a member of {size} bytes")
        offset, block = int(self._columns.offsets_N[row]), int(self._columns.blocks_N[row])
        if not self._is_whole_G[block]:
            return self._read_range(int(self._columns.shards_N[row]), offset, size)
        begin = offset - int(self._spans_G4[block, 1])
        return bytes(self._held.get(block, self._load)[begin : begin + size])

    reread = read

    def keys(self) -> list[bytes]:
        keys = list(map(keys_in_shard, self._shards, self._stamps))
        columns = self._columns
        ranges = zip(columns.offsets_N.tolist(), columns.sizes_N.tolist(), strict=True)
        return [
            keys[shard](*where)
            for shard, where in zip(columns.shards_N.tolist(), ranges, strict=True)
        ]

    def take(self, rows: np.ndarray) -> TarStore:
        taken = self._changed(self._columns.take(rows), self._held.limit_bytes)
        taken._held = self._held.copied()
        return taken

    def blocks(self) -> Blocks:
        return Blocks(
            self._columns.blocks_N.astype(np.int64), self._spans_G4[:, 2] - self._spans_G4[:, 1]
        )

    def holding(self, num_bytes: int) -> TarStore:
        return self._changed(self._columns, num_bytes)

    def _changed(self, columns: TarColumns, held_bytes: int) -> TarStore:
        return TarStore(self._shards, self._stamps, columns, self._spans_G4, held_bytes)

    def _load(self, block: int) -> Any:
        shard, start, stop, _ = self._spans_G4[block].tolist()
        return memoryview(self._read_range(shard, start, stop - start))

    def _read_range(self, shard: int, offset: int, size: int) -> bytes:
        return read_range(self._shards[shard], offset, size, self._stamps[shard])


def cut_into_blocks(columns: TarColumns) -> tuple[TarColumns, np.ndarray]:
    """Neighbours within one shard, as many as fill BLOCK_BYTES, and where each block lies: int64
    [G, 4], shard, first byte, end, pictures. A larger picture is a block of its own."""
    shards_N, starts_N = columns.shards_N, columns.offsets_N
    ends_N = starts_N + columns.sizes_N
    blocks_N = np.empty(len(starts_N), np.int32)
    spans: list[tuple[int, int, int, int]] = []
    begin = 0
    while begin < len(starts_N):
        end_of_shard = int(np.searchsorted(shards_N, shards_N[begin], side="right"))
        limit = int(starts_N[begin]) + BLOCK_BYTES
        # Pictures follow each other in a shard, so their ends ascend.
        stop = begin + int(np.searchsorted(ends_N[begin:end_of_shard], limit, side="right"))
        stop = max(stop, begin + 1)
        blocks_N[begin:stop] = len(spans)
        span = (int(shards_N[begin]), int(starts_N[begin]), int(ends_N[stop - 1]), stop - begin)
        spans.append(span)
        begin = stop
    return replace(columns, blocks_N=blocks_N), np.array(spans, np.int64).reshape(-1, 4)
