"""What a safetensors file says it holds, checked before one tensor is allocated.

Format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON
header of name -> dtype, shape, data_offsets, then the data without gaps or overlaps.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from deitkit.errors import ModelFileError
from deitkit.runtime.strict_json import load_json

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 10_000
_MAX_DIMS = 8
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
_KNOWN_OTHERS = (
    (b"version https://git-lfs", "LFS_POINTER", "this is a Git LFS pointer, not the weights"),
    (b"<", "WEB_PAGE", "this is a web page, not weights"),
    (b"PK\x03\x04", "UNSAFE", "this is a zip archive (a pickled .pt file?), which can run code"),
    (b"\x80", "UNSAFE", "this is a pickle, which can run code when it is opened"),
    (b"\x1f\x8b", "UNSAFE", "this is a gzip archive"),
)


class TensorEntry(NamedTuple):
    """One tensor of the file, as its header tells it."""

    dtype: str
    """The format's own name, such as F32."""
    shape: tuple[int, ...]


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Names, dtypes and shapes in `path`; reads the header only.

    Raises ModelFileError where the file is something else (UNSAFE, LFS_POINTER, WEB_PAGE) or
    its header lies (CORRUPT, JSON): cut short, longer than 1 MiB, more than 10,000 tensors, offsets
    that overlap, leave gaps, run past the end or disagree with the shape.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _bad(path, "not a file")
        with path.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            start = stream.read(64)
            header_bytes = _header_bytes(path, start, file_bytes)
            stream.seek(8)
            header = stream.read(header_bytes)
    except OSError as error:
        raise _bad(path, f"cannot be read ({os.strerror(error.errno or 0)})") from error
    table = load_json(header, path, max_bytes=MAX_HEADER_BYTES, max_depth=3)
    try:
        return _entries(table, file_bytes - 8 - header_bytes)
    except _HeaderLieError as error:
        raise _bad(path, f"its header is wrong: {error}") from error


class _HeaderLieError(ValueError):
    pass


def _bad(path: Path, why: str) -> ModelFileError:
    return ModelFileError("CORRUPT", path, why, "fetch or export the file again")


def _header_bytes(path: Path, start: bytes, file_bytes: int) -> int:
    for signature, code, why in _KNOWN_OTHERS:
        # A small length can look like a signature: eight bytes whose length fits are a header.
        if start.lstrip().startswith(signature) and start[8:9] != b"{":
            raise ModelFileError(code, path, why, "give a .safetensors file")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > file_bytes - 8:
        raise _bad(path, f"cut short or not safetensors ({file_bytes:,} bytes)")
    if length > MAX_HEADER_BYTES:
        raise _bad(path, f"a header of {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
    return length


def _entries(table: Any, data_bytes: int) -> dict[str, TensorEntry]:
    if not isinstance(table, dict):
        raise _HeaderLieError("not a table of tensors")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _HeaderLieError("__metadata__ is not a table of texts")
    if len(table) > MAX_TENSORS:
        raise _HeaderLieError(f"{len(table):,} tensors, more than {MAX_TENSORS:,}")
    spans = []
    entries = {}
    for name, value in table.items():
        entries[name], begin, end = _entry(name, value)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise _HeaderLieError(f"{name!r} starts at byte {begin:,}, not at {position:,}")
        position = end
    if position != data_bytes:
        raise _HeaderLieError(f"tensors end at byte {position:,}, the data at {data_bytes:,}")
    return entries


def _entry(name: str, value: Any) -> tuple[TensorEntry, int, int]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderLieError(f"{name!r} needs dtype, shape and data_offsets, and no more")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _HeaderLieError(f"{name!r} has an unknown dtype")
    if not _are_counts(shape) or len(shape) > _MAX_DIMS:
        raise _HeaderLieError(f"{name!r} has a shape that is none")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderLieError(f"{name!r} has offsets that are none")
    num_bytes = _BITS[dtype] // 8
    for length in shape:
        # Python's integers do not overflow, and the offsets are bounded by the file's length.
        num_bytes *= length
    if num_bytes != offsets[1] - offsets[0]:
        raise _HeaderLieError(
            f"{name!r} has a shape of {num_bytes:,} bytes in {offsets[1] - offsets[0]:,}"
        )
    return TensorEntry(dtype, tuple(shape)), offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
