"""Operations that work along one axis or pixel by pixel, several times faster than Pillow's own.

Each gives what the Pillow function named beside it gives: `blend_table` and `smoothed` to the bit,
shears and moves but for the last bits, which a few times in thousands of pixels are a level.
"""

# Shapes: H height, W width, C channels, R rows and D columns of an array whose columns move.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Fill = int | tuple[int, ...]


_ROUNDED_UP = 1e-4
"""Of a level, so that a plain area stays what it is, whatever the last bits of its sum."""


def shear_columns(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, factor, 0, 0, 1, 0)."""
    return Image.fromarray(_sheared(np.asarray(image), factor, fill))


def shear_rows(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, 0, factor, 1, 0)."""
    turned = _sheared(np.asarray(image).swapaxes(0, 1), factor, fill)
    return Image.fromarray(np.ascontiguousarray(turned.swapaxes(0, 1)))


def move_columns(image: Image.Image, shift: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, shift, 0, 1, 0)."""
    return Image.fromarray(_moved(np.asarray(image), shift, 1, fill))


def move_rows(image: Image.Image, shift: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, 0, 0, 1, shift)."""
    return Image.fromarray(_moved(np.asarray(image), shift, 0, fill))


def blend_table(onto: int, factor: float) -> list[int]:
    """What `Image.blend` of a plain image of level `onto` and another makes of the other's levels.

    Truncated, as Pillow does.
    """
    levels = np.arange(256, dtype=np.float32)
    blended = np.float32(onto) + np.float32(factor) * (levels - np.float32(onto))
    return np.clip(blended, 0, 255).astype(np.uint8).tolist()


def smoothed(image: Image.Image) -> Image.Image:
    """Pillow's `ImageFilter.SMOOTH`: a thirteenth of 3 x 3 pixels, the middle five times, rounded;
    the border stays."""
    pixels = np.asarray(image)
    if min(pixels.shape[:2]) < 3:
        return image
    wide = pixels.astype(np.int16)
    across = wide[:, :-2] + wide[:, 1:-1]
    across += wide[:, 2:]
    total = across[:-2] + across[1:-1]
    total += across[2:]
    middle = wide[1:-1, 1:-1]
    middle *= 4
    total += middle
    total += 6
    total //= 13
    smooth = pixels.copy()
    smooth[1:-1, 1:-1] = total
    return Image.fromarray(smooth)


def _moved(pixels: Bytes, shift: float, axis: int, fill: Fill) -> Bytes:
    """All fetched from `shift` pixels further along an axis, by Keys' cubic of a = -1 as Pillow's
    transform; what lies outside is `fill`, what the cubic reads there is the border."""
    import torch

    length = pixels.shape[axis]
    start, part = _place(np.array([shift]), length)
    before, after = max(0, -int(start[0])), max(0, int(start[0]) + 3)
    padded = torch.from_numpy(_with_border(pixels, before, after, axis)).float()
    first = int(start[0]) + before
    neighbours = [padded.narrow(axis, first + k, length) for k in range(4)]
    moved: Bytes = _cubic(neighbours, torch.from_numpy(part)).numpy()
    low, high = _inside(np.array([shift]), length)
    along = np.swapaxes(moved, 0, axis)
    along[: low[0]] = fill
    along[high[0] :] = fill
    return moved


def _sheared(pixels: Bytes, factor: float, fill: Fill) -> Bytes:
    """As `_moved` along each row by a factor of where its middle is."""
    import torch

    num_columns = pixels.shape[1]
    shift_R = factor * (np.arange(len(pixels), dtype=np.float64) + 0.5)
    start_R, part_R = _place(shift_R, num_columns)
    step = pixels.shape[2] if pixels.ndim == 3 else 1
    taps = torch.from_numpy(_rows_from(pixels, start_R, step)).float()
    neighbours = [taps.narrow(1, k * step, num_columns * step) for k in range(4)]
    part_R1 = torch.from_numpy(part_R)[:, None]
    sheared: Bytes = _cubic(neighbours, part_R1).numpy().reshape(pixels.shape)
    low_R, high_R = _inside(shift_R, num_columns)
    low, high = int(low_R.max(initial=0)), int(high_R.min(initial=num_columns))
    column_D = np.arange(num_columns)
    sheared[:, :low][column_D[:low] < low_R[:, None]] = fill
    sheared[:, high:][column_D[high:] >= high_R[:, None]] = fill
    return sheared


def _place(shift: NDArray[np.float64], length: int) -> tuple[NDArray[np.int64], Floats]:
    """The first of the four neighbours, and how far behind the second the place is."""
    whole = np.floor(shift)
    # Beyond one image's length nothing is left to see.
    start = np.clip(whole, -length - 2, length + 2).astype(np.int64) - 1
    return start, (shift - whole).astype(np.float32)


def _inside(shift: NDArray[np.float64], length: int) -> NDArray[np.int64]:
    """The first pixel whose middle is fetched from inside, and the end of these: [2, ...]."""
    edges = np.ceil(np.stack([-0.5 - shift, length - 0.5 - shift]))
    return np.clip(edges, 0, length).astype(np.int64)


def _cubic(neighbours: Sequence[Tensor], part: Tensor) -> Tensor:
    """Between the second and third of four neighbours, cut off to a level of 0 to 255: uint8."""
    import torch

    x = part.double()
    weights = (
        -x * (x - 1) ** 2,
        x**2 * (x - 2) + 1,
        x * (1 + x - x**2),
        x**2 * (x - 1),
    )
    first, *others = (weight.float() for weight in weights)
    result = neighbours[0] * first
    for neighbour, weight in zip(neighbours[1:], others, strict=True):
        # Not fused: on some processors that would round once instead of twice.
        result.add_(neighbour * weight)
    return result.add_(_ROUNDED_UP).clamp_(0, 255).to(torch.uint8)


def _rows_from(pixels: Bytes, start_R: NDArray[np.int64], step: int) -> Bytes:
    """Of each row the values from its start to three columns more than its width, where the border
    goes on for ever: uint8 [R, (D + 3) * step]."""
    num_rows, num_columns = pixels.shape[:2]
    before = max(0, -int(start_R.min(initial=0)))
    after = max(0, int(start_R.max(initial=0)) + 3)
    flat = _with_border(pixels, before, after, 1).reshape(num_rows, -1)
    length = (num_columns + 3) * step
    windows = np.lib.stride_tricks.sliding_window_view(flat, length, axis=1)
    taken: Bytes = windows[np.arange(num_rows), (start_R + before) * step]
    return taken


def _with_border(pixels: Bytes, before: int, after: int, axis: int) -> Bytes:
    """Its first and last pixels repeated along an axis."""
    shape = list(pixels.shape)
    length, shape[axis] = shape[axis], shape[axis] + before + after
    padded = np.empty(shape, np.uint8)
    along, source = np.swapaxes(padded, 0, axis), np.swapaxes(pixels, 0, axis)
    along[before : before + length] = source
    along[:before] = source[:1]
    along[before + length :] = source[-1:]
    return padded
