"""Copies and near copies as findings: within a class, across classes, across splits."""

# Shapes: N images, P pairs, G contents.

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deitkit.data.findings import MAX_GROUPS, NOTED, SERIOUS, WORTH, Finding
from deitkit.data.near_duplicates import groups_of

MAX_IN_GROUP = 6


def exact_pairs(same_N: np.ndarray) -> np.ndarray:
    """int64 [P, 2]: each picture with the first of the same content. `same_N` numbers contents."""
    first_G = np.full(int(same_N.max(initial=-1)) + 1, len(same_N))
    np.minimum.at(first_G, same_N, np.arange(len(same_N)))
    places = np.flatnonzero(first_G[same_N] != np.arange(len(same_N)))
    return np.stack([first_G[same_N[places]], places], axis=1).reshape(-1, 2)


def exact_findings(
    same_N: np.ndarray, labels_N: np.ndarray, splits_N: np.ndarray
) -> Iterable[Finding]:
    """Pictures of one content, counted with all their copies."""
    in_labels_G, in_splits_G = (_num_different(same_N, of_N) for of_N in (labels_N, splits_N))
    copies_G = np.bincount(same_N, minlength=len(in_labels_G))
    for code, level, chosen_G, what, why, do in (
        (
            "conflict",
            SERIOUS,
            in_labels_G > 1,
            "copies of a picture under different labels",
            "One of the labels is wrong, and the model is told both.",
            "Remove the wrong one, or drop it with deitkit review.",
        ),
        (
            "leak",
            SERIOUS,
            in_splits_G > 1,
            "copies of a picture in different splits",
            "Validation or test then measures memory: the accuracy looks better than it is.",
            "Keep them in one split.",
        ),
        (
            "duplicate",
            NOTED,
            (copies_G > 1) & (in_labels_G == 1) & (in_splits_G == 1),
            "copies of a picture in one class",
            "It counts more than once in training; deitkit keeps copies on one side of a "
            "split that it makes itself.",
            "Remove the copies if they are not meant.",
        ),
    ):
        places = np.flatnonzero(chosen_G[same_N])
        if len(places):
            yield Finding(
                code=code,
                level=level,
                title=f"{len(places):,} {what}",
                why=why,
                do=do,
                count=len(places),
                groups=_examples(places, same_N[places]),
            )


def near_findings(
    pairs_P2: np.ndarray, labels_N: np.ndarray, splits_N: np.ndarray
) -> Iterable[Finding]:
    """Pairs of pictures that look the same and are not the same bytes."""
    other_label, other_split = (
        of_N[pairs_P2[:, 0]] != of_N[pairs_P2[:, 1]] for of_N in (labels_N, splits_N)
    )
    for code, level, chosen_P, what, why, do in (
        (
            "near_leak",
            SERIOUS,
            other_split,
            "pictures that look the same in different splits",
            "Bursts and copies across splits make the accuracy look better than it is.",
            "Split by what belongs together.",
        ),
        (
            "near_conflict",
            WORTH,
            other_label & ~other_split,
            "pictures that look the same under different labels",
            "Either the classes are hard to tell apart or a label is wrong.",
            "Look at them; correct with deitkit review.",
        ),
        (
            "near_duplicate",
            NOTED,
            ~other_label & ~other_split,
            "pictures that look the same within a class",
            "A split by chance would put some of them on both sides.",
            "Where the data has no val split of its own, split/split.csv beside this report keeps "
            "them together.",
        ),
    ):
        if chosen_P.any():
            places, compact = np.unique(pairs_P2[chosen_P], return_inverse=True)
            yield Finding(
                code=code,
                level=level,
                title=f"{len(places):,} {what}",
                why=why,
                do=do,
                count=len(places),
                groups=_examples(places, groups_of(compact.reshape(-1, 2), len(places))),
            )


def _num_different(same_N: np.ndarray, of_N: np.ndarray) -> np.ndarray:
    """int64 [G]: how many values of `of_N` the pictures of each content have."""
    pairs_P2 = np.unique(np.stack([same_N, of_N], axis=1), axis=0)
    return np.bincount(pairs_P2[:, 0], minlength=int(same_N.max(initial=-1)) + 1)


def _examples(places_M: np.ndarray, group_M: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Places by their group: the largest groups first, and of each the first places."""
    order = np.argsort(group_M, kind="stable")
    edges = np.flatnonzero(np.diff(group_M[order])) + 1
    groups = np.split(places_M[order], edges)
    groups.sort(key=lambda group: (-len(group), int(group[0])))
    return tuple(tuple(group[:MAX_IN_GROUP].tolist()) for group in groups[:MAX_GROUPS])
