"""What is known of a teacher before training, and of teacher and student after it, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deitkit.evaluation.paired import SIGNIFICANT, Gain, Share


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """What the teacher adds to a run, measured in steps of its student without it."""

    student_step_s: float
    """Seconds of a step without the teacher, loading included."""
    teacher_step_s: float
    """Seconds that the teacher takes for the images of one step."""
    num_epochs: float
    num_view_epochs: int | None
    """Epochs whose views are stored and replayed; None where the teacher is asked every time."""
    until: float = 1.0
    """Share of the epochs in which it is asked at all."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the two factors are run times over that of a run without teacher."""
        per_step = self.teacher_step_s / self.student_step_s
        stored = None
        if self.num_view_epochs is not None:
            stored = min(1.0, self.num_view_epochs / self.num_epochs)
        return {
            "student_step_s": self.student_step_s,
            "teacher_step_s": self.teacher_step_s,
            "student_steps": per_step,
            "num_epochs": self.num_epochs,
            "num_view_epochs": self.num_view_epochs,
            "until": self.until,
            "live_factor": 1 + per_step * self.until,
            "cached_factor": None if stored is None else 1 + per_step * stored,
        }


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What is known of a teacher before the first step."""

    name: str
    num_params: int | None
    image_size: tuple[int, int]
    """Height and width, in pixels, at which it sees the views."""
    classes: str
    """How its classes became the user's: matched by name, or by a fitted head; a sentence."""
    clean: Share
    """Right on clean validation images."""
    views: Share | None
    """Right on views of training images that no other image is mixed into; None if not asked."""
    per_class: Sequence[Share]
    """Agreement with the labels of clean validation images, in class order."""
    cost: TeacherCost
    storage: str
    """live, memory or disk."""
    storage_reason: str
    notes: Sequence[str] = ()
    """Warnings and assumptions, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "num_params": self.num_params,
            "image_size": list(self.image_size),
            "classes": self.classes,
            "clean": self.clean.to_dict(),
            "views": None if self.views is None else self.views.to_dict(),
            "per_class": [share.to_dict() for share in self.per_class],
            "cost": self.cost.to_dict(),
            "storage": self.storage,
            "storage_reason": self.storage_reason,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side of the comparison after training."""

    name: str
    num_params: int | None
    latency_ms: float | None
    """Of one image, everything but decoding; None where it was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Teacher and student side by side, on the same images."""

    measured_on: str
    """The images; a person reads it."""
    latency_on: str
    """The device and its threads; a person reads it."""
    teacher: Contender
    student: Contender
    gain: Gain
    """Accuracy of the student against that of the teacher, paired by image."""

    @property
    def advice(self) -> str | None:
        """What to do where the teacher is the smaller and faster one; None where it is not.

        "use your teacher" where it is clearly the more accurate one as well.
        """
        teacher, student, gain = self.teacher, self.student, self.gain
        is_smaller = _is_less(teacher.num_params, student.num_params)
        is_faster = _is_less(teacher.latency_ms, student.latency_ms)
        if gain.difference is None or not (is_smaller and is_faster):
            return None
        is_clear = gain.p_value < SIGNIFICANT
        if is_clear and gain.difference < 0:
            return "use your teacher: it is more accurate, smaller and faster than the student"
        if is_clear and gain.difference > 0:
            return None
        return (
            f"the teacher is smaller and faster, and {gain.share.num_images:,} images cannot tell "
            "which of the two is more accurate: consider using it instead"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "measured_on": self.measured_on,
            "latency_on": self.latency_on,
            "teacher": self.teacher.to_dict(),
            "student": self.student.to_dict(),
            "gain": self.gain.to_dict(),
            "advice": self.advice,
        }


def _is_less(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and value < other
