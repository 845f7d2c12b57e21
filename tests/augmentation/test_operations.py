"""Every operation on the CPU against Pillow called directly, against timm, and by hand."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps, ImageStat
from timm.data import auto_augment as timm_policies

from deitkit.augmentation import render
from deitkit.augmentation.op_codes import OP_NAMES
from deitkit.augmentation.operations import apply_operations, join_channels, split_channels
from tests.augmentation.plain_views import views_of_operations

SIZES = [(32, 32), (48, 36), (33, 57)]
PARAMETERS: dict[str, tuple[float, float, float]] = {
    "none": (0.0, 1.0, -2.0),
    "autocontrast": (0.0, 1.0, -2.0),
    "equalize": (0.0, 1.0, -2.0),
    "invert": (0.0, 1.0, -2.0),
    "rotate": (-27.0, 8.5, 135.0),
    "posterize": (1.0, 4.0, 8.0),
    "solarize": (0.0, 26.0, 256.0),
    "solarize_add": (0.0, 44.0, 99.0),
    "color": (0.0, 0.19, 1.81),
    "contrast": (0.1, 0.7, 1.81),
    "brightness": (0.1, 1.3, 1.9),
    "sharpness": (0.1, 0.5, 1.81),
    "shear_x": (-0.27, 0.05, 0.99),
    "shear_y": (-0.27, 0.05, 0.99),
    "translate_x": (-0.405, 0.1, 0.33),
    "translate_y": (-0.405, 0.1, 0.33),
    "grayscale": (0.0, 1.0, -2.0),
    "blur": (0.0005, 0.0089, 0.06),
}
FILL = (124, 116, 104)
CASES = [(name, parameter) for name, values in PARAMETERS.items() for parameter in values]


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth light, a few edges and a little grain, each channel within its own range."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    light = 90 + 80 * np.sin(3 * x + 1.5 * y)[:, :, None] * [1.0, 0.8, 0.6]
    disc = ((x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04)[:, :, None] * [60, -30, 40]
    bar = (np.abs(x - y) < 0.06)[:, :, None] * [-40, 35, 10]
    grain = np.random.default_rng(1).normal(0, 3, (height, width, 3))
    return np.clip(light + disc + bar + grain + [10, 20, 30], 5, 245).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


CONTENTS: dict[str, Callable[[int, int], np.ndarray]] = {"photograph": photograph, "noise": noise}


def pillow(image: Image.Image, name: str, parameter: float, fill) -> Image.Image:
    """One operation by Pillow's documented functions."""
    width, height = image.size
    matrices = {
        "shear_x": (1, parameter, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, parameter, 1, 0),
        "translate_x": (1, 0, parameter * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, parameter * height),
    }
    if name in matrices:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrices[name],
            resample=Image.Resampling.BICUBIC,
            fillcolor=fill,
        )
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.title())(image).enhance(parameter)
    if name == "rotate":
        return image.rotate(parameter, resample=Image.Resampling.BICUBIC, fillcolor=fill)
    if name == "posterize":
        return ImageOps.posterize(image, round(parameter))
    if name == "solarize":
        return ImageOps.solarize(image, round(parameter))
    if name == "solarize_add":
        table = [min(255, v + round(parameter)) if v < 128 else v for v in range(256)]
        return image.point(table * len(image.getbands()))
    if name == "grayscale":
        return ImageOps.grayscale(image).convert(image.mode)
    if name == "blur":
        return image.filter(ImageFilter.GaussianBlur(parameter * min(width, height)))
    if name == "none":
        return image
    return getattr(ImageOps, name)(image)


def apply(image_HWC: np.ndarray, name: str, parameter: float, fill=0) -> np.ndarray:
    """The image after one operation, through `render`: [H, W, C]."""
    views = views_of_operations([(name, parameter)])
    return render([image_HWC], views, image_HWC.shape[:2], op_fill=fill)[0].transpose(1, 2, 0)


def levels_apart(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name, parameter", CASES)
def test_golden_against_pillow_called_directly(name, parameter, size, content):
    """At most one grey level off, in colour and of each channel alone as a grey image."""
    parameter = float(np.float32(parameter))
    image = CONTENTS[content](*size)
    expected = np.asarray(pillow(Image.fromarray(image), name, parameter, FILL))
    assert levels_apart(apply(image, name, parameter, FILL), expected) <= 1
    grey = pillow(Image.fromarray(image[:, :, 1].copy()), name, parameter, 116)
    assert levels_apart(apply(image[:, :, 1:2], name, parameter, 116)[:, :, 0], grey_of(grey)) <= 1


def grey_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "L"
    return np.asarray(image)


@pytest.mark.parametrize("name, parameter", CASES)
def test_golden_of_real_photographs(name, parameter, shared_data):
    """Two imagenette pictures at 96 pixels."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.ParquetFile(shared_data / "imagenette" / "test.parquet")
    rows = next(table.iter_batches(batch_size=2, columns=["image"])).to_pylist()
    for row in rows:
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize((96, 96))
        parameter = float(np.float32(parameter))
        expected = np.asarray(pillow(picture, name, parameter, FILL))
        assert levels_apart(apply(np.asarray(picture), name, parameter, FILL), expected) <= 1


TIMM_OPERATIONS = {
    "rotate": "Rotate",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "solarize_add": "SolarizeAdd",
    "color": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


@pytest.mark.parametrize("name, timm_name", TIMM_OPERATIONS.items())
def test_parameters_mean_what_they_mean_in_timm(name, timm_name):
    """The same number handed to timm's function gives the same picture, sign included."""
    image = photograph(48, 36)
    for parameter in PARAMETERS[name]:
        value = float(np.float32(parameter))
        whole = name in ("posterize", "solarize", "solarize_add")
        values = () if timm_policies.LEVEL_TO_ARG[timm_name] is None else (value,)
        expected = timm_policies.NAME_TO_OP[timm_name](
            Image.fromarray(image),
            *(round(number) if whole else number for number in values),
            fillcolor=FILL,
            resample=Image.Resampling.BICUBIC,
        )
        assert levels_apart(apply(image, name, value, FILL), np.asarray(expected)) <= 1


LEVELS = np.array([[0, 26, 77], [127, 128, 200], [240, 254, 255]], dtype=np.uint8)[:, :, None]


@pytest.mark.parametrize(
    "name, parameter, expected",
    [
        ("none", 0, [[0, 26, 77], [127, 128, 200], [240, 254, 255]]),
        ("invert", 0, [[255, 229, 178], [128, 127, 55], [15, 1, 0]]),
        ("posterize", 1, [[0, 0, 0], [0, 128, 128], [128, 128, 128]]),
        ("posterize", 8, [[0, 26, 77], [127, 128, 200], [240, 254, 255]]),
        ("solarize", 128, [[0, 26, 77], [127, 127, 55], [15, 1, 0]]),
        ("solarize", 127.5, [[0, 26, 77], [127, 127, 55], [15, 1, 0]]),
        ("solarize", 256, [[0, 26, 77], [127, 128, 200], [240, 254, 255]]),
        ("solarize_add", 100, [[100, 126, 177], [227, 128, 200], [240, 254, 255]]),
        ("solarize_add", 128, [[128, 154, 205], [255, 128, 200], [240, 254, 255]]),
        ("brightness", 0.5, [[0, 13, 38], [63, 64, 100], [120, 127, 127]]),
        ("brightness", 0, [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ("contrast", 0, [[145] * 3] * 3),
        ("translate_x", 1 / 3, [[26, 77, 9], [128, 200, 9], [254, 255, 9]]),
        ("translate_y", -1 / 3, [[9, 9, 9], [0, 26, 77], [127, 128, 200]]),
        ("rotate", 90, [[77, 200, 255], [26, 128, 254], [0, 127, 240]]),
    ],
)
def test_by_hand(name, parameter, expected):
    """Nine levels; the mean of them is 1307 / 9 = 145. Positive degrees turn to the left.

    A third is no float32: a translation misses whole pixels by so little, and Pillow rounds down.
    """
    found = apply(LEVELS, name, parameter, 9)[:, :, 0]
    assert levels_apart(found, np.array(expected)) <= name.startswith("translate")


def test_shear_fetches_from_the_side_it_says():
    """shear_x 1: row y shows what stood y + 1/2 columns to the right: half-way between two."""
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (6, 20, 1))
    sheared = apply(ramp, "shear_x", 1.0, 9)[:, :, 0]
    for row in range(6):
        np.testing.assert_array_equal(sheared[row, 2:10], ramp[row, 2:10, 0] + 10 * row + 5)
    standing = apply(ramp.transpose(1, 0, 2), "shear_y", 1.0, 9)[:, :, 0]
    np.testing.assert_array_equal(standing, sheared.T)


def test_colour_and_grayscale_by_hand():
    """Red (255, 0, 0) is grey 76 by ITU-R 601; half a colour lies half-way."""
    red = np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (4, 4, 3))
    assert apply(red, "grayscale", 0.0)[0, 0].tolist() == [76, 76, 76]
    assert apply(red, "color", 0.0)[0, 0].tolist() == [76, 76, 76]
    assert apply(red, "color", 0.5)[0, 0].tolist() == [165, 38, 38]


def test_contrast_of_colour_turns_around_one_mean_for_all_channels():
    """Factor 0 gives the rounded mean of the grey image everywhere."""
    image = photograph(20, 30)
    mean = ImageStat.Stat(Image.fromarray(image).convert("L")).mean[0]
    assert np.unique(apply(image, "contrast", 0.0)).tolist() == [int(mean + 0.5)]


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("name", OP_NAMES)
def test_other_channels_are_grey_images_one_by_one(name, channels):
    """Each as it would be alone, with its own fill; colour operations leave it as it is."""
    image = np.concatenate([noise(20, 24), photograph(20, 24)], axis=2)[:, :, :channels]
    fill = tuple(range(50, 50 + channels))
    parameter = PARAMETERS[name][1]
    got = apply(image, name, parameter, fill)
    for channel in range(channels):
        alone = apply(image[:, :, channel : channel + 1], name, parameter, fill[channel])
        np.testing.assert_array_equal(got[:, :, channel], alone[:, :, 0])
    if name in ("color", "grayscale"):
        np.testing.assert_array_equal(got, image)


@given(
    names=st.lists(st.sampled_from(OP_NAMES), max_size=4),
    which=st.integers(0, 2),
    side=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_a_chain_is_its_operations_one_after_the_other(names, which, side, channels):
    """Also on images of one pixel, and the input is not changed."""
    image = photograph(side, side + 1)[:, :, :channels]
    before = image.copy()
    chain = [(name, PARAMETERS[name][which]) for name in names]
    views = views_of_operations(chain)
    got = apply_operations(
        split_channels(image), views.ops_BL[0], views.params_BL[0], op_fill=FILL[:channels]
    )
    step_by_step = image
    for name, parameter in chain:
        step_by_step = apply(step_by_step, name, parameter, FILL[:channels])
    np.testing.assert_array_equal(join_channels(got), step_by_step)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast", "sharpness", "blur"])
def test_one_level_stays_one_level(name):
    """An image of a single level has no contrast to stretch."""
    flat = np.full((9, 9, 3), 77, dtype=np.uint8)
    assert (apply(flat, name, PARAMETERS[name][2]) == 77).all()
