"""What a run will take, before its first step: seconds by part, and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deitkit.training.choices import EVALUATION_SHARE, MAX_EVALUATIONS, MIN_EVALUATIONS
from deitkit.training.spending import CHECKPOINTS, CONCLUSION, EVALUATIONS, PARTS, STEPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What was timed on this machine, in seconds."""

    step_s: float
    """A step without the teacher."""
    teacher_step_s: float
    """What asking the teacher adds to a step."""
    evaluation_s: float
    """All validation images, of the weights and of their average."""
    best_s: float
    """Writing the best weights."""
    checkpoint_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How often each of it is done."""

    steps: int
    batch_size: int
    asked_steps: int
    """Steps in which the teacher is asked."""
    eval_interval: int
    checkpoint_interval: int
    num_models: int
    """2 where an average of the weights is kept, else 1."""
    num_val: int
    num_pictures: int
    """Explained in the report."""
    num_compared: int
    """Single images on which teacher and student are timed at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Seconds of the whole command and the most memory that its process holds."""

    seconds: Mapping[str, float]
    """By part of `PARTS`, in their order; what was spent already is in it."""
    memory_bytes: int
    """Resident memory of this process; loader workers and other ranks have theirs beside it."""
    rests_on: tuple[str, ...]
    """What was measured, a sentence each."""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "total_s": round(self.total_s, 2),
            "seconds": {part: round(value, 2) for part, value in self.seconds.items()},
            "memory_bytes": self.memory_bytes,
            "rests_on": list(self.rests_on),
        }


SINGLE_OVER_BLOCK = 3.0
"""Seconds of one image alone over one of a block."""
PICTURE_PASSES = 3.0
"""Forward passes of one explained picture: there, and twice as much back."""
PAGE_S = 0.5
"""Loading the report's parts, fitting temperature and threshold, writing the page. A round number;
with it the end of the runs in benchmarks/planner.py was forecast to 0.3 s, but for large
photographs, whose pictures are decoded less often than is counted (6.7 s for 4.3 s)."""


def later_seconds(costs: Costs, work: Work) -> dict[str, float]:
    """Seconds of each part from the first step on."""
    num_evaluations = math.ceil(work.steps / work.eval_interval)
    num_checkpoints = math.ceil(work.steps / work.checkpoint_interval)
    once_s = costs.evaluation_s / work.num_models
    single_s = SINGLE_OVER_BLOCK * once_s / work.num_val
    conclusion_s = PAGE_S + once_s + PICTURE_PASSES * work.num_pictures * single_s
    asked_s = SINGLE_OVER_BLOCK * costs.teacher_step_s / work.batch_size
    conclusion_s += work.num_compared * (asked_s + single_s)
    return {
        STEPS: work.steps * costs.step_s + work.asked_steps * costs.teacher_step_s,
        EVALUATIONS: num_evaluations * (costs.evaluation_s + costs.best_s),
        CHECKPOINTS: num_checkpoints * costs.checkpoint_s,
        CONCLUSION: conclusion_s,
    }


def in_order(seconds: Mapping[str, float]) -> dict[str, float]:
    """Parts in the order they come; what takes no hundredth of a second is left out."""
    return {part: seconds[part] for part in PARTS if seconds.get(part, 0.0) >= 0.005}


def needed_budget_s(*, before_s: float, steps_per_epoch: int, costs: Costs, share: float) -> float:
    """The least budget in which each image is seen once, beside as many evaluations as
    `choose_steps` then makes.

    `before_s` passes before the first step; steps and evaluations may take `share` of what is left.
    """
    epoch_s = steps_per_epoch * (costs.step_s + costs.teacher_step_s)
    fewest_s = epoch_s + MIN_EVALUATIONS * costs.evaluation_s
    most_s = epoch_s + MAX_EVALUATIONS * costs.evaluation_s
    left_s = max(fewest_s, min(most_s, epoch_s / (1 - EVALUATION_SHARE)))
    return before_s + left_s / share
