"""Gradients -> weights: parameter groups, learning-rate schedule, weight average."""

from deitkit.optim.ema import WeightAverage, decay_from_half_life
from deitkit.optim.groups import build_adamw, parameter_groups
from deitkit.optim.schedule import Schedule, cosine_with_warmup, scaled_lr

__all__ = [
    "Schedule",
    "WeightAverage",
    "build_adamw",
    "cosine_with_warmup",
    "decay_from_half_life",
    "parameter_groups",
    "scaled_lr",
]
