"""Decoded pictures in RAM, up to a limit; one block where all have the same size."""

# Shapes: N images, H height, W width, C channels.

from __future__ import annotations

import threading

import numpy as np

Pixels = np.ndarray | list[np.ndarray]
"""uint8 [N, H, W, C], or N arrays [H, W, C] of different sizes."""


class PixelKeeper:
    """Collects decoded pictures in order, or none of them when they do not all fit."""

    def __init__(self, num_images: int, limit_bytes: int) -> None:
        self._num_images = num_images
        self._limit_bytes = limit_bytes
        self._reserved_bytes = 0
        self._lock = threading.Lock()
        self._block: np.ndarray | None = None
        self._images: list[np.ndarray] | None = None
        self._count = 0
        self.open = limit_bytes > 0

    def reserve(self, num_bytes: int) -> bool:
        """From any thread, before a picture is handed over; False once the limit is passed."""
        with self._lock:
            self._reserved_bytes += num_bytes
            if self._reserved_bytes > self._limit_bytes:
                self.open = False
            return self.open

    def add(self, pixels_HWC: np.ndarray | None) -> None:
        """Append the next picture, None if its reserve was refused; one thread only."""
        if not self.open or pixels_HWC is None:
            self._block = self._images = None
            return
        if self._count == 0:
            if pixels_HWC.nbytes * self._num_images <= self._limit_bytes:
                # Pages that are never written take no memory, should pictures be left out.
                self._block = np.empty((self._num_images, *pixels_HWC.shape), np.uint8)
            else:
                self._images = []
        if self._block is not None and self._block.shape[1:] != pixels_HWC.shape:
            self._images = list(self._block[: self._count])
            self._block = None
        if self._block is not None:
            self._block[self._count] = pixels_HWC
        elif self._images is not None:
            self._images.append(pixels_HWC)
        self._count += 1

    def kept(self) -> Pixels | None:
        """All pictures that were added, or None when they did not fit."""
        if not self.open or self._count == 0:
            return None
        if self._block is not None:
            return self._block[: self._count]
        return self._images


def take_pixels(pixels: Pixels | None, rows: np.ndarray) -> Pixels | None:
    """The pictures of these rows; a copy of a block, the same arrays of a list."""
    if pixels is None or isinstance(pixels, np.ndarray):
        return None if pixels is None else pixels[rows]
    return [pixels[row] for row in rows.tolist()]


def join_pixels(first: Pixels | None, second: Pixels | None) -> Pixels | None:
    """The pictures of both, one block where both are and have one size; None if either is not
    there."""
    if first is None or second is None:
        return None
    are_blocks = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    if are_blocks and first[0].shape == second[0].shape:
        return np.concatenate([first, second])
    return [*first, *second]
