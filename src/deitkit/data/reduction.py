"""Images made smaller before training views are cut from them; evaluation never sees these.

An image whose short side is at most the stored side stays as it is, to the byte.
"""

# Shapes: N images, H height, W width, C channels, 2 (height, width).

from __future__ import annotations

import numpy as np
from PIL import Image

SCALES = (8, 4, 2)
"""A JPEG can be decoded at one of these parts of its sides, for a fraction of the work."""
_DECODED_SIDES = 2
"""A JPEG is decoded at not less than so many times the reduced sides, then resized."""


def reduced_sizes(sizes_N2: np.ndarray, side: int | None) -> np.ndarray:
    """Heights and widths after reduction: the short side becomes `side` where it is longer, the
    other keeps the shape to half a pixel. None reduces nothing. int64 [N, 2]."""
    sizes_N2 = sizes_N2.astype(np.int64)
    if side is None:
        return sizes_N2
    short_N1 = sizes_N2.min(axis=1, keepdims=True)
    fitted_N2 = (2 * sizes_N2 * side + short_N1) // (2 * short_N1)
    return np.where(short_N1 > side, fitted_N2, sizes_N2)


def decoded_least(size: tuple[int, int], reduced: tuple[int, int]) -> tuple[int, int]:
    """The fewest rows and columns an image of this size is decoded at to be reduced."""
    if size == reduced:
        return size
    height, width = reduced
    return _DECODED_SIDES * height, _DECODED_SIDES * width


def reduce_image(image_HWC: np.ndarray, reduced: tuple[int, int]) -> np.ndarray:
    """Pillow's antialiased bicubic resize to (height, width), in whole numbers and so the same
    bits on every machine; the image itself where it has that size."""
    if image_HWC.shape[:2] == reduced:
        return image_HWC
    size = (reduced[1], reduced[0])
    if image_HWC.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image_HWC))
        return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BICUBIC)
        for plane in np.moveaxis(image_HWC, 2, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def decoding_scale(size: tuple[int, int], least: tuple[int, int]) -> int:
    """8, 4 or 2 where a JPEG of this (height, width) decoded at that part of its sides still has
    the `least` rows and columns, else 1."""
    times = min(size[0] // max(1, least[0]), size[1] // max(1, least[1]))
    return next((scale for scale in SCALES if times >= scale), 1)
