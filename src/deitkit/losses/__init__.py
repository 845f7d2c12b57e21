"""Logits -> one number."""

from deitkit.losses.distillation import (
    hard_distillation,
    soft_distillation,
    standardised_distillation,
)
from deitkit.losses.objective import DistillationLoss
from deitkit.losses.registry import DISTILL_KINDS, LABEL_LOSSES
from deitkit.losses.targets import (
    binary_cross_entropy,
    label_targets,
    multi_hot,
    smooth_targets,
    soft_cross_entropy,
)

__all__ = [
    "DISTILL_KINDS",
    "LABEL_LOSSES",
    "DistillationLoss",
    "binary_cross_entropy",
    "hard_distillation",
    "label_targets",
    "multi_hot",
    "smooth_targets",
    "soft_cross_entropy",
    "soft_distillation",
    "standardised_distillation",
]
