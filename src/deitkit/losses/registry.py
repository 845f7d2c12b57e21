"""The label and teacher terms by name. A new one is one function and one line here."""

# Shapes: B images, K classes.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from deitkit.losses.distillation import (
    hard_distillation,
    soft_distillation,
    standardised_distillation,
)
from deitkit.losses.targets import binary_cross_entropy, soft_cross_entropy


class LabelTerm(Protocol):
    """Logits and targets [B, K] -> scalar; `normalizer` replaces B as the divisor."""

    def __call__(
        self, logits_BK: Tensor, targets_BK: Tensor, *, normalizer: float | None = None
    ) -> Tensor: ...


class TeacherTerm(Protocol):
    """Student and teacher logits [B, K] -> scalar; `normalizer` replaces B as the divisor."""

    def __call__(
        self,
        student_logits_BK: Tensor,
        teacher_logits_BK: Tensor,
        *,
        normalizer: float | None = None,
    ) -> Tensor: ...


def build_soft(*, temperature: float, reduction: str) -> TeacherTerm:
    """The teacher's whole distribution."""
    return partial(soft_distillation, temperature=temperature, reduction=reduction)


def build_standardised(*, temperature: float, reduction: str) -> TeacherTerm:
    """The teacher's distribution whatever the size of its logits."""
    return partial(standardised_distillation, temperature=temperature, reduction=reduction)


def build_hard(*, temperature: float, reduction: str) -> TeacherTerm:
    """The teacher's decision: the largest logit is the same at any temperature."""
    return hard_distillation


def build_none(*, temperature: float, reduction: str) -> None:
    """No teacher."""
    return None


DISTILL_KINDS: dict[str, Callable[..., TeacherTerm | None]] = {
    "soft": build_soft,
    "standardised": build_standardised,
    "hard": build_hard,
    "none": build_none,
}
"""Kind -> what builds its teacher term from temperature and reduction."""

LABEL_LOSSES: dict[str, LabelTerm] = {
    "cross_entropy": soft_cross_entropy,
    "binary": binary_cross_entropy,
}
"""Name -> label term; `label_targets` makes the targets that each reads."""
