"""Steps on their way to whoever is told of them, at once or one step late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from deitkit.flow import LossTerms
from deitkit.training.events import StepDone


class _Held(NamedTuple):
    """A step of which nobody knows yet whether it was skipped."""

    done: StepDone
    numbers: Tensor
    """Three losses, the norm, and 1 for a skipped step: on the host, or on their way there."""
    arrival: torch.cuda.Event | None
    """After it they are there; None where nothing is under way."""

    @classmethod
    def begin(cls, done: StepDone) -> _Held:
        said = [*done.losses, done.grad_norm, torch.as_tensor(done.skipped)]
        numbers = torch.stack([one.float() for one in said])
        if not numbers.is_cuda:
            return cls(done, numbers, None)
        # To the CPU without blocking, torch copies into pinned memory.
        numbers = numbers.to("cpu", non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record()
        return cls(done, numbers, arrival)

    def arrived(self) -> StepDone:
        if self.arrival is not None:
            self.arrival.synchronize()
        *losses, grad_norm, skipped = self.numbers
        return replace(
            self.done, losses=LossTerms(*losses), grad_norm=grad_norm, skipped=bool(skipped)
        )


class Telling:
    """What each step said, in their order, and how many in a row were skipped.

    A step about which the device decides is held back until one more is queued, and its numbers
    travel to the host meanwhile: whoever reads them waits for a step that is over, while the
    device has the next one to do. What the host decided is told at once.
    """

    def __init__(self, bad_in_a_row: int) -> None:
        self.bad_in_a_row = bad_in_a_row
        """Of the steps told so far."""
        self._held: deque[_Held] = deque()

    def add(self, done: StepDone) -> Iterator[StepDone]:
        """Take in a step; the steps to be told of now."""
        if isinstance(done.skipped, bool):
            yield self._told(done)
            return
        self._held.append(_Held.begin(done))
        while len(self._held) > 1:
            yield self._told(self._held.popleft().arrived())

    def rest(self) -> Iterator[StepDone]:
        """The steps held back, waiting for the last one."""
        while self._held:
            yield self._told(self._held.popleft().arrived())

    def _told(self, done: StepDone) -> StepDone:
        self.bad_in_a_row = self.bad_in_a_row + 1 if done.skipped else 0
        return done
