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


def view_share(*, step_s: float, teacher_step_s: float) -> float:
    """V / E: the share of the epochs whose views the teacher is asked about, 0 to 1."""
    if teacher_step_s < CHEAP_TEACHER * step_s:
        return 1.0
    return min(1.0, max(MIN_VIEW_SHARE, TEACHER_SHARE * step_s / teacher_step_s))


def choose_view_epochs(
    num_epochs: float, *, step_s: float, teacher_step_s: float, repeats: int
) -> Choice:
    """V, the epochs of different views; 0 where every epoch has its own and none is kept."""
    share = view_share(step_s=step_s, teacher_step_s=teacher_step_s)
    cost = f"the teacher costs {teacher_step_s / step_s:.2g} steps of the student a step"
    if share == 1.0 and teacher_step_s < CHEAP_TEACHER * step_s:
        return Choice(0, f"{cost}: every epoch has new views")
    all_epochs = math.ceil(num_epochs / repeats) * repeats
    fewest = min(all_epochs, MIN_VIEW_EPOCHS)
    num = math.ceil(max(fewest, share * num_epochs) / repeats) * repeats
    if num >= all_epochs:
        return Choice(all_epochs, f"{cost}: every epoch has new views")
    return Choice(num, f"{cost}: {num} of {num_epochs:.0f} epochs are asked for, then shown again")


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
