"""Which epoch shows which views, and how strong what chance does to them is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from deitkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPhases:
    """Parts of a run, in whole epochs, each with views of its own and of its own strength.

    Where images grow over a run, what chance does to them should grow too: Tan and Le 2021,
    EfficientNetV2, arXiv:2104.00298, section 4.

    A part that begins with epoch a and has the view epochs c to d - 1 shows in epoch e the views of
    c + (e - a) mod (d - c). So the strength is a function of the view epoch, a view still of its
    key alone, and what a teacher said of it stays true.
    """

    strengths: tuple[float, ...] = (1.0,)
    first_epochs: tuple[int, ...] = (0,)
    """Of each part."""
    first_view_epochs: tuple[int, ...] = (0,)
    """Of each part."""
    num_view_epochs: int | None = None
    """Of the run; None: every epoch has views of its own."""

    def view_epoch(self, epoch: int) -> int:
        """The epoch whose views this one shows."""
        if self.num_view_epochs is None:
            return epoch
        part = bisect_right(self.first_epochs, epoch) - 1
        return self.first_view_epochs[part] + (epoch - self.first_epochs[part]) % self._cycle(part)

    def shown_before(self, epoch: int) -> int | None:
        """The latest earlier epoch with the same views, if there is one."""
        if self.num_view_epochs is None:
            return None
        part = bisect_right(self.first_epochs, epoch) - 1
        earlier = epoch - self._cycle(part)
        return earlier if earlier >= self.first_epochs[part] else None

    def first_epoch(self, view_epoch: int) -> int:
        """The first epoch that shows the views of a view epoch."""
        part = self.part_of(view_epoch)
        return self.first_epochs[part] + view_epoch - self.first_view_epochs[part]

    def part_of(self, view_epoch: int) -> int:
        """The part of the run that shows the views of a view epoch."""
        return bisect_right(self.first_view_epochs, view_epoch) - 1

    def _cycle(self, part: int) -> int:
        """View epochs of a part."""
        assert self.num_view_epochs is not None
        ends = (*self.first_view_epochs[1:], self.num_view_epochs)
        return ends[part] - self.first_view_epochs[part]


def build_view_phases(
    strengths: Sequence[float], *, num_epochs: int, num_view_epochs: int | None, repeats: int
) -> ViewPhases:
    """Equal parts of `num_epochs` with these strengths; none: all of the run at full strength.

    The view epochs are shared out by the parts' lengths, at least one to each. With repeated
    augmentation `repeats` epochs belong together.

    Raises:
        ConfigError: STRENGTHS, for one outside 0 to 1, or more of them than epochs or view epochs.
    """
    if not strengths:
        return ViewPhases(num_view_epochs=num_view_epochs)
    num_parts, shown = len(strengths), ",".join(f"{strength:g}" for strength in strengths)
    long = -(-num_epochs // repeats)
    views = long if num_view_epochs is None else num_view_epochs // repeats
    why, do = "", ""
    if not all(0.0 <= strength <= 1.0 for strength in strengths):
        why, do = "a strength is a share of the full one", "give numbers from 0 to 1"
    elif long < num_parts:
        why = f"a run of {num_epochs} epochs has fewer parts"
        do = f"train for {num_parts * repeats} epochs or more, or give fewer strengths"
    elif views < num_parts:
        why = f"each part needs views of its own, and view_epochs is {num_view_epochs}"
        do = f"use view_epochs={num_parts * repeats} or more, or give fewer strengths"
    if why:
        raise ConfigError("STRENGTHS", f"schedule.strengths={shown}", why, do)
    epochs = [part * long // num_parts for part in range(num_parts)]
    own = list(epochs)
    if views < long:
        for part in range(1, num_parts):
            own[part] = max(own[part - 1] + 1, epochs[part] * views // long)
    return ViewPhases(
        strengths=tuple(strengths),
        first_epochs=tuple(repeats * first for first in epochs),
        first_view_epochs=tuple(repeats * first for first in own),
        num_view_epochs=num_view_epochs,
    )
