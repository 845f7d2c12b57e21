"""Tar shards in the WebDataset layout, written by Python's tarfile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.data import faulty_images as fi


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], *, kind: int = tarfile.USTAR_FORMAT
) -> Path:
    """A tar of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members:
            add(archive, name, content)
    return path


def picture(number: int) -> bytes:
    """PNG of fi.photo(number, 10, 12)."""
    return fi.encode(fi.photo(number, 10, 12))


def members(
    labels: Iterable[str], *, first: int = 0, ending: str = "png"
) -> list[tuple[str, bytes]]:
    """A picture and a .cls for each label; keys and pictures numbered from `first`."""
    return [
        member
        for number, label in enumerate(labels, first)
        for member in (
            (f"{number:06d}.{ending}", picture(number)),
            (f"{number:06d}.cls", label.encode()),
        )
    ]
