"""The pixels of an image cache, read by all who train from the one copy the system keeps.

Read, not mapped into memory: of a mapped file a disk that fails, or one who cuts it, kills the
process that looks, and what it has looked at counts as its own memory, more in each epoch.
"""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from deitkit.data.image_cache_folder import CHECKS_FILE, PIXELS_FILE
from deitkit.data.image_cache_layout import WORD_BYTES, Layout, check_of, padded_words


class _Opened(NamedTuple):
    checks: int
    pixels: int


class ImagesFound(NamedTuple):
    """What the files of a cache hold."""

    num_good: int
    num_empty: int
    """Never written."""
    num_bad: int
    """Damaged; each is decoded again when it is next needed."""
    has_full_length: bool


class StoredImages:
    """The images of one folder. Can be sent to loader workers, which open the files themselves.

    OSError as it comes. What is written here another process sees at once.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._files: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}

    def read(self, place: int) -> np.ndarray | None:
        """uint8 [H, W, C] of an image; None where it is not there or damaged."""
        files = self._opened()
        start, end = self.layout.starts[place : place + 2].tolist()
        num_bytes = (end - start) * WORD_BYTES
        check = os.pread(files.checks, WORD_BYTES, place * WORD_BYTES)
        pixels = os.pread(files.pixels, num_bytes, start * WORD_BYTES)
        if len(check) < WORD_BYTES or len(pixels) < num_bytes:
            return None
        words = np.frombuffer(pixels, "<u8")
        if check_of(words, self.layout.salt(place)) != int.from_bytes(check, "little"):
            return None
        height, width, channels = self.layout.shape(place)
        flat = words.view(np.uint8)[: height * width * channels]
        return flat.reshape(height, width, channels)

    def write(self, place: int, pixels_HWC: np.ndarray) -> None:
        """Put an image into its place, its check last."""
        assert pixels_HWC.shape == self.layout.shape(place)
        words = padded_words(pixels_HWC)
        check = check_of(words, self.layout.salt(place)).to_bytes(WORD_BYTES, "little")
        _write(self.folder / PIXELS_FILE, words.data, int(self.layout.starts[place]) * WORD_BYTES)
        _write(self.folder / CHECKS_FILE, memoryview(check), place * WORD_BYTES)

    def missing(self) -> np.ndarray:
        """int64, places that were never written, ascending."""
        num = len(self.layout)
        checks = os.pread(self._opened().checks, num * WORD_BYTES, 0)
        # Where the file was cut nothing is known to be there.
        whole = checks.ljust(num * WORD_BYTES, b"\0")
        return np.flatnonzero(np.frombuffer(whole, "<u8") == 0)

    def verify(self) -> ImagesFound:
        """Every image read and its check compared; nothing is changed."""
        lengths = len(self.layout) * WORD_BYTES, self.layout.num_bytes
        found = [os.fstat(descriptor).st_size for descriptor in self._opened()]
        empty = set(self.missing().tolist())
        written = [place for place in range(len(self.layout)) if place not in empty]
        num_good = sum(self.read(place) is not None for place in written)
        return ImagesFound(
            num_good=num_good,
            num_empty=len(empty),
            num_bad=len(written) - num_good,
            has_full_length=found == list(lengths),
        )

    def sync(self) -> None:
        """What was written outlasts a power cut."""
        for name in (PIXELS_FILE, CHECKS_FILE):
            descriptor = os.open(self.folder / name, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def allocated_bytes(self) -> int:
        """What the pixels already take of the disk."""
        return (self.folder / PIXELS_FILE).stat().st_blocks * 512

    def close(self) -> None:
        if self._files is not None:
            for descriptor in self._files:
                os.close(descriptor)
            self._files = None

    def __enter__(self) -> StoredImages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> _Opened:
        if self._files is None:
            checks = os.open(self.folder / CHECKS_FILE, os.O_RDONLY)
            try:
                self._files = _Opened(checks, os.open(self.folder / PIXELS_FILE, os.O_RDONLY))
            except BaseException:
                os.close(checks)
                raise
        return self._files


def _write(path: Path, data: memoryview, position: int) -> None:
    # Opened each time: this is the rare way, and a removed file is then told by its name.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        rest = data.cast("B")
        while rest:
            num_written = os.pwrite(descriptor, rest, position)
            rest, position = rest[num_written:], position + num_written
    finally:
        os.close(descriptor)
