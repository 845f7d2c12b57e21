"""What is told of a cache, of either kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deitkit.runtime.shared_folder import LOCK_FILE, is_in_use

ANSWERS, IMAGES = "teacher", "images"


@dataclass(frozen=True, kw_only=True)
class CacheFound:
    """One cache on a disk."""

    folder: Path
    kind: str
    """ANSWERS or IMAGES."""
    source: str | None
    """The teacher's name, or where the images lie; None where the header is damaged."""
    num_images: int | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind has: for people and other programs."""
    num_bytes: int
    """Taken of the disk."""
    last_used: float
    """Seconds since 1970."""
    in_use: bool

    @property
    def teacher(self) -> str | None:
        return self.source if self.kind == ANSWERS else None

    @property
    def replaces(self) -> tuple[str, str | None]:
        """Alike for caches of which the last used has replaced the others. Images of two places
        have nothing to do with each other; a teacher's answers follow the images wherever."""
        return self.folder.name[:16], self.source if self.kind == IMAGES else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        values = {name: value for name, value in vars(self).items() if name != "facts"}
        named = {"teacher": self.source} if self.kind == ANSWERS else {}
        return {**values, "folder": str(self.folder), **named, **self.facts}


def found_at(path: Path, **facts: Any) -> CacheFound:
    """The cache at `path`, with what every folder tells."""
    lock = path / LOCK_FILE
    return CacheFound(
        folder=path,
        num_bytes=sum(file.stat().st_blocks * 512 for file in path.iterdir()),
        last_used=(lock if lock.exists() else path).stat().st_mtime,
        in_use=is_in_use(path),
        **facts,
    )


class FileFound(Protocol):
    """What one file of a cache holds; a NamedTuple."""

    @property
    def num_good(self) -> int: ...
    @property
    def num_empty(self) -> int: ...
    @property
    def num_bad(self) -> int: ...
    @property
    def has_full_length(self) -> bool: ...
    def _asdict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class CacheCheck:
    """What `verify` found in one cache."""

    folder: Path
    kind: str
    problems: tuple[str, ...]
    """Of header and index; they are written anew when the cache is next used."""
    files: Mapping[str, FileFound]

    @property
    def num_bad(self) -> int:
        """Damaged records or images; each is made again when it is next needed."""
        return sum(report.num_bad for report in self.files.values())

    @property
    def is_whole(self) -> bool:
        """Whether every byte is as it was written; empty places are no damage."""
        return not self.problems and all(
            report.num_bad == 0 and report.has_full_length for report in self.files.values()
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "whole": self.is_whole,
            "problems": list(self.problems),
            "files": [{"file": name, **report._asdict()} for name, report in self.files.items()],
        }
