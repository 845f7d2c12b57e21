"""What was found in the data: for data_report.json and for the one line people read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from deitkit.data.display import name_list
from deitkit.data.faults import Skips
from deitkit.data.scan import Tally


@dataclass(slots=True)
class Repeats:
    """Pictures whose content occurs more than once; the first paths of each content."""

    count: int = 0
    examples: list[list[str]] = field(default_factory=list)


@dataclass(slots=True)
class DataReport:
    """All counts about one source. Paths are escaped text."""

    source: str
    class_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split -> class name -> usable images; 0 for a class without one."""
    locations: dict[str, str] = field(default_factory=dict)
    """Split -> where its images lie."""
    skipped: Skips = field(default_factory=Skips)
    ignored: int = 0
    tally: Tally = field(default_factory=Tally)
    heights: tuple[int, int, int] = (0, 0, 0)
    """Lowest, median and highest, in pixels."""
    widths: tuple[int, int, int] = (0, 0, 0)
    duplicates: Repeats = field(default_factory=Repeats)
    """Images beyond the first of each content, within a class and split."""
    conflicts: Repeats = field(default_factory=Repeats)
    """Images whose content is in more than one class."""
    leaks: Repeats = field(default_factory=Repeats)
    """Validation images whose content is among the training images."""
    warnings: list[str] = field(default_factory=list)

    @property
    def num_skipped(self) -> int:
        return self.skipped.total

    @property
    def skip_counts(self) -> dict[str, int]:
        """Reason -> images left out for it."""
        return dict(self.skipped.counts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; `json.dumps` of it is valid UTF-8 whatever the file names are."""
        plain = asdict(self)
        counts, paths = plain["skipped"]["counts"], plain["skipped"]["paths"]
        plain["skipped"] = {
            reason: {"count": count, "paths": paths[reason]} for reason, count in counts.items()
        }
        plain.update(plain.pop("tally"))
        plain["num_images"] = {split: self.num_images(split) for split in self.class_counts}
        return plain

    def num_images(self, split: str) -> int:
        return sum(self.class_counts[split].values())

    def measure(self, sizes_N2: np.ndarray) -> None:
        """Fill heights and widths from int [N, 2]."""
        if len(sizes_N2):
            lows, middles, highs = (
                sizes_N2.min(axis=0),
                np.median(sizes_N2, axis=0),
                sizes_N2.max(axis=0),
            )
            self.heights = (int(lows[0]), int(middles[0]), int(highs[0]))
            self.widths = (int(lows[1]), int(middles[1]), int(highs[1]))

    def summary(self) -> str:
        """One line: classes, images, sizes in pixels, and what was left out and why."""
        names = next(iter(self.class_counts.values()), {})
        text = f"{len(names)} classes ({name_list(names, limit=4)}): "
        text += ", ".join(f"{self.num_images(split)} {split}" for split in self.class_counts)
        (low_h, mid_h, high_h), (low_w, mid_w, high_w) = self.heights, self.widths
        text += f" images of {mid_h}x{mid_w} pixels"
        if (low_h, low_w) != (high_h, high_w):
            text += f" in the middle ({low_h} to {high_h} high, {low_w} to {high_w} wide)"
        if self.skipped.total:
            text += f"; {self.skipped.total} left out: {self.skipped.summary()}"
        return text
