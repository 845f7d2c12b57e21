"""Durable writes: after the call returns, a power cut cannot take the file away or tear it.

Every durable file is written beside its target, synced, renamed over it, and the folder synced
(the order SQLite and LevelDB keep, and the one POSIX promises to be atomic). A folder with
`manifest.json` is written the same way, as one unit. All changes to the disk pass through
`os.open, write, fsync, close, mkdir, rename, replace, unlink, rmdir` (`pathlib` calls the same
functions), so a test can count them and kill the process at each one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deitkit.runtime.disk_faults import disk_fault
from deitkit.runtime.temporary_names import remove_tree, temporary_name


def write_file(path: Path, data: bytes) -> None:
    """Put `data` under `path`, all or nothing; what was there before stays until the end.

    File modes follow the umask. Raises ResourceError with the errno's name; no partial file
    stays behind. After a failed fsync the file is given up, never synced again: the kernel has
    already dropped the pages, so a second fsync would report a success that is none.
    """
    path = Path(path)
    with faults_told(path, bytes_needed=len(data)), temporary_name(path) as temporary:
        make_folder(path.parent)
        with removed_on_failure(temporary):
            write_new_file(temporary, data)
            temporary.replace(path)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, durably. Keys are strings, numbers finite."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_file(path, text.encode("ascii"))


def write_new_file(path: Path, data: bytes) -> None:
    """Create `path` (which must not exist), write all of `data` and sync it; OSError as it comes.

    The name itself is durable only once its folder is synced too.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems cannot sync a folder and say so with EINVAL; they write names
        # through at once.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` and what is missing above it, each name durable; an existing one is fine."""
    if path.is_dir():
        return
    make_folder(path.parent)
    # Another rank may have made it a moment ago; a file of that name is an error.
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def rename_durably(old: Path, new: Path) -> None:
    """Rename inside one folder and make it last. Raises ResourceError."""
    with faults_told(new):
        old.rename(new)
        sync_folder(new.parent)


def remove_durably(path: Path) -> None:
    """Remove a file or folder so that no reader meets it half removed. Raises ResourceError."""
    with faults_told(path), temporary_name(path) as doomed:
        path.rename(doomed)
        sync_folder(path.parent)
        remove_tree(doomed)


@contextlib.contextmanager
def faults_told(path: Path, *, bytes_needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into the ResourceError that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk_fault(error, path, bytes_needed=bytes_needed) from error


@contextlib.contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Leave no file or folder of this name where the block fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(path)
        raise
