"""Operations along one axis, held to Pillow's own to the bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from deitkit.augmentation import axis_operations as axis
from deitkit.augmentation.operations import _OPERATIONS

FILL = {"RGB": (9, 120, 250), "L": 77}


def noise(height: int, width: int, mode: str, seed: int) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


class Expected(NamedTuple):
    """What Pillow makes of an image, each [height, width] or with channels behind."""

    levels: np.ndarray
    exact: np.ndarray
    """The same in float32."""
    is_outside: np.ndarray
    """Where nothing of the image is read, only the fill."""


def affine(image: Image.Image, *matrix: float) -> Expected:
    def transformed(image: Image.Image, fill: float | tuple[int, ...]) -> np.ndarray:
        move = (image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        return np.asarray(image.transform(*move, fillcolor=fill))

    fill = FILL[image.mode]
    bands = zip(image.split(), np.atleast_1d(fill), strict=True)
    exact = [transformed(band.convert("F"), float(one)) for band, one in bands]
    return Expected(
        transformed(image, fill),
        np.stack(exact, -1) if len(exact) > 1 else exact[0],
        transformed(Image.new("F", image.size), 1.0) == 1,
    )


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    mode=st.sampled_from(["RGB", "L"]),
    factor=st.floats(-1.5, 1.5, width=32),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_shears_and_moves_are_pillows_affine_transforms(height, width, mode, factor, seed):
    image, fill = noise(height, width, mode, seed), FILL[mode]
    pairs = [
        (axis.shear_columns(image, factor, fill), affine(image, 1, factor, 0, 0, 1, 0)),
        (axis.shear_rows(image, factor, fill), affine(image, 1, 0, 0, factor, 1, 0)),
        (
            axis.move_columns(image, factor * width, fill),
            affine(image, 1, 0, factor * width, 0, 1, 0),
        ),
        (
            axis.move_rows(image, factor * height, fill),
            affine(image, 1, 0, 0, 0, 1, factor * height),
        ),
    ]
    for got, (levels, exact, is_outside) in pairs:
        apart = np.abs(np.asarray(got).astype(int) - levels)
        # Pillow cuts to a whole level, so the last bits decide where the result is all but one.
        is_whole = np.abs(exact - np.rint(exact)) < 1e-3
        assert not apart[is_outside].any()
        assert apart.max() <= 1
        assert is_whole[apart > 0].all()


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Sharpness"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.73, 1.0, 1.27, 1.9])
def test_enhancements_are_pillows_to_the_bit(name, mode, factor):
    image = noise(41, 30, mode, 3)
    got = _OPERATIONS[name.lower()](image, factor, FILL[mode])
    np.testing.assert_array_equal(got, getattr(ImageEnhance, name)(image).enhance(factor))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (3, 3), (40, 31)])
def test_smoothed_is_pillows_to_the_bit(size):
    for mode in ("RGB", "L"):
        image = noise(*size, mode, 5)
        np.testing.assert_array_equal(axis.smoothed(image), image.filter(ImageFilter.SMOOTH))


def test_a_blend_by_hand():
    """Half-way from 100 to 201 is 150.5, which is cut to 150; twice as far is 302, which is 255."""
    assert axis.blend_table(100, 0.5)[201] == 150
    assert axis.blend_table(100, 2.0)[201] == 255
    assert axis.blend_table(100, 2.0)[40] == 0
