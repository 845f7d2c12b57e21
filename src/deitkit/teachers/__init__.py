"""Images -> teacher logits, frozen. Given modules or callables; it builds none of ours."""

from deitkit.teachers.classifier import Classifier
from deitkit.teachers.live import LiveTeacher, NoTeacher, Teacher

__all__ = ["Classifier", "LiveTeacher", "NoTeacher", "Teacher"]
