"""Look into an ONNX file before any library runs it: whole, and with nothing outside itself.

ONNX is a protobuf message (onnx.proto3 of github.com/onnx/onnx). A tensor in it may say that its
numbers lie in another file, at a path of the author's choosing: that is refused (FAULTS M13),
wherever a tensor can stand. A file of deitkit's own holds its digest, so that one flipped bit is
found wherever the file has been copied to (M07).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from deitkit.errors import ModelFileError

MAX_BYTES = 2**31
"""No protobuf message may be larger."""
MAX_DEPTH = 64
DIGEST_KEY = "deitkit.sha256"
"""The metadata entry with the digest of all the rest, as JSON text."""

_TENSOR, _SPARSE, _GRAPH, _NODE, _ATTRIBUTE = "tensor", "sparse", "graph", "node", "attribute"
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: _GRAPH, 20: "training", 25: "function"},
    "training": {1: _GRAPH, 2: _GRAPH},
    "function": {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {
        5: _TENSOR,
        6: _GRAPH,
        10: _TENSOR,
        11: _GRAPH,
        22: _SPARSE,
        23: _SPARSE,
    },
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}
"""Message -> field number -> the message in it, as far as tensors can stand below."""

_METADATA, _KEY, _VALUE = 14, 1, 2
_DIMS, _EXTERNAL_DATA, _DATA_LOCATION, _IN_ANOTHER_FILE = 1, 13, 14, 1
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class _TornError(Exception):
    """The bytes are not a protobuf message."""


def read_onnx(path: Path) -> tuple[bytes, int]:
    """The file's bytes, and how many numbers its stored tensors hold.

    Raises:
        ModelFileError: NOT_FOUND; FORMAT for another kind of file, or one that is not whole;
            LFS_POINTER; EXTERNAL_DATA; DIGEST for an export of deitkit's that has changed since.
    """
    if not path.is_file():
        raise ModelFileError("NOT_FOUND", path, "there is no such file", "check the path")
    if path.stat().st_size > MAX_BYTES:
        raise _not_onnx(path, f"it is larger than {MAX_BYTES:,} bytes")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ModelFileError(
            "LFS_POINTER",
            path,
            "this is a Git LFS pointer, not the model",
            "run `git lfs pull` where it comes from",
        )
    try:
        num_numbers = _walk(memoryview(content), "model", path, 0)
        is_model = any(number == 7 for number, _, _ in _parts(memoryview(content)))
        promised, digest = digests(content)
    except _TornError as error:
        raise _not_onnx(path, str(error)) from error
    if not is_model:
        raise _not_onnx(path, "it holds no graph")
    if promised is not None and promised != digest:
        raise ModelFileError(
            "DIGEST",
            path,
            "it is damaged, or was changed after its export (its digest differs)",
            "copy it again, or export it again",
        )
    return content, num_numbers


def digests(content: bytes) -> tuple[str | None, str]:
    """The sha256 that the file says it has, None where it says nothing, and the one it has.

    Of every part of the message but the entry with the digest itself. Raises as `_parts`.
    """
    promised, found = None, hashlib.sha256()
    for number, wire, part in _parts(memoryview(content)):
        if number == _METADATA and wire == _LENGTH:
            entry = {inner: bytes(value) for inner, _, value in _parts(part)}
            if entry.get(_KEY) == DIGEST_KEY.encode():
                promised = entry.get(_VALUE, b"").decode("ascii", "replace").strip('"')
                continue
        found.update(b"%d %d %d " % (number, wire, len(part)))
        found.update(part)
    return promised, found.hexdigest()


def _walk(message: memoryview, kind: str, path: Path, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise _TornError(f"graphs lie {MAX_DEPTH} deep in each other")
    if kind == _TENSOR:
        return _size(message, path)
    inside = _FIELDS[kind]
    return sum(
        _walk(content, inside[number], path, depth + 1)
        for number, wire, content in _parts(message)
        if number in inside and wire == _LENGTH
    )


def _size(tensor: memoryview, path: Path) -> int:
    """Numbers in a tensor, which must be in this very file."""
    dims: list[int] = []
    for number, wire, content in _parts(tensor):
        if number == _DIMS:
            dims += _varints(content)
        is_location = number == _DATA_LOCATION and wire == _VARINT
        if number == _EXTERNAL_DATA or (is_location and _varints(content) == [_IN_ANOTHER_FILE]):
            raise ModelFileError(
                "EXTERNAL_DATA",
                path,
                "its weights lie in another file, which may be any file of this machine",
                "save the model in one file (onnx.save with save_as_external_data=False)",
            )
    return math.prod(dims)


def _parts(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, content) of each field in turn."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, end = _varint(message, at)
        elif wire == _LENGTH:
            length, at = _varint(message, at)
            end = at + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            end = at + (8 if wire == _EIGHT_BYTES else 4)
        else:
            raise _TornError(f"its byte {at:,} is not that of an ONNX model")
        if number == 0 or end > len(message):
            raise _TornError("it ends early, or is no ONNX model")
        yield number, wire, message[at:end]
        at = end


def _varints(packed: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, and where the next thing begins."""
    value, shift = 0, 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise _TornError("it ends early, or is no ONNX model")


def _not_onnx(path: Path, why: str) -> ModelFileError:
    return ModelFileError("FORMAT", path, f"this is no whole ONNX model: {why}", "export it again")
