"""A folder that is whole or does not count: its `manifest.json` holds every file's digest.

The manifest lists size and sha256 of each file and ends with the sha256 of itself, and its bytes
must be exactly those we would write for its content. So one flipped bit anywhere in the folder
is found. This outer form never changes with a schema: an older deitkit can tell a newer folder
from a damaged one.

A folder is written under a temporary name, synced, then renamed. Replacing one takes two
renames; a kill between them leaves `<name>.previous`, which `find_folder` falls back to.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from deitkit.runtime.durable import (
    faults_told,
    make_folder,
    remove_durably,
    removed_on_failure,
    sync_folder,
    write_new_file,
)
from deitkit.runtime.temporary_names import temporary_name

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_OWN_KEYS = ("files", "manifest_sha256")
_CONTENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}


class BrokenFolderError(Exception):
    """Why a sealed folder, or one file in it, does not count. Rooms turn it into their error."""


def write_folder(path: Path, files: Mapping[str, bytes], extras: Mapping[str, Any]) -> None:
    """Write a new folder of `files` plus its manifest; `extras` are the manifest's other keys.

    Raises ResourceError (EEXIST if the name is taken); nothing partial stays behind.
    """
    path = Path(path)
    if os.path.lexists(path):
        with faults_told(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    _write(path, files, extras)


def replace_folder(path: Path, files: Mapping[str, bytes], extras: Mapping[str, Any]) -> None:
    """As `write_folder`, but where `path` exists, readers see the old folder until the new one."""
    path = Path(path)
    previous = _previous(path)
    if os.path.lexists(path) and os.path.lexists(previous):
        remove_durably(previous)
    _write(path, files, extras)
    if os.path.lexists(previous):
        remove_durably(previous)


def find_folder(path: Path) -> Path | None:
    """`path`, or what a kill in the middle of replacing it left, or None."""
    path = Path(path)
    for candidate in (path, _previous(path)):
        if os.path.lexists(candidate):
            return candidate
    return None


def verify_folder(path: Path) -> list[str]:
    """Everything that is wrong with the folder; empty means every byte is as written.

    Raises ResourceError where the disk forbids reading, which says nothing about the content.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
    except BrokenFolderError as error:
        return [str(error)]
    problems = []
    for name in manifest["files"]:
        try:
            _check_file(path, manifest, name)
        except BrokenFolderError as error:
            problems.append(str(error))
    return problems


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, itself verified; the files are not read. Raises BrokenFolderError."""
    if not path.is_dir():
        raise BrokenFolderError("not a folder" if os.path.lexists(path) else "missing")
    with _opened(path / MANIFEST) as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BrokenFolderError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        manifest = json.loads(data)
        sealed = isinstance(manifest, dict) and data == _manifest_bytes(manifest)
    except (ValueError, RecursionError, TypeError) as error:
        raise BrokenFolderError(f"{MANIFEST} is damaged (not our JSON)") from error
    if not sealed:
        raise BrokenFolderError(f"{MANIFEST} is damaged (its digest differs)")
    if not _is_file_table(manifest.get("files")):
        raise BrokenFolderError(f"{MANIFEST} has no list of files")
    return manifest


def read_sealed_file(path: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """One file's bytes, equal to what the manifest promises. Raises BrokenFolderError."""
    entry = _entry(manifest, name)
    with _opened(path / name) as stream:
        _check_size(stream, name, entry)
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BrokenFolderError(f"{name} is damaged (its digest differs)")
    return data


def _write(path: Path, files: Mapping[str, bytes], extras: Mapping[str, Any]) -> None:
    assert not set(extras) & set(_OWN_KEYS), "these manifest keys are the folder's own"
    assert all(_is_plain_name(name) and name != MANIFEST for name in files)
    contents = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
    }
    manifest = _manifest_bytes({**extras, "files": contents})
    num_bytes = sum(len(data) for data in files.values()) + len(manifest)
    with faults_told(path, bytes_needed=num_bytes), temporary_name(path) as temporary:
        make_folder(path.parent)
        with removed_on_failure(temporary):
            temporary.mkdir()
            for name, data in files.items():
                write_new_file(temporary / name, data)
            write_new_file(temporary / MANIFEST, manifest)
            sync_folder(temporary)
            if os.path.lexists(path):
                path.rename(_previous(path))
            temporary.rename(path)
        sync_folder(path.parent)


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The one way to write this manifest, with the digest of all of it but that digest."""
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    plain = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    content["manifest_sha256"] = hashlib.sha256(plain.encode("ascii")).hexdigest()
    return (json.dumps(content, sort_keys=True, allow_nan=False, indent=1) + "\n").encode("ascii")


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _is_plain_name(name: str) -> bool:
    """One path component: a manifest from a stranger cannot point outside its folder."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _is_file_table(files: object) -> bool:
    return isinstance(files, dict) and all(
        _is_plain_name(name)
        and isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("sha256"), str)
        for name, entry in files.items()
    )


def _entry(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    entry = manifest["files"].get(name)
    if entry is None:
        raise BrokenFolderError(f"{name} is not in {MANIFEST}")
    return entry


def _check_file(path: Path, manifest: Mapping[str, Any], name: str) -> None:
    entry = _entry(manifest, name)
    with _opened(path / name) as stream:
        _check_size(stream, name, entry)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != entry["sha256"]:
        raise BrokenFolderError(f"{name} is damaged (its digest differs)")


def _check_size(stream: BufferedReader, name: str, entry: Mapping[str, Any]) -> None:
    size = os.fstat(stream.fileno()).st_size
    if size != entry["size"]:
        raise BrokenFolderError(f"{name} holds {size:,} bytes of {entry['size']:,}")


def _opened(path: Path) -> BufferedReader:
    """An ordinary file, open for reading; pipes and devices are refused without waiting."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BrokenFolderError(f"{path.name} is not a file")
        return path.open("rb")
    except OSError as error:
        if error.errno in _CONTENT_ERRNOS:
            why = os.strerror(error.errno or 0)
            raise BrokenFolderError(f"{path.name} cannot be read ({why})") from error
        with faults_told(path):
            raise
