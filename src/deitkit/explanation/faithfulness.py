"""Whether a map is to be believed: take away what it marks, and see the class go."""

# Shapes: B copies of an image, C channels, H height, W width, P patches, R rows, Q columns, K
# classes.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

NUM_STEPS = 16
NUM_RANDOM = 8
BLUR_SHARE = 1 / 8
"""Of the side: what a deleted patch is replaced by keeps no more detail than this."""

Ask = Callable[[Tensor], NDArray[np.floating]]
"""Normalised images [B, C, H, W] -> probabilities [B, K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """The deletion curve of one map."""

    area: float
    """Mean probability of the class while patches go, most relevant first; lower is better."""
    random_area: float
    """The same in random order, a mean of several."""
    least_random_area: float
    """The lowest of those."""

    @property
    def score(self) -> float:
        """Above 0: the map knows better than chance what the answer hangs on."""
        return self.random_area - self.area

    @property
    def beats_chance(self) -> bool:
        """Whether no random order was as good: one map in nine would be by luck."""
        return self.area < self.least_random_area


def deletion(
    ask: Ask,
    image_CHW: Tensor,
    grid_RQ: NDArray[np.floating],
    class_index: int,
    *,
    seed: int = 0,
) -> Deletion:
    """Delete patches in the order of `grid_RQ` and follow the probability of the class.

    Petsiuk, Das and Saenko 2018, RISE, arXiv:1806.07421, section 4.2.
    Deviation: patches are replaced by the blurred image instead of zeros, which are a picture of
    their own to a network.
    """
    blurred_CHW = _blurred(image_CHW)
    rng = np.random.default_rng(seed)
    orders = [np.argsort(-grid_RQ.ravel(), kind="stable")]
    orders += [rng.permutation(grid_RQ.size) for _ in range(NUM_RANDOM)]
    areas = [
        _area(ask, image_CHW, blurred_CHW, order, grid_RQ.shape, class_index) for order in orders
    ]
    return Deletion(
        area=areas[0], random_area=float(np.mean(areas[1:])), least_random_area=min(areas[1:])
    )


def _area(
    ask: Ask,
    image_CHW: Tensor,
    blurred_CHW: Tensor,
    order_P: NDArray[np.integer],
    shape: tuple[int, ...],
    class_index: int,
) -> float:
    num_patches = len(order_P)
    ends = np.unique(np.linspace(0, num_patches, min(NUM_STEPS, num_patches) + 1).astype(int))
    masks = []
    for end in ends:
        gone_P = np.zeros(num_patches, np.float32)
        gone_P[order_P[:end]] = 1.0
        masks.append(gone_P.reshape(shape))
    gone_B1RQ = torch.from_numpy(np.stack(masks))[:, None].to(image_CHW.device)
    gone_B1HW = F.interpolate(gone_B1RQ, size=image_CHW.shape[1:], mode="nearest")
    copies_BCHW = image_CHW * (1 - gone_B1HW) + blurred_CHW * gone_B1HW
    curve = ask(copies_BCHW)[:, class_index]
    return float(np.trapezoid(curve, ends) / num_patches)


def _blurred(image_CHW: Tensor) -> Tensor:
    height, width = image_CHW.shape[1:]
    small = (max(1, round(height * BLUR_SHARE / 2)), max(1, round(width * BLUR_SHARE / 2)))
    coarse = F.interpolate(image_CHW[None], size=small, mode="area")
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[0]
