"""Good and bad pictures, made by code: small photographs, cut files, bombs, odd modes."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """uint8 [H, W, 3]: smooth colour with some noise, so that no two seeds give equal files."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    slopes = generator.uniform(-100, 100, (3, 2))
    smooth = 128 + np.stack([a * rows + b * columns for a, b in slopes], axis=2)
    noise = generator.normal(0, 8, (height, width, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


CUT_FORMATS = {
    "JPEG": {"quality": 90},
    "progressive JPEG": {"quality": 90, "progressive": True},
    "PNG": {},
    "WEBP": {"lossless": True},
    "lossy WEBP": {"quality": 80},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "deflated TIFF": {"compression": "tiff_deflate"},
}
"""Name -> options of Image.save; the last word of a name is the format."""


def encoded_photo(name: str, seed: int = 0) -> bytes:
    return encode(photo(seed), name.split()[-1], **CUT_FORMATS[name])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png_header(width: int, height: int) -> bytes:
    """Signature and IHDR of an 8-bit RGB picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def png_bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A few hundred bytes that promise a huge picture."""
    pixels = zlib.compress(b"\x00" * 10_000)
    return png_header(width, height) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def webp_bomb(width: int = 16_383, height: int = 6_000) -> bytes:
    """The header of a lossless WebP of 98 million pixels, and nothing behind it."""
    bits = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(59)
    return (
        b"RIFF"
        + struct.pack("<I", len(bits) + 12)
        + b"WEBPVP8L"
        + (struct.pack("<I", len(bits)) + bits)
    )


def png_text_bomb() -> bytes:
    """A small picture whose compressed comment unpacks to 100 MB."""
    whole = encode(photo(0))
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"A" * 100_000_000, 9))
    return whole[:33] + text + whole[33:]


def looping_tiff() -> bytes:
    """A TIFF whose only directory names itself as the next one, and whose pixels are missing."""
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 4), (278, 3, 1, 16), (279, 4, 1, 16)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + packed + b"\x08\0\0\0"


NOT_IMAGES = {
    "text": b"this is no picture\n" * 20,
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(100),
    "text that starts with BM": b"BM is how some words in this text file begin, no bitmap",
}
FOREIGN = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "psd": b"8BPS\x00\x01" + bytes(200),
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "pdf": b"%PDF-1.7\n" + bytes(100),
    "avif": b"\x00\x00\x00\x1cftypavif" + bytes(50),
    "pgm": b"P5\n4 4\n255\n" + bytes(16),
}
HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(60)


def write_photos(folder: Path, names: list[str], per_class: int, first_seed: int = 0) -> None:
    """`per_class` different pictures in each class folder."""
    seed = first_seed
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            (folder / name / f"{number}.png").write_bytes(encode(photo(seed, 10, 12)))
            seed += 1
