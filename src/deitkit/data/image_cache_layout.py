"""Where each decoded image lies in the file of an image cache, and what tells that it is whole.

    index.bin    for each content, ascending: digest uint8 [16], height and width uint32
    checks.bin   for each: uint64, 0 while it is not there
    pixels.bin   for each: uint8 [height, width, channels], then zeros to a multiple of 8 bytes

Little-endian throughout. Places follow from contents and sizes alone, so any number of processes
may write theirs in any order and end with the same bytes.

A check is the sum of the pixels' 64-bit words, modulo 2^64, plus the first 64 bits of the content's
digest (1 where that is 0): any flipped bit, any cut and another image's pixels change it. It costs
a fourteenth of a CRC-32, and so is done at every read.
"""

# Shapes: N images, M different contents, H height, W width, C channels, 2 (height, width).

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deitkit.data.reduction import reduced_sizes
from deitkit.runtime.sealed_json import short_digest

WORD_BYTES = 8
INDEX_ENTRY = np.dtype([("digest", "u1", (16,)), ("height", "<u4"), ("width", "<u4")])


@dataclass(frozen=True, eq=False)
class Layout:
    """The contents of a cache and their places."""

    entries_M: np.ndarray
    """INDEX_ENTRY [M], sorted by digest."""
    channels: int

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [M + 1]: where each image begins in pixels.bin, in words; the last is the end."""
        area_M = self.entries_M["height"].astype(np.int64) * self.entries_M["width"]
        words_M = -(-area_M * self.channels // WORD_BYTES)
        return np.concatenate([[0], np.cumsum(words_M)])

    def __len__(self) -> int:
        return len(self.entries_M)

    @property
    def num_bytes(self) -> int:
        """Of pixels.bin."""
        return int(self.starts[-1]) * WORD_BYTES

    def shape(self, place: int) -> tuple[int, int, int]:
        entry = self.entries_M[place]
        return int(entry["height"]), int(entry["width"]), self.channels

    def salt(self, place: int) -> int:
        """What an image's check is added to."""
        return int.from_bytes(self.entries_M["digest"][place, :8].tobytes(), "little")

    def places(self, digests_N16: np.ndarray) -> np.ndarray:
        """int64 [N]: which content each digest is; -1 where it is not here."""
        keys_M, keys_N = _keys(self.entries_M["digest"]), _keys(digests_N16)
        if len(keys_M) == 0:
            return np.full(len(keys_N), -1)
        place_N = np.minimum(np.searchsorted(keys_M, keys_N), len(keys_M) - 1)
        return np.where(keys_M[place_N] == keys_N, place_N, -1)

    @property
    def index_bytes(self) -> bytes:
        return self.entries_M.tobytes()

    @property
    def digest(self) -> str:
        """16 hexadecimal digits: the source's fingerprint, whatever its files are called."""
        return short_digest(self.index_bytes)


def layout_of(
    digests_N16: np.ndarray, sizes_N2: np.ndarray, *, channels: int, side: int | None
) -> Layout:
    """The layout of these images, each content once, reduced to a short side of `side`."""
    _, first_M = np.unique(_keys(digests_N16), return_index=True)
    entries_M = np.zeros(len(first_M), INDEX_ENTRY)
    entries_M["digest"] = digests_N16[first_M]
    sizes_M2 = reduced_sizes(sizes_N2[first_M], side)
    entries_M["height"], entries_M["width"] = sizes_M2.T
    return Layout(entries_M, channels)


def read_index(data: bytes, *, channels: int) -> Layout | None:
    """The layout that an index.bin tells, None where its length cannot be right."""
    if len(data) % INDEX_ENTRY.itemsize:
        return None
    return Layout(np.frombuffer(data, INDEX_ENTRY), channels)


def check_of(words: np.ndarray, salt: int) -> int:
    """The check of an image's words."""
    total = (int(np.add.reduce(words, dtype=np.uint64)) + salt) % (1 << 64)
    return total or 1


def padded_words(pixels_HWC: np.ndarray) -> np.ndarray:
    """An image's bytes with zeros to whole words: uint64."""
    padded = np.zeros(-(-pixels_HWC.nbytes // WORD_BYTES) * WORD_BYTES, np.uint8)
    padded[: pixels_HWC.nbytes] = pixels_HWC.reshape(-1)
    return padded.view("<u8")


def _keys(digests_N16: np.ndarray) -> np.ndarray:
    """Digests as one sortable value each, in the order of their bytes."""
    return np.ascontiguousarray(digests_N16).view("V16").reshape(-1)
