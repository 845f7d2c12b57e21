"""Whether a step counts: a gradient that is not finite changes nothing but two counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from deitkit.optim import step_unless
from deitkit.training.state import TrainState


class Verdict(Protocol):
    """On one step, by the norm of its gradient, which is the same on every rank."""

    @property
    def skipped(self) -> bool | Tensor:
        """Whether the norm was not finite; a bool scalar on the device if that has decided."""

    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Move the weights; `lr` is that of groups whose "lr_scale" is 1."""

    def update(self, state: TrainState) -> None:
        """Move the average, if there is one, towards the moved weights."""

    def count(self, state: TrainState) -> None:
        """Count the step among the updates, or among those in a row that were none."""


Judge = Callable[[Tensor], Verdict]
"""The norm of a gradient, a scalar on the device -> the verdict."""


def judge_for(device: torch.device) -> Judge:
    """CUDA decides for itself, so that the host can go on and queue the next step.

    Elsewhere the host asks: a CPU makes nobody wait, and Apple's device has no float64, in which
    the average's share is computed.
    """
    return DeviceVerdict if device.type == "cuda" else HostVerdict


class HostVerdict:
    """The host asks for the norm, which on a device waits for all that was queued before."""

    def __init__(self, grad_norm: Tensor) -> None:
        self.skipped = not bool(torch.isfinite(grad_norm))

    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        if not self.skipped:
            _set_rates(optimizer, lr)
            optimizer.step()

    def update(self, state: TrainState) -> None:
        if state.average is not None and not self.skipped:
            state.average.update(state.model, num_updates=int(state.num_updates))

    def count(self, state: TrainState) -> None:
        state.num_updates += 0 if self.skipped else 1
        state.bad_in_a_row = state.bad_in_a_row + 1 if self.skipped else 0


class DeviceVerdict:
    """The norm never leaves the device: it stops each kernel by itself.

    The same bits as `HostVerdict`, but for the rate of a skipped step, which stands in the groups
    until the next one, and for moments of zero where a run's first step was skipped.
    """

    def __init__(self, grad_norm: Tensor) -> None:
        self.skipped = ~torch.isfinite(grad_norm)

    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        _set_rates(optimizer, lr)
        step_unless(self.skipped, optimizer)

    def update(self, state: TrainState) -> None:
        if state.average is not None:
            num_updates = self._here(state.num_updates)
            state.average.update_unless(self.skipped, state.model, num_updates=num_updates)

    def count(self, state: TrainState) -> None:
        state.num_updates = self._here(state.num_updates) + ~self.skipped
        state.bad_in_a_row = (self._here(state.bad_in_a_row) + 1) * self.skipped

    def _here(self, count: int | Tensor) -> Tensor:
        if isinstance(count, Tensor):
            return count
        return torch.full((), count, dtype=torch.int64, device=self.skipped.device)


def _set_rates(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
