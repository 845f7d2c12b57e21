"""Is there enough good data in every class, and does any picture occur twice where it must not?"""

# Shapes: N images, P (class, content) pairs.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deitkit.data.display import name_list, printable
from deitkit.data.faults import Skips
from deitkit.data.report import Repeats
from deitkit.data.sources import Listing, empty_source
from deitkit.data.split import class_group_pairs, group_digests
from deitkit.errors import DataError

MAX_BAD_SHARE = 0.01
MAX_BAD_IMAGES = 5
"""More bad images than both of these in one split stop the run."""
MAX_CONFLICT_SHARE = 0.05
_LISTED_REPEATS = 100

_BAD_DO = "repair or remove them, then run the same command again"


def check_skips(listing: Listing, skipped: Skips) -> None:
    """Raise DataError: EMPTY without a usable image, TOO_MANY_BAD above 1 % and 5 images."""
    # Listing-time skips never became rows of the store; scan-time ones did.
    num_candidates = len(listing.store) + listing.skipped.total
    num_bad = skipped.total
    if num_candidates == 0:
        raise empty_source(listing.location)
    if num_bad == num_candidates:
        raise DataError(
            "EMPTY",
            printable(listing.location),
            f"none of {num_bad} images can be used: {skipped.first_cases()}",
            _BAD_DO,
        )
    if num_bad > MAX_BAD_IMAGES and num_bad > MAX_BAD_SHARE * num_candidates:
        raise DataError(
            "TOO_MANY_BAD",
            printable(listing.location),
            f"{num_bad} of {num_candidates} images cannot be used: {skipped.first_cases()}",
            _BAD_DO,
        )


def check_training_classes(
    listing: Listing, labels_N: np.ndarray, skipped: Skips, *, allow_empty_class: bool
) -> list[str]:
    """Raise DataError ONE_CLASS, EMPTY_CLASS or TOO_MANY_BAD (a class fell under 2); else warn."""
    names = listing.class_names
    usable = np.bincount(labels_N, minlength=len(names))
    listed = np.bincount(listing.labels, minlength=len(names))
    if len(names) < 2:
        raise DataError(
            "ONE_CLASS",
            printable(listing.location),
            f"holds one class, {name_list(names)}",
            "add images of what is to be told apart from it",
        )
    reasons = f" ({skipped.first_cases()})" if skipped.total else ""
    empty = [name for name, count in zip(names, usable, strict=True) if count == 0]
    if empty and not allow_empty_class:
        raise DataError(
            "EMPTY_CLASS",
            printable(listing.location),
            f"no usable image in {name_list(empty)}{reasons}",
            "add images, remove the class, or keep its place with data.allow_empty_class=true",
        )
    fallen = [
        f"{name} ({left} of {before})"
        for name, left, before in zip(names, usable, listed, strict=True)
        if left == 1 < before
    ]
    if fallen:
        raise DataError(
            "TOO_MANY_BAD",
            printable(listing.location),
            f"bad images leave one in {name_list(fallen)}: {skipped.first_cases()}",
            _BAD_DO,
        )
    if len(names) - len(empty) < 2:
        raise DataError(
            "ONE_CLASS",
            printable(listing.location),
            "only one class has images",
            "add images of what is to be told apart from it",
        )
    return [f"no image in the class {name_list(empty)}"] if empty else []


def small_classes(
    labels_N: np.ndarray, digests_N16: np.ndarray, names: Sequence[str]
) -> list[tuple[str, int]]:
    """Classes that hold a single distinct picture, with their number of images."""
    groups_N, _ = group_digests(digests_N16)
    pairs_P2 = class_group_pairs(labels_N, groups_N)
    contents = np.bincount(pairs_P2[:, 0], minlength=len(names))
    images = np.bincount(labels_N, minlength=len(names))
    return [(names[i], int(images[i])) for i in np.flatnonzero(contents == 1).tolist()]


def class_too_small(location: str, small: Sequence[tuple[str, int]]) -> DataError:
    counts = name_list(f"{name} ({count})" for name, count in small)
    return DataError(
        "CLASS_TOO_SMALL",
        printable(location),
        "to train and to validate, a class needs two different images of its own; "
        f"too few in {counts}",
        "add images, or supply a val folder",
    )


def find_duplicates(
    labels_N: np.ndarray, groups_N: np.ndarray, describe: Callable[[int], str]
) -> Repeats:
    """Images beyond the first of each content within a class (of one split)."""
    num_pairs = len(class_group_pairs(labels_N, groups_N))
    repeats = Repeats(len(labels_N) - num_pairs)
    if repeats.count:
        keys = labels_N * (int(groups_N.max()) + 1) + groups_N
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        repeats.examples = _examples(inverse, counts > 1, describe)
    return repeats


def find_conflicts(
    labels_N: np.ndarray, groups_N: np.ndarray, describe: Callable[[int], str]
) -> Repeats:
    """Images whose content is in more than one class."""
    pairs_P2 = class_group_pairs(labels_N, groups_N)
    in_many = np.bincount(pairs_P2[:, 1], minlength=int(groups_N.max(initial=-1)) + 1) > 1
    repeats = Repeats(int(in_many[groups_N].sum()))
    if repeats.count:
        repeats.examples = _examples(groups_N, in_many, describe)
    return repeats


def find_leaks(
    groups_N: np.ndarray, is_val_N: np.ndarray, describe: Callable[[int], str]
) -> Repeats:
    """Validation images whose content is also a training image's."""
    num_groups = int(groups_N.max(initial=-1)) + 1
    in_train = np.bincount(groups_N[~is_val_N], minlength=num_groups) > 0
    in_val = np.bincount(groups_N[is_val_N], minlength=num_groups) > 0
    leaked = in_train & in_val
    repeats = Repeats(int(leaked[groups_N[is_val_N]].sum()))
    if repeats.count:
        repeats.examples = _examples(groups_N, leaked, describe)
    return repeats


def _examples(
    groups_N: np.ndarray, wanted_G: np.ndarray, describe: Callable[[int], str]
) -> list[list[str]]:
    """Paths of the images of each wanted group; the first groups, at most 10 paths of each."""
    order = np.argsort(groups_N, kind="stable")
    starts = np.searchsorted(groups_N[order], np.arange(len(wanted_G) + 1))
    return [
        [printable(describe(int(row))) for row in order[starts[g] : starts[g + 1]][:10]]
        for g in np.flatnonzero(wanted_G)[:_LISTED_REPEATS].tolist()
    ]


def repeat_warnings(
    duplicates: Repeats, conflicts: Repeats, leaks: Repeats, num_images: int, source: str
) -> list[str]:
    """One warning for each kind; raises DataError CONFLICTING_LABELS above 5 % of the images."""
    if conflicts.count > MAX_CONFLICT_SHARE * num_images:
        raise DataError(
            "CONFLICTING_LABELS",
            printable(source),
            f"{conflicts.count} of {num_images} images are in more than one class with the same "
            f"content, for example {_first(conflicts)}",
            "decide on one class for each",
        )
    found = []
    if duplicates.count:
        found.append(
            f"{duplicates.count} images repeat another of their class, as {_first(duplicates)}"
        )
    if conflicts.count:
        found.append(
            f"{conflicts.count} images are in more than one class with the same content, as "
            f"{_first(conflicts)}"
        )
    if leaks.count:
        found.append(
            f"{leaks.count} validation images are also training images, so the accuracy will "
            f"look too good, as {_first(leaks)}"
        )
    return found


def _first(repeats: Repeats) -> str:
    return " = ".join(repeats.examples[0][:3])
