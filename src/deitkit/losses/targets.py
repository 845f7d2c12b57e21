"""Labels as distributions over the classes, and how far the logits are from them."""

# Shapes: B images, K classes.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """[B, K] float: (1 - eps) * one-hot + eps / K, so the right class gets 1 - eps + eps / K.

    `labels` are class indices [B], or distributions [B, K] that are smoothed the same way.
    Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    assert 0.0 <= smoothing <= 1.0
    if labels.ndim == 1:
        targets_BK = F.one_hot(labels.long(), num_classes).to(torch.get_default_dtype())
    else:
        assert labels.shape[1] == num_classes
        targets_BK = labels
    return targets_BK * (1.0 - smoothing) + smoothing / num_classes


def multi_hot(targets_BK: Tensor) -> Tensor:
    """[B, K] float, 1 for every class that has any share of the target, else 0.

    Targets of a mixed image before smoothing: after it every class has a share, and all would be 1.
    """
    return (targets_BK > 0).to(targets_BK.dtype)


def label_targets(
    labels_B: Tensor,
    num_classes: int,
    *,
    smoothing: float,
    label_loss: str,
    mix: Callable[[Tensor], Tensor],
) -> Tensor:
    """[B, K] targets of mixed images, as `label_loss` ("cross_entropy", "binary") reads them.

    `mix` mixes the rows of [B, K] targets as the images were. For cross entropy they are smoothed,
    then mixed (either order gives the same). For the binary loss an image is of both its classes:
    one-hot, mixed, `multi_hot`, and only then smoothed (Touvron et al. 2022, DeiT III,
    arXiv:2204.07118, section 3; Wightman et al. 2021, arXiv:2110.00476).
    """
    if label_loss == "cross_entropy":
        return mix(smooth_targets(labels_B, num_classes, smoothing))
    assert label_loss == "binary"
    mixed_BK = mix(smooth_targets(labels_B, num_classes, 0.0))
    return smooth_targets(multi_hot(mixed_BK), num_classes, smoothing)


def soft_cross_entropy(
    logits_BK: Tensor, targets_BK: Tensor, *, normalizer: float | None = None
) -> Tensor:
    """-sum_k target_k log softmax(logits)_k, mean over images, computed in float32 at least.

    `normalizer` replaces B as the divisor. With the number of images of the whole step, the values
    of its micro-batches and ranks add up to the mean of the big batch exactly.
    """
    log_probs_BK = F.log_softmax(at_least_float32(logits_BK), dim=1)
    return -(targets_BK * log_probs_BK).sum() / divisor(logits_BK, normalizer)


def binary_cross_entropy(
    logits_BK: Tensor, targets_BK: Tensor, *, normalizer: float | None = None
) -> Tensor:
    """-(t log s(z) + (1 - t) log(1 - s(z))), s the sigmoid: each class is a question of its own.

    Mean over images and over classes (DeiT III, arXiv:2204.07118, section 3), so values of other
    numbers of classes compare; computed in float32 at least. `normalizer` replaces B as the divisor
    as in `soft_cross_entropy`; K stays.
    """
    wide_BK = at_least_float32(logits_BK)
    total = F.binary_cross_entropy_with_logits(
        wide_BK, targets_BK.to(wide_BK.dtype), reduction="sum"
    )
    return total / (divisor(logits_BK, normalizer) * logits_BK.shape[1])


def divisor(logits_BK: Tensor, normalizer: float | None) -> float:
    """Number of images a sum over this micro-batch is divided by."""
    return float(logits_BK.shape[0] if normalizer is None else normalizer)


def at_least_float32(logits_BK: Tensor) -> Tensor:
    """Half precision widened: a log-sum-exp over many classes loses its last digits there."""
    return logits_BK.float() if logits_BK.dtype in (torch.float16, torch.bfloat16) else logits_BK
