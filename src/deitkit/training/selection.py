"""Which weights of a run are kept. Validation sets are small, and the highest of twenty noisy
accuracies is mostly luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def num_stale(history: Sequence[Mapping[str, Any]]) -> int:
    """Evaluations since the last one that was better than all before it: a higher accuracy or a
    higher likelihood than any weights had, whichever of those that were evaluated."""
    top1, nll, last = -math.inf, math.inf, 0
    for number, entry in enumerate(history, 1):
        scores = entry["scores"].values()
        found = max(one["top1"] for one in scores), min(one["nll"] for one in scores)
        if found[0] > top1 or found[1] < nll:
            last = number
        top1, nll = max(top1, found[0]), min(nll, found[1])
    return len(history) - last
