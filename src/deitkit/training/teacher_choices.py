"""What "auto" becomes where there is a teacher. Plain numbers in, (value, reason) out."""

from __future__ import annotations

import math

from deitkit.training.choice import Choice

CHEAP_TEACHER = 0.1
"""Of a step: a teacher below it is asked for every view, and new views are worth more."""
TEACHER_SHARE = 0.15
"""Of the student's time, what asking the teacher may take before views are shown again."""
MIN_VIEW_SHARE = 0.1
MIN_VIEW_EPOCHS = 10
TOP_K = 32
"""Logits of an answer that are kept where all of very many classes do not fit on the disk."""
DISK_SHARE, MEMORY_SHARE = 0.5, 0.5
"""Of the free disk or memory, what the teacher's answers may fill."""


def choose_distill_kind(num_classes: int) -> Choice:
    """Which of the teacher's words count."""
    if num_classes == 2:
        return Choice("soft", "two classes: z-scored logits would all be the same")
    return Choice("standardised", "the teacher's order of all classes, whatever its confidence")


def num_asked_epochs(num_epochs: float, *, cost: float) -> float:
    """V of E epochs, not yet whole, for a teacher that costs `cost` steps of the student a step.

    So many that asking takes `TEACHER_SHARE` of the student's time, and at least `MIN_VIEW_SHARE`
    of the epochs. At least `MIN_VIEW_EPOCHS`, but for a teacher so dear that asking would then take
    longer than the student.
    """
    if cost < CHEAP_TEACHER:
        return num_epochs
    share = max(MIN_VIEW_SHARE, TEACHER_SHARE / cost)
    fewest = min(MIN_VIEW_EPOCHS, max(1.0, num_epochs / cost))
    return min(num_epochs, max(share * num_epochs, fewest))


def num_taught_epochs(num_epochs: float, until: float) -> int:
    """Whole epochs in which the teacher is asked, of a run that it teaches for a share of."""
    return math.ceil(round(until * num_epochs, 6))


def num_taught_steps(steps: int, *, steps_per_epoch: int, until: float) -> int:
    """Steps of those epochs."""
    return min(steps, steps_per_epoch * num_taught_epochs(steps / steps_per_epoch, until))


def steps_within(
    seconds: float,
    *,
    step_s: float,
    teacher_step_s: float,
    steps_per_epoch: int,
    view_epochs: int | None,
    limit: int,
    until: float = 1.0,
) -> int:
    """The most steps, up to `limit`, that end within `seconds`, asking the teacher included.

    It is asked in the first `view_epochs` epochs, in all for 0, and for None as many as
    `num_asked_epochs`; where `until` is below 1, in that share of the epochs.
    """

    def seconds_of(steps: int) -> float:
        asked: float = view_epochs * steps_per_epoch if view_epochs else steps
        if until < 1:
            asked = num_taught_steps(steps, steps_per_epoch=steps_per_epoch, until=until)
        elif view_epochs is None:
            num_epochs = steps / steps_per_epoch
            asked = steps_per_epoch * num_asked_epochs(num_epochs, cost=teacher_step_s / step_s)
        return steps * step_s + min(steps, asked) * teacher_step_s

    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds_of(middle) <= seconds else (low, middle - 1)
    return low


def choose_view_epochs(
    num_epochs: float, *, step_s: float, teacher_step_s: float, repeats: int
) -> Choice:
    """V, the epochs of different views; 0 where every epoch has its own and none is kept."""
    cost = teacher_step_s / step_s
    said = f"the teacher costs {cost:.2g} steps of the student a step"
    if cost < CHEAP_TEACHER:
        return Choice(0, f"{said}: every epoch has new views")
    all_epochs = math.ceil(num_epochs / repeats) * repeats
    num = math.ceil(num_asked_epochs(num_epochs, cost=cost) / repeats) * repeats
    if num >= all_epochs:
        return Choice(all_epochs, f"{said}: every epoch has new views")
    return Choice(num, f"{said}: {num} of {num_epochs:.0f} epochs are asked for, then shown again")


def choose_teacher_cache(
    num_bytes: int, *, view_epochs: int, free_disk: int | None, free_memory: int
) -> Choice:
    """Where the answers are kept; "disk" also where nothing fits, which then says what it needs."""
    if view_epochs == 0:
        return Choice("off", "asking again costs next to nothing")
    size = f"{num_bytes / 1e6:,.1f} MB"
    fits_disk = free_disk is None or num_bytes <= DISK_SHARE * free_disk
    if not fits_disk and num_bytes <= MEMORY_SHARE * free_memory:
        return Choice("memory", f"{size} are more than half of the free disk")
    return Choice("disk", f"{size}: each view is asked about once, also for the next student")
