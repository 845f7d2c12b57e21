"""Why one picture cannot be used, and the list of those that were left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from deitkit.data.display import printable

LISTED_PATHS = 1_000
"""Paths remembered for each reason; the count goes on."""

REASONS = {
    "empty_file": "no bytes in the file",
    "not_an_image": "the content is not a picture",
    "truncated": "the file ends before its picture does",
    "format_not_allowed": "a format that is not read",
    "too_large": "more pixels than max_pixels",
    "too_small": "a side shorter than min_side",
    "decode_error": "the decoder gave up",
    "value_range": "values outside the stated range",
    "permission": "no permission to read",
    "not_a_regular_file": "a broken link, pipe, socket or device",
    "missing_file": "listed in the table, not on disk",
    "path_too_long": "the path is longer than the system opens",
    "outside_root": "a link that leads out of the data folder",
    "no_image": "a sample of a shard has a label and no picture",
    "repeated_name": "a second member of the same name in one shard",
}
"""Every reason a sample is left out before the first epoch, in words."""


class DecodeFault(Exception):  # noqa: N818 (a fault of the picture, not of the program)
    """One picture that cannot be used. `reason` is a key of REASONS, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail or REASONS[self.reason]})"


@dataclass(slots=True)
class Skips:
    """What was left out, by reason: how many, and the first paths of each."""

    counts: dict[str, int] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    """The decoder's own words for the first picture of a reason."""

    def add(self, reason: str, path: str, detail: str = "") -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        listed = self.paths.setdefault(reason, [])
        if len(listed) < LISTED_PATHS:
            listed.append(printable(path))
        if detail:
            self.details.setdefault(reason, detail)

    def update(self, other: Skips) -> None:
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            listed = self.paths.setdefault(reason, [])
            listed.extend(other.paths[reason][: LISTED_PATHS - len(listed)])
        for reason, detail in other.details.items():
            self.details.setdefault(reason, detail)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def _by_count(self) -> Iterator[tuple[str, int]]:
        yield from sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> str:
        """`3 truncated, 1 empty_file`, the most frequent reason first."""
        return ", ".join(f"{count} {reason}" for reason, count in self._by_count())

    def first_cases(self, num_paths: int = 3) -> str:
        """The summary with the first paths and the decoder's words, for an error message."""
        parts = []
        for reason, count in self._by_count():
            text = f"{count} {reason} ({self.details.get(reason) or REASONS[reason]}): "
            shown = self.paths[reason][:num_paths]
            parts.append(text + ", ".join(shown) + (" ..." if count > len(shown) else ""))
        return "; ".join(parts)
