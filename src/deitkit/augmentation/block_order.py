"""Which blocks of images are shuffled together: for shards in which reading in any order is slow.

An epoch's blocks stand in an order by (view_seed, epoch), and as many neighbours in it as fill a
window are shuffled as one. So a window's blocks are read once, from wherever they lie, and no more
than a window is held. Like the order of all images it depends on no worker, rank or batch, and on
contents only: not on the names or the order of the shards.
"""

# Shapes: N images, G blocks.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.draws import hash_key

Ints = NDArray[np.int64]


def block_windows(
    view_seed: int,
    epoch: int,
    sample_ids_N: NDArray[np.uint64],
    blocks_N: Ints,
    bytes_G: Ints,
    *,
    window_bytes: int,
) -> Ints:
    """Return the window that each image is in, 0 for the first of the epoch: [N].

    A block is known by the lowest id of its images. A window holds at least one block, and no
    block more than fits into `window_bytes`.
    """
    by_block = np.lexsort((sample_ids_N, blocks_N))
    sorted_blocks = blocks_N[by_block]
    is_first = np.ones(len(by_block), dtype=bool)
    is_first[1:] = sorted_blocks[1:] != sorted_blocks[:-1]
    used_G = sorted_blocks[is_first]
    words_G = hash_key(
        view_seed, epoch, sample_ids_N[by_block[is_first]], purpose="order of blocks"
    )
    order_G = np.argsort(words_G, kind="stable")
    ends_G = np.cumsum(bytes_G[used_G[order_G]])
    windows_G = np.empty(len(used_G), dtype=np.int64)
    start = window = 0
    while start < len(used_G):
        before = int(ends_G[start - 1]) if start else 0
        stop = int(np.searchsorted(ends_G, before + window_bytes, side="right"))
        stop = max(stop, start + 1)
        windows_G[order_G[start:stop]] = window
        start, window = stop, window + 1
    windows_N = np.empty(len(by_block), dtype=np.int64)
    windows_N[by_block] = windows_G[np.cumsum(is_first) - 1]
    return windows_N
