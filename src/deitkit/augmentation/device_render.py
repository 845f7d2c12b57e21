"""Apply views to a batch where it lives: crop, antialiased bicubic resize, flip, operations.

The same views as `render` shows on the CPU, to one level. Resizing is two batched products with
matrices of weights, rows and columns apart, each image with its own.
"""

# Shapes: B images, n of them at once, C channels, H and W of the source, h and w of the output,
# I source pixels and O output pixels along one side, box 4 (top, left, bottom, right).

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.augmentation.crop_resize import is_large, pixel_boxes
from deitkit.augmentation.device_operations import apply_operations
from deitkit.augmentation.views import Views
from deitkit.runtime.transfer import sent

Floats = NDArray[np.float64]

_SUPPORT = 2.0
"""Output pixels, or source pixels where the image grows, that the bicubic kernel reaches."""
_WEIGHTS_AT_ONCE = 1 << 24
"""Bounds memory, about 64 MiB a matrix: more images are resized one part after the other."""


def render_on_device(
    images_BHWC: Tensor,
    views: Views,
    size: tuple[int, int],
    *,
    fill: int | Sequence[int] = 0,
    op_fill: int | Sequence[int] = 0,
) -> Tensor:
    """Show each view of its image at `size` (height, width): uint8 [B, C, h, w].

    `images_BHWC` are uint8, on any device, where the result is too. What lies outside an image is
    `fill`, what rotations, shears and translations uncover `op_fill`, each one level or one for
    each channel. Erasing and mixing are not done here. An image's result depends on no other, but
    for the last bit of the products where a device sums batches of other sizes in another order.
    """
    assert images_BHWC.dtype == torch.uint8 and images_BHWC.dim() == 4, "images are uint8 BHWC"
    num_images, height, width, num_channels = images_BHWC.shape
    assert num_images == len(views), f"{num_images} images for {len(views)} views"
    device = images_BHWC.device
    box_B4 = pixel_boxes(views, np.broadcast_to(np.array([height, width]), (num_images, 2)))
    levels = np.atleast_1d(np.asarray(fill, dtype=np.float32))
    fill_C1 = sent(levels, device)[:, None]
    resized_BCHW = torch.empty(num_images, num_channels, *size, dtype=torch.uint8, device=device)
    is_apart = bool(is_large(np.array([[height, width]]))[0])
    columns_first_B = _columns_first(box_B4, (height, width), size) & (not is_apart)
    at_once = max(1, _WEIGHTS_AT_ONCE // (height * size[0] + width * size[1]))
    for columns_first in (False, True):
        rows = np.flatnonzero(columns_first_B == columns_first)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            index_n = sent(part, device)
            resized_BCHW[index_n] = _resize(
                images_BHWC[index_n],
                box_B4[part],
                views.flip_B[part],
                size,
                fill_C1,
                columns_first=columns_first,
                is_apart=is_apart,
            )
    return apply_operations(resized_BCHW, views.ops_BL, views.params_BL, op_fill=op_fill)


def _columns_first(
    box_B4: Floats, source: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which images are resized down their columns before along their rows: [B].

    Levels are rounded and cut off in between, so the order shows. It is that of Pillow 13: columns
    come first where the height shrinks by more than twice what the width shrinks by, in pixels;
    a box that sticks out of its image widens that. Earlier versions begin with the rows always.
    """
    top_B, left_B, bottom_B, right_B = box_B4.T
    above_B, below_B = _reach(top_B, bottom_B, source[0])
    before_B, after_B = _reach(left_B, right_B, source[1])
    fewer_rows_B = above_B + below_B - size[0]
    fewer_columns_B = before_B + after_B - size[1]
    return (fewer_rows_B > 0) & (fewer_rows_B > 2 * fewer_columns_B)


def _reach(low_n: Floats, high_n: Floats, num_source: int) -> tuple[Floats, Floats]:
    """Whole pixels of fill before the image that its box needs, and where it ends after it."""
    before_n: Floats = np.maximum(0.0, np.ceil(-low_n))
    return before_n, np.maximum(float(num_source), np.ceil(high_n))


def _resize(
    images_nHWC: Tensor,
    box_n4: Floats,
    flip_n: NDArray[np.bool_],
    size: tuple[int, int],
    fill_C1: Tensor,
    *,
    columns_first: bool,
    is_apart: bool,
) -> Tensor:
    """Resize boxes to `size`, mirrored where `flip` says: uint8 [n, C, h, w]. `is_apart` boxes
    are filtered as if nothing were around them."""
    height, width = images_nHWC.shape[1:3]
    top_n, left_n, bottom_n, right_n = box_n4.T
    device = images_nHWC.device
    down = _weights(top_n, bottom_n, height, size[0], device, is_apart=is_apart)
    along = _weights(left_n, right_n, width, size[1], device, flip_n, is_apart=is_apart)
    levels_nHCW = images_nHWC.transpose(2, 3).float()
    # Autocast would round levels and weights to eight bits.
    with torch.autocast(images_nHWC.device.type, enabled=False):
        if columns_first:
            levels_nHCW = _resize_columns(levels_nHCW, *down, fill_C1)
        levels_nHCW = _resize_rows(levels_nHCW, *along, fill_C1)
        if not columns_first:
            levels_nHCW = _resize_columns(levels_nHCW, *down, fill_C1)
    return levels_nHCW.transpose(1, 2).to(torch.uint8)


def _resize_rows(
    levels_nHCW: Tensor, weights_nwW: Tensor, fill_share_nw: Tensor | None, fill_C1: Tensor
) -> Tensor:
    """Resize along rows, rounded to levels: [n, H, C, w]."""
    lines_nLw = levels_nHCW.flatten(1, 2) @ weights_nwW.mT
    resized_nHCw = lines_nLw.unflatten(1, levels_nHCW.shape[1:3])
    if fill_share_nw is not None:
        resized_nHCw += fill_share_nw[:, None, None] * fill_C1
    return _rounded(resized_nHCw)


def _resize_columns(
    levels_nHCW: Tensor, weights_nhH: Tensor, fill_share_nh: Tensor | None, fill_C1: Tensor
) -> Tensor:
    """Resize down columns, rounded to levels: [n, h, C, W]."""
    lines_nhL = weights_nhH @ levels_nHCW.flatten(2)
    resized_nhCW = lines_nhL.unflatten(2, levels_nHCW.shape[2:])
    if fill_share_nh is not None:
        resized_nhCW += fill_share_nh[:, :, None, None] * fill_C1
    return _rounded(resized_nhCW)


def _weights(
    low_n: Floats,
    high_n: Floats,
    num_source: int,
    num_output: int,
    device: torch.device,
    flip_n: NDArray[np.bool_] | None = None,
    *,
    is_apart: bool,
) -> tuple[Tensor, Tensor | None]:
    """Weights of the source pixels in each output pixel, [n, O, I], and of the fill, [n, O] if any.

    The kernel is widened where the image shrinks, which is antialiasing, and cut off and scaled to
    a sum of one where it reaches beyond the image, or beyond the whole pixels of fill that a box
    sticking out of it needs, or, `is_apart`, beyond the box.
    """
    scale_n1 = ((high_n - low_n) / num_output)[:, None]
    centre_nO = low_n[:, None] + (np.arange(num_output) + 0.5) * scale_n1
    if flip_n is not None:
        centre_nO[flip_n] = centre_nO[flip_n, ::-1]
    stretch_n1 = np.maximum(scale_n1, 1.0)
    # Differences of large numbers are taken here, in float64: the device may have only float32.
    whole_nO = np.floor(centre_nO)
    part_nO = centre_nO - whole_nO - 0.5
    before_n, end_n = _reach(low_n, high_n, num_source)
    margin = int(max(before_n.max(initial=0), end_n.max(initial=0) - num_source))

    def put(numbers: Floats, dtype: type) -> Tensor:
        return sent(numbers.astype(dtype), device).view(len(low_n), -1, 1)

    pixel_I = torch.arange(-margin, num_source + margin, device=device)
    distance_nOI = (pixel_I - put(whole_nO, np.int64)).float() - put(part_nO, np.float32)
    weights_nOI = _bicubic(distance_nOI.abs_() / put(stretch_n1, np.float32))
    first_n, end_n = (low_n, high_n) if is_apart else (-before_n, end_n)
    weights_nOI *= (pixel_I >= put(first_n, np.int64)) & (pixel_I < put(end_n, np.int64))
    weights_nOI /= weights_nOI.sum(dim=2, keepdim=True)
    inside_nOI = weights_nOI[:, :, margin : margin + num_source]
    if margin == 0:
        return inside_nOI, None
    outside_nO = weights_nOI[:, :, :margin].sum(2) + weights_nOI[:, :, margin + num_source :].sum(2)
    return inside_nOI, outside_nO


def _bicubic(distance: Tensor) -> Tensor:
    """Keys 1981's cubic convolution kernel with a = -1/2 at distances of 0 and more."""
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return torch.where(distance < 1.0, near, far.masked_fill_(distance >= _SUPPORT, 0.0))


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)
