"""Which labels are likely wrong: where those who judge agree on another class."""

# Shapes: J judges, N images, K classes.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deitkit.evaluation.metrics import Floats, Labels


def doubts(labels_N: Labels, judges_JNK: Sequence[Floats]) -> NDArray[np.float64]:
    """How doubtful each label is, -1 to 1: above 0 where another class is likelier.

    The judges' probabilities are averaged, then the likeliest other class is set against the label:
    the margin by which confident learning ranks (Northcutt, Jiang and Chuang 2021,
    arXiv:1911.00068, section 3.2, "normalised margin"), with several judges instead of one. Judges
    should not have learned these very labels by heart.
    """
    mean_NK = np.mean(np.stack(list(judges_JNK)), axis=0)
    own_N = np.take_along_axis(mean_NK, labels_N[:, None], axis=1)[:, 0]
    others_NK = mean_NK.copy()
    np.put_along_axis(others_NK, labels_N[:, None], -1.0, axis=1)
    return others_NK.max(axis=1) - own_N


def ranked(doubts_N: NDArray[np.floating]) -> NDArray[np.intp]:
    """The images from the most doubtful on; equal ones in their order."""
    return np.argsort(-doubts_N, kind="stable")
