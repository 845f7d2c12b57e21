"""Batched operations, held to Pillow called directly, to timm's functions and to arithmetic."""

# Shapes: B images, C channels, H height, W width.

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from deitkit.augmentation.device_operations import apply_operations
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES

SIZES = [(32, 32), (48, 36), (33, 57)]
FILL = (124, 116, 104)

PARAMETERS = {
    "rotate": (-30.0, 12.3, 27.0),
    "posterize": (1, 4, 7),
    "solarize": (0, 128, 256),
    "solarize_add": (0, 37, 110),
    "color": (0.1, 0.7, 1.9),
    "contrast": (0.1, 0.7, 1.9),
    "brightness": (0.1, 0.7, 1.9),
    "sharpness": (0.1, 0.7, 1.9),
    "shear_x": (-0.3, 0.11, 0.27),
    "shear_y": (-0.3, 0.11, 0.27),
    "translate_x": (-0.45, 0.13, 0.25),
    "translate_y": (-0.45, 0.13, 0.25),
    "blur": (0.0005, 2 / 224, 0.07),
}
OPERATIONS = [name for name in OP_NAMES if name != "none"]


def _affine(image, matrix, fill):
    return image.transform(image.size, Image.AFFINE, matrix, Image.BICUBIC, fillcolor=fill)


PILLOW = {
    "autocontrast": lambda image, p, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, p, fill: ImageOps.equalize(image),
    "invert": lambda image, p, fill: ImageOps.invert(image),
    "rotate": lambda image, p, fill: image.rotate(p, Image.BICUBIC, fillcolor=fill),
    "posterize": lambda image, p, fill: ImageOps.posterize(image, int(p)),
    "solarize": lambda image, p, fill: ImageOps.solarize(image, int(p)),
    "solarize_add": lambda image, p, fill: image.point(
        [min(255, i + int(p)) if i < 128 else i for i in range(256)] * len(image.getbands())
    ),
    "color": lambda image, p, fill: ImageEnhance.Color(image).enhance(p),
    "contrast": lambda image, p, fill: ImageEnhance.Contrast(image).enhance(p),
    "brightness": lambda image, p, fill: ImageEnhance.Brightness(image).enhance(p),
    "sharpness": lambda image, p, fill: ImageEnhance.Sharpness(image).enhance(p),
    "shear_x": lambda image, p, fill: _affine(image, (1, p, 0, 0, 1, 0), fill),
    "shear_y": lambda image, p, fill: _affine(image, (1, 0, 0, p, 1, 0), fill),
    "translate_x": lambda image, p, fill: _affine(image, (1, 0, p * image.width, 0, 1, 0), fill),
    "translate_y": lambda image, p, fill: _affine(image, (1, 0, 0, 0, 1, p * image.height), fill),
    "grayscale": lambda image, p, fill: image.convert("L").convert(image.mode),
    "blur": lambda image, p, fill: image.filter(ImageFilter.GaussianBlur(p * min(image.size))),
}


def pictures(height: int, width: int, channels: int) -> np.ndarray:
    """Something like a photograph, one of low contrast, noise, and one level: [4, C, H, W]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + k) + 0.6 * np.cos(y / 5 - k) for k in range(channels)]
    photo = 110 + 80 * np.stack(waves) + rng.normal(0, 8, (channels, height, width))
    noise = rng.integers(0, 256, (channels, height, width))
    flat = np.full((channels, height, width), 201)
    return np.stack([photo, 60 + 0.3 * photo, noise, flat]).clip(0, 255).astype(np.uint8)


def through_pillow(image_CHW: np.ndarray, name: str, param: float) -> np.ndarray:
    """Three channels as RGB, else each as a grey image."""
    if len(image_CHW) == 3:
        image = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
        return np.asarray(PILLOW[name](image, param, FILL)).transpose(2, 0, 1)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image_CHW]
    return np.stack([np.asarray(PILLOW[name](plane, param, FILL[0])) for plane in planes])


def operate(images_BCHW, names, params, fill=FILL, device="cpu") -> np.ndarray:
    """One operation for each image."""
    changed = apply_operations(
        torch.from_numpy(np.ascontiguousarray(images_BCHW)).to(device),
        np.array([[OP_CODES[name]] for name in names], dtype=np.int8),
        np.array(params, dtype=np.float32).reshape(-1, 1),
        op_fill=fill,
    )
    assert changed.dtype == torch.uint8 and changed.device.type == device
    return changed.cpu().numpy()


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_golden_against_pillow(name, size, channels):
    """Three parameters and four kinds of picture, one grey level at most and rarely that."""
    params = [np.float32(p) for p in PARAMETERS.get(name, (0.0,)) for _ in range(4)]
    images = np.tile(pictures(*size, channels), (len(params) // 4, 1, 1, 1))
    got = operate(images, [name] * len(params), params, FILL if channels == 3 else FILL[0])
    expected = [
        through_pillow(image, name, float(p)) for image, p in zip(images, params, strict=True)
    ]
    difference = np.abs(got.astype(int) - np.stack(expected))
    assert difference.max() <= 1
    # Rounding where Pillow cuts off would move half of all pixels.
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360, -90])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)], ids=str)
def test_quarter_turns_hit_the_pixels_exactly(degrees, size):
    images = pictures(*size, 3)[:1]
    expected = through_pillow(images[0], "rotate", degrees)
    np.testing.assert_array_equal(operate(images, ["rotate"], [degrees])[0], expected)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 9), (4, 2)], ids=str)
def test_d24_tiny_images_against_pillow(name, size):
    images = pictures(*size, 3)
    param = np.float32(PARAMETERS.get(name, (0.0,))[-1])
    got = operate(images, [name] * 4, [param] * 4)
    for index, image in enumerate(images):
        expected = through_pillow(image, name, float(param))
        assert np.abs(got[index].astype(int) - expected).max() <= 1


def test_against_timms_functions():
    """The parameters and directions that timm's RandAugment gives to the same functions."""
    from timm.data import auto_augment as timms

    how = {"resample": Image.BICUBIC, "fillcolor": FILL}
    cases = [
        ("shear_x", 0.27, timms.shear_x),
        ("shear_y", -0.13, timms.shear_y),
        ("translate_x", 0.4, timms.translate_x_rel),
        ("translate_y", -0.21, timms.translate_y_rel),
        ("rotate", 17.5, timms.rotate),
        ("solarize_add", 99, timms.solarize_add),
        ("posterize", 3, timms.posterize),
        ("color", 1.4, timms.color),
    ]
    image = pictures(40, 30, 3)[0]
    for name, param, function in cases:
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        exact = float(np.float32(param)) if isinstance(param, float) else param
        expected = np.asarray(function(picture, exact, **how)).transpose(2, 0, 1)
        got = operate(image[None], [name], [param])[0]
        assert np.abs(got.astype(int) - expected).max() <= 1, name


def test_translation_by_hand():
    """A quarter of 4 columns fetches from one further right; the last column is uncovered."""
    row = np.array([[[[10, 20, 30, 40]]]], dtype=np.uint8)
    assert operate(row, ["translate_x"], [0.25], 9)[0, 0].tolist() == [[20, 30, 40, 9]]
    assert operate(row, ["translate_x"], [-0.25], 9)[0, 0].tolist() == [[9, 10, 20, 30]]
    assert operate(row, ["translate_x"], [7.0], 9)[0, 0].tolist() == [[9, 9, 9, 9]]
    column = row.swapaxes(2, 3)
    assert operate(column, ["translate_y"], [0.5], 9)[0, 0, :, 0].tolist() == [30, 40, 9, 9]


def test_half_a_pixel_by_hand():
    """Keys' cubic with a = -1 has weights -1/8, 5/8, 5/8, -1/8 there: (-0 + 100 - 0) 5/8 = 62."""
    row = np.array([[[[0, 0, 100, 0, 0, 0, 0, 0]]]], dtype=np.uint8)
    got = operate(row, ["translate_x"], [0.5 / 8], 9)[0, 0, 0].tolist()
    assert got == [0, 62, 62, 0, 0, 0, 0, 9]


def test_levels_by_hand():
    """180 = 10110100b; 3 bits keep 160. Contrast: mean of 0, 100, 201 is 100.33, so 100."""
    one = np.array([[[[0, 100, 201]]]], dtype=np.uint8)
    by_hand = {
        ("posterize", 3): [0, 96, 192],
        ("solarize", 101): [0, 100, 54],
        ("solarize", 100): [0, 155, 54],
        ("solarize_add", 60): [60, 160, 201],
        ("invert", 0): [255, 155, 54],
        ("brightness", 1.5): [0, 150, 255],
        ("contrast", 0.5): [50, 100, 150],
        ("autocontrast", 0): [0, 126, 255],
        ("grayscale", 0): [0, 100, 201],
        ("color", 0.0): [0, 100, 201],
    }
    for (name, param), expected in by_hand.items():
        assert operate(one, [name], [param], 0)[0, 0, 0].tolist() == expected, name
    red = np.array([255, 0, 0], dtype=np.uint8).reshape(1, 3, 1, 1)
    assert operate(red, ["grayscale"], [0]).ravel().tolist() == [76, 76, 76]


def test_equalize_makes_levels_evenly_frequent():
    """1024 pixels of levels 100 to 103, 256 each: the first three of 768 share 255 steps of 3."""
    image = np.repeat(np.arange(100, 104, dtype=np.uint8), 256).reshape(1, 1, 32, 32)
    got = operate(image, ["equalize"], [0], 0)
    assert np.unique(got).tolist() == [0, 85, 171, 255]


def test_operations_are_applied_from_left_to_right():
    """Invert, then solarize from 128: 200 is 55 and stays; the other way it is 55, then 200."""
    image = torch.full((2, 1, 2, 2), 200, dtype=torch.uint8)
    invert, solarize = OP_CODES["invert"], OP_CODES["solarize"]
    ops = np.array([[invert, solarize, 0], [solarize, 0, invert]], dtype=np.int8)
    params = np.array([[0, 128, 0], [128, 0, 0]], dtype=np.float32)
    changed = apply_operations(image, ops, params)
    assert changed[:, 0, 0, 0].tolist() == [55, 200]


def test_the_input_stays_and_is_returned_where_nothing_is_to_do():
    images = torch.from_numpy(pictures(8, 8, 3))
    before = images.clone()
    for num in (0, 2):
        nothing = np.zeros((4, num), dtype=np.int8)
        assert apply_operations(images, nothing, nothing.astype(np.float32)) is images
    operate(before.numpy(), ["invert"] * 4, [0] * 4)
    for name in OPERATIONS:
        ops = np.full((4, 1), OP_CODES[name], dtype=np.int8)
        params = np.full((4, 1), PARAMETERS.get(name, (0,))[0], dtype=np.float32)
        apply_operations(images, ops, params)
        assert torch.equal(images, before), name
    empty = np.zeros((0, 2), dtype=np.int8)
    assert len(apply_operations(images[:0], empty, empty.astype(np.float32))) == 0


def draw_batch(seed: int, num: int, num_ops: int):
    rng = np.random.default_rng(seed)
    ops = rng.integers(0, len(OP_NAMES), (num, num_ops)).astype(np.int8)
    params = np.array(
        [[rng.choice(PARAMETERS.get(OP_NAMES[code], (0.0,))) for code in row] for row in ops],
        dtype=np.float32,
    ).reshape(num, num_ops)
    return ops, params


@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([(16, 16), (9, 21)]),
    channels=st.sampled_from([1, 3, 4]),
)
@settings(max_examples=25, deadline=None)
def test_an_images_result_depends_on_no_other(seed, size, channels):
    """Alone, in another order and in the batch: the same bits."""
    images = torch.from_numpy(np.tile(pictures(*size, channels), (3, 1, 1, 1)))
    ops, params = draw_batch(seed, 12, 3)
    whole = apply_operations(images, ops, params, op_fill=9)
    turned = apply_operations(images.flip(0), ops[::-1], params[::-1], op_fill=9)
    assert torch.equal(turned.flip(0), whole)
    for index in range(12):
        one = slice(index, index + 1)
        alone = apply_operations(images[one], ops[one], params[one], op_fill=9)
        assert torch.equal(alone, whole[one])


@pytest.mark.gpu
def test_cuda_gives_the_levels_of_the_cpu():
    images = np.tile(pictures(48, 36, 3), (8, 1, 1, 1))
    for name in OPERATIONS:
        params = np.resize(np.array(PARAMETERS.get(name, (0.0,))), 32)
        cpu = operate(images, [name] * 32, params)
        cuda = operate(images, [name] * 32, params, device="cuda")
        assert np.abs(cpu.astype(int) - cuda).max() <= 1, name
