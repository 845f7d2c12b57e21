"""Who is tried, who goes on, who has won: the decisions of a race, from numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LINEAR_SHARE, LINEAR_LONG_SHARE, LINEAR_S = 0.4, 0.05, 90.0
"""What the linear classifier's features may take, which are the first answer: 90 seconds, of a
short budget no more than the first share, of a long one also the second."""
TRIAL_SHARE, MIN_TRIAL_S = 0.04, 5.0
"""Of the budget, what each trial may take, and seconds at least."""
TRIALS_SHARE = 0.25
"""Of what is left of it, what all trials may take."""
END_SHARE, MIN_END_S = 0.01, 1.0
"""Of the budget, and seconds at least, what the end of the race is given."""
LEAST_SIDE_SHARE, LEAST_PATCHES = 0.7, 10
"""Of the side at which the linear classifier was fitted, and in patches, what fine-tuning keeps
however short it is: with a fitted head, half an epoch of sharp pictures is worth more than several
of small ones (docs/using.md)."""
HOPELESS_TIMES = 2.0
"""From scratch is not tried where the linear classifier errs so many times less often than the
nearest neighbour in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What an arm reached on the validation images."""

    num_right: int
    num_images: int
    parameters: int
    latency_ms: float
    """Of one image at a time."""

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.num_right / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's at 95 %."""
        from deitkit.evaluation.metrics import wilson_interval

        return wilson_interval(self.num_right, self.num_images)


def winner_of(scores: Mapping[str, Score]) -> str:
    """The arm with the highest accuracy; of equal ones the smallest, then the fastest, then the
    first."""
    return min(
        scores,
        key=lambda name: (
            -scores[name].accuracy,
            scores[name].parameters,
            scores[name].latency_ms,
        ),
    )


def order_of(
    names: Sequence[str], from_scratch: Sequence[str], linear: Score | None, pixel_accuracy: float
) -> list[str]:
    """Who is tried first, and goes on where nobody was tried: `names` in their order, but those
    `from_scratch` before the others where the start's features say less than raw pixels."""
    if linear is None or linear.accuracy >= pixel_accuracy:
        return list(names)
    return sorted(names, key=lambda name: name not in from_scratch)


def num_trials(num_arms: int, *, budget_s: float, left_s: float) -> int:
    """How many arms are tried: none where it would be one."""
    num = min(num_arms, int(TRIALS_SHARE * left_s / trial_s(budget_s)))
    return num if num > 1 else 0


def finalist_of(order: Sequence[str], trials: Mapping[str, Score]) -> str:
    """The arm that the rest of the budget goes to: the most accurate trial, of equal ones the first
    in `order`, which is also who goes on where nobody was tried."""
    tried = [name for name in order if name in trials]
    if not tried:
        return order[0]
    return max(tried, key=lambda name: (trials[name].accuracy, -tried.index(name)))


def why_hopeless(linear: Score, pixel_accuracy: float) -> str | None:
    """Why training from scratch cannot catch up with trained features; None where it might.

    Where the nearest neighbour in raw pixels errs about as often as a linear classifier on the
    start's features, these know little of such images, and a new network may know more.
    """
    error, pixel_error = 1 - linear.accuracy, 1 - pixel_accuracy
    if HOPELESS_TIMES * error > pixel_error:
        return None
    return (
        f"the linear classifier errs on {100 * error:.1f} % of the validation images, the nearest "
        f"neighbour in pixels on {100 * pixel_error:.1f} %, {HOPELESS_TIMES:.0f} times as often or "
        "more: the start's features are worth more than what the budget can learn"
    )


def why_untaught(linear: Score, teacher: Score) -> str | None:
    """Why the teacher has nothing to teach a trained start; None where it may."""
    if teacher.interval[1] >= linear.interval[0]:
        return None
    return (
        f"the teacher is right on {100 * teacher.accuracy:.1f} %, surely less often than the "
        f"linear classifier with {100 * linear.accuracy:.1f} %"
    )


def linear_s(budget_s: float) -> float:
    """Seconds for the features of the linear classifier."""
    return min(LINEAR_SHARE * budget_s, max(LINEAR_S, LINEAR_LONG_SHARE * budget_s))


def trial_s(budget_s: float) -> float:
    """Seconds of one trial."""
    return max(MIN_TRIAL_S, TRIAL_SHARE * budget_s)


def fine_tuning_side(fitted: int, affordable: int, *, patch: int) -> int:
    """Pixels a side for fine-tuning: the `affordable` ones, which show each image ten times, but
    no fewer than the share of `fitted`, nor than ten patches where `fitted` are that many."""
    share = int(-(-LEAST_SIDE_SHARE * fitted // patch) * patch)
    return max(affordable, share, min(fitted, LEAST_PATCHES * patch))


def final_s(budget_s: float, spent_s: float) -> float:
    """Seconds for the finalist: what is left, but for the end of the race; a second at least."""
    return max(1.0, budget_s - spent_s - max(MIN_END_S, END_SHARE * budget_s))
