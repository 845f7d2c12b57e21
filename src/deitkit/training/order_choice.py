"""How an epoch is shuffled where the images lie in shards."""

# Shapes: N images.

from __future__ import annotations

import numpy as np

from deitkit.training.choice import Choice

MEGABYTE = 10**6
SORTED_SHARE = 0.5
"""Of neighbours in a shard that are of one class, beyond what chance gives: then it is sorted."""


def choose_order(
    labels_N: np.ndarray,
    *,
    shard_bytes: int,
    window_mb: int,
    is_kept: bool,
    reads_singly: bool,
) -> Choice:
    """images, or blocks for shards that are larger than a window; `labels_N` in the order of the
    shards. `is_kept`: decoded images lie in memory or in an image cache."""
    if is_kept:
        return Choice("images", "decoded images are kept, and read in any order")
    if shard_bytes <= window_mb * MEGABYTE:
        reason = "one window holds all" if shard_bytes else "each image is a file of its own"
        return Choice("images", reason)
    size = f"{shard_bytes / 1e9:.1f} GB of shards"
    if not is_sorted(labels_N):
        return Choice("blocks", f"{size} are read block by block; images shuffles all of them")
    if reads_singly:
        reason = f"{size} are sorted by class, which only a shuffle of all images mends"
        return Choice("images", f"{reason}; on a slow disk shuffle them once and use blocks")
    return Choice(
        "blocks",
        f"{size} cannot be read image by image; they are sorted by class, so shuffle their rows "
        "once, or raise data.window_mb",
    )


def is_sorted(labels_N: np.ndarray) -> bool:
    """Whether neighbours are of one class far more often than in a shuffled order."""
    if len(labels_N) < 2:
        return False
    shares = np.bincount(labels_N) / len(labels_N)
    by_chance = float((shares**2).sum())
    alike = float((labels_N[1:] == labels_N[:-1]).mean())
    return alike > by_chance + SORTED_SHARE * (1 - by_chance)
