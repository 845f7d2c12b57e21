"""A teacher that is asked for every view."""

# Shapes: B images, C channels, H height, W width, K classes of the user, T classes of the teacher.

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.flow import StudentOutput


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
        model: nn.Module,
        *,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        class_columns: Sequence[int],
        device: torch.device,
        autocast_dtype: torch.dtype | None = None,
        block_size: int = 64,
    ) -> None:
        """`class_columns[k]` is the teacher's index of the user's class k."""
        self.model = model.to(device).eval().requires_grad_(False)
        self.image_size = image_size
        self.mean_C11 = torch.tensor(mean, device=device).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std, device=device).view(-1, 1, 1)
        self.columns_K = torch.tensor(class_columns, device=device)
        self.autocast_dtype = autocast_dtype
        self.block_size = block_size

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        if self.model.training:
            raise AssertionError("the teacher was put into training mode")
        images_BCHW = (images_BCHW - self.mean_C11) / self.std_C11
        blocks = [self._block(block) for block in images_BCHW.split(self.block_size)]
        return torch.cat(blocks)[:, self.columns_K]

    def _block(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, T] of one block, filled up with zeros to the fixed size."""
        num_images = images_BCHW.shape[0]
        filled = F.pad(images_BCHW, (0, 0, 0, 0, 0, 0, 0, self.block_size - num_images))
        enabled = self.autocast_dtype is not None
        with torch.autocast(filled.device.type, dtype=self.autocast_dtype, enabled=enabled):
            logits = fused_logits(self.model(filled))
        return logits[:num_images].float()


def fused_logits(output: StudentOutput | Tensor) -> Tensor:
    """The mean of both heads' logits, the only head's, or a plain module's own output."""
    if isinstance(output, Tensor):
        return output
    if output.dist_logits is None:
        return output.cls_logits
    return (output.cls_logits + output.dist_logits) / 2
