"""Classes with many images beside classes with few: what is done about it, and how."""

# Shapes: N images of an epoch, K classes.

from __future__ import annotations

import math

import numpy as np

from deitkit.augmentation.draws import hash_key
from deitkit.training.choice import Choice

SKEWED = 3.0
"""How many times the images of the smallest class the largest one has, from which on classes count
as skewed."""


def choose_balance(counts_K: np.ndarray, *, label_loss: str, can_sample: bool) -> Choice:
    """What is done about classes of these sizes, which may be 0."""
    present = counts_K[counts_K > 0]
    least, most = int(present.min()), int(present.max())
    said = f"{least:,} to {most:,} images a class"
    if most < SKEWED * least:
        return Choice("none", said)
    if can_sample:
        return Choice("sampling", f"{said}: small classes are shown more often")
    if label_loss == "cross_entropy":
        return Choice("logits", f"{said}: priors in the loss, so that small classes count alike")
    return Choice("none", f"{said}; this loss has no priors, and this order is sampled otherwise")


def choose_strength(balance: str) -> Choice:
    """How strongly."""
    if balance == "sampling":
        return Choice(0.5, "by the square root of a class's images")
    return Choice(1.0, "the whole prior" if balance == "logits" else "not read")


def class_draws(counts_K: np.ndarray, *, strength: float) -> np.ndarray:
    """int64 [K]: how often an epoch draws from each class, as often in all as there are images.

    In proportion to n_k ** (1 - strength): 1 draws all classes alike, 0.5 by the square root of
    their images, 0 as they are. Remainders go where they are largest; Kang et al. 2020,
    arXiv:1910.09217, section 3, with q = 1 - strength.
    """
    weights_K = np.where(counts_K > 0, counts_K.astype(np.float64) ** (1.0 - strength), 0.0)
    wanted_K = weights_K / weights_K.sum() * counts_K.sum()
    draws_K = np.floor(wanted_K).astype(np.int64)
    missing = int(counts_K.sum() - draws_K.sum())
    draws_K[np.argsort(draws_K - wanted_K, kind="stable")[:missing]] += 1
    return draws_K


def balance_order(
    order_N: np.ndarray,
    labels_N: np.ndarray,
    sample_ids_N: np.ndarray,
    *,
    strength: float,
    view_seed: int,
    epoch: int,
) -> np.ndarray:
    """An epoch's order in which each class comes as often as `class_draws` says.

    The first of a class in `order_N` are taken, all of them again where more are wanted, and
    sorted by a keyed hash: a pure function of seed and epoch, as the order itself. Images without a
    label (-1) come as often as before. `labels_N` and `sample_ids_N` are told by image.
    """
    ordered_N = labels_N[order_N]
    draws_K = class_draws(np.bincount(ordered_N[ordered_N >= 0]), strength=strength)
    parts = [order_N[ordered_N < 0]]
    for label in np.flatnonzero(draws_K):
        parts.append(np.resize(order_N[ordered_N == label], draws_K[label]))
    drawn_N = np.concatenate(parts)
    copies_N = occurrences(drawn_N)
    words_N = hash_key(view_seed, epoch, sample_ids_N[drawn_N], copies_N, purpose="balanced order")
    return np.asarray(drawn_N[np.argsort(words_N, kind="stable")])


def occurrences(order_N: np.ndarray) -> np.ndarray:
    """int64 [N]: how often each image came before in an order."""
    by_image = np.argsort(order_N, kind="stable")
    positions = np.arange(len(order_N))
    is_first = np.ones(len(order_N), bool)
    is_first[1:] = np.diff(order_N[by_image]) != 0
    counts_N = np.empty(len(order_N), np.int64)
    counts_N[by_image] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return counts_N


def log_priors(counts_K: np.ndarray) -> list[float]:
    """ln of each class's share of the images; a class without any counts as one of one image."""
    total = int(counts_K.sum())
    return [math.log(max(int(count), 1) / total) for count in counts_K]
