"""What training views are cut from: whole images, reduced ones, or JPEGs decoded for the view.

Which of the three it is decides pixels, and is a setting of the run. Where the pixels come from
(memory, an image cache, the files) decides nothing but speed.
"""

# Shapes: B images, H height, W width, C channels, box 4 (top, left, height, width) in shares.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from deitkit.data.image_cache import ImageCache, ReducedImages
from deitkit.data.image_set import ImageSet
from deitkit.data.reduction import SCALES

SourceSide = int | Literal["whole", "scaled"]
"""A short side that larger images are reduced to; or whole images; or JPEGs decoded at 1/2, 1/4 or
1/8 of their sides where the part that a view shows still has the pixels it is rendered at."""


def _each_once(read: Callable[[int], np.ndarray], indices_B: np.ndarray) -> list[np.ndarray]:
    """The images at these places, each read once however many views of it there are."""
    places = indices_B.tolist()
    found = {place: read(place) for place in dict.fromkeys(places)}
    return [found[place] for place in places]


class ViewSources(Protocol):
    """Images that views are cut from. Can be sent to loader workers."""

    @property
    def num_remade(self) -> int:
        """Images that an image cache should have had and that were decoded again, in this process;
        0 for ever where there is none."""

    @property
    def block(self) -> np.ndarray | None:
        """uint8 [N, H, W, C] where all are in memory, whole and of one size."""

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray] | np.ndarray:
        """B images uint8 [H, W, C], whole or made smaller on all sides alike, for views that show
        these boxes at (height, width)."""


class WholeSources:
    """Images as they are, in memory or decoded at every reading."""

    num_remade = 0

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    @property
    def block(self) -> np.ndarray | None:
        return self.images.pixels

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray] | np.ndarray:
        if self.images.pixels is not None:
            return self.images.pixels[indices_B]
        return _each_once(self.images.image, indices_B)


class ScaledSources:
    """JPEGs decoded for the view: fewer pixels where it shows much of a large image."""

    num_remade = 0
    block = None

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray]:
        sides_B2 = box_B4[:, 2:].astype(np.float64).tolist()
        return [
            self.images.image_of_least(
                index, (math.ceil(size[0] / high), math.ceil(size[1] / wide))
            )
            for index, (high, wide) in zip(indices_B.tolist(), sides_B2, strict=True)
        ]


class ReducedSources:
    """Larger images reduced at every reading, where no cache holds them."""

    num_remade = 0
    block = None

    def __init__(self, reduced: ReducedImages) -> None:
        self.reduced = reduced

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray]:
        return _each_once(self.reduced.make, indices_B)


class CachedSources:
    """Images of an image cache, whole or reduced."""

    block = None

    def __init__(self, cache: ImageCache) -> None:
        self.cache = cache

    @property
    def num_remade(self) -> int:
        return self.cache.num_remade

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray]:
        return [self.cache.read(index) for index in indices_B.tolist()]


class SampledSources:
    """A few images that stand for all: to time steps before an image cache is there."""

    num_remade = 0
    block = None

    def __init__(self, few: Sequence[np.ndarray]) -> None:
        self.few = few

    def read(
        self, indices_B: np.ndarray, box_B4: np.ndarray, size: tuple[int, int]
    ) -> Sequence[np.ndarray]:
        # A copy, as reading a cache makes one.
        return [self.few[index % len(self.few)].copy() for index in indices_B.tolist()]


def reduction_facts(
    sizes_N2: np.ndarray, source_side: SourceSide, size: tuple[int, int]
) -> dict[str, Any]:
    """What of `source_side` changes the pixels of views of images of these sizes, rendered at
    (height, width) at most, as JSON; empty where it changes none."""
    if source_side == "whole":
        return {}
    if source_side == "scaled":
        # A view that shows everything asks for the least.
        is_scaled = (sizes_N2 // np.array(size)).min(axis=1) >= SCALES[-1]
        return {"scaled_for": list(size)} if is_scaled.any() else {}
    return {"reduced_to": source_side} if (sizes_N2.min(axis=1) > source_side).any() else {}
