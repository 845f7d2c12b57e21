"""Validation images taken from the training images, by content, so that the split stays put."""

# Shapes: N images, G distinct contents.

from __future__ import annotations

import hashlib
import math

import numpy as np

_SPLIT_KEY = b"deitkit validation split"


def group_digests(digests_N16: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] group of each image (equal content, equal group) and uint8 [G, 16] digests.

    Groups are numbered in the order of their digests.
    """
    halves_N2 = np.ascontiguousarray(digests_N16).view(">u8").astype(np.uint64)
    order = np.lexsort((halves_N2[:, 1], halves_N2[:, 0]))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (halves_N2[order][1:] != halves_N2[order][:-1]).any(axis=1)
    groups_N = np.empty(len(order), np.int64)
    groups_N[order] = np.cumsum(is_first) - 1
    return groups_N, digests_N16[order[is_first]]


def class_group_pairs(labels_N: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """int64 [P, 2], the distinct (class, content) pairs, sorted."""
    num_groups = int(groups_N.max(initial=-1)) + 1
    keys = np.unique(labels_N * num_groups + groups_N)
    return np.stack((keys // max(num_groups, 1), keys % max(num_groups, 1)), axis=1)


def split_validation(
    labels_N: np.ndarray, digests_N16: np.ndarray, *, fraction: float
) -> np.ndarray:
    """bool [N], which images validate.

    In each class the contents are ranked by a keyed hash and the lowest round(fraction x number
    of contents) validate, at least one and never all. Equal contents stay together, across
    classes too: a content belongs with its first class. One image more or less in a class so
    moves at most one other content of it. Raises ValueError naming the class index when a class
    has no content to give to one of the sides.
    """
    groups_N, digests_G16 = group_digests(digests_N16)
    ranks_G = _ranks(digests_G16)
    side_G = np.full(len(digests_G16), -1, np.int8)  # 1 validates, 0 trains, -1 open.
    pairs_P2 = class_group_pairs(labels_N, groups_N)
    starts = np.flatnonzero(np.diff(pairs_P2[:, 0], prepend=-1))
    for own_P2 in np.split(pairs_P2, starts[1:]):
        contents = own_P2[:, 1]
        wanted = math.floor(fraction * len(contents) + 0.5)
        wanted = min(max(wanted, 1), len(contents) - 1)
        free = contents[side_G[contents] == -1]
        num_val = int((side_G[contents] == 1).sum())
        num_train = int((side_G[contents] == 0).sum())
        least = 0 if num_val else 1
        most = len(free) - (0 if num_train else 1)
        if least > most:
            raise ValueError(int(own_P2[0, 0]))
        num_taken = min(max(wanted - num_val, least), most)
        by_rank = free[np.argsort(ranks_G[free])]
        side_G[by_rank[:num_taken]] = 1
        side_G[by_rank[num_taken:]] = 0
    return np.asarray(side_G[groups_N] == 1)


def assign_folds(labels_N: np.ndarray, digests_N16: np.ndarray, *, num_folds: int) -> np.ndarray:
    """int64 [N], which of the folds 0 .. num_folds - 1 holds each image out.

    In each class the contents are dealt out in the order of the keyed hash, each to the fold that
    has the fewest of the class and, among those, the fewest in all: of any class two folds differ
    by one content at most. Equal contents stay together, across classes too: a content belongs with
    its first class. Raises ValueError naming the class index when a class has fewer contents than
    folds, or all of them in one fold.
    """
    groups_N, digests_G16 = group_digests(digests_N16)
    ranks_G = _ranks(digests_G16)
    fold_G = np.full(len(digests_G16), -1, np.int64)
    totals_F = np.zeros(num_folds, np.int64)
    pairs_P2 = class_group_pairs(labels_N, groups_N)
    starts = np.flatnonzero(np.diff(pairs_P2[:, 0], prepend=-1))
    for own_P2 in np.split(pairs_P2, starts[1:]):
        contents = own_P2[:, 1]
        if len(contents) < num_folds:
            raise ValueError(int(own_P2[0, 0]))
        is_open = fold_G[contents] == -1
        counts_F = np.bincount(fold_G[contents[~is_open]], minlength=num_folds)
        free = contents[is_open]
        for content in free[np.argsort(ranks_G[free])]:
            fold = int(np.lexsort((totals_F, counts_F))[0])
            fold_G[content] = fold
            counts_F[fold] += 1
            totals_F[fold] += 1
        if np.count_nonzero(counts_F) < 2:
            raise ValueError(int(own_P2[0, 0]))
    return fold_G[groups_N]


def _ranks(digests_G16: np.ndarray) -> np.ndarray:
    """uint64 [G]: where each content stands, by a hash of its own that the draws do not use."""
    hashed = b"".join(
        hashlib.blake2b(digest.tobytes(), key=_SPLIT_KEY, digest_size=8).digest()
        for digest in digests_G16
    )
    return np.frombuffer(hashed, ">u8").astype(np.uint64)
