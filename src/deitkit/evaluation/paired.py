"""Two answers to the same images: which is right more often, and can anybody tell?"""

# Shapes: N images, K classes.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.evaluation.metrics import Interval, Labels, wilson_interval

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many images."""

    num_right: int
    num_images: int

    @property
    def value(self) -> float | None:
        """0 to 1; None without images."""
        return self.num_right / self.num_images if self.num_images else None

    @property
    def interval(self) -> Interval:
        """Wilson's at 95 %."""
        return wilson_interval(self.num_right, self.num_images)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "num_right": self.num_right,
            "num_images": self.num_images,
            "value": self.value,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class Gain:
    """One answer against another on the same images."""

    share: Share
    other: Share
    difference: float | None
    """`share` less `other`, -1 to 1; None without images."""
    interval: Interval
    """Of the difference, 95 %, paired by image: see `paired_interval`."""
    p_value: float
    """McNemar's exact test, two-sided: see `mcnemar`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "share": self.share.to_dict(),
            "other": self.other.to_dict(),
            "difference": self.difference,
            "interval": list(self.interval),
            "p_value": self.p_value,
        }


@dataclass(frozen=True, slots=True)
class ClassGain:
    """What one class gained."""

    name: str
    gain: Gain
    verdict: str
    """helps, hurts, cannot tell; n/a without images. Over all classes together a wrong verdict has
    a chance of 5 % (Holm 1979, "A simple sequentially rejective multiple test procedure"), so a
    class whose own interval leaves out 0 may still be one nobody can tell."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "gain": self.gain.to_dict(), "verdict": self.verdict}


def class_shares(right_N: NDArray[np.bool_], labels_N: Labels, num_classes: int) -> list[Share]:
    """By class, how many of its images are right, as of the teacher against the labels."""
    num_right_K = np.bincount(labels_N[right_N], minlength=num_classes)
    num_images_K = np.bincount(labels_N, minlength=num_classes)
    return [Share(*map(int, pair)) for pair in zip(num_right_K, num_images_K, strict=True)]


def class_gains(
    right_N: NDArray[np.bool_],
    other_right_N: NDArray[np.bool_],
    labels_N: Labels,
    class_names: Sequence[str],
) -> list[ClassGain]:
    """What each class gained against another evaluation of the same images, in class order."""
    gains = [
        paired_gain(right_N[labels_N == k], other_right_N[labels_N == k])
        for k in range(len(class_names))
    ]
    present = [k for k, gain in enumerate(gains) if gain.share.num_images]
    significant = set(_holm({k: gains[k].p_value for k in present}))
    found = []
    for k, (name, gain) in enumerate(zip(class_names, gains, strict=True)):
        verdict = "cannot tell" if gain.share.num_images else "n/a"
        if k in significant and gain.difference is not None:
            verdict = "helps" if gain.difference > 0 else "hurts"
        found.append(ClassGain(name, gain, verdict))
    return found


def share_of(right_N: NDArray[np.bool_]) -> Share:
    """How many of the images are."""
    return Share(int(right_N.sum()), len(right_N))


def paired_gain(right_N: NDArray[np.bool_], other_right_N: NDArray[np.bool_]) -> Gain:
    """One answer against another on the same N images, right or wrong each."""
    assert right_N.shape == other_right_N.shape, "the same images, in the same order"
    share, other = share_of(right_N), share_of(other_right_N)
    num_only = int((right_N & ~other_right_N).sum())
    num_other_only = int((other_right_N & ~right_N).sum())
    num_images = len(right_N)
    return Gain(
        share=share,
        other=other,
        difference=(num_only - num_other_only) / num_images if num_images else None,
        interval=paired_interval(share, other, num_both=share.num_right - num_only),
        p_value=mcnemar(num_only, num_other_only),
    )


def paired_interval(share: Share, other: Share, *, num_both: int) -> Interval:
    """95 % interval of the difference of two shares of the same images; (-1, 1) of none.

    `num_both` images are right in both. Wilson's intervals of the two shares, put together with
    their correlation: method 10 of Newcombe 1998, "Improved confidence intervals for the difference
    between binomial proportions based on paired data". Unlike mean +- 2 s it does not vanish where
    the answers never differ.
    """
    n = share.num_images
    if n == 0:
        return -1.0, 1.0
    a, b, c = num_both, share.num_right - num_both, other.num_right - num_both
    d = n - a - b - c
    product = float(a * d - b * c)
    if product > 0:
        product = max(product - n / 2, 0.0)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    phi = product / math.sqrt(margins) if margins else 0.0
    (low1, high1), (low2, high2) = share.interval, other.interval
    p1, p2 = (a + b) / n, (a + c) / n

    def reach(own: float, others: float) -> float:
        return math.sqrt(max(own**2 - 2 * phi * own * others + others**2, 0.0))

    difference = (b - c) / n
    low = difference - reach(p1 - low1, high2 - p2)
    high = difference + reach(high1 - p1, p2 - low2)
    return max(low, -1.0), min(high, 1.0)


def mcnemar(num_first: int, num_second: int) -> float:
    """Chance, if neither is better, that they differ at least so unevenly: two-sided, exact.

    Of the images that only one of two gets right, each would be either's with probability 1/2.
    McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    num = num_first + num_second
    log_all = math.lgamma(num + 1) - num * math.log(2)
    tail = math.fsum(
        math.exp(log_all - math.lgamma(i + 1) - math.lgamma(num - i + 1))
        for i in range(min(num_first, num_second) + 1)
    )
    return min(1.0, 2 * tail)


def _holm(p_values: dict[int, float]) -> list[int]:
    """Which of several tests are significant together."""
    found = []
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        if p_values[key] * (len(p_values) - place) > SIGNIFICANT:
            break
        found.append(key)
    return found
