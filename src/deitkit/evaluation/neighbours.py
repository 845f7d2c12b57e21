"""How much raw pixels say: each image gets the class of the most similar one."""

# Shapes: N images to learn from, M images to answer, D numbers an image.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing, preprocess

THUMBNAIL_SIDE = 16
"""Pixels a side at which images are compared."""
MAX_KNOWN, MAX_ASKED = 2_000, 500
"""Images to learn from and to answer: seconds, whatever the data."""


def nearest_right(
    known_ND: NDArray[np.float32],
    labels_N: NDArray[np.integer],
    asked_MD: NDArray[np.float32],
    labels_M: NDArray[np.integer],
) -> int:
    """How many of the M get their class from the nearest of the N: least Euclidean distance, the
    first of equally near ones. Cover and Hart 1967, "Nearest neighbor pattern classification".

    |a - k|^2 = |a|^2 - 2 a k + |k|^2, of which |a|^2 is the same for all k.
    """
    distances_MN = (known_ND**2).sum(axis=1) - 2 * asked_MD @ known_ND.T
    return int((labels_N[distances_MN.argmin(axis=1)] == labels_M).sum())


def pixel_accuracy(known: ImageSet, asked: ImageSet) -> float:
    """Share of `asked` that the nearest of `known` names right, by thumbnails of 16 pixels; of
    both an even sample, where they are many."""
    rows = _even(len(known), MAX_KNOWN), _even(len(asked), MAX_ASKED)
    known_ND, asked_MD = _thumbnails(known, rows[0]), _thumbnails(asked, rows[1])
    num_right = nearest_right(known_ND, known.labels[rows[0]], asked_MD, asked.labels[rows[1]])
    return num_right / len(rows[1])


def _even(num_images: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, num_images - 1, min(num_images, most)).astype(np.int64))


def _thumbnails(images: ImageSet, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """[N, D] levels of 0 to 1."""
    channels = images.decode.channels
    spec = Preprocessing(
        image_size=(THUMBNAIL_SIDE, THUMBNAIL_SIDE),
        resize="squash",
        crop_ratio=1.0,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        background=images.decode.background,
    )
    return np.stack([preprocess(images.image(int(i)), spec).ravel() for i in indices])
