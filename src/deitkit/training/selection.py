"""Which weights of a run are kept. Validation sets are small, and the highest of twenty noisy
accuracies is mostly luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Scores = Mapping[str, float]
"""top1 (0 to 1), nll and num_images of one model on the validation images."""


def standard_error(scores: Scores) -> float:
    """Of the accuracy: sqrt(p (1 - p) / n), with one right and one wrong image added so that it is
    not 0 at 0 % or 100 %."""
    num = scores["num_images"]
    share = (scores["top1"] * num + 1) / (num + 2)
    return math.sqrt(share * (1 - share) / num)


def better_of(scores: Mapping[str, Scores]) -> str:
    """The source with the higher accuracy; within a standard error of it, the likelier one."""
    top = max(values["top1"] for values in scores.values())
    close = {
        source: values["nll"]
        for source, values in scores.items()
        if values["top1"] >= top - standard_error(values)
    }
    return min(close, key=lambda source: close[source])


def is_kept(scores: Scores, best: Mapping[str, Any]) -> bool:
    """Whether weights replace the `best` so far: unless they are worse than the highest accuracy
    any had by more than a standard error. The schedule makes later weights the better ones."""
    return not best or scores["top1"] >= best["peak_top1"] - standard_error(scores)
