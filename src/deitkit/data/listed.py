"""The splits of a source as they are known before a picture is read."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from deitkit.data.faults import Skips
from deitkit.data.stores import RecordStore

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What people call the splits -> what we call them."""

ALL = "all"
"""The one split of a source that has no splits."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One split: rows and labels, no image read yet."""

    location: str
    store: RecordStore
    labels: np.ndarray
    """int64 [N], indices into `class_names`."""
    class_names: tuple[str, ...]
    ignored: int = 0
    skipped: Skips = field(default_factory=Skips)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """The splits of a source; each is listed only when asked for, so `test` stays unread."""

    description: str
    splits: Mapping[str, Callable[[], Listing]]
    locations: dict[str, str]
