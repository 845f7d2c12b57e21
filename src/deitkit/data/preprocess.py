"""The one evaluation preprocessing: decoded uint8 image -> what the model reads.

Evaluation, prediction, export and serving share these steps; each has a twin in ONNX and in the
browser:

1. Resized size. "squash": S = floor(image_size / crop_ratio), both sides. "shorter": the image
   keeps its shape and just covers S; the side that decides becomes exactly S, the other is
   floor(length * S / deciding length).
2. Resize in floating point: bicubic (a = -0.5), antialiased, pixel centres at half, each axis on
   its own; levels are not rounded, but clamped to 0..255 once at the end, since training reads
   uint8 and bicubic interpolation overshoots. (ONNX: Resize cubic, antialias=1,
   cubic_coeff_a=-0.5, exclude_outside=1, half_pixel; then Clip.)
3. Centre crop to image_size, first row and column floor((resized - target) / 2).
4. Divide by 255, subtract the mean, divide by the standard deviation.

Only numpy is imported. Training draws its views in `deitkit.augmentation` instead.
"""

# Shapes: C channels, H height, W width.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import DataError, ModelFileError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

LARGEST_SIDE = 65_536
# Far outside what images have; beyond them float32 would give 0 or infinity.
_LARGEST_LEVEL = 1e3
_LEAST_STD = 1e-6
_CUBIC_A = -0.5
_CUBIC_REACH = 2.0
_ROWS_PER_BLOCK = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How a decoded image becomes a model's input; part of every bundle.

    Raises ModelFileError [PREPROCESSING] for values that cannot be right (fault M09).
    """

    image_size: tuple[int, int]
    """Height and width that the model reads, in pixels."""
    resize: str = "shorter"
    """shorter: keep the shape and crop what is too long; squash: keep everything."""
    crop_ratio: float = 0.875
    """Model's side over the resized side, above 0 to 1; 1 for small images."""
    filter: str = "bicubic"
    """The resampling filter; there is one."""
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per channel, in levels of 0 to 1."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per channel, in levels of 0 to 1, above 0."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Red, green, blue (0 to 255) under transparent pixels; decoding reads it."""

    def __post_init__(self) -> None:
        _check_sides(self.image_size)
        if self.resize not in ("shorter", "squash"):
            _refuse(f"resize is {self.resize!r}, not 'shorter' or 'squash'")
        if self.filter != "bicubic":
            _refuse(f"filter is {self.filter!r}, not 'bicubic'")
        if not _is_number(self.crop_ratio) or not 0.0 < self.crop_ratio <= 1.0:
            _refuse(f"crop_ratio is {self.crop_ratio!r}, not a number above 0 and up to 1")
        if max(self.image_size) / self.crop_ratio > LARGEST_SIDE:
            _refuse(f"crop_ratio {self.crop_ratio} asks for a resized side over {LARGEST_SIDE}")
        if not _is_integer(self.channels) or not 1 <= self.channels <= LARGEST_SIDE:
            _refuse(f"channels is {self.channels!r}, not a whole number of 1 or more")
        for name, least in (("mean", -_LARGEST_LEVEL), ("std", _LEAST_STD)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.channels:
                _refuse(
                    f"{name} is {values!r}, not one number for each of {self.channels} channels"
                )
            if not all(_is_number(value) and least <= value <= _LARGEST_LEVEL for value in values):
                _refuse(f"{name} is {values!r}, not numbers from {least:g} to {_LARGEST_LEVEL:g}")
        if (
            not isinstance(self.background, tuple)
            or len(self.background) != 3
            or not all(_is_integer(level) and 0 <= level <= 255 for level in self.background)
        ):
            _refuse(f"background is {self.background!r}, not three levels of 0 to 255")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, one for every field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote; an unknown or missing key is refused like a wrong value."""
        if not isinstance(values, Mapping):
            _refuse(f"it is {values!r}, not a table of settings")
        names = [field.name for field in fields(cls)]
        unknown = [str(name) for name in values if name not in names]
        missing = [name for name in names if name not in values]
        if unknown or missing:
            _refuse(f"unknown keys {unknown}, missing keys {missing}")
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**arguments)


def _refuse(why: str) -> NoReturn:
    raise ModelFileError(
        "PREPROCESSING", "preprocessing", why, "correct it, or export the model again"
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_sides(image_size: object) -> None:
    if (
        not isinstance(image_size, tuple)
        or len(image_size) != 2
        or not all(_is_integer(side) and 1 <= side <= LARGEST_SIDE for side in image_size)
    ):
        _refuse(f"image_size is {image_size!r}, not two whole numbers from 1 to {LARGEST_SIDE}")


def covered_sides(spec: Preprocessing) -> tuple[int, int]:
    """Height and width that a resized image covers at least, before the crop."""
    # The small term keeps 69.99999999999999, a rounding of 63 / 0.9, from becoming 69.
    height, width = (int(side / spec.crop_ratio + 1e-9) for side in spec.image_size)
    return height, width


def resized_size(size: tuple[int, int], spec: Preprocessing) -> tuple[int, int]:
    """Return (height, width) to which an image of `size` is resized before the centre crop.

    Never less than `spec.image_size`; whole-number arithmetic, so that every engine agrees.
    """
    covered_height, covered_width = covered_sides(spec)
    height, width = size
    if spec.resize == "squash":
        return covered_height, covered_width
    if covered_height * width >= covered_width * height:
        return covered_height, width * covered_height // height
    return height * covered_width // width, covered_width


def resize_antialiased(image_HWC: Floats, size: tuple[int, int]) -> Floats:
    """Resize to `size` (height, width), bicubic and antialiased, without rounding or clamping.

    Along each axis, output pixel i is the normalised sum of the input pixels weighted with
    k((j + 1/2 - c) / s), c = (i + 1/2) * in / out, s = max(1, in / out), k the cubic kernel of
    Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -1/2;
    pixels outside the image do not exist. An axis of unchanged length is passed on exactly.
    """
    return _resize_cropped(image_HWC, size, (0, 0), size)


def pixels(image_HWC: Bytes, spec: Preprocessing) -> Floats:
    """Resize and centre-crop an image, levels 0 to 1, not normalised: float32 [C, H, W].

    Raises DataError [CHANNELS] if the image is no [height, width, channels] of the spec's channels.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[2] != spec.channels or 0 in image_HWC.shape:
        raise DataError(
            "CHANNELS",
            "image",
            f"its array has the shape {image_HWC.shape}, the model reads {spec.channels} channels",
            f"give uint8 arrays of [height, width, {spec.channels}]",
        )
    height, width = image_HWC.shape[:2]
    resized = resized_size((height, width), spec)
    first = tuple((full - kept) // 2 for full, kept in zip(resized, spec.image_size, strict=True))
    cropped_HWC = _resize_cropped(image_HWC, resized, (first[0], first[1]), spec.image_size)
    levels_CHW = np.clip(cropped_HWC, 0.0, 255.0).transpose(2, 0, 1) / np.float32(255.0)
    return np.ascontiguousarray(levels_CHW, dtype=np.float32)


def preprocess(image_HWC: Bytes, spec: Preprocessing) -> Floats:
    """Turn a decoded uint8 image [H, W, C] into the model's input: float32 [C, H, W]."""
    mean_C11 = np.array(spec.mean, dtype=np.float32)[:, None, None]
    std_C11 = np.array(spec.std, dtype=np.float32)[:, None, None]
    return (pixels(image_HWC, spec) - mean_C11) / std_C11


def _resize_cropped(
    image_HWC: Bytes | Floats,
    size: tuple[int, int],
    first: tuple[int, int],
    kept: tuple[int, int],
) -> Floats:
    """Resize to `size`, computing only the window of `kept` pixels that begins at `first`."""
    height, width, num_channels = image_HWC.shape
    low, high = _read_part(width, size[1], first[1], kept[1])
    seen = image_HWC[:, low:high]
    rows = _resize_rows(seen.reshape(height, -1), height, size[0], first[0], kept[0])
    # Columns become rows, so that both axes are one product of matrices.
    by_column = rows.reshape(kept[0], high - low, num_channels).transpose(1, 0, 2)
    flat = by_column.reshape(high - low, -1)
    columns = _resize_rows(flat, width, size[1], first[1], kept[1], lowest=low)
    return columns.reshape(kept[1], kept[0], num_channels).transpose(1, 0, 2)


def _read_part(num_in: int, num_out: int, first: int, num_kept: int) -> tuple[int, int]:
    """The part of an axis that is read; all of it unless the window sees less than half.

    A strip of pixels would else be resized from end to end for the square in its middle.
    """
    if num_in == num_out:
        low, high = first, first + num_kept
    else:
        blocks = _axis_weights(num_in, num_out, first, num_kept)
        low = min(start for start, _ in blocks)
        high = max(start + weights.shape[1] for start, weights in blocks)
    return (low, high) if 2 * (high - low) < num_in else (0, num_in)


def _resize_rows(
    lines: NDArray[Any], num_in: int, num_out: int, first: int, num_kept: int, *, lowest: int = 0
) -> Floats:
    """Resize an axis of `num_in` rows, of which `lines` are those from `lowest` on, to `num_out`
    rows, and keep `num_kept` of them from `first` on."""
    if num_in == num_out:
        return lines[first - lowest : first - lowest + num_kept].astype(np.float32)
    resized = np.empty((num_kept, lines.shape[1]), dtype=np.float32)
    start = 0
    for low, weights in _axis_weights(num_in, num_out, first, num_kept):
        num_rows, num_taps = weights.shape
        source = lines[low - lowest : low - lowest + num_taps].astype(np.float32, copy=False)
        resized[start : start + num_rows] = weights @ source
        start += num_rows
    return resized


@lru_cache(maxsize=64)
def _axis_weights(num_in: int, num_out: int, first: int, num_kept: int) -> list[tuple[int, Floats]]:
    """Return blocks of output rows as (first input row, weights [rows, input rows]).

    In blocks, because a row reads a few neighbours only: one full matrix would be nearly all 0.
    """
    scale = num_in / num_out
    stretch = max(scale, 1.0)
    blocks = []
    for start in range(first, first + num_kept, _ROWS_PER_BLOCK):
        index = np.arange(start, min(start + _ROWS_PER_BLOCK, first + num_kept))
        centre = (index + 0.5) * scale
        low = max(0, math.floor(centre[0] - _CUBIC_REACH * stretch))
        high = min(num_in, math.ceil(centre[-1] + _CUBIC_REACH * stretch))
        weights = _cubic((np.arange(low, high) + 0.5 - centre[:, None]) / stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append((low, weights.astype(np.float32)))
    return blocks


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate Keys' cubic convolution kernel, which is 0 from a distance of 2 on."""
    x = np.abs(distance)
    near = ((_CUBIC_A + 2.0) * x - (_CUBIC_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _CUBIC_A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
