"""The data in a few lines: what was found before anything was decided."""

from __future__ import annotations

import numpy as np

from deitkit.data import Dataset, printable


def describe_dataset(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, text) lines: classes, images of each split, sizes, what was left out."""
    names = dataset.class_names
    shown = ", ".join(map(printable, names[:8])) + (
        f", and {len(names) - 8} more" if len(names) > 8 else ""
    )
    counts = np.bincount(dataset.train.labels, minlength=len(names))
    sizes_N2 = dataset.train.sizes
    low, middle, high = (np.quantile(sizes_N2, q, axis=0) for q in (0, 0.5, 1))
    size = f"{middle[1]:.0f}x{middle[0]:.0f} pixels"
    if (low != high).any():
        size = (
            f"{low[1]:.0f}x{low[0]:.0f} to {high[1]:.0f}x{high[0]:.0f} pixels, half of them up to "
            f"{middle[1]:.0f}x{middle[0]:.0f}"
        )
    lines = [
        ("data", dataset.source),
        ("classes", f"{len(names)}: {shown}"),
        (
            "images",
            f"{len(dataset.train):,} to train ({counts.min():,} to {counts.max():,} a class), "
            + (
                "validated by folds"
                if dataset.trains_on_val
                else f"{len(dataset.val):,} to validate"
            ),
        ),
        ("sizes", size),
    ]
    skipped = dataset.report.skipped
    if skipped.total:
        lines.append(("left out", f"{skipped.summary()} (listed in data_report.json)"))
    return lines
