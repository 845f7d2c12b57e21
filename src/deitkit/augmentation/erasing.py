"""Random erasing: fill a box of an image with noise, a colour, the mean or black.

Where is in the views; what noise is a pure function of the view's key, the channel, the row and
the column, with the same bits on every device and for any batch.
"""

# Shapes: B images, n of them with a box, P pixels of all their boxes, C channels, H height,
# W width, 4 (top, left, bottom, right).

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.augmentation.compiled import fill_noise
from deitkit.augmentation.draws import stream
from deitkit.augmentation.views import Views
from deitkit.runtime.transfer import sent

FILLS = ("pixel", "color", "mean", "constant")

_QUANTILE_BITS = 12


def erase_images_(
    images_BCHW: Tensor,
    views: Views,
    *,
    fill: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Fill the views' boxes in floating-point images, 0 to 1, in place; returns these images.

    `fill` is "pixel": normal noise with each channel's `mean` and `std`, so that it is standard
    normal once the model's normalisation has been applied; "color": the same, one colour for the
    whole box; "mean": the mean colour; "constant": black. `mean` and `std` are those of the
    normalisation, one for each channel or one for all.

    Zhong et al. 2020, "Random erasing data augmentation", arXiv:1708.04896; the noise as in the
    training of DeiT. Deviation: the noise has 4096 different values, the middle quantiles of the
    normal distribution.
    """
    assert images_BCHW.is_floating_point(), "images are erased as floating-point numbers"
    assert fill in FILLS, f"fill is one of {', '.join(FILLS)}, not {fill!r}"
    num_images, num_channels, height, width = images_BCHW.shape
    assert num_images == len(views), f"{num_images} images for {len(views)} views"
    box_B4 = views.erase_pixels((height, width))
    rows = np.flatnonzero((box_B4[:, 2] > box_B4[:, 0]) & (box_B4[:, 3] > box_B4[:, 1]))
    if len(rows) == 0:
        return images_BCHW
    levels_2C = torch.tensor([list(mean), list(std)], dtype=torch.float32).expand(2, num_channels)
    erase_ = _erase_boxes_ if images_BCHW.device.type == "cpu" else _erase_pixels_
    erase_(images_BCHW, rows, box_B4[rows], views.erase_key_B[rows], fill, levels_2C)
    return images_BCHW


def _erase_boxes_(
    images_BCHW: Tensor,
    rows: NDArray[np.intp],
    box_n4: NDArray[np.int64],
    keys_n: NDArray[np.uint64],
    fill: str,
    levels_2C: Tensor,
) -> None:
    """Box by box: fast where nothing is a kernel to launch."""
    num_channels, height, width = images_BCHW.shape[1:]
    mean_C11, std_C11 = levels_2C.numpy()[:, :, None, None]
    channel_C11 = np.arange(num_channels, dtype=np.uint64)[:, None, None]
    mean_C, std_C = mean_C11.ravel(), std_C11.ravel()
    for row, box, key in zip(rows.tolist(), box_n4.tolist(), keys_n, strict=True):
        top, left, bottom, right = box
        is_plain = images_BCHW.dtype == torch.float32 and images_BCHW.is_contiguous()
        if (
            fill == "pixel"
            and is_plain
            and fill_noise(
                images_BCHW[row].numpy(),
                box,
                key=int(key),
                quantiles=_normal_quantiles(),
                mean_C=mean_C,
                std_C=std_C,
            )
        ):
            continue
        values: NDArray[np.float32] = mean_C11 if fill == "mean" else np.zeros_like(mean_C11)
        if fill in ("pixel", "color"):
            index = channel_C11
            if fill == "pixel":
                row_H1 = np.arange(top, bottom, dtype=np.uint64)[:, None]
                column_W = np.arange(left, right, dtype=np.uint64)
                index = (channel_C11 * np.uint64(height) + row_H1) * np.uint64(width) + column_W
            high_bits = stream(key, index) >> np.uint64(64 - _QUANTILE_BITS)
            values = mean_C11 + std_C11 * _normal_quantiles()[high_bits.astype(np.int64)]
        images_BCHW[row, :, top:bottom, left:right] = torch.from_numpy(values)


def _erase_pixels_(
    images_BCHW: Tensor,
    rows: NDArray[np.intp],
    box_n4: NDArray[np.int64],
    keys_n: NDArray[np.uint64],
    fill: str,
    levels_2C: Tensor,
) -> None:
    """All pixels of all boxes at once: few kernels, whatever their number."""
    num_channels, height, width = images_BCHW.shape[1:]
    device = images_BCHW.device
    box_P, row_P, column_P = _pixels_of(box_n4, device)
    mean_C, std_C = sent(levels_2C, device)
    channel_C = torch.arange(num_channels, device=device)
    key_n = sent(keys_n.view(np.int64), device)
    if fill == "pixel":
        index_PC = (channel_C * height + row_P[:, None]) * width + column_P[:, None]
        values_PC = mean_C + std_C * _normal(key_n[box_P, None], index_PC)
    elif fill == "color":
        values_PC = (mean_C + std_C * _normal(key_n[:, None], channel_C))[box_P]
    else:
        values_PC = mean_C.expand(len(box_P), -1) if fill == "mean" else torch.zeros_like(mean_C)
    image_P = sent(rows, device)[box_P]
    images_BCHW[image_P, :, row_P, column_P] = values_PC.to(images_BCHW.dtype)


def _pixels_of(box_n4: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """All pixels of all boxes, one after the other: which box, row and column, each [P]."""
    top_n, left_n, bottom_n, right_n = box_n4.T
    wide_n = right_n - left_n
    num_n = (bottom_n - top_n) * wide_n
    first_n = np.cumsum(num_n) - num_n
    per_box_4n = sent(np.stack([top_n, left_n, wide_n, first_n]), device)
    box_P = torch.repeat_interleave(sent(num_n, device), output_size=int(num_n.sum()))
    top_P, left_P, wide_P, first_P = per_box_4n[:, box_P]
    position_P = torch.arange(len(box_P), device=device) - first_P
    return box_P, top_P + position_P // wide_P, left_P + position_P % wide_P


def _normal(keys: Tensor, index: Tensor) -> Tensor:
    """Standard normal numbers, number `index` of the streams of `keys`: float32."""
    high_bits = _shift_right(_stream_words(keys, index), 64 - _QUANTILE_BITS)
    return sent(_normal_quantiles().copy(), index.device)[high_bits]


@lru_cache(maxsize=1)
def _normal_quantiles() -> NDArray[np.float32]:
    """The middles of 4096 equally likely parts of the normal distribution, of variance 1."""
    num = 1 << _QUANTILE_BITS
    quantiles = np.array([NormalDist().inv_cdf((k + 0.5) / num) for k in range(num)])
    return (quantiles / np.sqrt(np.mean(quantiles**2))).astype(np.float32)


def _stream_words(keys: Tensor, index: Tensor) -> Tensor:
    """The words of `draws` on any device: SplitMix64 of key + (index + 1) GAMMA, as int64."""
    return _mix(keys + (index + 1) * _signed(0x9E3779B97F4A7C15))


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift_right(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shift_right(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shift_right(words, 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift in zeros: torch's own shift copies the sign, as it has no arithmetic of uint64."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
