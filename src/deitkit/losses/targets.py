"""Labels as distributions over the classes, and how far the logits are from them."""

# Shapes: B images, K classes.

from __future__ import annotations

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


def soft_cross_entropy(
    logits_BK: Tensor, targets_BK: Tensor, *, normalizer: float | None = None
) -> Tensor:
    """-sum_k target_k log softmax(logits)_k, mean over images, computed in float32 at least.

    `normalizer` replaces B as the divisor. With the number of images of the whole step, the values
    of its micro-batches and ranks add up to the mean of the big batch exactly.
    """
    log_probs_BK = F.log_softmax(at_least_float32(logits_BK), dim=1)
    return -(targets_BK * log_probs_BK).sum() / divisor(logits_BK, normalizer)


def divisor(logits_BK: Tensor, normalizer: float | None) -> float:
    """Number of images a sum over this micro-batch is divided by."""
    return float(logits_BK.shape[0] if normalizer is None else normalizer)


def at_least_float32(logits_BK: Tensor) -> Tensor:
    """Half precision widened: a log-sum-exp over many classes loses its last digits there."""
    return logits_BK.float() if logits_BK.dtype in (torch.float16, torch.bfloat16) else logits_BK
