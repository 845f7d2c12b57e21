"""Apply views on the CPU, an image at a time: crop and resize, flip, then their operations.

Resizing is Pillow's antialiased bicubic; the operations are in `operations`.
"""

# Shapes: B images, C channels, H height, W width, box 4 (top, left, bottom, right) in pixels.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from deitkit.augmentation.operations import apply_operations, join_channels, split_channels
from deitkit.augmentation.views import Views

Bytes = NDArray[np.uint8]

_STEPS_PER_PIXEL = 256
"""Boxes are rounded to this part of a source pixel: it undoes the rounding of their shares to
float32 for sides up to 32,768, so whole-pixel boxes are whole again."""


def render(
    images: Sequence[Bytes] | Bytes,
    views: Views,
    size: tuple[int, int],
    *,
    fill: int | Sequence[int] = 0,
    op_fill: int | Sequence[int] = 0,
) -> Bytes:
    """Show each view of its image at `size` (height, width): uint8 [B, C, H, W].

    `images` are B uint8 arrays [height, width, channels] of any sizes, or one array [B, H, W, C].
    What lies outside an image is `fill`, what rotations, shears and translations uncover
    `op_fill`, each one level or one for each channel. Erasing and mixing are not done here. An
    image's result depends on no other image.
    """
    assert len(images) == len(views), f"{len(images)} images for {len(views)} views"
    if isinstance(images, np.ndarray):
        sizes_B2 = np.broadcast_to(np.array(images.shape[1:3]), (len(images), 2))
    else:
        sizes_B2 = np.array([image.shape[:2] for image in images]).reshape(-1, 2)
    box_B4 = pixel_boxes(views, sizes_B2)
    num_channels = images[0].shape[2] if len(images) else 0
    op_fill_C = [op_fill] * num_channels if isinstance(op_fill, int) else op_fill
    if isinstance(images, np.ndarray) and images.shape[1:3] == size:
        offset_B2 = box_B4[:, :2]
        is_whole = (offset_B2 % 1.0 == 0.0).all() and (box_B4[:, 2:] - offset_B2 == size).all()
        if is_whole:
            shifted_BCHW = _shift(images, offset_B2.astype(np.int64), views.flip_B, fill)
            return _operate(shifted_BCHW, views, op_fill_C)
    rendered_BCHW = np.empty((len(images), num_channels, *size), dtype=np.uint8)
    for index, image in enumerate(images):
        assert image.dtype == np.uint8 and image.ndim == 3, "images are uint8 [H, W, C]"
        picture = _resize_box(image, box_B4[index], size, fill)
        if views.flip_B[index]:
            picture = [plane.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for plane in picture]
        picture = apply_operations(
            picture, views.ops_BL[index], views.params_BL[index], op_fill=op_fill_C
        )
        rendered_BCHW[index] = join_channels(picture).transpose(2, 0, 1)
    return rendered_BCHW


def _operate(images_BCHW: Bytes, views: Views, op_fill_C: Sequence[int]) -> Bytes:
    """Apply the views' operations in place, touching only images that have any."""
    for index in np.flatnonzero(views.ops_BL.any(axis=1)):
        picture = apply_operations(
            split_channels(images_BCHW[index].transpose(1, 2, 0)),
            views.ops_BL[index],
            views.params_BL[index],
            op_fill=op_fill_C,
        )
        images_BCHW[index] = join_channels(picture).transpose(2, 0, 1)
    return images_BCHW


def pixel_boxes(views: Views, sizes_B2: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the views' boxes in source pixels: top, left, bottom, right, never empty."""
    low_B2, side_B2 = np.split(views.box_B4.astype(np.float64), 2, axis=1)
    edges_B4 = np.concatenate([low_B2, low_B2 + side_B2], axis=1) * np.tile(sizes_B2, 2)
    edges_B4 = np.rint(edges_B4 * _STEPS_PER_PIXEL) / _STEPS_PER_PIXEL
    edges_B4[:, 2:] = np.maximum(edges_B4[:, 2:], edges_B4[:, :2] + 1 / _STEPS_PER_PIXEL)
    return edges_B4


def _shift(
    images_BHWC: Bytes,
    offset_B2: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    fill: int | Sequence[int],
) -> Bytes:
    """Move whole images by whole pixels: the same pixels as `_resize_box`, all images at once."""
    num_images, height, width, num_channels = images_BHWC.shape
    margin = int(np.abs(offset_B2).max(initial=0))
    padded_shape = (num_images, num_channels, height + 2 * margin, width + 2 * margin)
    padded_BCHW = np.empty(padded_shape, dtype=np.uint8)
    padded_BCHW[...] = np.asarray(fill, dtype=np.uint8).reshape(-1, 1, 1)
    inner_BCHW = padded_BCHW[:, :, margin : margin + height, margin : margin + width]
    inner_BCHW[...] = images_BHWC.transpose(0, 3, 1, 2)
    windows = sliding_window_view(padded_BCHW, (height, width), axis=(2, 3))
    top_B, left_B = (offset_B2 + margin).T
    shifted_BCHW: Bytes = windows[np.arange(num_images), :, top_B, left_B]
    shifted_BCHW[flip_B] = shifted_BCHW[flip_B][..., ::-1]
    return shifted_BCHW


def _resize_box(
    image_HWC: Bytes, box_4: NDArray[np.float64], size: tuple[int, int], fill: int | Sequence[int]
) -> list[Image.Image]:
    """Resize the box of one image to `size` with Pillow's antialiased bicubic filter."""
    height, width, num_channels = image_HWC.shape
    top, left, bottom, right = box_4
    above, before = max(0, int(np.ceil(-top))), max(0, int(np.ceil(-left)))
    below, after = max(0, int(np.ceil(bottom)) - height), max(0, int(np.ceil(right)) - width)
    if above or before or below or after:
        shape = (above + height + below, before + width + after, num_channels)
        canvas_HWC = np.empty(shape, dtype=np.uint8)
        canvas_HWC[...] = np.asarray(fill, dtype=np.uint8)
        canvas_HWC[above : above + height, before : before + width] = image_HWC
        image_HWC = canvas_HWC
    down, first_row, rows = _reach(top + above, bottom + above, size[0])
    along, first_column, columns = _reach(left + before, right + before, size[1])
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
