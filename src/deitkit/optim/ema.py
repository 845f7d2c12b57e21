"""A running average of the weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def decay_from_half_life(steps: float) -> float:
    """Decay per step after which a weight counts half in `steps` steps: d^steps = 1/2."""
    return 0.5 ** (1 / steps)


class WeightAverage(Generic[Model]):
    """Exponential moving average of a model: average <- d average + (1 - d) weights.

    With `warmup` the decay is at most 1 - (1 + n)^(-2/3) at update n, so that the first, untrained
    weights are forgotten; the literal decay 0.99996 of the authors' code alone still holds 83 % of
    them after 4,500 steps. Buffers (batch-norm statistics) are copied.
    """

    def __init__(self, model: Model, *, decay: float, warmup: bool) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup

    def decay_at(self, num_updates: int) -> float:
        """Decay of the update that follows `num_updates` earlier ones."""
        if not self.warmup:
            return self.decay
        return min(self.decay, 1 - (2.0 + num_updates) ** (-2 / 3))

    @torch.no_grad()
    def update(self, model: nn.Module, *, num_updates: int) -> None:
        """Move towards `model`; `num_updates` is how many updates went before."""
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(num_updates))
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    @torch.no_grad()
    def update_unless(self, skipped: Tensor, model: nn.Module, *, num_updates: Tensor) -> None:
        """As `update`, but where `skipped` (a bool scalar) nothing changes.

        Both scalars are on the device of the weights, and the host asks for neither.
        """
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(model.parameters())
        decay = torch.full((), self.decay, dtype=torch.float64, device=skipped.device)
        if self.warmup:
            decay = torch.minimum(decay, 1 - (2.0 + num_updates.double()) ** (-2 / 3))
        share = (1 - decay).to(averages[0].dtype).masked_fill(skipped, 0.0)
        torch._foreach_lerp_(averages, weights, [share] * len(averages))
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(torch.where(skipped, average, buffer))
