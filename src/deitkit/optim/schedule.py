"""The learning rate as a pure function of the step: nothing to save, nothing to step."""

from __future__ import annotations

import math
from dataclasses import dataclass


def scaled_lr(lr: float, *, batch_size: int) -> float:
    """Linear scaling, lr x batch / 512 (Touvron et al. 2021, section 6); `batch_size` is global."""
    return lr * batch_size / 512


def cosine_with_warmup(
    t: float, *, total: float, peak: float, end: float, warmup: float, start: float
) -> float:
    """Learning rate at time `t`, in whatever unit `total` and `warmup` are in.

    Rises in a straight line from `start`, reached at 0, to `peak` at `warmup`. From there on it
    is the cosine that fell from `peak` at time 0, as in timm without `warmup_prefix`; `end` from
    `total` on (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Deviation: the authors' code sets the rate of epoch e after that epoch, so its first two
    epochs both train at `start`; here time 0 is the first step.
    """
    if t < warmup:
        return start + t * (peak - start) / warmup
    if t >= total:
        return end
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * t / total))


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The cosine of one run, per step."""

    total_steps: int
    warmup_steps: int
    peak_lr: float
    end_lr: float
    start_lr: float

    def lr(self, step: int) -> float:
        """Rate of the update that turns the weights of `step` into those of `step + 1`."""
        return cosine_with_warmup(
            step,
            total=self.total_steps,
            peak=self.peak_lr,
            end=self.end_lr,
            warmup=self.warmup_steps,
            start=self.start_lr,
        )
