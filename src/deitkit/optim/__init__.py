"""Gradients -> weights: parameter groups, optimizers, learning-rate schedule, weight average."""

from deitkit.optim.ema import WeightAverage, decay_from_half_life
from deitkit.optim.groups import layer_depths, parameter_groups
from deitkit.optim.muon import Muon
from deitkit.optim.registry import OPTIMIZERS, build_optimizer
from deitkit.optim.schedule import Schedule, cosine_with_warmup, scaled_lr
from deitkit.optim.skipping import step_unless

__all__ = [
    "OPTIMIZERS",
    "Muon",
    "Schedule",
    "WeightAverage",
    "build_optimizer",
    "cosine_with_warmup",
    "decay_from_half_life",
    "layer_depths",
    "parameter_groups",
    "scaled_lr",
    "step_unless",
]
