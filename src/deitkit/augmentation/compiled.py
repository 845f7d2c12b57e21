"""Flip, operations and erasing of a view in compiled code, where the package was built with it.

The same bits as `operations.py` and `erasing.py` make, many times sooner:
`tests/augmentation/test_compiled.py` holds one to the other. Operations are on RGB only.
"""

# Shapes: C channels, H height, W width, L operations.

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.op_codes import OP_CODES

Bytes = NDArray[np.uint8]

_MODULE = "deitkit.augmentation._kernels"
_NUM_PARAMS = 6
_SCRATCH_BYTES_PER_PIXEL = 22
_ALIGNED_TO = 16
_ROTATE, _SOLARIZE, _BLUR = (OP_CODES[name] for name in ("rotate", "solarize", "blur"))
_TRANSLATE_X, _TRANSLATE_Y = OP_CODES["translate_x"], OP_CODES["translate_y"]


class _Scratch(threading.local):
    """What the kernels work in, kept from view to view: fresh memory costs as much as they do."""

    block: Bytes = np.empty(0, np.uint8)

    def of(self, num_bytes: int) -> Bytes:
        if len(self.block) < num_bytes:
            fresh = np.empty(num_bytes + _ALIGNED_TO, np.uint8)
            self.block = fresh[-fresh.ctypes.data % _ALIGNED_TO :]
        return self.block


_scratch = _Scratch()


@lru_cache(maxsize=1)
def load_kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None where the package was built without a compiler."""
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    try:
        kernels = ctypes.CDLL(spec.origin)
        kernels.deitkit_view.restype = None
    except (OSError, AttributeError):
        return None
    whole, address = ctypes.c_long, ctypes.c_void_p
    kernels.deitkit_view.argtypes = [address, whole, whole, ctypes.c_int, whole, *[address] * 5]
    kernels.deitkit_noise.restype = None
    kernels.deitkit_noise.argtypes = [
        address,
        *[whole] * 3,
        address,
        ctypes.c_uint64,
        *[address] * 3,
    ]
    return kernels


def fill_noise(
    image_CHW: NDArray[np.float32],
    box: tuple[int, int, int, int],
    *,
    key: int,
    quantiles: NDArray[np.float32],
    mean_C: NDArray[np.float32],
    std_C: NDArray[np.float32],
) -> bool:
    """Write normal noise into a box (top, left, bottom, right) inside an image, in place; False,
    and nothing is written, where there is no compiled code. All arrays without gaps."""
    kernels = load_kernels()
    if kernels is None:
        return False
    for numbers in (image_CHW, quantiles, mean_C, std_C):
        assert numbers.dtype == np.float32 and numbers.flags.c_contiguous
    kernels.deitkit_noise(
        image_CHW.ctypes.data,
        *image_CHW.shape,
        (ctypes.c_long * 4)(*box),
        key,
        quantiles.ctypes.data,
        mean_C.ctypes.data,
        std_C.ctypes.data,
    )
    return True


def show_compiled(
    shown_HWC: Bytes,
    *,
    is_flipped: bool,
    ops_L: NDArray[np.integer],
    params_L: NDArray[np.floating],
    op_fill: Sequence[int],
    out_CHW: Bytes,
) -> bool:
    """Write the image, flipped and after its operations, as planes [3, H, W]; False, and nothing is
    written, where there is no compiled code for it."""
    kernels = load_kernels()
    if kernels is None or shown_HWC.shape[2] != 3 or not out_CHW.flags.c_contiguous:
        return False
    height, width = shown_HWC.shape[:2]
    codes, params = [], []
    for code, parameter in zip(ops_L.tolist(), params_L.tolist(), strict=True):
        prepared = _prepared(code, parameter, height, width)
        if prepared is None:
            return False
        codes.append(code)
        params += prepared
    shown_HWC = np.ascontiguousarray(shown_HWC)
    code_array = (ctypes.c_int32 * len(codes))(*codes)
    param_array = (ctypes.c_double * len(params))(*params)
    kernels.deitkit_view(
        shown_HWC.ctypes.data,
        height,
        width,
        is_flipped,
        len(codes),
        code_array,
        param_array,
        bytes(op_fill),
        _scratch.of(_SCRATCH_BYTES_PER_PIXEL * height * width).ctypes.data,
        out_CHW.ctypes.data,
    )
    return True


def _prepared(code: int, parameter: float, height: int, width: int) -> list[float] | None:
    """The six numbers of an operation; None for what only Pillow does."""
    if code == _ROTATE:
        return None if parameter % 90.0 == 0.0 else _rotation(parameter, height, width)
    if code == _BLUR:
        return None
    if code == _SOLARIZE:
        parameter = math.ceil(parameter)
    elif code == _TRANSLATE_X:
        parameter *= width
    elif code == _TRANSLATE_Y:
        parameter *= height
    return [float(parameter)] + [0.0] * (_NUM_PARAMS - 1)


def _rotation(degrees: float, height: int, width: int) -> list[float]:
    """The affine matrix around the middle with which Pillow's `Image.rotate` fetches pixels."""
    radians = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(radians), 15), round(math.sin(radians), 15)
    minus_sine = round(-math.sin(radians), 15)
    x, y = width / 2, height / 2
    return [
        cosine,
        sine,
        cosine * -x + sine * -y + 0.0 + x,
        minus_sine,
        cosine,
        minus_sine * -x + cosine * -y + 0.0 + y,
    ]
