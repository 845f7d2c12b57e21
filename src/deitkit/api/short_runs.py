"""Runs that are too short for what they are asked to learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from deitkit.config import RunConfig, settled

if TYPE_CHECKING:
    from deitkit.training.assemble import Assembly
    from deitkit.training.forecast import Costs


class Shortage(NamedTuple):
    """A budget that does not reach for one epoch."""

    budget: str
    """As it was asked for."""
    why: str
    needed: str
    """The budget that would reach."""

    @property
    def said(self) -> str:
        """Both in a sentence."""
        return f"{self.why}; budget={self.needed} or more shows each once"


def find_shortage(
    config: RunConfig, probe: Assembly, costs: Costs, *, before_s: float, share: float
) -> Shortage | None:
    """What is missing where not every image is seen once; None for epochs that were asked for.

    `before_s` pass before the first step; steps and evaluations may take `share` of what is left.
    """
    from deitkit.training.forecast import needed_budget_s

    steps, steps_per_epoch = settled(config.schedule.steps), probe.steps.steps_per_epoch
    if steps >= steps_per_epoch:
        return None
    needed_s = needed_budget_s(
        before_s=before_s, steps_per_epoch=steps_per_epoch, costs=costs, share=share
    )
    return Shortage(
        budget=config.schedule.budget,
        why=f"{steps} steps see {100 * steps / steps_per_epoch:.0f} % of the images once, which "
        f"teaches little; {before_s:.0f} s pass before the first step",
        needed=f"{math.ceil(needed_s)}s",
    )


def short_run_notes(config: RunConfig, num_images: int) -> list[str]:
    """Where settings made for long runs on many images lose their meaning."""
    notes = []
    batch_size, steps = settled(config.optim.batch_size), settled(config.schedule.steps)
    if batch_size > num_images:
        notes.append(
            f"a batch of {batch_size:,} holds all {num_images:,} images: one step an epoch, at the "
            "learning rate of that batch; optim.batch_size= sets a smaller one"
        )
    decay = config.ema.decay
    if decay is not None and not config.ema.warmup and decay**steps > 0.5:
        notes.append(
            f"after {steps:,} steps the average of the weights is still {decay**steps:.0%} the "
            "first ones; ema.decay=none follows the length of the run"
        )
    return notes
