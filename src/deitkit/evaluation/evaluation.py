"""What an evaluation found: metrics of each head, and what others say of the same images."""

# Shapes: N images, K classes.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deitkit.evaluation.diagnostics import Diagnostics
    from deitkit.evaluation.metrics import Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class OtherAnswers:
    """What others say of the images of an evaluation, in its order of images and classes."""

    teacher_NK: np.ndarray | None = None
    """The teacher's logits."""
    decisions_N: np.ndarray | None = None
    """The classes that another run chose."""
    said: tuple[str, ...] = ()
    """Who they are, a sentence each."""


NOBODY = OtherAnswers()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of the fused heads, and of each alone."""

    source: str
    fusion: str
    heads: dict[str, Metrics]
    """"fused", and for a model with the distillation token also "cls" and "dist"."""
    diagnostics: Diagnostics | None = None
    """Of a model with the distillation token, and where others were asked."""
    asked: tuple[str, ...] = ()
    """Which others, a sentence each."""

    @property
    def fused(self) -> Metrics:
        return self.heads["fused"]

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is theirs, 0 to 1."""
        return self.fused.top1

    def to_dict(self) -> dict[str, Any]:
        heads = {name: metrics.to_dict() for name, metrics in self.heads.items()}
        return {
            "data": self.source,
            "fusion": self.fusion,
            "heads": heads,
            "asked": list(self.asked),
            "diagnostics": None if self.diagnostics is None else self.diagnostics.to_dict(),
        }
