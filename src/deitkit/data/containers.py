"""What kind of file some bytes are, by their content; whether they stop too early.

Pillow is only ever handed a format that was recognised here, so a file cannot choose a decoder
(EPS, for one, starts Ghostscript).
"""

from __future__ import annotations

import struct

EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
"""Extensions looked for in folders, and the format each one promises."""

_MIN_DIB_HEADER, _MAX_DIB_HEADER = 12, 124
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_TIFF_BYTE_ORDERS = {
    b"II*\x00": "<",
    b"MM\x00*": ">",
    b"II+\x00": "<",
    b"MM\x00+": ">",
}
_FOREIGN = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"SIMPLE  =", "FITS"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance"),
    (b"<svg", "SVG"),
)


def image_format(encoded: bytes) -> str | None:
    """The format of a file we read (JPEG, PNG, WEBP, GIF, BMP, TIFF, HEIF), None for any other."""
    head = encoded[:18]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] in _TIFF_BYTE_ORDERS:
        return "TIFF"
    if head.startswith(b"BM") and len(head) == 18:
        # Two letters are too few to tell a bitmap from a text: its header length must fit too.
        (header_length,) = struct.unpack_from("<I", head, 14)
        if _MIN_DIB_HEADER <= header_length <= _MAX_DIB_HEADER:
            return "BMP"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIF"
    return None


def foreign_format(encoded: bytes) -> str | None:
    """The name of a picture or document format that is recognised and not read, or None."""
    for signature, name in _FOREIGN:
        if encoded.startswith(signature):
            return name
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"avif", b"avis"):
        return "AVIF"
    is_netpbm = encoded[:1] == b"P" and encoded[1:2] in b"1234567" and encoded[2:3].isspace()
    return "Netpbm" if is_netpbm else None


def ends_early(encoded: bytes, file_format: str) -> bool:
    """Whether the file stops before the end its own structure announces.

    Asked only after a decoder failed, to tell a cut download from a damaged file.
    """
    if file_format == "JPEG":
        return b"\xff\xd9" not in encoded[-512:]
    if file_format == "PNG":
        return b"IEND" not in encoded[-512:]
    if file_format == "GIF":
        return not encoded.rstrip(b"\x00").endswith(b";")
    if file_format == "WEBP":
        return len(encoded) < 8 + int.from_bytes(encoded[4:8], "little")
    if file_format == "BMP":
        return len(encoded) < int.from_bytes(encoded[2:6], "little")
    if file_format == "TIFF":
        return _tiff_ends_early(encoded)
    return _boxes_end_early(encoded)


def _tiff_ends_early(encoded: bytes) -> bool:
    """Whether the first directory, or data it points to, lies beyond the end (classic TIFF)."""
    order = _TIFF_BYTE_ORDERS[encoded[:4]]
    if encoded[2:4] in (b"+\x00", b"\x00+"):
        return False
    try:
        (directory,) = struct.unpack_from(order + "I", encoded, 4)
        (num_entries,) = struct.unpack_from(order + "H", encoded, directory)
        values: dict[int, tuple[int, ...]] = {}
        for entry in range(num_entries):
            position = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(order + "HHI", encoded, position)
            width = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8}.get(kind, 1)
            start = position + 8
            if width * count > 4:
                (start,) = struct.unpack_from(order + "I", encoded, start)
            if start + width * count > len(encoded):
                return True
            # Strips and tiles: where their bytes start, and how many there are.
            if tag in (273, 279, 324, 325) and kind in (3, 4):
                letter = "H" if kind == 3 else "I"
                values[tag] = struct.unpack_from(f"{order}{count}{letter}", encoded, start)
    except struct.error:
        return True
    starts = values.get(273, ()) + values.get(324, ())
    lengths = values.get(279, ()) + values.get(325, ())
    return any(a + b > len(encoded) for a, b in zip(starts, lengths, strict=False))


def _boxes_end_early(encoded: bytes) -> bool:
    """Whether the top-level boxes of a HEIF file add up to more bytes than there are."""
    position = 0
    while 0 <= position <= len(encoded) - 8:
        length = int.from_bytes(encoded[position : position + 4], "big")
        if length == 0:
            return False
        if length == 1:
            length = int.from_bytes(encoded[position + 8 : position + 16], "big")
        if length < 8:
            return False
        position += length
    return position != len(encoded)
