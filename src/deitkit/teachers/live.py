"""A teacher that is asked for every view."""

# Shapes: B images, C channels, H height, W width, K classes of the user, T classes of the teacher.

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from deitkit.teachers.classifier import Classifier
from deitkit.teachers.digests import teacher_digest
from deitkit.teachers.outputs import check_output, in_blocks

CPU_BLOCK_SIZE, DEVICE_BLOCK_SIZE = 16, 64
"""Images a teacher is asked about at once. On a CPU the activations of more do not fit its caches:
MobileNetV2 at 160 pixels answers three times faster in blocks of 16 than of 64."""


def block_size_for(device: torch.device) -> int:
    """The one block size in which a teacher on `device` is asked."""
    return CPU_BLOCK_SIZE if device.type == "cpu" else DEVICE_BLOCK_SIZE


class Teacher(Protocol):
    """Whatever stands where the teacher stands in `train_step`."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Size the teacher wants its views rendered at; None reads no images."""

    def __call__(self, images_BCHW: Tensor) -> Tensor | None:
        """Logits [B, K] of mixed images with values 0 to 1, or None without a teacher."""


class NoTeacher:
    """The part that does nothing."""

    image_size = None

    def __call__(self, images_BCHW: Tensor) -> None:
        return None


class LiveTeacher:
    """A frozen classifier with its own normalisation, asked in blocks of one fixed size.

    It sees the mixed image the student sees, as in the authors' code (arXiv:2012.12877, section
    4). The fixed block size keeps an image's logits the same bits whatever batch it came in. It
    never leaves evaluation mode, so its batch-norm statistics stay.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        class_columns: Sequence[int] | None = None,
        autocast_dtype: torch.dtype | None = None,
        block_size: int | None = None,
    ) -> None:
        """`class_columns[k]` is the teacher's index of the user's class k; None: its classes are
        the user's, in their order. `block_size` left out is `block_size_for` the device."""
        if class_columns is None:
            class_columns = range(classifier.num_classes)
        device = classifier.device
        block_size = block_size or block_size_for(device)
        self.classifier = classifier
        self.image_size = classifier.image_size
        self.num_classes = len(class_columns)
        self.digest = teacher_digest(
            "columns", {"teacher": classifier.digest, "columns": [int(c) for c in class_columns]}
        )
        """Of the network, its preprocessing and its classes."""
        precision = {"autocast": str(autocast_dtype), "block": block_size}
        self.answers_digest = teacher_digest("answers", {"teacher": self.digest, **precision})
        """Of all that decides its logits [B, K] of a view, on one kind of device."""
        self.mean_C11 = torch.tensor(classifier.mean, device=device).view(-1, 1, 1)
        self.std_C11 = torch.tensor(classifier.std, device=device).view(-1, 1, 1)
        self.columns_K = torch.tensor(class_columns, device=device)
        self.autocast_dtype = autocast_dtype
        self.block_size = block_size

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Float32 logits [B, K] of images with values 0 to 1, on the device of the images.

        Raises:
            ModelFileError: TEACHER_OUTPUT for another shape than it had.
        """
        self.classifier.check_frozen()
        here = images_BCHW.to(self.classifier.device)
        normalised = (here - self.mean_C11) / self.std_C11
        logits_BT = in_blocks(self._ask, normalised, block_size=self.block_size)
        return logits_BT[:, self.columns_K].to(images_BCHW.device)

    def _ask(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, T] of one block."""
        enabled = self.autocast_dtype is not None
        with torch.autocast(images_BCHW.device.type, dtype=self.autocast_dtype, enabled=enabled):
            logits_BT = self.classifier.call(images_BCHW)
        check_output(
            self.classifier.name,
            logits_BT,
            num_images=len(images_BCHW),
            num_classes=self.classifier.num_classes,
        )
        return logits_BT.float()
