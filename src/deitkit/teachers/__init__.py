"""Images -> teacher logits, frozen. Given modules or callables; it builds none."""

from deitkit.teachers.live import LiveTeacher, NoTeacher, Teacher

__all__ = ["LiveTeacher", "NoTeacher", "Teacher"]
