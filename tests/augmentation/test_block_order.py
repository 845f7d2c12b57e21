"""The order that goes through shards block by block."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deitkit.augmentation import block_windows, epoch_order, shuffle_pairs


def make(num: int, num_blocks: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, the block of each image (neighbours mostly share one), and the bytes of the blocks."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2**64, num, dtype=np.uint64)
    return ids, np.sort(rng.integers(0, num_blocks, num)), rng.integers(0, 100, num_blocks)


@given(
    num=st.integers(1, 120),
    num_blocks=st.integers(1, 30),
    window_bytes=st.integers(1, 400),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_windows_are_whole_blocks_that_fit(num, num_blocks, window_bytes, seed, epoch):
    """A permutation; no block in two windows; only a lone block exceeds a window; and full: the
    next block would not have fitted."""
    ids, blocks, num_bytes = make(num, num_blocks, seed)
    windows = block_windows(seed, epoch, ids, blocks, num_bytes, window_bytes=window_bytes)
    order = epoch_order(seed, epoch, ids, windows)
    assert sorted(order) == list(range(num))
    assert (np.diff(windows[order]) >= 0).all()
    held = {}
    for block in np.unique(blocks):
        (window,) = np.unique(windows[blocks == block])
        held.setdefault(int(window), []).append(int(num_bytes[block]))
    assert sorted(held) == list(range(len(held)))
    assert all(sum(sizes) <= window_bytes or len(sizes) == 1 for sizes in held.values())
    assert all(sum(held[w]) + sum(held[w + 1]) > window_bytes for w in range(len(held) - 1))
    again = block_windows(seed, epoch, ids, blocks, num_bytes, window_bytes=window_bytes)
    np.testing.assert_array_equal(again, windows)


@given(num=st.integers(1, 80), num_blocks=st.integers(1, 12), seed=st.integers(0, 5))
def test_one_window_is_the_order_of_all_images(num, num_blocks, seed):
    ids, blocks, num_bytes = make(num, num_blocks, seed)
    windows = block_windows(seed, 2, ids, blocks, num_bytes, window_bytes=10**9)
    np.testing.assert_array_equal(epoch_order(seed, 2, ids, windows), epoch_order(seed, 2, ids))


@given(seed=st.integers(0, 20))
def test_the_order_is_one_of_contents(seed):
    """Shards of other names, in another order: the same images in the same order."""
    ids, blocks, num_bytes = make(90, 12, seed)
    order = epoch_order(1, 3, ids, block_windows(1, 3, ids, blocks, num_bytes, window_bytes=150))
    rng = np.random.default_rng(seed + 1)
    renamed = rng.permutation(12)
    moved = rng.permutation(90)
    moved_bytes = np.empty_like(num_bytes)
    moved_bytes[renamed] = num_bytes
    others = (ids[moved], renamed[blocks[moved]], moved_bytes)
    windows = block_windows(1, 3, *others, window_bytes=150)
    np.testing.assert_array_equal(others[0][epoch_order(1, 3, others[0], windows)], ids[order])


def test_epochs_and_seeds_differ_in_blocks_and_within():
    ids, blocks, num_bytes = np.arange(400, dtype=np.uint64), np.arange(400) // 10, np.full(40, 10)
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        windows = block_windows(seed, epoch, ids, blocks, num_bytes, window_bytes=80)
        orders.append(epoch_order(seed, epoch, ids, windows))
        first = blocks[orders[-1][:80]]
        assert len(set(first)) == 8, "a window of eight blocks"
        assert len(set(first[:16])) > 4, "shuffled as one"
    assert all((a != b).mean() > 0.9 for a, b in zip(orders, orders[1:] + orders[:1], strict=True))


@given(num=st.integers(2, 90), seed=st.integers(0, 5), epoch=st.integers(0, 4))
def test_pairs_that_are_shown_again_stay_whole_and_in_their_window(num, seed, epoch):
    ids, blocks, num_bytes = make(num, 10, seed)
    windows = block_windows(seed, 0, ids, blocks, num_bytes, window_bytes=150)
    order = epoch_order(seed, 0, ids, windows)
    again = shuffle_pairs(order, view_seed=seed, epoch=epoch, windows_N=windows[order])
    whole = num // 2 * 2
    assert {tuple(p) for p in again[:whole].reshape(-1, 2).tolist()} == {
        tuple(p) for p in order[:whole].reshape(-1, 2).tolist()
    }
    assert again[whole:].tolist() == order[whole:].tolist()
    firsts = windows[again[:whole:2]]
    assert (np.diff(firsts) != 0).sum() == len(set(firsts.tolist())) - 1
