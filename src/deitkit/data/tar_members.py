"""The members of a tar archive, header by header: nothing is unpacked, no content is read.

The formats are those of POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU tar; the standard library
reads single headers, and walking over them is done here, because its own walk takes damage in the
middle of an archive for the end of it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Generator
from typing import BinaryIO, NamedTuple

UNIT = 512
"""Bytes of a header; contents are padded to a multiple of it."""
_MAX_EXTENSION_BYTES = 1 << 20
"""Of a long name or of pax records."""
_TAIL_BYTES = 1 << 16
"""Looked at after the end mark."""

_FOLDERS = (tarfile.DIRTYPE, b"D")
_WITHOUT_CONTENT = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


class Member(NamedTuple):
    """One entry of an archive, a folder left aside."""

    name: bytes
    offset: int
    """Of its content, from the beginning of the archive."""
    size: int
    unusual: str
    """Empty for a regular file, otherwise what it is."""


class DamagedArchive(Exception):  # noqa: N818 (a fault of the file, not of the program)
    """Where in the archive, and what is wrong there."""


class _Extension:
    """What pax records and long names say of the member that follows."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.size: int | None = None
        self.is_sparse = False

    def add_records(self, records: dict[bytes, bytes]) -> None:
        self.is_sparse |= any(key.startswith(b"GNU.sparse.") for key in records)
        self.name = records.get(b"GNU.sparse.name", records.get(b"path", self.name))
        if b"size" in records:
            self.size = int(records[b"size"])


def walk_members(
    file: BinaryIO, num_bytes: int, *, note: Callable[[str], None]
) -> Generator[Member, None, None]:
    """Every member that is not a folder, in the order of the archive of `num_bytes`.

    `note` is told what is odd but loses nothing that can be known: no end mark, or bytes behind
    it. Raises DamagedArchive; OSError as the file does.
    """
    position, extension = 0, _Extension()
    while True:
        header = _read_header(file, position, num_bytes, note)
        if header is None:
            return
        start, kind = position + UNIT, header.type
        size = header.size if extension.size is None else extension.size
        if kind == tarfile.GNUTYPE_SPARSE:
            start = _after_sparse_map(file, position)
        has_content = kind not in _WITHOUT_CONTENT and kind != tarfile.DIRTYPE
        stop = start + size if has_content else start
        name = extension.name or header.name.encode("utf-8", "surrogateescape")
        if size < 0 or stop > num_bytes:
            raise DamagedArchive(f"it ends in the middle of {name!r}, which begins at {position}")
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            content = _read_extension(file, start, size)
            if kind == tarfile.GNUTYPE_LONGNAME:
                extension.name = content.split(b"\0", 1)[0]
            else:
                extension.add_records(_pax_records(content, position))
        elif kind not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, b"V"):
            unusual = _WITHOUT_CONTENT.get(kind, "")
            if kind == b"M":
                unusual = "the rest of a file in another archive"
            elif kind == tarfile.GNUTYPE_SPARSE or extension.is_sparse:
                unusual = "a file with holes"
            if kind not in _FOLDERS:
                yield Member(name, start, size, unusual)
            extension = _Extension()
        position = start + -(-(stop - start) // UNIT) * UNIT


def _read_header(
    file: BinaryIO, position: int, num_bytes: int, note: Callable[[str], None]
) -> tarfile.TarInfo | None:
    """The header at a position, None at the end of the archive."""
    if position >= num_bytes > 0:
        note("has no end mark; if it was cut between two images, those behind it are missing")
        return None
    file.seek(position)
    block = file.read(UNIT)
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        if file.read(_TAIL_BYTES).strip(b"\0"):
            note("holds bytes behind its end mark, which are not read")
        return None
    except tarfile.HeaderError as fault:
        if position == 0:
            begin = f"it begins with {block[:16]!r}" if block else "it is empty"
            raise DamagedArchive(f"{begin}, which is no tar archive") from fault
        raise DamagedArchive(f"what stands at byte {position} is no header") from fault


def _after_sparse_map(file: BinaryIO, position: int) -> int:
    """Where the content of an old GNU sparse member begins: behind a map of any length."""
    file.seek(position)
    is_continued = file.read(UNIT)[482:483]
    position += UNIT
    while is_continued not in (b"\0", b""):
        is_continued = file.read(UNIT)[504:505]
        position += UNIT
    return position


def _read_extension(file: BinaryIO, start: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise DamagedArchive(f"the name or attributes at byte {start} take {size} bytes")
    file.seek(start)
    return file.read(size)


def _pax_records(content: bytes, position: int) -> dict[bytes, bytes]:
    """`length key=value` lines, the length counting all of its line."""
    records, begin = {}, 0
    try:
        while begin < len(content) and content[begin] != 0:
            space = content.index(b" ", begin, begin + 20)
            end = begin + int(content[begin:space])
            key, equals, value = content[space + 1 : end - 1].partition(b"=")
            if not equals or end > len(content):
                raise ValueError
            records[key] = value
            begin = end
        int(records.get(b"size", b"0"))
    except ValueError as fault:
        raise DamagedArchive(f"the attributes at byte {position} cannot be read") from fault
    return records
