"""Whether a teacher has anything to teach: measured against chance, and against the student."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deitkit.errors import ModelFileError

SIGNIFICANCE = 0.05
"""How often pure chance may look this good before it is told apart from knowledge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherCheck:
    """What was measured, for the table before training."""

    num_correct: int
    num_images: int
    chance: float
    """What guessing scores: one class in K, or the largest class always."""
    p_value: float
    """How likely guessing is to score as much or more."""
    warning: str | None
    """For people; None without a reason."""

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_images


def check_teacher(
    name: str,
    *,
    num_correct: int,
    num_images: int,
    num_classes: int,
    largest_share: float = 0.0,
    student_accuracy: float | None = None,
) -> TeacherCheck:
    """Refuse a teacher that only guesses; warn of one that knows less than the student.

    `num_correct` of `num_images` clean images whose labels it should tell; `largest_share` is that
    of their largest class, 0 to 1. Refused is what guessing reaches as often as 1 time in 20
    (exact binomial test, one side). With so few images that no teacher could prove itself, one
    that is nearer to perfect than to guessing is let pass with a warning.

    Raises:
        ModelFileError: TEACHER_CHANCE, with the accuracy measured.
    """
    assert 0 <= num_correct <= num_images and num_images > 0 and num_classes > 1
    chance = max(1.0 / num_classes, largest_share)
    p_value = binomial_tail(num_correct, num_images, chance)
    accuracy = num_correct / num_images
    said = f"{accuracy:.1%} of {num_images:,} images right"
    warning = None
    if p_value > SIGNIFICANCE:
        if accuracy <= (1.0 + chance) / 2.0:
            raise ModelFileError(
                "TEACHER_CHANCE",
                name,
                f"{said}, where guessing scores {chance:.1%}: it would teach noise",
                "check its class names, image size, mean and std; or take teacher=auto, which "
                "trains one on your images",
            )
        warning = f"{name}: {said}; too few images to tell it from guessing ({chance:.1%})"
    elif student_accuracy is not None and accuracy < student_accuracy:
        warning = (
            f"{name} is weaker than the student: {said}, the student's {student_accuracy:.1%}. "
            "It may still help; compare with a run without teacher"
        )
    return TeacherCheck(
        num_correct=num_correct,
        num_images=num_images,
        chance=chance,
        p_value=p_value,
        warning=warning,
    )


def binomial_tail(num_correct: int, num_images: int, chance: float) -> float:
    """P(X >= num_correct) for X ~ Binomial(num_images, chance), summed exactly."""
    if num_correct <= 0 or chance >= 1:
        return 1.0
    log_odds = math.log(chance) - math.log1p(-chance)
    log_term = (
        math.lgamma(num_images + 1)
        - math.lgamma(num_correct + 1)
        - math.lgamma(num_images - num_correct + 1)
        + num_correct * math.log(chance)
        + (num_images - num_correct) * math.log1p(-chance)
    )
    terms = [log_term]
    for k in range(num_correct, num_images):
        log_term += math.log(num_images - k) - math.log(k + 1) + log_odds
        terms.append(log_term)
    largest = max(terms)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))
