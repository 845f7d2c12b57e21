"""Looking after the teacher caches of a folder: what is there, is it whole, what can go."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    from deitkit.teachers.cache_files import DiskFiles, FileReport
    from deitkit.teachers.cache_records import RecordFormat

_S_PER_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class CacheFound:
    """One teacher's answers about one data set."""

    folder: Path
    teacher: str | None
    """None where the header is damaged."""
    num_classes: int | None
    num_images: int | None
    dtype: str | None
    top_k: int | None
    num_view_epochs: int
    """Begun, not necessarily complete."""
    num_bytes: int
    """Taken of the disk."""
    last_used: float
    """Seconds since 1970."""
    in_use: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "folder": str(self.folder)}


@dataclass(frozen=True, kw_only=True)
class CacheCheck:
    """What `verify` found in one cache."""

    folder: Path
    problems: tuple[str, ...]
    """Of header and ids; they are written anew when the cache is next used."""
    files: tuple[FileReport, ...]

    @property
    def num_bad(self) -> int:
        """Damaged records; each is asked for again when it is next needed."""
        return sum(report.num_bad for report in self.files)

    @property
    def is_whole(self) -> bool:
        """Whether every byte is as it was written; empty places are no damage."""
        return not self.problems and all(
            report.num_bad == 0 and report.has_full_length for report in self.files
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "folder": str(self.folder),
            "whole": self.is_whole,
            "problems": list(self.problems),
            "files": [report._asdict() for report in self.files],
        }


def list_caches(folder: str | Path | None = None) -> list[CacheFound]:
    """The caches in `folder` (the user's own where left out), the last used first.

    Raises ConfigError NO_FOLDER.
    """
    from deitkit.teachers.cache_folder import cache_folders

    found = [_look_at(path) for path in cache_folders(_root(folder))]
    return sorted(found, key=lambda cache: -cache.last_used)


def verify_caches(folder: str | Path | None = None) -> list[CacheCheck]:
    """Check every byte of every cache in `folder`; nothing is changed.

    Raises:
        ConfigError: NO_FOLDER.
        ResourceError: the disk forbids reading.
    """
    from deitkit.teachers.cache_files import cache_faults, verify_files
    from deitkit.teachers.cache_folder import cache_folders, read_header, read_ids

    checks = []
    for path in cache_folders(_root(folder)):
        problems: list[str] = []
        files: list[FileReport] = []
        if read_ids(path) is None:
            problems.append("sample_ids.bin is damaged")
        try:
            header = read_header(path)
        except ModelFileError as error:
            problems.append(f"header.json: {error.why}")
        else:
            opened = _files_of(path, header)
            if opened is None:
                problems.append(f"written in cache format {header.get('schema')}")
            else:
                records, disk = opened
                with cache_faults(path):
                    files = verify_files(records, disk)
                    disk.close()
        checks.append(CacheCheck(folder=path, problems=tuple(problems), files=tuple(files)))
    return checks


def prune_caches(
    folder: str | Path | None = None,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    dry_run: bool = False,
) -> tuple[list[CacheFound], list[CacheFound]]:
    """Remove caches that are not needed; returns (removed, kept because they are in use).

    By default those that another data set's cache of the same teacher and views has replaced: all
    but the last used of each. With `teacher` all of the teacher of that name, with `unused_days`
    all that were last used so long ago; with both, those to which both apply. What killed
    processes left unfinished goes too. `dry_run` removes nothing and says what would go.

    Raises:
        ConfigError: NO_FOLDER.
        ResourceError: the disk refused.
    """
    from deitkit.runtime.shared_folder import remove_unused
    from deitkit.runtime.temporary_names import remove_leftovers

    root = _root(folder)
    found = list_caches(root)
    if teacher is None and unused_days is None:
        newest = {cache.folder.name[:16]: cache for cache in reversed(found)}
        doomed = [cache for cache in found if newest[cache.folder.name[:16]] is not cache]
    else:
        before = time.time() - (unused_days or 0.0) * _S_PER_DAY
        doomed = [
            cache
            for cache in found
            if teacher in (None, cache.teacher)
            and (unused_days is None or cache.last_used <= before)
        ]
    if dry_run:
        return [c for c in doomed if not c.in_use], [c for c in doomed if c.in_use]
    remove_leftovers(root)
    removed = [cache for cache in doomed if remove_unused(cache.folder)]
    return removed, [cache for cache in doomed if cache not in removed]


def _look_at(path: Path) -> CacheFound:
    from deitkit.runtime.shared_folder import LOCK_FILE, is_in_use
    from deitkit.teachers.cache_files import DiskFiles
    from deitkit.teachers.cache_folder import read_header

    try:
        header = read_header(path)
    except ModelFileError:
        header = {}
    disk = DiskFiles(path, record_bytes=1, num_slots=0, writable=False)
    lock = path / LOCK_FILE
    return CacheFound(
        folder=path,
        teacher=header.get("teacher"),
        num_classes=header.get("num_classes"),
        num_images=header.get("num_samples"),
        dtype=header.get("dtype"),
        top_k=header.get("top_k"),
        num_view_epochs=len(disk.epochs()) * header.get("num_repeats", 1),
        num_bytes=sum(file.stat().st_blocks * 512 for file in path.iterdir()),
        last_used=(lock if lock.exists() else path).stat().st_mtime,
        in_use=is_in_use(path),
    )


def _files_of(path: Path, header: dict[str, Any]) -> tuple[RecordFormat, DiskFiles] | None:
    """The files of a whole header; None where a later deitkit wrote it."""
    from deitkit.teachers.cache_files import DiskFiles
    from deitkit.teachers.cache_folder import SCHEMA
    from deitkit.teachers.cache_records import RecordFormat

    if header.get("schema") != SCHEMA:
        return None
    records = RecordFormat(
        num_classes=header["num_classes"], dtype=header["dtype"], top_k=header["top_k"]
    )
    num_slots = header["num_samples"] * header["num_repeats"]
    disk = DiskFiles(path, record_bytes=records.num_bytes, num_slots=num_slots, writable=False)
    return records, disk


def _root(folder: str | Path | None) -> Path:
    from deitkit.teachers.cache_folder import default_root

    if folder is None:
        return default_root()  # not there before the first cache is
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(
            "NO_FOLDER", root, "there is no such folder", "name the folder of the teacher caches"
        )
    return root
