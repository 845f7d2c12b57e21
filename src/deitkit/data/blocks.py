"""Images that lie together in a shard and are read together: blocks, and those held in memory."""

# Shapes: N images, G blocks.

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from deitkit.data.stores import RecordStore


class Blocks(NamedTuple):
    """What has to be read to have an image."""

    block_N: np.ndarray
    """int64 [N], the block of each image, 0 to G - 1."""
    bytes_G: np.ndarray
    """int64 [G], bytes held to have the images of a block; 0 for an image in a file of its own."""

    def num_bytes(self) -> int:
        """Bytes of all blocks that hold an image."""
        return int(self.bytes_G[np.unique(self.block_N)].sum())


@runtime_checkable
class BlockStore(RecordStore, Protocol):
    """Rows that lie in blocks."""

    reads_singly: bool
    """Whether one image can be had without the rest of its block."""

    def blocks(self) -> Blocks:
        """The block of each row."""

    def holding(self, num_bytes: int) -> BlockStore:
        """The same rows, so many bytes of blocks kept in memory; with 0 each row is read alone,
        where that can be done."""


def blocks_of(store: RecordStore) -> Blocks:
    """The blocks of any store: of files, each is one of its own, and nothing is held for it."""
    if isinstance(store, BlockStore):
        return store.blocks()
    return Blocks(np.arange(len(store), dtype=np.int64), np.zeros(len(store), np.int64))


def reads_singly(store: RecordStore) -> bool:
    """Whether images of this store can be read in any order at no further cost."""
    return not isinstance(store, BlockStore) or store.reads_singly


def holding(store: RecordStore, num_bytes: int) -> RecordStore:
    """`store.holding`, where there is something to hold."""
    return store.holding(num_bytes) if isinstance(store, BlockStore) else store


class HeldBlocks:
    """Blocks that were read last, the least recently used going first; at least one stays.

    Several threads may ask; a copy in another process begins empty. What is held has `nbytes`.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._blocks: OrderedDict[int, Any] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[HeldBlocks], tuple[int]]:
        return HeldBlocks, (self.limit_bytes,)

    def __len__(self) -> int:
        return len(self._blocks)

    def copied(self) -> HeldBlocks:
        """Another, which begins with the same buffers: nothing is copied."""
        other = HeldBlocks(self.limit_bytes)
        other._blocks, other._num_bytes = self._blocks.copy(), self._num_bytes
        return other

    def get(self, block: int, load: Callable[[int], Any]) -> Any:
        """The block as it is held, or as `load` reads it."""
        with self._lock:
            if block in self._blocks:
                self._blocks.move_to_end(block)
                return self._blocks[block]
            loaded = load(block)
            self._blocks[block] = loaded
            self._num_bytes += loaded.nbytes
            while self._num_bytes > self.limit_bytes and len(self._blocks) > 1:
                self._num_bytes -= self._blocks.popitem(last=False)[1].nbytes
            return loaded
