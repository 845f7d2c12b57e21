"""Mixup and CutMix between neighbours: position i is mixed with position i ^ 1.

Pure arithmetic; what chance decides is in the views. An odd last image has no partner and stays
as it is, and a pair's result does not depend on the other pairs of the batch, so any split into
micro-batches of whole pairs gives the same pixels.

Deviation: DeiT's authors mix a batch with itself in reverse order, one lambda for all of it; here
neighbours are partners and each pair has its own draw, so that batch size and ranks do not matter.
"""

# Shapes: B images, C channels, H height, W width, K classes, 4 (top, left, bottom, right).

from __future__ import annotations

import torch
from torch import Tensor

from deitkit.augmentation.views import Views
from deitkit.runtime.transfer import sent


def swap_pairs(values_B: Tensor) -> Tensor:
    """Return each position's partner; an odd last one is its own: [B, ...]."""
    whole = values_B.shape[0] // 2 * 2
    pairs = values_B[:whole].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return torch.cat([pairs, values_B[whole:]])


def mixup(values_B: Tensor, lam_B: Tensor) -> Tensor:
    """Blend images or targets with their partners: lambda * own + (1 - lambda) * partner.

    Zhang et al. 2018, "mixup", arXiv:1710.09412, section 2. Where lambda is 1 the values are
    passed on bit for bit. Computed in float32 at least; the dtype stays.
    """
    lam = lam_B.reshape(-1, *[1] * (values_B.dim() - 1))
    blended = (lam * values_B + (1.0 - lam) * swap_pairs(values_B)).to(values_B.dtype)
    return torch.where(lam == 1.0, values_B, blended)


def cutmix(images_BCHW: Tensor, cut_B4: Tensor) -> Tensor:
    """Paste the same box of the partner over each image; boxes in whole pixels, empty for none.

    Yun et al. 2019, "CutMix", arXiv:1905.04899, section 3.1.
    """
    top, left, bottom, right = cut_B4.unbind(1)
    rows_H = torch.arange(images_BCHW.shape[2], device=cut_B4.device)
    columns_W = torch.arange(images_BCHW.shape[3], device=cut_B4.device)
    inside_BH = (rows_H >= top[:, None]) & (rows_H < bottom[:, None])
    inside_BW = (columns_W >= left[:, None]) & (columns_W < right[:, None])
    inside_B1HW = (inside_BH[:, :, None] & inside_BW[:, None, :])[:, None]
    return torch.where(inside_B1HW, swap_pairs(images_BCHW), images_BCHW)


def mix_images(images_BCHW: Tensor, views: Views) -> Tensor:
    """Mix a batch of floating-point images as its views say, at whatever size they are."""
    assert images_BCHW.is_floating_point(), "images are mixed as floating-point numbers"
    assert images_BCHW.shape[0] == len(views)
    if bool((views.lam_B == 1.0).all()):
        return images_BCHW
    device = images_BCHW.device
    height, width = images_BCHW.shape[2:]
    is_cut_B = views.cut_B4[:, 2] > views.cut_B4[:, 0]
    lam_B = torch.from_numpy(views.lam_B.copy())
    lam_B[torch.from_numpy(is_cut_B)] = 1.0
    mixed_BCHW = mixup(images_BCHW, sent(lam_B, device))
    return cutmix(mixed_BCHW, sent(views.cut_pixels((height, width)), device))


def mix_targets(targets_BK: Tensor, views: Views, *, size: tuple[int, int]) -> Tensor:
    """Mix label distributions as `mix_images` mixes images of this (height, width).

    The share of a label is the share of pixels it kept at that size, the student's: what a
    teacher sees at another size reaches the student through its logits, not through the labels.
    """
    lam_B = sent(views.lam_at(size), targets_BK.device)
    return mixup(targets_BK, lam_B)
