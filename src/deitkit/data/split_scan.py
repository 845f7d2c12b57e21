"""One split of a source: listed, its classes matched by name, every picture looked at."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deitkit.data.checks import check_skips
from deitkit.data.class_names import match_classes
from deitkit.data.decoding import DecodePolicy
from deitkit.data.display import name_list, printable
from deitkit.data.listed import ALL, Listing, Source
from deitkit.data.report import DataReport
from deitkit.data.scan import BadImages, Progress, Scan, scan_store
from deitkit.data.scan_memory import ScanMemory
from deitkit.errors import DataError


class SplitScan(NamedTuple):
    """A split that was listed and scanned."""

    listing: Listing
    scan: Scan
    labels: np.ndarray
    """int64 [N] of the usable rows."""


class SplitReader:
    """Lists and scans splits of one source into one report."""

    def __init__(
        self,
        source: Source,
        policy: DecodePolicy,
        bad_images: BadImages,
        progress: Progress | None,
        report: DataReport,
        *,
        remember: bool,
    ) -> None:
        """`remember` what is found for the next time, see `scan_memory`."""
        self._source = source
        self._remember = remember
        self._policy = policy
        self._bad_images = bad_images
        self._progress = progress
        self._report = report

    def split(
        self, name: str, keep_bytes: int, class_names: Sequence[str] | None = None
    ) -> SplitScan:
        """`class_names`: those of the training split or of a model, which decide the indices."""
        listing = self._source.splits[name]()
        if class_names is not None:
            labels, missing = match_classes(
                listing.labels, listing.class_names, class_names, listing.location
            )
            if missing and len(labels):
                self._report.warnings.append(
                    f"no image of {name_list(missing)} in {printable(listing.location)}: "
                    "these classes are not measured there"
                )
        else:
            labels = listing.labels
        if self._bad_images == "fail" and listing.skipped.total:
            raise DataError(
                "BAD_IMAGE",
                printable(listing.location),
                listing.skipped.first_cases(1),
                "remove or replace it, or set data.bad_images=skip",
            )
        scan = scan_store(
            listing.store,
            self._policy,
            bad_images=self._bad_images,
            keep_bytes=keep_bytes,
            progress=self._progress,
            memory=ScanMemory.of(listing.location, name, self._policy) if self._remember else None,
        )
        scan.skipped.update(listing.skipped)
        check_skips(listing, scan.skipped)
        report = self._report
        report.skipped.update(scan.skipped)
        report.tally.add(scan.tally)
        report.ignored += listing.ignored
        report.warnings += listing.warnings
        report.locations["train" if name == ALL else name] = printable(listing.location)
        return SplitScan(listing, scan, labels[scan.rows])
