"""A box of an image, resized with antialiasing by the bicubic filter of Pillow.

Small images go through Pillow, with boxes that may begin and end between two pixels. Large ones,
whose boxes are rounded to whole pixels, go through torch's kernel for bytes: Pillow's algorithm
with weights of 16 bits, three times as fast, within a level of it.
"""

# Shapes: B images, H height, W width, C channels, box 4 (top, left, bottom, right) in pixels.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deitkit.augmentation.operations import join_channels, split_channels
from deitkit.augmentation.views import Views

if TYPE_CHECKING:
    from torch import Tensor

Bytes = NDArray[np.uint8]

WHOLE_PIXELS_FROM = 128
"""The shorter side, in pixels, from which boxes are rounded to whole pixels: that moves an edge by
at most 1/256 of the image, and it is what timm and torchvision do at any size."""
_STEPS_PER_PIXEL = 256
"""Other boxes are rounded to this part of a pixel: it undoes the rounding of their shares to
float32 for sides up to 32,768, so whole-pixel boxes are whole again."""


def pixel_boxes(views: Views, sizes_B2: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the views' boxes in source pixels: top, left, bottom, right, never empty."""
    steps_B1 = np.where(is_large(sizes_B2), 1, _STEPS_PER_PIXEL)[:, None]
    low_B2, side_B2 = np.split(views.box_B4.astype(np.float64), 2, axis=1)
    edges_B4 = np.concatenate([low_B2, low_B2 + side_B2], axis=1) * np.tile(sizes_B2, 2)
    edges_B4 = np.rint(edges_B4 * steps_B1) / steps_B1
    edges_B4[:, 2:] = np.maximum(edges_B4[:, 2:], edges_B4[:, :2] + 1 / steps_B1)
    return edges_B4


def is_large(sizes_B2: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whose boxes are whole pixels, and filtered as if nothing were around them: bool [B]."""
    large_B: NDArray[np.bool_] = sizes_B2.min(axis=1) >= WHOLE_PIXELS_FROM
    return large_B


def resize_box(
    image_HWC: Bytes, box_4: NDArray[np.float64], size: tuple[int, int], fill: int | Sequence[int]
) -> Bytes:
    """The box of one image at `size` (height, width): uint8 [H, W, C]."""
    between_pixels = min(image_HWC.shape[:2]) < WHOLE_PIXELS_FROM
    image_HWC, box_4 = _with_fill(image_HWC, box_4, fill)
    if between_pixels:
        return join_channels(_resize_between_pixels(image_HWC, box_4, size))
    top, left, bottom, right = box_4.astype(int).tolist()
    crop_HWC = image_HWC[top:bottom, left:right]
    if crop_HWC.shape[2] == 3:
        return _resize_bytes(crop_HWC, size)
    bicubic = Image.Resampling.BICUBIC
    return join_channels(
        [plane.resize((size[1], size[0]), bicubic) for plane in split_channels(crop_HWC)]
    )


def _with_fill(
    image_HWC: Bytes, box_4: NDArray[np.float64], fill: int | Sequence[int]
) -> tuple[Bytes, NDArray[np.float64]]:
    """The image with the whole pixels of `fill` that its box needs around it, and the box there."""
    height, width, num_channels = image_HWC.shape
    top, left, bottom, right = box_4
    above, before = max(0, int(np.ceil(-top))), max(0, int(np.ceil(-left)))
    below, after = max(0, int(np.ceil(bottom)) - height), max(0, int(np.ceil(right)) - width)
    if not (above or before or below or after):
        return image_HWC, box_4
    shape = (above + height + below, before + width + after, num_channels)
    canvas_HWC = np.empty(shape, dtype=np.uint8)
    canvas_HWC[...] = np.asarray(fill, dtype=np.uint8)
    canvas_HWC[above : above + height, before : before + width] = image_HWC
    return canvas_HWC, box_4 + np.array([above, before, above, before])


def _resize_bytes(crop_HWC: Bytes, size: tuple[int, int]) -> Bytes:
    import torch

    if crop_HWC.shape[:2] == size:
        return crop_HWC
    # Channels last without gaps, into and out of the kernel: anything else it would copy first.
    resized_HWC = torch.empty(*size, 3, dtype=torch.uint8)
    torch.ops.aten._upsample_bicubic2d_aa.out(
        _channels_first(torch.from_numpy(np.array(crop_HWC, order="C"))),
        list(size),
        align_corners=False,
        out=_channels_first(resized_HWC),
    )
    return resized_HWC.numpy()


def _channels_first(image_HWC: Tensor) -> Tensor:
    return image_HWC.permute(2, 0, 1)[None]


def _resize_between_pixels(
    image_HWC: Bytes, box_4: NDArray[np.float64], size: tuple[int, int]
) -> list[Image.Image]:
    top, left, bottom, right = box_4
    down, first_row, rows = _reach(top, bottom, size[0])
    along, first_column, columns = _reach(left, right, size[1])
    # The order of Pillow 13 for the whole image: down the columns where that leaves far less.
    fewer_rows, fewer_columns = image_HWC.shape[0] - size[0], image_HWC.shape[1] - size[1]
    is_across_first = fewer_rows <= max(0, 2 * fewer_columns)
    return [
        _resize_axes(plane, down, along, size, is_across_first)
        for plane in split_channels(image_HWC[first_row:rows, first_column:columns])
    ]


def _reach(low: float, high: float, length: int) -> tuple[tuple[float, float], int, int]:
    """The span of a box along one axis, counted from the first pixel that the filter reads, and the
    first and the end of these: converting all of a large image would cost more than resizing."""
    reach = 2.0 * max(1.0, (high - low) / length)
    first = max(0, int(low - reach) - 1)
    return (low - first, high - first), first, int(high + reach) + 2


def _resize_axes(
    plane: Image.Image,
    down: tuple[float, float],
    along: tuple[float, float],
    size: tuple[int, int],
    is_across_first: bool,
) -> Image.Image:
    """One axis after the other: levels are rounded in between, so the order counts."""
    bicubic = Image.Resampling.BICUBIC
    if is_across_first:
        plane = plane.resize(
            (size[1], plane.height), bicubic, (along[0], 0, along[1], plane.height)
        )
        return plane.resize((size[1], size[0]), bicubic, (0, down[0], size[1], down[1]))
    plane = plane.resize((plane.width, size[0]), bicubic, (0, down[0], plane.width, down[1]))
    return plane.resize((size[1], size[0]), bicubic, (along[0], 0, along[1], size[0]))
