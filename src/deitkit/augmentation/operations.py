"""Apply operations to one image on the CPU, through Pillow and what equals it.

A picture is a list of Pillow images: one RGB image for three channels, else one grey image for
each channel, as Pillow knows no 2 or 5 channels and takes a fourth for transparency.
"""

# Shapes: H height, W width, C channels, L operations.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps, ImageStat

from deitkit.augmentation.axis_operations import (
    blend_table,
    move_columns,
    move_rows,
    shear_columns,
    shear_rows,
    smoothed,
)
from deitkit.augmentation.op_codes import OP_NAMES

Fill = int | tuple[int, ...]
"""The colour of what a geometric operation uncovers, as Pillow wants it for the image's mode."""
Operation = Callable[[Image.Image, float, Fill], Image.Image]

_SOLARIZE_ADD_BELOW = 128


def split_channels(image_HWC: NDArray[np.uint8]) -> list[Image.Image]:
    """Make Pillow images of the channels: one RGB image of three, else a grey one of each."""
    num_channels = image_HWC.shape[2]
    if num_channels == 3:
        return [Image.fromarray(np.ascontiguousarray(image_HWC))]
    return [
        Image.fromarray(np.ascontiguousarray(image_HWC[:, :, channel]))
        for channel in range(num_channels)
    ]


def join_channels(picture: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Undo `split_channels`: uint8 [H, W, C]."""
    if picture[0].mode == "RGB":
        return np.asarray(picture[0])
    return np.stack([np.asarray(plane) for plane in picture], axis=2)


def apply_operations(
    picture: Sequence[Image.Image],
    ops_L: NDArray[np.integer],
    params_L: NDArray[np.floating],
    *,
    op_fill: Sequence[int],
) -> list[Image.Image]:
    """Apply operations from left to right; codes and parameters are those of `op_codes`.

    `op_fill` has one level for each channel. Channels that do not make an RGB image are changed
    one by one as grey images, which "color" and "grayscale" leave as they are.
    """
    planes = list(picture)
    fills: Sequence[Fill] = [tuple(op_fill)] if planes[0].mode == "RGB" else op_fill
    for code, parameter in zip(ops_L.tolist(), params_L.tolist(), strict=True):
        if code:
            operation = _OPERATIONS[OP_NAMES[code]]
            planes = [
                operation(plane, parameter, fill) for plane, fill in zip(planes, fills, strict=True)
            ]
    return planes


def _rotate(image: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)


def _translate_x(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return move_columns(image, share * image.width, fill)


def _translate_y(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return move_rows(image, share * image.height, fill)


def _brightness(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    return image.point(blend_table(0, factor) * len(image.getbands()))


def _contrast(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    """Around the mean of the grey image, as `ImageEnhance.Contrast`."""
    grey = image if image.mode == "L" else image.convert("L")
    mean = int(ImageStat.Stat(grey).mean[0] + 0.5)
    return image.point(blend_table(mean, factor) * len(image.getbands()))


def _sharpness(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    return Image.blend(smoothed(image), image, factor)


def _solarize_add(image: Image.Image, added: float, fill: Fill) -> Image.Image:
    table = [
        min(255, level + int(added)) if level < _SOLARIZE_ADD_BELOW else level
        for level in range(256)
    ]
    return image.point(table * len(image.getbands()))


def _grayscale(image: Image.Image, _: float, fill: Fill) -> Image.Image:
    return image.convert("L").convert(image.mode)


def _blur(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


_OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, _, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, _, fill: ImageOps.equalize(image),
    "invert": lambda image, _, fill: ImageChops.invert(image),
    "rotate": _rotate,
    "posterize": lambda image, bits, fill: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, lowest, fill: ImageOps.solarize(image, math.ceil(lowest)),
    "solarize_add": _solarize_add,
    "color": lambda image, factor, fill: ImageEnhance.Color(image).enhance(factor),
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": shear_columns,
    "shear_y": shear_rows,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "grayscale": _grayscale,
    "blur": _blur,
}
