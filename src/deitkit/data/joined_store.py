"""The pictures of two stores as one."""

from __future__ import annotations

import numpy as np

from deitkit.data.blocks import Blocks, blocks_of, holding, reads_singly
from deitkit.data.stores import Raw, RecordStore


class JoinedStore:
    """The rows of two stores, one after the other."""

    def __init__(self, first: RecordStore, second: RecordStore) -> None:
        self._parts = (first, second)
        self.parallel = first.parallel and second.parallel
        self.reads_singly = reads_singly(first) and reads_singly(second)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def describe(self, row: int) -> str:
        part, own = self._at(row)
        return part.describe(own)

    def promised_format(self, row: int) -> str | None:
        part, own = self._at(row)
        return part.promised_format(own)

    def read(self, row: int) -> Raw:
        part, own = self._at(row)
        return part.read(own)

    def reread(self, row: int) -> Raw:
        part, own = self._at(row)
        return part.reread(own)

    def keys(self) -> list[bytes]:
        first, second = (part.keys() for part in self._parts)
        return [*first, *second] if first and second else []

    def take(self, rows: np.ndarray) -> RecordStore:
        """Rows of the first store must come before those of the second."""
        split = len(self._parts[0])
        is_first = rows < split
        assert (np.diff(is_first.astype(np.int8)) <= 0).all(), "rows of both stores are mixed"
        first, second = self._parts
        return JoinedStore(first.take(rows[is_first]), second.take(rows[~is_first] - split))

    def blocks(self) -> Blocks:
        first, second = map(blocks_of, self._parts)
        num_first = len(first.bytes_G)
        return Blocks(
            np.concatenate([first.block_N, second.block_N + num_first]),
            np.concatenate([first.bytes_G, second.bytes_G]),
        )

    def holding(self, num_bytes: int) -> JoinedStore:
        return JoinedStore(*(holding(part, num_bytes) for part in self._parts))

    def _at(self, row: int) -> tuple[RecordStore, int]:
        first, second = self._parts
        return (first, row) if row < len(first) else (second, row - len(first))
