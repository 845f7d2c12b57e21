"""Apply views on the CPU, an image at a time: crop and resize, flip, then their operations.

Resizing is antialiased and bicubic (`crop_resize`); the operations are in `operations`.
"""

# Shapes: B images, C channels, H height, W width, box 4 (top, left, bottom, right) in pixels.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from deitkit.augmentation.compiled import show_compiled
from deitkit.augmentation.crop_resize import pixel_boxes, resize_box
from deitkit.augmentation.operations import apply_operations, join_channels, split_channels
from deitkit.augmentation.views import Views

Bytes = NDArray[np.uint8]


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
            for index in np.flatnonzero(views.ops_BL.any(axis=1)).tolist():
                moved_HWC = np.ascontiguousarray(shifted_BCHW[index].transpose(1, 2, 0))
                _show(moved_HWC, False, views, index, op_fill_C, shifted_BCHW[index])
            return shifted_BCHW
    rendered_BCHW = np.empty((len(images), num_channels, *size), dtype=np.uint8)
    for index, image in enumerate(images):
        assert image.dtype == np.uint8 and image.ndim == 3, "images are uint8 [H, W, C]"
        shown_HWC = resize_box(image, box_B4[index], size, fill)
        is_flipped = bool(views.flip_B[index])
        _show(shown_HWC, is_flipped, views, index, op_fill_C, rendered_BCHW[index])
    return rendered_BCHW


def _show(
    image_HWC: Bytes,
    is_flipped: bool,
    views: Views,
    index: int,
    op_fill_C: Sequence[int],
    out_CHW: Bytes,
) -> None:
    """Write the image after the flip and the operations of one view."""
    ops_L, params_L = views.ops_BL[index], views.params_BL[index]
    if show_compiled(
        image_HWC,
        is_flipped=is_flipped,
        ops_L=ops_L,
        params_L=params_L,
        op_fill=op_fill_C,
        out_CHW=out_CHW,
    ):
        return
    if is_flipped:
        image_HWC = image_HWC[:, ::-1]
    if ops_L.any():
        picture = apply_operations(split_channels(image_HWC), ops_L, params_L, op_fill=op_fill_C)
        image_HWC = join_channels(picture)
    out_CHW[...] = image_HWC.transpose(2, 0, 1)


def _shift(
    images_BHWC: Bytes,
    offset_B2: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    fill: int | Sequence[int],
) -> Bytes:
    """Move whole images by whole pixels: the same pixels as `resize_box`, all images at once."""
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
