"""multipart/form-data in memory: a few files, or a refusal. Nothing goes to a disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deitkit.serving.refusals import Refused

MAX_FILES = 4
MAX_BOUNDARY = 70
"""Characters, as RFC 2046 has it."""
MAX_HEADER_BYTES = 8_192


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


def read_files(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """(file name, bytes) of each part that is a file.

    Raises:
        Refused: bad_multipart for anything malformed; too_many_files.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise _bad(f"the boundary has {len(boundary)} characters, not 1 to {MAX_BOUNDARY}")
    end = b"--" + boundary + b"--"
    place = body.find(end)
    if place >= 0 and body[place + len(end) :].strip(b"\r\n"):
        raise _bad("bytes follow its end")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _bad("it is not well-formed") from error
    if not reader.is_whole:
        raise _bad("it ends early")
    return [_file_of(part, parse_options_header) for part in reader.parts]


class _Reader:
    """Collects parts from the parser's callbacks, and stops it early."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.is_whole = False
        self._name = bytearray()
        self._value = bytearray()
        self._num_header_bytes = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self.parts[-1].content.extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_FILES:
            raise Refused(400, "too_many_files", f"more than {MAX_FILES} files in one request")
        self.parts.append(_Part())
        self._num_header_bytes = 0

    def _grow(self, text: bytearray, piece: bytes) -> None:
        self._num_header_bytes += len(piece)
        if self._num_header_bytes > MAX_HEADER_BYTES:
            raise _bad("the header of a part is too long")
        text.extend(piece)

    def _end_header(self) -> None:
        self.parts[-1].headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self.is_whole = True


def _file_of(part: _Part, parse_options_header: Any) -> tuple[str, bytes]:
    kind, options = parse_options_header(part.headers.get(b"content-disposition", b""))
    if kind != b"form-data" or b"filename" not in options:
        raise _bad("a part is not a file; this server reads no other fields")
    if part.headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise _bad("a part holds parts")
    return options[b"filename"].decode("utf-8", "replace")[:255], bytes(part.content)


def _bad(why: str) -> Refused:
    return Refused(400, "bad_multipart", f"the multipart body cannot be read: {why}")
