"""Open a source for training, or one split of it for evaluation: list, scan, check, split."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deitkit.data.checks import (
    check_training_classes,
    class_too_small,
    find_conflicts,
    find_duplicates,
    find_leaks,
    repeat_warnings,
    small_classes,
)
from deitkit.data.class_names import check_class_names
from deitkit.data.decoding import DecodePolicy
from deitkit.data.display import name_list, printable
from deitkit.data.image_set import ImageSet, fingerprint
from deitkit.data.memory import Pixels, take_pixels
from deitkit.data.report import DataReport
from deitkit.data.scan import BadImages, Progress
from deitkit.data.sources import ALL, EXPECTED_LAYOUT, Source, resolve_source
from deitkit.data.split import group_digests, split_validation
from deitkit.data.split_scan import SplitReader, SplitScan
from deitkit.errors import ConfigError, DataError

DEFAULT_VAL_FRACTION = 0.1
MAX_DEFAULT_VAL_IMAGES = 5_000
_FEW_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Dataset:
    """What training works on. The test images are named and not read."""

    source: str
    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test_source: str | None
    """Where the test split lies; only `open_split` reads it."""
    report: DataReport
    fingerprint: str
    """Hex digest of class names and of every (split, class, content): the same pictures in the
    same classes and splits give the same, wherever they lie and whatever they are called."""
    unlabelled: ImageSet | None = None
    """Pictures that only a teacher speaks of, their labels -1; part of the fingerprint."""
    trains_on_val: bool = False
    """Whether the validation images are training images too: of a run on all images, which its
    folds have validated. They then say how a model answers, and not how good it is."""

    @property
    def warnings(self) -> list[str]:
        return self.report.warnings


def open_dataset(
    source: Any,
    *,
    val_fraction: float = DEFAULT_VAL_FRACTION,
    holds_out: bool = True,
    bad_images: BadImages = "skip",
    decode: DecodePolicy | None = None,
    fail_on_leak: bool = False,
    allow_empty_class: bool = False,
    class_names: Sequence[str] | None = None,
    follow_symlinks_outside: bool = False,
    keep_bytes: int = 0,
    remember: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Training and validation images of a folder, table, Parquet, or sequence of (image, label).

    Without a val split, `val_fraction` of the training images validate; of the default tenth at
    most 5,000, any other value is taken as it is. Every picture is decoded once, in full; where
    all decoded pictures of a split fit into what is left of `keep_bytes` they stay in memory, in
    one block if of one size (twice, while it is being split); where they do not, what was found is
    remembered for the next time (`scan_memory`), if `remember`. `class_names` names the int labels
    of a Python sequence. Without `holds_out` all are training images, those of a val split too,
    and none validates: `hold_out` is then to choose.

    Raises ConfigError for a source that does not exist, DataError for everything in it.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(
            "BAD_VALUE", "val_fraction", f"is {val_fraction}", "give a share between 0 and 1"
        )
    policy = decode or DecodePolicy()
    found = resolve_source(
        source, class_names=class_names, follow_symlinks_outside=follow_symlinks_outside
    )
    report = DataReport(printable(found.description))
    reading = SplitReader(found, policy, bad_images, progress, report, remember=remember)
    train = reading.split(_training_split(found), keep_bytes)
    names = train.listing.class_names
    check_class_names(names, train.listing.location)
    report.warnings += check_training_classes(
        train.listing, train.labels, train.scan.skipped, allow_empty_class=allow_empty_class
    )
    if "val" in found.splits:
        left_bytes = keep_bytes - _num_bytes(train.scan.pixels)
        val = reading.split("val", left_bytes, names)
        _warn_small_classes(train, report)
        train_set = _image_set(train, "train", names, policy)
        val_set = _image_set(val, "val", names, policy)
        if not holds_out:
            report.warnings.append(
                f"the {len(val_set):,} images of the val split join the training images: each fold "
                "holds out its own"
            )
            train_set = train_set.joined(val_set)
            val_set = train_set.subset(np.arange(0), "val")
    elif not holds_out:
        train_set = _image_set(train, "train", names, policy)
        val_set = train_set.subset(np.arange(0), "val")
    else:
        is_val_N = _choose_validation(train, val_fraction)
        train_set = _image_set(train, "train", names, policy, np.flatnonzero(~is_val_N))
        val_set = _image_set(train, "val", names, policy, np.flatnonzero(is_val_N))
        report.locations["val"] = f"split from {report.locations['train']}"
    _look_for_repeats(train_set, val_set, report, fail_on_leak)
    _measure(report, train_set, val_set)
    return Dataset(
        found.description,
        names,
        train_set,
        val_set,
        found.locations.get("test"),
        report,
        fingerprint(train_set, val_set),
    )


def open_split(
    source: Any,
    *,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    bad_images: BadImages = "skip",
    decode: DecodePolicy | None = None,
    follow_symlinks_outside: bool = False,
    keep_bytes: int = 0,
    remember: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """One split to measure on: `split`, or the test split, or else val, or a source without any.

    `.name` says which one was taken. With `class_names` (a model's), indices are those of the
    equal names there; a class the model does not know raises DataError CLASS_MISMATCH, a class
    without images is a warning in `.report`.
    """
    policy = decode or DecodePolicy()
    # Without a model's names the source's own are kept; ints of a sequence then name themselves.
    found = resolve_source(source, follow_symlinks_outside=follow_symlinks_outside)
    chosen = next(
        (s for s in ((split,) if split else ("test", "val", ALL)) if s in found.splits), None
    )
    if chosen is None:
        raise DataError(
            "NO_SPLIT",
            printable(found.description),
            f"has no {split or 'test or val'} split, only {name_list(found.splits)}",
            "name one of these, or give the folder of the split itself",
        )
    report = DataReport(printable(found.description))
    reading = SplitReader(found, policy, bad_images, progress, report, remember=remember)
    part = reading.split(chosen, keep_bytes, class_names)
    names = part.listing.class_names if class_names is None else tuple(class_names)
    if class_names is None:
        check_class_names(names, part.listing.location)
    image_set = _image_set(part, chosen, names, policy)
    image_set.report = report
    groups_N, _ = group_digests(image_set.digests)
    report.duplicates = find_duplicates(image_set.labels, groups_N, image_set.describe)
    _measure(report, image_set)
    return image_set


def _training_split(found: Source) -> str:
    for name in ("train", ALL):
        if name in found.splits:
            return name
    raise DataError(
        "NO_TRAIN",
        printable(found.description),
        f"has no train split, only {name_list(found.splits)}",
        EXPECTED_LAYOUT,
    )


def _image_set(
    part: SplitScan,
    name: str,
    class_names: tuple[str, ...],
    policy: DecodePolicy,
    chosen: np.ndarray | None = None,
) -> ImageSet:
    """The usable rows of a part as a set, or those at the positions `chosen`."""
    scan = part.scan
    everything = slice(None) if chosen is None else chosen
    return ImageSet(
        name=name,
        class_names=class_names,
        labels=part.labels[everything],
        digests=scan.digests[everything],
        sizes=scan.sizes[everything],
        store=part.listing.store.take(scan.rows[everything]),
        decode=policy,
        kept=scan.pixels if chosen is None else take_pixels(scan.pixels, chosen),
    )


def _choose_validation(train: SplitScan, val_fraction: float) -> np.ndarray:
    """bool [N] over the usable training rows; raises DataError CLASS_TOO_SMALL."""
    names = train.listing.class_names
    small = small_classes(train.labels, train.scan.digests, names)
    if small:
        raise class_too_small(train.listing.location, small)
    fraction = val_fraction
    if fraction == DEFAULT_VAL_FRACTION:
        fraction = min(fraction, MAX_DEFAULT_VAL_IMAGES / len(train.labels))
    try:
        return split_validation(train.labels, train.scan.digests, fraction=fraction)
    except ValueError as fault:
        label = fault.args[0]
        count = int((train.labels == label).sum())
        raise class_too_small(train.listing.location, [(names[label], count)]) from fault


def _warn_small_classes(train: SplitScan, report: DataReport) -> None:
    names = train.listing.class_names
    counts = np.bincount(train.labels, minlength=len(names))
    small = [f"{name} ({n})" for name, n in zip(names, counts, strict=True) if 0 < n < _FEW_IMAGES]
    if small:
        report.warnings.append(f"very few training images in {name_list(small)}")


def _look_for_repeats(
    train: ImageSet, val: ImageSet, report: DataReport, fail_on_leak: bool
) -> None:
    """Fill duplicates, conflicts and leaks; raises DataError CONFLICTING_LABELS or LEAK."""
    labels_N = np.concatenate((train.labels, val.labels))
    groups_N, _ = group_digests(np.concatenate((train.digests, val.digests)))
    is_val_N = np.arange(len(labels_N)) >= len(train)

    def describe(row: int) -> str:
        return train.describe(row) if row < len(train) else val.describe(row - len(train))

    # A copy in the other split is a leak, not a duplicate: classes of the splits kept apart.
    apart_N = labels_N + is_val_N * len(train.class_names)
    report.duplicates = find_duplicates(apart_N, groups_N, describe)
    report.conflicts = find_conflicts(labels_N, groups_N, describe)
    report.leaks = find_leaks(groups_N, is_val_N, describe)
    found = repeat_warnings(
        report.duplicates, report.conflicts, report.leaks, len(labels_N), report.source
    )
    report.warnings += found
    if fail_on_leak and report.leaks.count:
        raise DataError("LEAK", report.source, found[-1], "remove these from one of the two splits")


def _measure(report: DataReport, *image_sets: ImageSet) -> None:
    """Fill in the images of each class and split, and the sizes over all of them."""
    report.measure(np.concatenate([image_set.sizes for image_set in image_sets]))
    for image_set in image_sets:
        names = image_set.class_names
        counts = np.bincount(image_set.labels, minlength=len(names)).tolist()
        report.class_counts[image_set.name] = dict(zip(map(printable, names), counts, strict=True))


def _num_bytes(pixels: Pixels | None) -> int:
    if pixels is None:
        return 0
    return pixels.nbytes if isinstance(pixels, np.ndarray) else sum(p.nbytes for p in pixels)
