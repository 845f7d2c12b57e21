"""A grid of patches laid over the picture it was found in."""

# Shapes: H height, W width, R rows and C columns of patches.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deitkit.data.preprocess import Preprocessing, resized_size

Box = tuple[float, float, float, float]
"""Top, left, bottom, right in shares of the picture."""
STRENGTH = 0.62
"""How far the colour covers the picture where the map is 1."""
GREYED = 0.55
"""How much of its colour the picture keeps, so that the map's can be told from it."""
COLOURS = ((0.0, (58, 12, 88)), (0.5, (206, 70, 82)), (1.0, (252, 226, 110)))
"""Dark violet over red to yellow: lighter is more, in print and for colour-blind eyes too."""


def seen_box(height: int, width: int, spec: Preprocessing) -> Box:
    """The part of a picture of this size that the evaluation crop shows to the model."""
    resized = resized_size((height, width), spec)
    first = [(full - kept) // 2 for full, kept in zip(resized, spec.image_size, strict=True)]
    top, left = (place / full for place, full in zip(first, resized, strict=True))
    bottom, right = (
        (place + kept) / full
        for place, kept, full in zip(first, spec.image_size, resized, strict=True)
    )
    return top, left, bottom, right


def overlay(
    picture_HWC: NDArray[np.uint8], grid_RC: NDArray[np.floating], *, box: Box
) -> NDArray[np.uint8]:
    """The picture [H, W, 3] with the map over its `box`; what the model did not see is darker."""
    height, width = picture_HWC.shape[:2]
    picture = picture_HWC if picture_HWC.shape[2] == 3 else picture_HWC.repeat(3, axis=2)
    top, bottom = round(box[0] * height), max(1, round(box[2] * height))
    left, right = round(box[1] * width), max(1, round(box[3] * width))
    map_HW = np.clip(_enlarged(grid_RC, (bottom - top, right - left)), 0.0, 1.0)
    levels = picture.astype(np.float32)
    grey = levels @ np.array([0.299, 0.587, 0.114], np.float32)
    calm = GREYED * levels + (1 - GREYED) * grey[..., None]
    shown = 0.35 * calm
    share = STRENGTH * np.sqrt(map_HW)[..., None]
    inside = calm[top:bottom, left:right]
    shown[top:bottom, left:right] = (1 - share) * inside + share * _coloured(map_HW)
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def _enlarged(grid_RC: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(grid_RC, np.float32), mode="F")
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _coloured(map_HW: NDArray[np.floating]) -> NDArray[np.float32]:
    places = [place for place, _ in COLOURS]
    channels = zip(*(colour for _, colour in COLOURS), strict=True)
    levels = [np.interp(map_HW, places, channel) for channel in channels]
    return np.stack(levels, axis=-1).astype(np.float32)
