"""Rotation, shear and translation of a whole batch, each image by its own amount, in torch.

What lies between pixels is cubic convolution with a = -1 (Keys 1981, "Cubic convolution
interpolation for digital image processing"), cut off to whole levels as Pillow's transform does;
beyond the border the border's pixels count on. An output pixel whose centre is fetched from
outside the image is `fill`.

Where a pixel is fetched from is computed in whole numbers, so that every device decides alike
whether that is still inside.
"""

# Shapes: n images, C channels, H height, W width.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.runtime.transfer import sent

Floats = NDArray[np.float64]

_FRACTION_BITS = 32
_ONE = 1 << _FRACTION_BITS
"""A pixel's side, where places are whole numbers."""


def rotate(images_nCHW: Tensor, degrees_n: Floats, fill_C11: Tensor) -> Tensor:
    """Turn each image about its centre, counter-clockwise."""
    num_channels, height, width = images_nCHW.shape[1:]
    matrices_n23 = np.array([_rotation(angle, height, width) for angle in degrees_n.tolist()])
    columns_W, rows_H = np.arange(width) + 0.5, np.arange(height) + 0.5
    along_n2W = matrices_n23[:, :, :1] * columns_W
    down_n2H = matrices_n23[:, :, 1:2] * rows_H + matrices_n23[:, :, 2:]
    place_n2W, place_n2H = (
        sent(np.rint(part * _ONE).astype(np.int64), images_nCHW.device)
        for part in (along_n2W, down_n2H)
    )
    x_nHW, y_nHW = (place_n2H[:, :, :, None] + place_n2W[:, :, None, :]).unbind(1)
    inside_nHW = (x_nHW >= 0) & (x_nHW < width * _ONE) & (y_nHW >= 0) & (y_nHW < height * _ONE)
    column_nHW, right_nHW = _split_place(x_nHW, width)
    row_nHW, below_nHW = _split_place(y_nHW, height)

    padded_nCHW = _repeat_border(images_nCHW, 2).float()
    stride = width + 4
    first_nHW = (row_nHW + 1) * stride + column_nHW + 1
    first_nCP = first_nHW.flatten(1)[:, None].expand(-1, num_channels, -1)
    levels_nCQ = padded_nCHW.flatten(2)
    right_n1P, below_n1P = right_nHW.flatten(1)[:, None], below_nHW.flatten(1)[:, None]
    rows_nCP = [
        _cubic(
            [levels_nCQ[:, :, row * stride + k :].gather(2, first_nCP) for k in range(4)],
            right_n1P,
        )
        for row in range(4)
    ]
    turned_nCHW = _whole_levels(_cubic(rows_nCP, below_n1P)).view_as(images_nCHW)
    return torch.where(inside_nHW[:, None], turned_nCHW, fill_C11)


def shear_x(images_nCHW: Tensor, factors_n: Floats, fill_C11: Tensor) -> Tensor:
    """Fetch each row from `factor` times its height further right."""
    rows_H = np.arange(images_nCHW.shape[2]) + 0.5
    return _move_rows(images_nCHW, factors_n[:, None] * rows_H, fill_C11)


def translate_x(images_nCHW: Tensor, shares_n: Floats, fill_C11: Tensor) -> Tensor:
    """Fetch all from a share of the width further right."""
    height, width = images_nCHW.shape[2:]
    shift_nH = np.repeat(shares_n[:, None] * width, height, axis=1)
    return _move_rows(images_nCHW, shift_nH, fill_C11)


def _on_columns(operation: Callable[[Tensor, Floats, Tensor], Tensor]) -> Geometry:
    """The same with rows and columns exchanged."""
    return lambda images_nCHW, params_n, fill_C11: operation(images_nCHW.mT, params_n, fill_C11).mT


Geometry = Callable[[Tensor, Floats, Tensor], Tensor]
"""(images uint8 [n, C, H, W], one parameter for each, fill uint8 [C, 1, 1]) -> images."""

GEOMETRY: dict[str, Geometry] = {
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": _on_columns(shear_x),
    "translate_x": translate_x,
    "translate_y": _on_columns(translate_x),
}


def _rotation(degrees: float, height: int, width: int) -> list[list[float]]:
    """The affine map from output to source about the centre: two rows of (x, y, 1)."""
    angle = -math.radians(degrees % 360.0)
    # Rounded as Pillow does: quarter turns then hit the pixels exactly.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    middle_x, middle_y = width / 2.0, height / 2.0
    return [
        [cosine, sine, middle_x - cosine * middle_x - sine * middle_y],
        [-sine, cosine, middle_y + sine * middle_x - cosine * middle_y],
    ]


def _split_place(place_nHW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The last pixel whose centre is not beyond a place, and how far beyond it the place is."""
    from_centre_nHW = place_nHW - _ONE // 2
    whole_nHW = (from_centre_nHW >> _FRACTION_BITS).clamp_(-1, side - 1)
    return whole_nHW, (from_centre_nHW & (_ONE - 1)).float() / _ONE


def _move_rows(images_nCHW: Tensor, shift_nH: Floats, fill_C11: Tensor) -> Tensor:
    """Fetch each pixel from `shift` pixels further right in its row: one cubic, not five."""
    num_channels, _, width = images_nCHW.shape[1:]
    device = images_nCHW.device

    def on_device(numbers_nH: Floats) -> Tensor:
        # A place beyond both ends is as good as any other: it keeps indices small.
        within_nH = np.clip(numbers_nH, -width - 2, width + 2)
        return sent(within_nH.astype(np.int64), device)[:, :, None]

    whole_nH = np.floor(shift_nH)
    part_nH = sent((shift_nH - whole_nH).astype(np.float32), device)
    columns = torch.arange(-1, width + 2, device=device)
    source_nHV = (on_device(whole_nH) + columns).clamp_(0, width - 1)
    taken_nCHV = images_nCHW.gather(3, source_nHV[:, None].expand(-1, num_channels, -1, -1)).float()
    taps = [taken_nCHV[..., k : k + width] for k in range(4)]
    moved_nCHW = _whole_levels(_cubic(taps, part_nH[:, None, :, None]))

    # Column x is inside if 0 <= x + 1/2 + shift < width.
    column_W = columns[1 : width + 1]
    first_nH1 = on_device(np.ceil(-shift_nH - 0.5))
    end_nH1 = on_device(np.ceil(width - shift_nH - 0.5))
    inside_nHW = (column_W >= first_nH1) & (column_W < end_nH1)
    return torch.where(inside_nHW[:, None], moved_nCHW, fill_C11)


def _cubic(taps: Sequence[Tensor], part: Tensor) -> Tensor:
    """The cubic through the second tap at 0 and the third at 1, `part` of the way between them.

    Its slopes there are the rises from the first to the third and from the second to the fourth.
    Written so that equal pixels give exactly their level: what follows cuts off.
    """
    before, left, right, after = taps
    fall, rise = before - left, right - after
    bend = 2.0 * fall + rise - part * (fall + rise)
    return left + part * (right - before + part * bend)


def _whole_levels(values: Tensor) -> Tensor:
    return values.clamp_(0.0, 255.0).to(torch.uint8)


def _repeat_border(images_nCHW: Tensor, margin: int) -> Tensor:
    """Extend each side by `margin` copies of its last pixels."""
    height, width = images_nCHW.shape[2:]
    rows, columns = (
        torch.arange(-margin, side + margin, device=images_nCHW.device).clamp_(0, side - 1)
        for side in (height, width)
    )
    return images_nCHW[:, :, rows[:, None], columns]
