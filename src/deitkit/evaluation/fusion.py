"""One weight between the two heads, found on validation images."""

# Shapes: N images, K classes.

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import DataError, ModelFileError
from deitkit.evaluation.logits import fuse
from deitkit.evaluation.metrics import Labels, softmax

MEAN_WEIGHT = 0.5
NUM_HALVINGS = 12
NUM_DECIMALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedFusion:
    """What `fit_fusion` found. NLL is in nats, a mean over images."""

    weight: float
    """Of the distillation head, 0 to 1; the class head has the rest. The one to use."""
    found_weight: float
    """The likeliest; differs from `weight` where it was not clearly better than the mean."""
    nll: float
    """With `found_weight`."""
    mean_nll: float
    """With the mean of both heads' logits."""
    standard_error: float | None
    """Of `mean_nll - nll`, image by image; None for one image."""
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """One line for tables and reports."""
        said = f"{self.found_weight:g} of the distillation head is likeliest on {self.num_images:,}"
        said += f" validation images (nll {self.nll:.4f}, with the mean {self.mean_nll:.4f})"
        if self.weight == self.found_weight:
            return said
        return f"{said}; not clearly better, so the mean is kept"


def fit_fusion(
    cls_NK: NDArray[np.floating],
    dist_NK: NDArray[np.floating],
    labels_N: Labels,
    *,
    temperature: float = 1.0,
) -> FittedFusion:
    """The weight w whose logits ((1 - w) cls + w dist) / temperature make the labels likeliest.

    The NLL is convex in w, so its slope is halved to zero. The mean (w = 1/2) is kept unless w wins
    by more than a standard error of the image by image difference: being fitted to the very images
    it is judged on, w wins half its z-score of standard errors, so one stands for |z| > 2. It is
    kept as well where w gets clearly fewer images right.

    Raises:
        DataError: EMPTY without images.
        ModelFileError: MODEL_OUTPUT for logits that are not finite.
    """
    num_images = len(labels_N)
    assert cls_NK.shape == dist_NK.shape and len(cls_NK) == num_images
    if num_images == 0:
        raise DataError("EMPTY", "validation data", "it holds no images", "give at least one")
    if not (np.isfinite(cls_NK).all() and np.isfinite(dist_NK).all()):
        raise ModelFileError(
            "MODEL_OUTPUT",
            "model",
            "a head's logits are not finite",
            "use an earlier checkpoint, or compute in float32",
        )
    cls_NK, dist_NK = cls_NK.astype(np.float64), dist_NK.astype(np.float64)

    def fused(weight: float) -> NDArray[np.float64]:
        return fuse(cls_NK, dist_NK, fusion="fitted", temperature=temperature, weight=weight)

    difference_NK = dist_NK - cls_NK

    def slope(weight: float) -> float:
        """Of the NLL, times the temperature, which moves no zero."""
        expected_N = (softmax(fused(weight)) * difference_NK).sum(axis=1)
        return float((expected_N - _own(difference_NK, labels_N)).mean())

    found = round(_zero_of(slope), NUM_DECIMALS)
    found_NK, mean_NK = fused(found), fused(MEAN_WEIGHT)
    nll_N, mean_nll_N = _nll(found_NK, labels_N), _nll(mean_NK, labels_N)
    gain_N = mean_nll_N - nll_N
    error = float(gain_N.std(ddof=1) / math.sqrt(num_images)) if num_images > 1 else None
    right_N, mean_right_N = (z.argmax(axis=1) == labels_N for z in (found_NK, mean_NK))
    # The standard error of a difference of two counts is the root of where they disagree.
    num_lost = int(mean_right_N.sum()) - int(right_N.sum())
    is_worse = num_lost > math.sqrt((right_N != mean_right_N).sum())
    is_better = error is not None and float(gain_N.mean()) > error and not is_worse
    return FittedFusion(
        weight=found if is_better else MEAN_WEIGHT,
        found_weight=found,
        nll=float(nll_N.mean()),
        mean_nll=float(mean_nll_N.mean()),
        standard_error=error,
        num_images=num_images,
    )


def _zero_of(slope: Any) -> float:
    """Where in 0 to 1 a slope that never falls is zero, or the end it points at.

    Where it is flat everywhere, as for two equal heads, that is the mean.
    """
    low_slope, high_slope = slope(0.0), slope(1.0)
    if low_slope == high_slope == 0.0:
        return MEAN_WEIGHT
    if low_slope >= 0.0:
        return 0.0
    if high_slope <= 0.0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return (low + high) / 2


def _own(values_NK: NDArray[np.float64], labels_N: Labels) -> NDArray[np.float64]:
    """Each image's value in the column of its label: [N]."""
    own_N1 = np.take_along_axis(values_NK, labels_N[:, None], axis=1)
    return own_N1[:, 0]


def _nll(logits_NK: NDArray[np.float64], labels_N: Labels) -> NDArray[np.float64]:
    """-ln p(label) of each image in nats: [N]."""
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted_NK).sum(axis=1)) - _own(shifted_NK, labels_N)
