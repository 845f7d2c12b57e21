"""Apply operations to a whole batch at once, each image its own, in torch on any device.

The same operations as `operations`, to one level: an image's result depends on no other image,
and the same batch gives the same levels on every device.
"""

# Shapes: B images, n of them that have some operation, C channels, H height, W width,
# L operations one after the other, 256 levels.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.augmentation.device_geometry import GEOMETRY
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES
from deitkit.runtime.transfer import sent

Params = NDArray[np.float64]

_GREY_WEIGHTS = (19595, 38470, 7471)
"""Shares of red, green and blue in 65536 parts of the luma of ITU-R Recommendation BT.601."""
_SOLARIZE_ADD_BELOW = 128
_BLUR_PASSES = 3
_BLUR_BITS = 24


def apply_operations(
    images_BCHW: Tensor,
    ops_BL: NDArray[np.integer],
    params_BL: NDArray[np.floating],
    *,
    op_fill: int | Sequence[int] = 0,
) -> Tensor:
    """Apply operations from left to right; codes and parameters are those of `op_codes`.

    `images_BCHW` is uint8 and stays as it is; without any operation it is what is returned.
    `op_fill` is one level or one for each channel. Images that have not three channels are changed
    channel by channel as grey images, which "color" and "grayscale" leave as they are.
    """
    assert images_BCHW.dtype == torch.uint8, "operations act on uint8 levels"
    assert ops_BL.shape == params_BL.shape and len(ops_BL) == len(images_BCHW)
    levels = np.atleast_1d(np.asarray(op_fill, dtype=np.uint8))
    fill_C11 = sent(levels, images_BCHW.device).view(-1, 1, 1)
    for codes_B, params_B in zip(ops_BL.T, params_BL.T, strict=True):
        if codes_B.any():
            images_BCHW = _apply_layer(images_BCHW, codes_B, params_B.astype(np.float64), fill_C11)
    return images_BCHW


def _apply_layer(
    images_BCHW: Tensor, codes_B: NDArray[np.integer], params_B: Params, fill_C11: Tensor
) -> Tensor:
    """Apply one operation to each image, those of one kind together."""
    changed_BCHW = images_BCHW.clone()
    is_table_B = np.isin(codes_B, [OP_CODES[name] for name in _TABLES])
    if is_table_B.any():
        rows = np.flatnonzero(is_table_B)
        index_n = sent(rows, images_BCHW.device)
        changed_BCHW[index_n] = _through_tables(images_BCHW[index_n], codes_B[rows], params_B[rows])
    for code in np.unique(codes_B[~is_table_B]).tolist():
        name = OP_NAMES[code]
        if name == "none":
            continue
        rows = np.flatnonzero(codes_B == code)
        index_n = sent(rows, images_BCHW.device)
        images_nCHW = images_BCHW[index_n]
        if name in GEOMETRY:
            changed_BCHW[index_n] = GEOMETRY[name](images_nCHW, params_B[rows], fill_C11)
        else:
            changed_BCHW[index_n] = _AREAS[name](images_nCHW, params_B[rows])
    return changed_BCHW


# Operations that replace each level by another one: numbers [n, C or 1, 256] from the images and
# their parameters [n, 1, 1], cut off to levels by `_through_tables`.


def _through_tables(images_nCHW: Tensor, codes_n: NDArray[np.integer], params_n: Params) -> Tensor:
    """Replace levels, by one look-up for all operations that do no more than that."""
    device = images_nCHW.device
    tables_nCT = torch.empty(*images_nCHW.shape[:2], 256, dtype=torch.uint8, device=device)
    for code in np.unique(codes_n).tolist():
        rows = np.flatnonzero(codes_n == code)
        index = sent(rows, device)
        param_n11 = sent(params_n[rows].astype(np.float32), device)[:, None, None]
        tables = _TABLES[OP_NAMES[code]](images_nCHW[index], param_n11)
        tables_nCT[index] = (
            tables.clamp(0, 255).to(torch.uint8).expand(-1, images_nCHW.shape[1], -1)
        )
    return tables_nCT.gather(2, images_nCHW.flatten(2).long()).view_as(images_nCHW)


def _levels(images_nCHW: Tensor) -> Tensor:
    return torch.arange(256, device=images_nCHW.device)


def _invert(images_nCHW: Tensor, param_n11: Tensor) -> Tensor:
    return (255 - _levels(images_nCHW)).expand(len(images_nCHW), 1, -1)


def _posterize(images_nCHW: Tensor, bits_n11: Tensor) -> Tensor:
    dropped_n11 = (8 - bits_n11.long()).clamp_(min=0)
    return (_levels(images_nCHW) >> dropped_n11) << dropped_n11


def _solarize(images_nCHW: Tensor, lowest_n11: Tensor) -> Tensor:
    levels = _levels(images_nCHW)
    return torch.where(levels < lowest_n11, levels, 255 - levels)


def _solarize_add(images_nCHW: Tensor, added_n11: Tensor) -> Tensor:
    levels = _levels(images_nCHW)
    return torch.where(levels < _SOLARIZE_ADD_BELOW, levels + added_n11.long(), levels)


def _brightness(images_nCHW: Tensor, factor_n11: Tensor) -> Tensor:
    return factor_n11 * _levels(images_nCHW)


def _contrast(images_nCHW: Tensor, factor_n11: Tensor) -> Tensor:
    """Away from the mean of the grey image, which is rounded to a whole level."""
    grey_n1HW = _grey(images_nCHW)
    num_pixels = grey_n1HW.shape[2] * grey_n1HW.shape[3]
    sum_n11 = grey_n1HW.flatten(2).sum(dim=2, keepdim=True, dtype=torch.int64)
    mean_n11 = (2 * sum_n11 + num_pixels) // (2 * num_pixels)
    return mean_n11 + factor_n11 * (_levels(images_nCHW) - mean_n11)


def _autocontrast(images_nCHW: Tensor, param_n11: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255.

    Exact and cut off; Pillow's floating-point arithmetic ends a level below at some levels.
    """
    low_nC1, high_nC1 = (
        part[..., None].long() for part in torch.aminmax(images_nCHW.flatten(2), dim=2)
    )
    levels, span_nC1 = _levels(images_nCHW), high_nC1 - low_nC1
    stretched = (levels - low_nC1).clamp_(min=0) * 255 // span_nC1.clamp(min=1)
    return torch.where(span_nC1 > 0, stretched, levels)


def _equalize(images_nCHW: Tensor, param_n11: Tensor) -> Tensor:
    """Give each level of a channel its rank, so that all are about equally frequent."""
    num_images, num_channels = images_nCHW.shape[:2]
    num_tables = num_images * num_channels
    first_n = torch.arange(num_tables, device=images_nCHW.device)[:, None] * 256
    flat = images_nCHW.reshape(num_tables, -1).long() + first_n
    # Not bincount, which waits for the device to learn the largest number.
    counts_nCT = torch.zeros(num_tables * 256, dtype=torch.int64, device=flat.device)
    counts_nCT.scatter_add_(0, flat.flatten(), torch.ones_like(flat).flatten())
    counts_nCT = counts_nCT.view(num_images, num_channels, 256)
    # All pixels but those of the highest level share 255 steps; too few for that: unchanged.
    highest_nC1 = images_nCHW.flatten(2).amax(dim=2, keepdim=True).long()
    num_pixels = images_nCHW.shape[2] * images_nCHW.shape[3]
    step_nC1 = (num_pixels - counts_nCT.gather(2, highest_nC1)) // 255
    below_nCT = counts_nCT.cumsum(dim=2) - counts_nCT
    ranks_nCT = (step_nC1 // 2 + below_nCT) // step_nC1.clamp(min=1)
    return torch.where(step_nC1 > 0, ranks_nCT, _levels(images_nCHW))


# Operations that look at more than one number of an image.


def _grey(images_nCHW: Tensor) -> Tensor:
    """The luma of three channels, [n, 1, H, W]; other images as they are: uint8."""
    if images_nCHW.shape[1] != 3:
        return images_nCHW
    red, green, blue = (
        weight * images_nCHW[:, channel : channel + 1].int()
        for channel, weight in enumerate(_GREY_WEIGHTS)
    )
    return ((red + green + blue + 0x8000) >> 16).to(torch.uint8)


def _blend(plain_nCHW: Tensor, images_nCHW: Tensor, factors_n: Params) -> Tensor:
    """plain + factor (image - plain), cut off to levels."""
    factor_n = sent(factors_n.astype(np.float32), images_nCHW.device)
    plain_nCHW = plain_nCHW.float()
    # Product and sum one after the other: fused, they would round differently on some devices.
    blended_nCHW = (images_nCHW - plain_nCHW).mul_(factor_n.view(-1, 1, 1, 1)).add_(plain_nCHW)
    return blended_nCHW.clamp_(0.0, 255.0).to(torch.uint8)


def _color(images_nCHW: Tensor, factors_n: Params) -> Tensor:
    return _blend(_grey(images_nCHW), images_nCHW, factors_n)


def _grayscale(images_nCHW: Tensor, params_n: Params) -> Tensor:
    return _grey(images_nCHW).expand_as(images_nCHW)


def _sharpness(images_nCHW: Tensor, factors_n: Params) -> Tensor:
    """Away from the mean of 3 x 3 pixels, the middle one counted five times; not at the border."""
    levels_nCHW = images_nCHW.float()
    rows = levels_nCHW[:, :, :-2] + levels_nCHW[:, :, 1:-1] + levels_nCHW[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    middle = levels_nCHW[:, :, 1:-1, 1:-1]
    smooth_nCHW = levels_nCHW.clone()
    smooth_nCHW[:, :, 1:-1, 1:-1] = ((around + 4.0 * middle) / 13.0 + 0.5).floor_()
    return _blend(smooth_nCHW, images_nCHW, factors_n)


def _blur(images_nCHW: Tensor, shares_n: Params) -> Tensor:
    """Gaussian blur as three box blurs along rows, then columns, each rounded to levels.

    Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box
    filtering": the two pixels at the ends of the box have less weight, which fits any width.
    """
    radius_n = _box_radius(shares_n * min(images_nCHW.shape[2:]))
    for _ in range(_BLUR_PASSES):
        images_nCHW = _box_blur_rows(images_nCHW, radius_n)
    images_nCHW = images_nCHW.mT
    for _ in range(_BLUR_PASSES):
        images_nCHW = _box_blur_rows(images_nCHW, radius_n)
    return images_nCHW.mT


def _box_radius(std_n: Params) -> NDArray[np.float32]:
    """Pixels left and right of the middle whose box, three times, has this standard deviation."""
    variance_n = std_n**2 / _BLUR_PASSES
    whole_n = np.floor((np.sqrt(12.0 * variance_n + 1.0) - 1.0) / 2.0)
    next_n = whole_n + 1.0
    part_n = (2.0 * whole_n + 1.0) * (whole_n * next_n - 3.0 * variance_n)
    return (whole_n + part_n / (6.0 * (variance_n - next_n**2))).astype(np.float32)


def _box_blur_rows(images_nCHW: Tensor, radius_n: NDArray[np.float32]) -> Tensor:
    """Average along rows over 2 radius + 1 pixels, in whole numbers of 24 bits after the point."""
    width, device = images_nCHW.shape[3], images_nCHW.device
    whole_n = radius_n.astype(np.int64)
    inner_n = (np.float32(1 << _BLUR_BITS) / (2 * radius_n + 1)).astype(np.int64)
    outer_n = ((1 << _BLUR_BITS) - (2 * whole_n + 1) * inner_n) // 2
    reach = int(whole_n.max(initial=0)) + 1
    columns = torch.arange(-reach, width + reach, device=device).clamp_(0, width - 1)
    padded_nCHV = images_nCHW[..., columns].long()
    total_nCHW = torch.full_like(images_nCHW, 1 << (_BLUR_BITS - 1), dtype=torch.int64)
    for distance in range(reach + 1):
        weight_n = np.where(distance <= whole_n, inner_n, outer_n * (distance == whole_n + 1))
        weight_n111 = sent(weight_n, device).view(-1, 1, 1, 1)
        pixels_nCHW = padded_nCHV[..., reach - distance : reach - distance + width]
        if distance:
            right = padded_nCHV[..., reach + distance : reach + distance + width]
            pixels_nCHW = pixels_nCHW + right
        total_nCHW += weight_n111 * pixels_nCHW
    return (total_nCHW >> _BLUR_BITS).to(torch.uint8)


_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "contrast": _contrast,
    "brightness": _brightness,
}
_AREAS: dict[str, Callable[[Tensor, Params], Tensor]] = {
    "color": _color,
    "grayscale": _grayscale,
    "sharpness": _sharpness,
    "blur": _blur,
}
