"""The one evaluation preprocessing, held to Pillow, torch and arithmetic by hand."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deitkit.data.preprocess import (
    Preprocessing,
    pixels,
    preprocess,
    resize_antialiased,
    resized_size,
)
from deitkit.errors import DataError, ModelFileError

SIZES = [((37, 53), (16, 16)), ((37, 53), (80, 90)), ((8, 8), (28, 28)), ((300, 20), (10, 64))]
SIZES += [((1, 40), (5, 7)), ((40, 1), (7, 5)), ((1, 1), (4, 4)), ((33, 64), (33, 20))]
SIZES += [((200, 150), (1, 1))]


def some_image(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spec_of(size, **more) -> Preprocessing:
    return Preprocessing(**({"image_size": size, "crop_ratio": 1.0} | more))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size, target", SIZES, ids=str)
def test_resize_against_pillows_floating_point_mode(size, target, channels):
    image = some_image(*size, channels).astype(np.float32)
    got = resize_antialiased(image, target)
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
        assert plane.mode == "F"
        expected = np.asarray(plane.resize(target[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_allclose(got[:, :, channel], expected, atol=1e-3)


@pytest.mark.parametrize("size, target", SIZES, ids=str)
def test_resize_against_torchs_antialiased_bicubic(size, target):
    """Torch computes its weights in float32, hence the wider bound: 0.01 of 255 levels."""
    image = some_image(*size).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        size=target,
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize_antialiased(image, target), expected.numpy(), atol=1e-2)


def test_resize_by_hand_two_pixels_to_one():
    """Halving: both pixels lie a quarter of the doubled kernel from the centre, so equal parts."""
    image = np.array([10.0, 30.0], dtype=np.float32).reshape(1, 2, 1)
    assert resize_antialiased(image, (1, 1)).item() == 20.0


def test_resize_by_hand_two_pixels_to_four():
    """Output 1 stands at 0.75: distances 0.25 and 0.75, k = 0.8671875 and 0.2265625 ( / 1.09375).

    k(x) = 1.5 x^3 - 2.5 x^2 + 1 below 1, and the pixels outside the image do not exist.
    """
    image = np.array([0.0, 1.0], dtype=np.float32).reshape(1, 2, 1)
    got = resize_antialiased(image, (1, 4))[0, :, 0]
    inner = 0.2265625 / 1.09375
    # Output 0 stands at 0.25: distances 0.25 and 1.25; k(1.25) = -0.0703125.
    outer = -0.0703125 / (0.8671875 - 0.0703125)
    np.testing.assert_allclose(got, [outer, inner, 1 - inner, 1 - outer], rtol=1e-6)


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    level=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_resize_keeps_a_constant_and_commutes_with_mirrors(size, target, level):
    constant = np.full((*size, 1), level, dtype=np.float32)
    np.testing.assert_allclose(resize_antialiased(constant, target), level, rtol=1e-5, atol=1e-5)
    image = some_image(*size, 1).astype(np.float32)
    mirrored = resize_antialiased(image[::-1, ::-1], target)[::-1, ::-1]
    np.testing.assert_allclose(mirrored, resize_antialiased(image, target), atol=1e-3)


def test_an_unchanged_size_is_passed_on_exactly():
    image = some_image(31, 17).astype(np.float32)
    np.testing.assert_array_equal(resize_antialiased(image, (31, 17)), image)


@pytest.mark.parametrize(
    "size, image_size, crop_ratio, resize, expected",
    [
        ((375, 500), (224, 224), 0.875, "shorter", (256, 341)),
        ((500, 375), (224, 224), 0.875, "shorter", (341, 256)),
        ((375, 500), (224, 224), 0.9, "shorter", (248, 330)),
        ((375, 500), (224, 224), 0.875, "squash", (256, 256)),
        ((8, 8), (28, 28), 1.0, "shorter", (28, 28)),
        ((1, 5000), (4, 4), 1.0, "shorter", (4, 20000)),
        ((100, 100), (63, 63), 0.9, "shorter", (70, 70)),
        ((100, 400), (32, 64), 1.0, "shorter", (32, 128)),
        ((100, 150), (32, 64), 1.0, "shorter", (42, 64)),
    ],
)
def test_resized_size_by_hand(size, image_size, crop_ratio, resize, expected):
    spec = spec_of(image_size, crop_ratio=crop_ratio, resize=resize)
    assert resized_size(size, spec) == expected


@pytest.mark.parametrize("size", [(375, 500), (501, 333), (64, 64), (40, 300)])
def test_resized_size_is_torchvisions_for_square_targets(size):
    from torchvision.transforms import Resize

    blank = Image.new("L", size[::-1])
    for image_size, crop_ratio in ((224, 0.875), (96, 0.9), (64, 1.0)):
        resized = Resize(int(image_size / crop_ratio))(blank)
        spec = spec_of((image_size, image_size), crop_ratio=crop_ratio)
        assert resized_size(size, spec) == resized.size[::-1]


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    image_size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    crop_ratio=st.sampled_from([0.5, 0.875, 0.9, 1.0]),
    resize=st.sampled_from(["shorter", "squash"]),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=80, deadline=None)
def test_crop_within_the_resize_is_the_resize_then_cropped(
    size, image_size, crop_ratio, resize, channels
):
    """The fused crop against the four written steps, in Pillow; it always fits."""
    spec = spec_of(
        image_size,
        crop_ratio=crop_ratio,
        resize=resize,
        channels=channels,
        mean=(0.25,) * channels,
        std=(0.5,) * channels,
    )
    image = some_image(*size, channels)
    height, width = resized_size(size, spec)
    top, left = (height - image_size[0]) // 2, (width - image_size[1]) // 2
    assert top >= 0 and left >= 0
    got = pixels(image, spec)
    assert got.shape == (channels, *image_size) and got.dtype == np.float32
    for channel in range(channels):
        plane = Image.fromarray(image[:, :, channel].astype(np.float32))
        resized = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
        window = resized[top : top + image_size[0], left : left + image_size[1]]
        np.testing.assert_allclose(got[channel], np.clip(window, 0, 255) / 255, atol=1e-5)
    np.testing.assert_allclose(preprocess(image, spec), (got - 0.25) / 0.5, atol=1e-6)


def test_normalisation_by_hand():
    """Levels 0, 51, 255 are 0, 0.2 and 1; (x - 0.2) / 0.4 makes -0.5, 0 and 2 of them."""
    image = np.array([[[0], [51], [255]]], dtype=np.uint8)
    spec = spec_of((1, 3), channels=1, mean=(0.2,), std=(0.4,))
    np.testing.assert_allclose(pixels(image, spec), [[[0.0, 0.2, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(preprocess(image, spec), [[[-0.5, 0.0, 2.0]]], atol=1e-6)


def test_overshoot_is_clamped_to_the_levels_an_image_has():
    """A step from 0 to 255 overshoots on both sides in bicubic interpolation."""
    step = np.repeat([0, 255], 4).astype(np.uint8)[None, :, None]
    free = resize_antialiased(step.astype(np.float32), (1, 32))
    assert free.min() < -5 and free.max() > 260
    levels = pixels(step, spec_of((1, 32), channels=1, mean=(0.0,), std=(1.0,)))
    assert levels.min() == 0.0 and levels.max() == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)], ids=lambda s: f"D24 {s}")
@pytest.mark.parametrize("resize", ["shorter", "squash"])
def test_d24_tiny_and_extreme_images_keep_rows_as_rows(size, resize):
    """Columns of a strip count up; the output must count up along its width, never its height."""
    image = np.zeros((*size, 1), dtype=np.uint8)
    image[:, :, 0] = np.linspace(0, 255, size[1]).astype(np.uint8)
    spec = spec_of((6, 6), channels=1, mean=(0.0,), std=(1.0,), resize=resize)
    levels = pixels(image, spec)[0]
    assert np.isfinite(levels).all()
    np.testing.assert_allclose(levels, np.broadcast_to(levels[:1], (6, 6)), atol=1e-5)
    assert (np.diff(levels[0]) >= -1e-6).all()


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (8, 8, 1), (8, 8, 4), (0, 8, 3)])
def test_d24_other_shapes_are_named_and_never_guessed(shape):
    with pytest.raises(DataError, match="3 channels") as caught:
        pixels(np.zeros(shape, dtype=np.uint8), spec_of((4, 4)))
    assert caught.value.code == "CHANNELS"


def test_x04_golden_digest():
    """Fault X04: one fixed image in whole levels; its seed keeps every level away from a half."""
    image = some_image(41, 67, seed=8)
    image[10:30, 20:50] = [200, 30, 90]
    levels = pixels(image, spec_of((24, 24), crop_ratio=0.875)) * 255.0
    fraction = np.abs(levels % 1.0 - 0.5)
    assert fraction.min() > 5e-4, "the digest would depend on rounding"
    digest = hashlib.sha256(np.rint(levels).astype(np.uint8).tobytes()).hexdigest()
    assert digest[:32] == GOLDEN_DIGEST


def test_needs_no_torch():
    """As `deitkit predict` on an exported model."""
    code = "import sys, deitkit.data.preprocess; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GOOD = {
    "image_size": [224, 160],
    "resize": "shorter",
    "crop_ratio": 0.9,
    "filter": "bicubic",
    "channels": 3,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "background": [255, 255, 255],
}


def test_specification_survives_json():
    spec = Preprocessing.from_dict(GOOD)
    assert spec.image_size == (224, 160) and spec.mean == (0.485, 0.456, 0.406)
    again = json.loads(json.dumps(spec.to_dict()))
    assert again == GOOD
    assert Preprocessing.from_dict(again) == spec


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": [0, 224]},
        {"image_size": [224, 65_537]},
        {"image_size": [224]},
        {"image_size": 224},
        {"image_size": [224.0, 224]},
        {"image_size": [True, 224]},
        {"resize": "longer"},
        {"crop_ratio": 0.0},
        {"crop_ratio": 1.1},
        {"crop_ratio": float("nan")},
        {"crop_ratio": 1e-9},
        {"crop_ratio": "0.9"},
        {"filter": "nearest"},
        {"channels": 0},
        {"channels": 4},
        {"channels": 10**9},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": [0.5, 0.5, float("inf")]},
        {"mean": [0.5, 0.5, 10**400]},
        {"mean": "abc"},
        {"std": [0.5, 0.5, 0.0]},
        {"std": [0.5, 0.5, -1.0]},
        {"std": [0.5, 0.5, 1e-60]},
        {"std": None},
        {"background": [255, 255]},
        {"background": [0, 0, 256]},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_m09_wrong_values_are_refused_by_name(wrong):
    """Fault M09."""
    with pytest.raises(ModelFileError, match=next(iter(wrong))) as caught:
        Preprocessing.from_dict(GOOD | wrong)
    assert caught.value.code == "PREPROCESSING" and caught.value.exit_code == 5


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_m09_a_missing_key_is_refused(missing):
    with pytest.raises(ModelFileError, match=missing):
        Preprocessing.from_dict({key: value for key, value in GOOD.items() if key != missing})


@pytest.mark.parametrize("found", [GOOD | {"resise": 1}, GOOD | {7: 1}, [], None, "x"])
def test_m09_unknown_keys_and_other_things_are_refused(found):
    with pytest.raises(ModelFileError, match=r"unknown|table"):
        Preprocessing.from_dict(found)


GOLDEN_DIGEST = "981a575470c5d2cca05e47cf4501048a"
