"""Numbers that say how good predictions are, each accuracy with its interval. numpy only."""

# Shapes: N images, K classes, M bins.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import DataError, ModelFileError

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. None means undefined ("n/a"), which is not the same as 0 (fault D08)."""

    name: str
    num_images: int
    precision: float | None
    """Right among those called this class; None if none was, or if the class has no images."""
    recall: float | None
    """Right among those of this class; None if the class has no images."""
    f1: float | None
    """2 TP / (2 TP + FP + FN); None if the class has no images."""


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """What `summarise` found. Shares are 0 to 1; intervals are Wilson's at 95 %."""

    num_images: int
    top1: float
    top1_interval: Interval
    top5: float | None
    """None for 5 classes or fewer, where it would say nothing."""
    top5_interval: Interval | None
    nll: float
    """Negative log-likelihood in nats, mean over images."""
    ece: float
    """Expected calibration error."""
    per_class: tuple[ClassMetrics, ...]
    confusion_KK: NDArray[np.int64]
    """Rows: the true class; columns: the predicted one."""

    @property
    def macro(self) -> float:
        """Macro accuracy: the mean of the recalls of the classes that have images, so that each
        class counts alike; also called balanced accuracy."""
        return macro_accuracy(self.confusion_KK)[0]

    @property
    def macro_interval(self) -> Interval:
        return macro_accuracy(self.confusion_KK)[1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the matrix under "confusion"."""
        return {
            "num_images": self.num_images,
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "macro": self.macro,
            "macro_interval": list(self.macro_interval),
            "top5": self.top5,
            "top5_interval": None if self.top5_interval is None else list(self.top5_interval),
            "nll": self.nll,
            "ece": self.ece,
            "per_class": [asdict(one) for one in self.per_class],
            "confusion": self.confusion_KK.tolist(),
        }


def wilson_interval(num_correct: float, num_total: float, confidence: float = 0.95) -> Interval:
    """Return the score interval of a share; (0, 1) if nothing was counted.

    Unlike the usual +- it stays inside 0..1 and does not vanish at 0 or 100 %. Wilson 1927,
    "Probable inference, the law of succession, and statistical inference".
    """
    assert 0 <= num_correct <= num_total, f"{num_correct} right of {num_total}"
    if num_total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = num_correct / num_total
    centre = share + z * z / (2.0 * num_total)
    reach = z * math.sqrt(share * (1.0 - share) / num_total + (z / (2.0 * num_total)) ** 2)
    scale = 1.0 + z * z / num_total
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    low = 0.0 if num_correct == 0 else (centre - reach) / scale
    high = 1.0 if num_correct == num_total else (centre + reach) / scale
    return low, high


def macro_accuracy(confusion_KK: NDArray[np.int64]) -> tuple[float, Interval]:
    """Return the mean recall of the classes that have images, and its 95 % interval.

    Wilson's of that share of K^2 / sum (1 / n_k) images, the effective number where each of the n_k
    images of a class weighs 1 / (K n_k): Kish 1965, "Survey sampling". Classes of one size give the
    interval of the accuracy; few images in one class widen it as they should.
    """
    totals_K = confusion_KK.sum(axis=1)
    counts = totals_K[totals_K > 0].tolist()
    if not counts:
        return 0.0, (0.0, 1.0)
    rights = np.diag(confusion_KK)[totals_K > 0].tolist()
    mean = math.fsum(right / n for right, n in zip(rights, counts, strict=True)) / len(counts)
    effective = len(counts) ** 2 / math.fsum(1 / n for n in counts)
    return mean, wilson_interval(mean * effective, effective)


def softmax(logits_NK: NDArray[np.floating]) -> Floats:
    """Return probabilities in float64. Any finite logits will do, and -inf beside a finite one."""
    logits = logits_NK.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def topk_correct(scores_NK: NDArray[np.floating], labels_N: Labels, k: int) -> NDArray[np.bool_]:
    """Say of each image whether its label is among the k highest scores: [N].

    Of equal scores the class with the lower index counts as higher, as argmax has it, so that
    k = 1 is accuracy and a model that says the same of all classes gets no credit for it.
    """
    own_N1 = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)
    earlier_NK = np.arange(scores_NK.shape[1]) < labels_N[:, None]
    ahead_N = ((scores_NK > own_N1) | ((scores_NK == own_N1) & earlier_NK)).sum(axis=1)
    return ahead_N < k


def confusion_matrix(
    labels_N: Labels, predictions_N: Labels, num_classes: int
) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): [K, K]."""
    cells_N = labels_N.astype(np.int64) * num_classes + predictions_N
    counts = np.bincount(cells_N, minlength=num_classes * num_classes)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


def class_metrics(
    confusion_KK: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    """Return precision, recall and F1 of every class, None where they are undefined."""
    rows = []
    for index, name in enumerate(class_names):
        num_right = int(confusion_KK[index, index])
        num_images = int(confusion_KK[index].sum())
        num_called = int(confusion_KK[:, index].sum())
        is_present = num_images > 0
        rows.append(
            ClassMetrics(
                name=name,
                num_images=num_images,
                precision=num_right / num_called if is_present and num_called else None,
                recall=num_right / num_images if is_present else None,
                f1=2.0 * num_right / (num_images + num_called) if is_present else None,
            )
        )
    return tuple(rows)


def negative_log_likelihood(probabilities_NK: Floats, labels_N: Labels) -> float:
    """Return the mean of -ln p(label) in nats.

    A probability that underflowed to 0 counts as the smallest normal float64, 708 nats, so that
    one hopeless image does not make the mean infinite.
    """
    own_N = np.take_along_axis(probabilities_NK, labels_N[:, None], axis=1)[:, 0]
    return float(-np.log(np.maximum(own_N, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(
    probabilities_NK: Floats, labels_N: Labels, *, num_bins: int = 15
) -> float:
    """Return the mean distance between how sure predictions are and how often they are right.

    Images are sorted by their highest probability into M bins of equal width, bin m holding
    ((m - 1) / M, m / M]; the result is the sum over bins of (images in it / N) times
    |share right - mean highest probability|. Naeini, Cooper and Hauskrecht 2015, "Obtaining well
    calibrated probabilities using Bayesian binning"; bins as in Guo et al. 2017, arXiv:1706.04599.
    """
    sure_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == labels_N
    bin_N = np.clip(np.ceil(sure_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_M = np.bincount(bin_N, weights=right_N - sure_N, minlength=num_bins)
    return float(np.abs(gap_M).sum() / len(labels_N))


def summarise(
    logits_NK: NDArray[np.floating], labels_N: Labels, class_names: Sequence[str]
) -> Metrics:
    """Measure logits against labels (indices into `class_names`, also those of absent classes).

    Log-probabilities serve as logits; -inf beside a finite value is a probability of 0.
    Raises DataError [EMPTY] without images and ModelFileError [MODEL_OUTPUT] for logits that are
    not a number, or infinite so that no probability follows.
    """
    num_images, num_classes = logits_NK.shape
    assert num_classes == len(class_names), f"{num_classes} logits, {len(class_names)} names"
    assert len(labels_N) == num_images, f"{len(labels_N)} labels of {num_images} images"
    if num_images == 0:
        raise DataError("EMPTY", "evaluation data", "it holds no images", "give at least one")
    assert labels_N.min() >= 0 and labels_N.max() < num_classes, "a label has no class name"
    is_usable_N = np.isfinite(logits_NK.max(axis=1))
    if not is_usable_N.all():
        raise ModelFileError(
            "MODEL_OUTPUT",
            "model",
            f"its logits for {int((~is_usable_N).sum())} of {num_images} images are not finite",
            "use an earlier checkpoint, or compute in float32",
        )
    probabilities_NK = softmax(logits_NK)
    num_top1 = int(topk_correct(logits_NK, labels_N, 1).sum())
    num_top5 = int(topk_correct(logits_NK, labels_N, 5).sum()) if num_classes > 5 else None
    confusion_KK = confusion_matrix(labels_N, logits_NK.argmax(axis=1), num_classes)
    return Metrics(
        num_images=num_images,
        top1=num_top1 / num_images,
        top1_interval=wilson_interval(num_top1, num_images),
        top5=None if num_top5 is None else num_top5 / num_images,
        top5_interval=None if num_top5 is None else wilson_interval(num_top5, num_images),
        nll=negative_log_likelihood(probabilities_NK, labels_N),
        ece=expected_calibration_error(probabilities_NK, labels_N),
        per_class=class_metrics(confusion_KK, class_names),
        confusion_KK=confusion_KK,
    )
