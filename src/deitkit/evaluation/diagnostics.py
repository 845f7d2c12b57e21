"""What distillation did: who agrees with the teacher, how alike the two tokens are, who gained.

The teacher agrees with the distillation head more than with the class head, the two tokens enter
unlike and leave alike but not equal (Touvron et al. 2021, arXiv:2012.12877, section 5.2 and
table 4). Where that is not so, the distillation token has learned nothing of its own.
"""

# Shapes: B images at a time, N images, K classes, D width.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.logits import EVALUATION_BATCH_SIZE, HeadLogits, prepare_batch
from deitkit.evaluation.metrics import Labels
from deitkit.evaluation.paired import ClassGain, Gain, Share, class_gains, paired_gain, share_of
from deitkit.models import ImageModel
from deitkit.models.deit import DeiT
from deitkit.runtime.device import precision_for

NUM_TOKEN_IMAGES = 256
"""Enough for a mean of cosines to two digits."""


@dataclass(frozen=True, slots=True)
class TokenCosines:
    """Cosine of class and distillation token, -1 to 1; 0.06 and 0.93 in the paper."""

    input: float
    """Of the two as they enter block 0: a token and its position are only ever seen added."""
    output: float
    """Of the two that the heads read, after the final norm; a mean over images."""
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostics:
    """What distillation did to a student, on images with labels."""

    agreement: dict[str, Share]
    """With the teacher's decisions, by head: "fused", and with two heads "cls" and "dist"; of the
    other run, where one was named, "other". Empty where no teacher was asked."""
    token_gain: Gain | None
    """Agreement of the distillation head against that of the class head; None with one head or
    without teacher."""
    tokens: TokenCosines | None
    """None for a model without the distillation token."""
    gain: Gain | None
    """Accuracy of the fused heads against the other run's; None where none was named."""
    class_gains: tuple[ClassGain, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        classes = self.class_gains
        return {
            "agreement": {name: share.to_dict() for name, share in self.agreement.items()},
            "token_gain": None if self.token_gain is None else self.token_gain.to_dict(),
            "tokens": None if self.tokens is None else self.tokens.to_dict(),
            "gain": None if self.gain is None else self.gain.to_dict(),
            "class_gains": None if classes is None else [one.to_dict() for one in classes],
        }


def diagnose(
    logits: HeadLogits,
    teacher_NK: NDArray[np.floating] | None,
    labels_N: Labels,
    class_names: Sequence[str],
    *,
    fusion: str,
    temperature: float = 1.0,
    weight: float | None = None,
    tokens: TokenCosines | None = None,
    other_decisions_N: Labels | None = None,
) -> Diagnostics:
    """Put the diagnostics of one evaluation together.

    Student's and teacher's logits, labels and `other_decisions_N`, the classes that an undistilled
    run chose, are of the same images, all in the order of `class_names`; None where nobody was
    asked. `fusion`, `temperature` and `weight` are the student's, as in `fuse`; `tokens` are
    `token_cosines`'.
    """
    gain, classes = None, None
    if other_decisions_N is not None:
        right_N = logits.fused(fusion, temperature, weight).argmax(axis=1) == labels_N
        other_right_N = other_decisions_N == labels_N
        gain = paired_gain(right_N, other_right_N)
        classes = tuple(class_gains(right_N, other_right_N, labels_N, class_names))
    agreement = {}
    if teacher_NK is not None:
        agreement = head_agreement(
            teacher_NK, logits, fusion=fusion, temperature=temperature, weight=weight
        )
        if other_decisions_N is not None:
            agreement["other"] = share_of(other_decisions_N == teacher_NK.argmax(axis=1))
    return Diagnostics(
        agreement=agreement,
        token_gain=None if teacher_NK is None else token_gain(teacher_NK, logits),
        tokens=tokens,
        gain=gain,
        class_gains=classes,
    )


def head_agreement(
    teacher_NK: NDArray[np.floating],
    logits: HeadLogits,
    *,
    fusion: str,
    temperature: float = 1.0,
    weight: float | None = None,
) -> dict[str, Share]:
    """How often each head decides as the teacher does: fused, and if there are two, cls and dist.

    `teacher_NK` are the teacher's logits of the same images, in the order of the student's classes.
    """
    decisions_N = teacher_NK.argmax(axis=1)
    heads = {"fused": logits.fused(fusion, temperature, weight)}
    if logits.dist_NK is not None:
        heads |= {"cls": logits.cls_NK, "dist": logits.dist_NK}
    return {name: share_of(z_NK.argmax(axis=1) == decisions_N) for name, z_NK in heads.items()}


def token_gain(teacher_NK: NDArray[np.floating], logits: HeadLogits) -> Gain | None:
    """Agreement with the teacher of the distillation head, against that of the class head.

    Table 4 of the paper has 0.100 of disagreement against 0.112. None with one head.
    """
    if logits.dist_NK is None:
        return None
    decisions_N = teacher_NK.argmax(axis=1)
    agrees = (z_NK.argmax(axis=1) == decisions_N for z_NK in (logits.dist_NK, logits.cls_NK))
    return paired_gain(*agrees)


@torch.no_grad()
def token_cosines(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    *,
    device: torch.device,
    max_images: int = NUM_TOKEN_IMAGES,
    stop: Callable[[], bool] = lambda: False,
) -> TokenCosines | None:
    """How alike the class and the distillation token are, on images spread evenly over the set.

    None for a model without the distillation token, without images, or when `stop` says so. The
    model is read in evaluation mode and comes back in the mode it came in.
    """
    if not isinstance(model, DeiT) or model.dist_token is None or len(images) == 0:
        return None
    num_images = min(len(images), max_images)
    chosen = np.arange(num_images) * len(images) // num_images
    dtype = precision_for(device)
    was_training = model.training
    model.eval()
    inputs, outputs = [], []
    try:
        for start in range(0, num_images, EVALUATION_BATCH_SIZE):
            if stop():
                return None
            pixels = prepare_batch(images, chosen[start : start + EVALUATION_BATCH_SIZE], spec)
            batch = torch.from_numpy(pixels).to(device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                inputs.append(_cosines(model.embed_tokens(batch)))
                outputs.append(_cosines(model.forward_features(batch)))
    finally:
        model.train(was_training)
    return TokenCosines(
        input=float(torch.cat(inputs).mean()),
        output=float(torch.cat(outputs).mean()),
        num_images=num_images,
    )


def _cosines(tokens_BND: torch.Tensor) -> torch.Tensor:
    """Of the first two tokens of each image: [B] float64."""
    return F.cosine_similarity(tokens_BND[:, 0].double(), tokens_BND[:, 1].double(), dim=1).cpu()
