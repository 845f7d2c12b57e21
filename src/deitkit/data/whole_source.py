"""Every picture of a source that can be read, whatever else would keep it from being trained on."""

# Shapes: N images.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deitkit.data.dataset import Dataset
from deitkit.data.decoding import DecodePolicy
from deitkit.data.display import printable
from deitkit.data.image_set import ImageSet
from deitkit.data.report import DataReport
from deitkit.data.scan import Progress, scan_store
from deitkit.data.sources import ALL, Listing, resolve_source

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeSource:
    """A source as it is: its own splits, the test split too, and none that it does not have."""

    images: ImageSet
    """Of train, then val, then test."""
    splits: tuple[str, ...]
    """Those that the source has; pictures in no split are in train."""
    splits_N: np.ndarray
    """int64 [N], indices into `splits`."""
    report: DataReport
    """What was left out, odd files, sizes and class counts; repeats are not looked for."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Pictures left aside in a class that the first split does not have: "val: dragon" -> 3."""

    def split_of(self, place: int) -> str:
        return self.splits[self.splits_N[place]]

    @property
    def can_be_split(self) -> bool:
        """Whether it has training images and none set apart to validate."""
        return "train" in self.splits and "val" not in self.splits


def open_whole(
    source: Any,
    *,
    dataset: Dataset | None = None,
    decode: DecodePolicy | None = None,
    keep_bytes: int = 0,
    progress: Progress | None = None,
) -> WholeSource | None:
    """Read every split; None without a single usable picture in the first.

    `dataset` is the same source, opened: what it has read is taken from it. Nothing is refused
    for what is in it: not for too many damaged files, small classes or contradicting labels.

    Raises:
        ConfigError, DataError: there is no listing of it at all, as NO_CLASSES or BAD_LABEL.
    """
    found = resolve_source(source)
    listed = {"train" if split == ALL else split: found.splits[split] for split in found.splits}
    splits = tuple(split for split in SPLITS if split in listed)
    report = DataReport(printable(found.description))
    sets = {} if dataset is None else _of_dataset(dataset, report, has_own_val="val" in splits)
    reader = _Reader(decode or DecodePolicy(), report, keep_bytes, progress)
    names = None if dataset is None else dataset.class_names
    for split in splits:
        if split not in sets:
            sets[split] = reader.read(listed[split](), split, names)
        names = sets[split].class_names if names is None else names
    images = sets[splits[0]]
    if not len(images):
        return None
    for split in splits[1:]:
        images = images.joined(sets[split])
    for split in splits:
        counts = np.bincount(sets[split].labels, minlength=len(images.class_names)).tolist()
        shown = map(printable, images.class_names)
        report.class_counts[split] = dict(zip(shown, counts, strict=True))
    report.measure(images.sizes)
    return WholeSource(
        images=images,
        splits=splits,
        splits_N=np.repeat(np.arange(len(splits)), [len(sets[split]) for split in splits]),
        report=report,
        unknown=reader.unknown,
    )


def _of_dataset(dataset: Dataset, report: DataReport, *, has_own_val: bool) -> dict[str, ImageSet]:
    """What is read already; validation images that were split off go back to train."""
    report.skipped.update(dataset.report.skipped)
    report.tally.add(dataset.report.tally)
    report.ignored = dataset.report.ignored
    report.warnings = list(dataset.report.warnings)
    if has_own_val:
        return {"train": dataset.train, "val": dataset.val}
    return {"train": dataset.train.joined(dataset.val)}


class _Reader:
    """Reads listings as they are, what cannot be read left out, into one report."""

    def __init__(
        self,
        policy: DecodePolicy,
        report: DataReport,
        keep_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.unknown: dict[str, int] = {}
        self._policy = policy
        self._report = report
        self._keep_bytes = keep_bytes
        self._progress = progress

    def read(self, listing: Listing, split: str, names: tuple[str, ...] | None) -> ImageSet:
        """The pictures whose class is among `names`, which are the listing's own where None."""
        scan = scan_store(
            listing.store,
            self._policy,
            bad_images="skip",
            keep_bytes=self._keep_bytes,
            progress=self._progress,
        )
        self._report.skipped.update(listing.skipped)
        self._report.skipped.update(scan.skipped)
        self._report.tally.add(scan.tally)
        self._report.ignored += listing.ignored
        names = listing.class_names if names is None else names
        place = {name: index for index, name in enumerate(names)}
        index_of = np.array([place.get(name, -1) for name in listing.class_names], np.int64)
        labels = listing.labels[scan.rows]
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            if index_of[label] < 0:
                strange = f"{split}: {printable(listing.class_names[label])}"
                self.unknown[strange] = int(count)
        whole = ImageSet(
            name=split,
            class_names=names,
            labels=index_of[labels],
            digests=scan.digests,
            sizes=scan.sizes,
            store=listing.store.take(scan.rows),
            decode=self._policy,
            kept=scan.pixels,
        )
        is_known = whole.labels >= 0
        return whole if is_known.all() else whole.subset(np.flatnonzero(is_known), split)
