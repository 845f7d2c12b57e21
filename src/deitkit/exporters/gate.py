"""What an exported file must pass: it answers as its bundle does, image by image."""

# Shapes: N images, K classes.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import ModelFileError
from deitkit.evaluation.metrics import softmax
from deitkit.evaluation.paired import Gain, paired_gain

MAX_DRIFT = 1e-4
"""In probability, of a file in full precision. Both then choose the same class wherever the
likeliest leads by twice that (FAULTS X01)."""
NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """One file, measured against its bundle on the same images."""

    file: str
    num_bytes: int
    gain: Gain
    """Accuracy of the file (`share`), of the bundle (`other`), and the paired difference."""
    drift: float
    """The largest difference of a probability."""
    image_ms: float
    """Median of one picture at a time, decoded, its preprocessing included."""
    bundle_image_ms: float


def check_full_precision(
    own_NK: NDArray[np.floating],
    file_NK: NDArray[np.floating],
    *,
    describe: Callable[[int], str],
    subject: Path,
) -> float:
    """The largest difference of a probability between the logits of bundle and file.

    Raises:
        ModelFileError: EXPORT_DRIFT, above `MAX_DRIFT`; it names the images.
    """
    drift_N = _drift(own_NK, file_NK)
    moved_N = drift_N > MAX_DRIFT
    if moved_N.any():
        raise ModelFileError(
            "EXPORT_DRIFT",
            subject,
            f"{moved_N.sum():,} of {len(moved_N):,} images get another answer from the file than "
            f"from the run, by up to {drift_N.max():.3g} in probability (allowed {MAX_DRIFT:g}): "
            f"{_named(drift_N, moved_N, describe)}; no file is left",
            "update onnx, onnxscript and onnxruntime, then export again",
        )
    return float(drift_N.max())


def check_int8(
    own_NK: NDArray[np.floating],
    file_NK: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    *,
    tolerance: float,
    describe: Callable[[int], str],
    subject: Path,
) -> tuple[Gain, float]:
    """The paired difference of accuracy, and the largest difference of a probability.

    Raises:
        ModelFileError: EXPORT_INT8, the accuracy falls by more than `tolerance` (0 to 1), or an
            answer is not a number; it names the images.
    """
    drift_N = _drift(own_NK, file_NK)
    broken_N = np.isinf(drift_N)
    own_right_N = own_NK.argmax(axis=1) == labels_N
    right_N = (file_NK.argmax(axis=1) == labels_N) & ~broken_N
    gain = paired_gain(right_N, own_right_N)
    lost = float(own_right_N.mean() - right_N.mean())
    if lost > tolerance + 1e-12 or broken_N.any():
        low, high = gain.interval
        turned_N = own_right_N & ~right_N | broken_N
        raise ModelFileError(
            "EXPORT_INT8",
            subject,
            f"in int8 it is right on {right_N.sum():,} of {len(labels_N):,} images, the run on "
            f"{own_right_N.sum():,}: {100 * lost:.2f} points less ({-100 * high:.2f} to "
            f"{-100 * low:.2f}), {100 * tolerance:g} allowed; lost are "
            f"{_named(drift_N, turned_N, describe)}; no file is left",
            "export without int8=true, or allow more with tolerance=",
        )
    return gain, float(drift_N.max())


def _drift(own_NK: NDArray[np.floating], file_NK: NDArray[np.floating]) -> NDArray[np.floating]:
    """The largest difference of a probability of each image; infinite where one is not a number."""
    with np.errstate(invalid="ignore"):
        difference_NK = np.abs(softmax(own_NK) - softmax(file_NK))
    return np.where(np.isnan(difference_NK), np.inf, difference_NK).max(axis=1)


def _named(
    drift_N: NDArray[np.floating], chosen_N: NDArray[np.bool_], describe: Callable[[int], str]
) -> str:
    """The chosen images that moved most."""
    order: Sequence[int] = np.argsort(-drift_N, kind="stable").tolist()
    chosen = [i for i in order if chosen_N[i]]
    more = f" and {len(chosen) - NUM_NAMED:,} more" if len(chosen) > NUM_NAMED else ""
    return ", ".join(describe(i) for i in chosen[:NUM_NAMED]) + more
