"""Which part of the source a view shows: boxes in source pixels, from uniform numbers."""

# Shapes: B images, A = 10 attempts, 2 (height, width), box 4 (top, left, height, width).

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.elementary import exp, log

Floats = NDArray[np.float64]

_NUM_ATTEMPTS = 10


def centred_boxes(sizes_B2: Floats, *, aspect: float) -> Floats:
    """Return the largest centred box of this width over height in each source: [B, 4]."""
    height_B, width_B = sizes_B2.T
    box_height_B = np.minimum(height_B, width_B / aspect)
    box_width_B = np.minimum(width_B, height_B * aspect)
    top_B, left_B = (height_B - box_height_B) / 2.0, (width_B - box_width_B) / 2.0
    return np.stack([top_B, left_B, box_height_B, box_width_B], axis=1)


def padded_boxes(chance_B2: Floats, sizes_B2: Floats, *, padding: float, aspect: float) -> Floats:
    """Move the centred box by whole source pixels, up to `padding` of its sides: [B, 4].

    All moves are equally likely. For a source of the output's shape this is a random crop after
    padding each border, as usual for CIFAR: padding 0.125 is 4 pixels of 32.
    """
    box_B4 = centred_boxes(sizes_B2, aspect=aspect)
    most_B2 = np.floor(padding * box_B4[:, 2:] + 0.5)
    box_B4[:, :2] += np.floor(chance_B2 * (2.0 * most_B2 + 1.0)) - most_B2
    return box_B4


def random_resized_boxes(
    chance_B22: Floats,
    sizes_B2: Floats,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    aspect: float,
) -> Floats:
    """Cut boxes of random area and shape from the source, "Inception-style": [B, 4].

    The area is uniform within `scale` of the source's, the logarithm of the shape (width over
    height in pixels, relative to `aspect`) uniform within `ratio`, the place uniform. The first
    of ten attempts that fits is taken; if none fits, the largest centred box whose shape is
    nearest to the source's within `ratio`. Szegedy et al. 2015, arXiv:1409.4842, section 6.
    Deviation: sides and places are not rounded to pixels, so that a view means the same in a
    source of another size. `chance_B22` holds two numbers for each attempt and two for the place.
    """
    height_B, width_B = sizes_B2.T
    log_low, log_high = log(np.array(ratio))
    area_BA = (height_B * width_B)[:, None] * (
        scale[0] + chance_B22[:, :_NUM_ATTEMPTS] * (scale[1] - scale[0])
    )
    spread_BA = chance_B22[:, _NUM_ATTEMPTS : 2 * _NUM_ATTEMPTS] * (log_high - log_low)
    shape_BA = exp(log_low + spread_BA) * aspect
    heights_BA, widths_BA = np.sqrt(area_BA / shape_BA), np.sqrt(area_BA * shape_BA)
    fits_BA = (heights_BA <= height_B[:, None]) & (widths_BA <= width_B[:, None])
    rows, first_B = np.arange(len(sizes_B2)), np.argmax(fits_BA, axis=1)
    fits_B = fits_BA[rows, first_B]

    nearest_B = np.clip(width_B / height_B, ratio[0] * aspect, ratio[1] * aspect)
    box_height_B = np.where(
        fits_B, heights_BA[rows, first_B], np.minimum(height_B, width_B / nearest_B)
    )
    box_width_B = np.where(
        fits_B, widths_BA[rows, first_B], np.minimum(width_B, height_B * nearest_B)
    )
    place_B2 = np.where(fits_B[:, None], chance_B22[:, 2 * _NUM_ATTEMPTS :], 0.5)
    top_B = place_B2[:, 0] * (height_B - box_height_B)
    left_B = place_B2[:, 1] * (width_B - box_width_B)
    return np.stack([top_B, left_B, box_height_B, box_width_B], axis=1)
