"""Mean and deviation of each channel over the training images."""

# Shapes: C channels, H height, W width.

from __future__ import annotations

import numpy as np

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing, pixels

NUM_STATISTICS_IMAGES = 2000


def channel_statistics(
    images: ImageSet, spec: Preprocessing
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation, 0 to 1, and of how many images, chosen by content.

    They are read in the order in which they lie in their shards, and added up by content, so that
    the same images give the same bits from wherever they come.
    """
    by_content = np.argsort(images.sample_ids, kind="stable")[:NUM_STATISTICS_IMAGES]
    as_stored = np.sort(by_content)
    few = images if images.is_in_memory else images.subset(as_stored, images.name)
    moments = {}
    for place, index in enumerate(as_stored.tolist()):
        image_HWC = few.image(index if few is images else place)
        image_CHW = pixels(image_HWC, spec).astype(np.float64)
        moments[index] = image_CHW.mean(axis=(1, 2)), (image_CHW**2).mean(axis=(1, 2))
    sums = np.zeros((2, spec.channels))
    for index in by_content.tolist():
        sums += moments[index]
    mean_C, square_C = sums / len(by_content)
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 1e-4))
    return _rounded(mean_C), _rounded(std_C), len(by_content)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
