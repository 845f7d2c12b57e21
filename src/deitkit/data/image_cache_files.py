"""The pixels of an image cache, mapped into memory and shared by all who read them."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from deitkit.data.image_cache_folder import CHECKS_FILE, PIXELS_FILE
from deitkit.data.image_cache_layout import WORD_BYTES, Layout, check_of, padded_words


class _Mapped(NamedTuple):
    descriptor: int
    words: np.ndarray
    num_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether the file still has all its bytes: touching a page behind its end is fatal."""
        return os.fstat(self.descriptor).st_size >= self.num_bytes


class StoredImages:
    """The images of one folder. Can be sent to loader workers, which map the files themselves.

    OSError as it comes. What is written here another process sees at once.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._mapped: tuple[_Mapped, _Mapped] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def read(self, place: int) -> np.ndarray | None:
        """uint8 [H, W, C] of an image; None where it is not there or damaged.

        Do not write to it, and do not keep it longer than this object.
        """
        checks, pixels = self._opened()
        if not (checks.is_whole and pixels.is_whole):
            return None
        start, end = self.layout.starts[place : place + 2].tolist()
        words = pixels.words[start:end]
        if check_of(words, self.layout.salt(place)) != int(checks.words[place]):
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
        checks, _ = self._opened()
        return np.flatnonzero(checks.words == 0) if checks.is_whole else np.arange(len(self.layout))

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
        if self._mapped is not None:
            for mapped in self._mapped:
                os.close(mapped.descriptor)
            self._mapped = None

    def __enter__(self) -> StoredImages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> tuple[_Mapped, _Mapped]:
        if self._mapped is None:
            lengths = len(self.layout) * WORD_BYTES, self.layout.num_bytes
            checks = _map(self.folder / CHECKS_FILE, lengths[0])
            self._mapped = checks, _map(self.folder / PIXELS_FILE, lengths[1])
        return self._mapped


def _map(path: Path, num_bytes: int) -> _Mapped:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # A file that was cut since cannot be mapped in full; it is as if nothing were in it.
        is_whole = os.fstat(descriptor).st_size >= num_bytes > 0
        mapped = mmap.mmap(descriptor, num_bytes, prot=mmap.PROT_READ) if is_whole else b""
        return _Mapped(descriptor, np.frombuffer(mapped, "<u8"), num_bytes)
    except BaseException:
        os.close(descriptor)
        raise


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
