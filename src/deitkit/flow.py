"""What rooms hand each other. Torch is named for types only, so this costs nothing to import."""

# Shapes: B images, C channels, H height, W width, K classes.

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deitkit.augmentation.views import Views


class StudentOutput(NamedTuple):
    """What every model returns, in training or not. `dist_logits` is None without that token."""

    cls_logits: Tensor
    """[B, K] of the class token's head."""
    dist_logits: Tensor | None
    """[B, K] of the distillation token's head."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of one optimisation step, before mixing. Pairs (2k, 2k + 1) are whole."""

    images_BCHW: Tensor | None
    """uint8, rendered at the student's size; None: `sources_BHWC` wait for the device."""
    teacher_images_BCHW: Tensor | None
    """uint8, the same views rendered at the teacher's own size; None: it reads the student's, its
    answers are stored, or there is none."""
    sources_BHWC: Tensor | None
    """uint8 sources of one size, rendered where the model is; else None."""
    labels_B: Tensor
    """int64 class indices; -1 where nobody says."""
    indices_B: np.ndarray
    """Which images of the training set these are."""
    record_ids_B: np.ndarray
    """uint64, an id of its own for each of them: where the teacher's answers are kept."""
    views: Views
    """The draws these images were rendered with; mixing still reads them."""
    image_size: tuple[int, int]
    """Height and width at which the student sees them."""
    epoch: int
    view_epoch: int
    """The epoch whose views these are: an earlier one where views are shown again."""
    first: int
    """Position of this share's first image inside the step's global batch."""
    global_size: int
    """Images in the step over all ranks."""
    num_labelled: int
    """Those of them whose label counts: it is known, and so is the mix partner's."""
    num_remade: int = 0
    """Images of this share that the image cache should have had and that were decoded again."""

    def __len__(self) -> int:
        return int(self.labels_B.shape[0])

    def pin_memory(self) -> Batch:
        """The same with its tensors where CUDA fetches them while the host goes on: torch's
        DataLoader asks for it by this name."""
        tensors = {
            field.name: value.pin_memory()
            for field in fields(self)
            if hasattr(value := getattr(self, field.name), "pin_memory")
        }
        return replace(self, **tensors)


class LossTerms(NamedTuple):
    """Each is a scalar tensor, a mean over images."""

    total: Tensor
    label: Tensor
    distill: Tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one image."""

    source: str
    class_name: str
    probability: float
    probabilities: np.ndarray
    """[K] float32, in the order of the bundle's class names."""
    abstains: bool = False
    """Whether no class reached the model's threshold: it is not sure enough to be believed."""
