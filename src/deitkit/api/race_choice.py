"""Who goes on in a race: who is dropped untried, who is left, and who gets the rest."""

from __future__ import annotations

from collections.abc import Iterator

from deitkit.api.race_arms import FINE_TUNED_TAUGHT, FROM_SCRATCH, FROZEN, LINEAR, TEACHER
from deitkit.api.race_end import say_arm
from deitkit.api.race_record import DROPPED, TRIED, WAITING
from deitkit.api.race_rule import (
    MIN_TRIAL_S,
    final_s,
    finalist_of,
    order_of,
    why_hopeless,
    why_untaught,
)
from deitkit.api.race_track import Track
from deitkit.training.events import Event, Warned


def drop_hopeless(track: Track) -> Iterator[Event]:
    """Who has no chance is not tried."""
    from deitkit.evaluation.neighbours import pixel_accuracy

    record = track.record
    linear, teacher = record.arms[LINEAR].score, record.arms[TEACHER].score
    if linear is None:
        return
    waiting = [name for name, arm in record.arms.items() if arm.state == WAITING]
    why: dict[str, str | None] = {}
    if set(waiting) & set(FROM_SCRATCH):
        if record.pixel_accuracy is None:
            record.pixel_accuracy = pixel_accuracy(track.dataset.train, track.dataset.val)
        hopeless = why_hopeless(linear, record.pixel_accuracy)
        why |= dict.fromkeys(FROM_SCRATCH, hopeless)
    if teacher is not None:
        why[FINE_TUNED_TAUGHT] = why_untaught(linear, teacher)
    for name in waiting:
        if (reason := why.get(name)) is not None:
            arm = record.arms[name]
            arm.state, arm.why = DROPPED, reason
            yield Warned(say_arm(arm))
    track.save()


def trainable(track: Track) -> list[str]:
    """The arms that are left, in the order in which they are tried."""
    record = track.record
    left = [
        name
        for name, arm in record.arms.items()
        if name not in FROZEN and arm.state in (WAITING, TRIED)
    ]
    linear = record.arms[LINEAR].score
    return order_of(left, FROM_SCRATCH, linear, record.pixel_accuracy or 0.0)


def choose_finalist(track: Track, left: list[str]) -> None:
    """Write down who of those `left` gets the rest of the budget, and why the others do not."""
    record = track.record
    scores = {name: s for name in left if (s := record.arms[name].score) is not None}
    final, seconds = finalist_of(left, scores), final_s(record.budget_s, track.spent_s())
    if seconds < MIN_TRIAL_S and record.scores():
        final = ""
    for name in left:
        arm = record.arms[name]
        if not final:
            arm.why = "no time is left to train it"
        elif name != final:
            was = "was better in its trial" if name in scores else "comes first in so short a time"
            arm.why = f"{record.arms[final].title} {was}"
        if name not in scores and name != final:
            arm.state = DROPPED
    record.final_arm, record.final_budget = final, f"{seconds:.0f}s"
    track.save()
