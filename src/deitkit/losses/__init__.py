"""Logits -> one number."""

from deitkit.losses.distillation import (
    hard_distillation,
    soft_distillation,
    standardised_distillation,
)
from deitkit.losses.objective import DistillationLoss
from deitkit.losses.registry import DISTILL_KINDS
from deitkit.losses.targets import smooth_targets, soft_cross_entropy

__all__ = [
    "DISTILL_KINDS",
    "DistillationLoss",
    "hard_distillation",
    "smooth_targets",
    "soft_cross_entropy",
    "soft_distillation",
    "standardised_distillation",
]
