"""Operations that work along one axis or pixel by pixel, several times faster than Pillow's own.

Each gives what the Pillow function named beside it gives: `blend_table` and `smoothed` to the bit,
shears and moves but for the last bits, which a few times in thousands of pixels are a level.
"""

# Shapes: H height, W width, C channels, R rows and D columns of an array whose columns move.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Bytes = NDArray[np.uint8]
Fill = int | tuple[int, ...]


def shear_columns(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, factor, 0, 0, 1, 0)."""
    pixels = np.asarray(image)
    return Image.fromarray(_moved(pixels, _slope(factor, len(pixels)), fill))


def shear_rows(image: Image.Image, factor: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, 0, factor, 1, 0)."""
    pixels = np.asarray(image).swapaxes(0, 1)
    return Image.fromarray(_upright(_moved(pixels, _slope(factor, len(pixels)), fill)))


def move_columns(image: Image.Image, shift: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, shift, 0, 1, 0)."""
    pixels = np.asarray(image)
    return Image.fromarray(_moved(pixels, np.full(len(pixels), shift), fill))


def move_rows(image: Image.Image, shift: float, fill: Fill) -> Image.Image:
    """Pillow's bicubic affine transform (1, 0, 0, 0, 1, shift)."""
    pixels = np.asarray(image).swapaxes(0, 1)
    return Image.fromarray(_upright(_moved(pixels, np.full(len(pixels), shift), fill)))


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


def _slope(factor: float, num_rows: int) -> NDArray[np.float64]:
    return factor * (np.arange(num_rows, dtype=np.float64) + 0.5)


def _upright(moved: Bytes) -> Bytes:
    return np.ascontiguousarray(moved.swapaxes(0, 1))


def _moved(pixels: Bytes, shift_R: NDArray[np.float64], fill: Fill) -> Bytes:
    """Rows fetched from so far to the right, by Keys' cubic of a = -1 as Pillow's transform; what
    lies outside is `fill`, what the cubic reads there is the border."""
    num_columns = pixels.shape[1]
    whole_R = np.floor(shift_R)
    part_R1 = torch.from_numpy((shift_R - whole_R).astype(np.float32))[:, None]
    # Beyond one image's width nothing is left to see.
    start_R = np.clip(whole_R, -num_columns - 2, num_columns + 2).astype(np.int64) - 1
    step = pixels.shape[2] if pixels.ndim == 3 else 1
    taps = torch.from_numpy(_rows_from(pixels, start_R, step)).float()
    moved: Bytes = _cubic(taps, part_R1, step).numpy().reshape(pixels.shape)
    centre_RD = np.arange(num_columns) + 0.5 + shift_R[:, None]
    moved[(centre_RD < 0) | (centre_RD >= num_columns)] = fill
    return moved


def _cubic(taps: Tensor, part_R1: Tensor, step: int) -> Tensor:
    """Between the second and third of four neighbours, cut off to a level of 0 to 255: uint8.

    The neighbours are weighted by cubic functions of the place between them, which add up to one.
    Added to the second is what the others differ from it by: a plain area stays what it is.
    """
    length = taps.shape[1] - 3 * step
    neighbours = [taps[:, k * step : k * step + length] for k in range(4)]
    middle = neighbours.pop(1)
    x = part_R1
    weights = (-x * (x - 1) ** 2, x * (1 + x - x**2), x**2 * (x - 1))
    result = middle.clone()
    for neighbour, weight in zip(neighbours, weights, strict=True):
        result.addcmul_(neighbour - middle, weight)
    return result.clamp_(0, 255).to(torch.uint8)


def _rows_from(pixels: Bytes, start_R: NDArray[np.int64], step: int) -> NDArray[np.int16]:
    """Of each row the values from its start to three columns more than its width, where the border
    goes on for ever: uint8 [R, (D + 3) * step]."""
    num_rows, num_columns = pixels.shape[:2]
    before = max(0, -int(start_R.min(initial=0)))
    after = max(0, int(start_R.max(initial=0)) + 3)
    padded = np.empty((num_rows, before + num_columns + after, *pixels.shape[2:]), np.uint8)
    padded[:, before : before + num_columns] = pixels
    padded[:, :before] = pixels[:, :1]
    padded[:, before + num_columns :] = pixels[:, -1:]
    flat = padded.reshape(num_rows, -1)
    length = (num_columns + 3) * step
    windows = np.lib.stride_tricks.sliding_window_view(flat, length, axis=1)
    taken: Bytes = windows[np.arange(num_rows), (start_R + before) * step]
    return taken
