"""Probabilities that can be believed: one temperature, and when rather to say nothing."""

# Shapes: N images, K classes, M bins.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.evaluation.metrics import (
    Floats,
    Labels,
    expected_calibration_error,
    softmax,
    wilson_interval,
)

LEAST, MOST = 0.05, 20.0
"""Temperatures looked at."""
NUM_CUTS = 60
"""Of the interval that holds the likeliest: 20 / 0.05 becomes a part in 10^10."""
NUM_DIGITS = 4
NUM_BINS = 15

FusedAt = Callable[[float], NDArray[np.floating]]
"""Temperature -> fused logits [N, K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTemperature:
    """What `fit_temperature` found. NLL is in nats, a mean over images."""

    temperature: float
    """The one to use."""
    found_temperature: float
    """The likeliest; differs from `temperature`, then 1, where it was not clearly better."""
    nll: float
    """With `temperature`."""
    plain_nll: float
    """With 1."""
    ece: float
    """Expected calibration error with `temperature`."""
    plain_ece: float
    """With 1."""
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedThreshold:
    """What `fit_threshold` found on validation images."""

    threshold: float | None
    """Answer where the highest probability is at least this; None: no such place was found."""
    target: float
    """Accuracy asked of the images that are answered, 0 to 1."""
    num_answered: int
    num_right: int
    """Of those that are answered."""
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One bar of a reliability diagram."""

    low: float
    high: float
    num_images: int
    sure: float | None
    """Mean of the highest probability of its images; None without any."""
    right: float | None
    """Share of them that is right."""


def fit_temperature(fused_at: FusedAt, labels_N: Labels) -> FittedTemperature:
    """The temperature that makes the labels likeliest; argmax stays where fusion is linear.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, section 4.2. It
    is used only if it wins by more than a standard error of the image by image difference: being
    fitted to the very images it is judged on, it wins half its z-score of standard errors, so one
    stands for |z| > 2. Otherwise the temperature is 1.

    Deviation: N images that are all right would have certainty, so each label is doubted by
    1 / (N + 2), shared among the other classes: what the rule of succession expects to be wrong.
    Platt 1999, "Probabilistic outputs for support vector machines", section 2.2, doubts two
    classes so.
    """
    num_images = len(labels_N)
    assert num_images > 0, "no images"

    def nll_of(temperature: float, doubt: float = 0.0) -> NDArray[np.float64]:
        logits_NK = fused_at(temperature).astype(np.float64)
        shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
        own_N = np.take_along_axis(shifted_NK, labels_N[:, None], axis=1)[:, 0]
        others_N = (shifted_NK.sum(axis=1) - own_N) / max(1, logits_NK.shape[1] - 1)
        asked_N: NDArray[np.float64] = (1.0 - doubt) * own_N + doubt * others_N
        return np.log(np.exp(shifted_NK).sum(axis=1)) - asked_N

    doubt = 1.0 / (num_images + 2)
    found = _lowest(lambda place: float(nll_of(math.exp(place), doubt).mean()))
    found = float(f"{math.exp(found):.{NUM_DIGITS}g}")
    plain_N, found_N = nll_of(1.0, doubt), nll_of(found, doubt)
    gain_N = plain_N - found_N
    error = gain_N.std(ddof=1) / math.sqrt(num_images) if num_images > 1 else math.inf
    is_better = bool(gain_N.mean() > error)
    used = found if is_better else 1.0
    plain_ece, ece = (
        expected_calibration_error(softmax(fused_at(t)), labels_N, num_bins=NUM_BINS)
        for t in (1.0, used)
    )
    return FittedTemperature(
        temperature=used,
        found_temperature=found,
        nll=float(nll_of(used).mean()),
        plain_nll=float(nll_of(1.0).mean()),
        ece=ece,
        plain_ece=plain_ece,
        num_images=num_images,
    )


def _lowest(value: Callable[[float], float]) -> float:
    """Where a function of the logarithm of a temperature with one valley is lowest."""
    low, high = math.log(LEAST), math.log(MOST)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(NUM_CUTS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = value(right)
    return (low + high) / 2.0


def fit_threshold(
    probabilities_NK: Floats, labels_N: Labels, *, target: float | None = None
) -> FittedThreshold:
    """The least threshold above which at least `target` of the answers are right.

    "At least" with the lower end of Wilson's 95 % interval. `target` left out halves the share of
    wrong answers. None is found where all images may be answered already, or too few are left to
    be sure of any part of them.
    """
    num_images = len(labels_N)
    assert num_images > 0, "no images"
    sure_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == labels_N
    target = (1.0 + float(right_N.mean())) / 2.0 if target is None else target
    order_N = np.argsort(-sure_N, kind="stable")
    falling_N, right_so_far_N = sure_N[order_N], np.cumsum(right_N[order_N])
    for num_answered in range(num_images, 0, -1):
        is_last = num_answered == num_images
        if not is_last and falling_N[num_answered - 1] == falling_N[num_answered]:
            continue  # images that are equally sure are answered together
        num_right = int(right_so_far_N[num_answered - 1])
        if wilson_interval(num_right, num_answered)[0] < target:
            continue
        # Between two images, so that the last bits of a probability decide nothing.
        middle = 0.0 if is_last else (falling_N[num_answered - 1] + falling_N[num_answered]) / 2.0
        return FittedThreshold(
            threshold=None if is_last else float(middle),
            target=target,
            num_answered=num_answered,
            num_right=num_right,
            num_images=num_images,
        )
    return FittedThreshold(
        threshold=None,
        target=target,
        num_answered=num_images,
        num_right=int(right_N.sum()),
        num_images=num_images,
    )


def reliability(
    probabilities_NK: Floats, labels_N: Labels, *, num_bins: int = NUM_BINS
) -> tuple[Bin, ...]:
    """How sure answers are against how often they are right, in bins as the calibration error's."""
    sure_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == labels_N
    bin_N = np.clip(np.ceil(sure_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    bins = []
    for m in range(num_bins):
        is_in_N = bin_N == m
        count = int(is_in_N.sum())
        bins.append(
            Bin(
                low=m / num_bins,
                high=(m + 1) / num_bins,
                num_images=count,
                sure=float(sure_N[is_in_N].mean()) if count else None,
                right=float(right_N[is_in_N].mean()) if count else None,
            )
        )
    return tuple(bins)
