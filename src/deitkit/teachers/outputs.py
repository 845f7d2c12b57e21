"""What comes out of a classifier: one set of logits, of the right shape, in blocks of one size."""

# Shapes: B images, C channels, H height, W width, T classes of the teacher.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deitkit.errors import ModelFileError
from deitkit.flow import StudentOutput

Ask = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] on the classifier's device -> [B, something]."""


def fused_logits(
    output: Any, *, fusion: str = "mean", temperature: float = 1.0, weight: float | None = None
) -> Tensor:
    """[B, T] out of what a classifier returns: a tensor, our two heads, or `.logits` of
    transformers.

    Two heads are fused as `evaluation.logits.fuse` has it, each divided by `temperature` first;
    `weight` is that of the distillation head where fusion is "fitted".

    Raises:
        ModelFileError: TEACHER_OUTPUT for anything else.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, StudentOutput):
        cls_BT, dist_BT = output.cls_logits / temperature, output.dist_logits
        if dist_BT is None or fusion == "cls":
            return cls_BT
        dist_BT = dist_BT / temperature
        if fusion == "dist":
            return dist_BT
        if fusion == "softmax":
            return torch.logaddexp(cls_BT.log_softmax(-1), dist_BT.log_softmax(-1)) - math.log(2)
        if fusion == "fitted":
            assert weight is not None, "a fitted fusion has a weight"
            return (1 - weight) * cls_BT + weight * dist_BT
        assert fusion == "mean", fusion
        return (cls_BT + dist_BT) / 2
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise bad_output("teacher", f"it returns {type(output).__name__}, not a tensor of logits")


def in_blocks(ask: Ask, images_BCHW: Tensor, *, block_size: int) -> Tensor:
    """`ask` in blocks of one size, the last filled up with zeros: an image's answer is then the
    same bits whatever batch it came in (FAULTS K14)."""
    answers = []
    for block in images_BCHW.split(block_size):
        num_images = block.shape[0]
        filled = F.pad(block, (0, 0, 0, 0, 0, 0, 0, block_size - num_images))
        answers.append(ask(filled)[:num_images])
    return torch.cat(answers)


def check_output(name: str, logits_BT: Tensor, *, num_images: int, num_classes: int) -> None:
    """Raise ModelFileError TEACHER_OUTPUT unless these are `num_classes` logits for each image."""
    if logits_BT.shape != (num_images, num_classes):
        raise bad_output(
            name,
            f"it gives {list(logits_BT.shape)} for {num_images} images of {num_classes:,} classes",
        )


def bad_output(name: str, why: str) -> ModelFileError:
    return ModelFileError(
        "TEACHER_OUTPUT", name, why, "a teacher gives finite logits, [images, classes]"
    )


def are_probabilities(logits_BT: Tensor) -> bool:
    """Whether each row is one of probabilities, as of a network that ends in a softmax."""
    sums_B = logits_BT.sum(dim=1)
    return bool(
        (logits_BT >= 0).all() and torch.allclose(sums_B, torch.ones_like(sums_B), atol=1e-3)
    )
