"""Cross-validation: the images in folds, each held out once."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from deitkit.data.dataset import Dataset
from deitkit.data.display import name_list, printable
from deitkit.data.image_set import ImageSet
from deitkit.data.split import assign_folds, class_group_pairs, group_digests
from deitkit.errors import DataError

MIN_FOLDS = 2


def fold_places(images: ImageSet, num_folds: int) -> list[np.ndarray]:
    """The places in `images` that each fold holds out: every place in one fold.

    Raises:
        DataError: FOLDS, a class has fewer different images than there are folds.
    """
    try:
        fold_N = assign_folds(images.labels, images.digests, num_folds=num_folds)
    except ValueError as fault:
        raise _too_small(images, num_folds) from fault
    return [np.flatnonzero(fold_N == fold) for fold in range(num_folds)]


def hold_out(whole: Dataset, *, num_folds: int, fold: int) -> Dataset:
    """Fold `fold` (1 to `num_folds`) validates and the others train; with 0 all images train.

    `whole` has all its images in `train`, as `open_dataset` gives them without `holds_out`. Where
    all train, those of the first fold still stand in `val`, so that there is something to time and
    to compare files on; `trains_on_val` says so.

    Raises:
        DataError: as `fold_places`.
    """
    images = whole.train
    places = fold_places(images, num_folds)
    digest = hashlib.blake2b(whole.fingerprint.encode(), digest_size=16)
    digest.update(b"fold %d of %d" % (fold, num_folds))
    if fold == 0:
        train = images
        val = images.subset(places[0], "training images")
    else:
        others = np.setdiff1d(np.arange(len(images)), places[fold - 1])
        train = images.subset(others, "train")
        val = images.subset(places[fold - 1], "val")
    counted = {"train": train} if fold == 0 else {"train": train, "val": val}
    report = replace(
        whole.report,
        class_counts={split: _class_counts(part) for split, part in counted.items()},
        locations={**whole.report.locations, "val": f"fold {fold} of {num_folds}"},
        warnings=list(whole.report.warnings),
    )
    return replace(
        whole,
        train=train,
        val=val,
        report=report,
        fingerprint=digest.hexdigest(),
        trains_on_val=fold == 0,
    )


def _class_counts(images: ImageSet) -> dict[str, int]:
    counts = np.bincount(images.labels, minlength=len(images.class_names)).tolist()
    return dict(zip(map(printable, images.class_names), counts, strict=True))


def _too_small(images: ImageSet, num_folds: int) -> DataError:
    groups_N, _ = group_digests(images.digests)
    pairs_P2 = class_group_pairs(images.labels, groups_N)
    contents_K = np.bincount(pairs_P2[:, 0], minlength=len(images.class_names))
    present_K = contents_K > 0
    least = int(contents_K[present_K].min())
    small = [
        f"{name} ({count})"
        for name, count in zip(images.class_names, contents_K.tolist(), strict=True)
        if 0 < count < num_folds
    ]
    do = f"use folds={least} or add images" if least >= MIN_FOLDS else "add images"
    return DataError(
        "FOLDS",
        f"folds={num_folds}",
        "each fold holds out an image of every class, and a class has fewer different ones of its "
        f"own: {name_list(small) or 'its pictures are all in other classes too'}",
        do,
    )
