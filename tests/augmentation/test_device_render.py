"""Batched geometry, held to the CPU engine and to arithmetic by hand."""

# Shapes: B images, C channels, H height, W width.

from __future__ import annotations

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, Views, device_render, draw_views, render
from deitkit.augmentation.device_render import render_on_device


def views_of(boxes, flips=None, ops_BL=None, params_BL=None) -> Views:
    num = len(boxes)
    no_ops = np.zeros((num, 0), dtype=np.int8)
    return Views(
        sample_ids_B=np.arange(num, dtype=np.uint64),
        epoch=0,
        repeat_B=np.zeros(num, dtype=np.int64),
        box_B4=np.array(boxes, dtype=np.float32).reshape(num, 4),
        flip_B=np.zeros(num, dtype=bool) if flips is None else np.array(flips, dtype=bool),
        lam_B=np.ones(num, dtype=np.float32),
        cut_B4=np.zeros((num, 4), dtype=np.float32),
        ops_BL=no_ops if ops_BL is None else ops_BL,
        params_BL=no_ops.astype(np.float32) if params_BL is None else params_BL,
        erase_B4=np.zeros((num, 4), dtype=np.float32),
        erase_key_B=np.zeros(num, dtype=np.uint64),
    )


def some_images(num: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Half of them noise, the hardest for a resize, half of them waves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num, height, width, channels), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 120 * np.sin(x / 6 + y / 9)[..., None] * np.ones(channels)
    images[::2] = waves.astype(np.uint8)
    return images


def draw(num: int, size: tuple[int, int], seed: int = 0, aspect: float = 1.0, **policy) -> Views:
    return draw_views(
        ViewPolicy(**policy),
        view_seed=seed,
        epoch=0,
        sample_ids_B=np.arange(num, dtype=np.uint64),
        sizes_B2=np.full((num, 2), size),
        aspect=aspect,
    )


SLIM = pytest.param(
    (37, 29),
    marks=pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13, reason="earlier versions always resize rows first"
    ),
)
"""So much higher than wide that Pillow resizes its columns first where it shrinks to 24 x 24."""


def assert_alike(
    images: np.ndarray, views: Views, size: tuple[int, int], *, share: float = 0.005, **fills
) -> None:
    """One level at most, and that rarely: products are rounded as Pillow rounds them."""
    got = render_on_device(torch.from_numpy(images), views, size, **fills)
    expected = render(images, views, size, **fills)
    difference = np.abs(got.numpy().astype(int) - expected)
    assert got.shape == expected.shape and got.dtype == torch.uint8
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(24, 24), (17, 40), (90, 61)], ids=str)
@pytest.mark.parametrize("source", [(48, 64), SLIM], ids=str)
def test_random_resized_crops_and_flips_against_the_cpu_engine(source, size, channels):
    images = some_images(16, *source, channels)
    views = draw(16, source, aspect=size[1] / size[0])
    assert 0 < views.flip_B.sum() < 16
    assert_alike(images, views, size)


@pytest.mark.parametrize("size", [(64, 64), (150, 90)], ids=str)
@pytest.mark.parametrize("crop", ["random_resized", "padded"])
def test_large_images_against_the_cpu_engine(size, crop):
    """Whole-pixel boxes, filtered as if nothing were around them; 16-bit weights on the CPU."""
    images = some_images(8, 140, 190)
    views = draw(8, (140, 190), aspect=size[1] / size[0], crop=crop)
    got = render_on_device(torch.from_numpy(images), views, size, fill=60).numpy().astype(int)
    apart = np.abs(got - render(images, views, size, fill=60))
    assert (apart > 0).mean() < 0.08 and (apart > 1).mean() < 5e-4 and apart.max() < 8


@pytest.mark.parametrize("size", [(32, 32), (21, 21), (48, 48)], ids=str)
@pytest.mark.parametrize("fill", [0, 200, (3, 120, 255)], ids=str)
def test_padded_crops_against_the_cpu_engine(size, fill):
    """Boxes stick out of the image; what lies outside is the fill, channel by channel."""
    views = draw(24, (32, 32), crop="padded", padding=0.25)
    assert (views.box_B4[:, :2] < 0).any()
    assert_alike(some_images(24, 32, 32), views, size, fill=fill)


@given(
    low=st.tuples(st.floats(-1.2, 0.9), st.floats(-1.2, 0.9)),
    side=st.tuples(st.floats(0.001, 1.5), st.floats(0.001, 1.5)),
    flip=st.booleans(),
    size=st.sampled_from([(1, 1), (8, 13), (30, 30)]),
)
@settings(max_examples=80, deadline=None)
def test_any_box_against_the_cpu_engine(low, side, flip, size):
    """Inside, partly or wholly outside, of any shape; beside one that is whole."""
    boxes = [(*low, *side), (0.0, 0.0, 1.0, 1.0), (-0.75, 0.3, 1.0, 0.4)]
    views = views_of(boxes, [flip, False, not flip])
    assert_alike(some_images(3, 19, 26), views, size, share=1.0, fill=(7, 90, 201))


def test_whole_pixel_shifts_move_the_very_bytes():
    images = some_images(24, 28, 28)
    views = draw(24, (28, 28), crop="padded")
    got = render_on_device(torch.from_numpy(images), views, (28, 28), fill=9)
    np.testing.assert_array_equal(got.numpy(), render(images, views, (28, 28), fill=9))


def test_a_shift_by_hand_with_fill_on_the_outside():
    """2 x 3 pixels moved down by one and right by one, then mirrored."""
    image = torch.tensor([[[1], [2], [3]], [[4], [5], [6]]], dtype=torch.uint8)
    views = views_of([(-1 / 2, -1 / 3, 1.0, 1.0)] * 2, [False, True])
    got = render_on_device(torch.stack([image, image]), views, (2, 3), fill=9)
    assert got[:, 0].tolist() == [[[9, 9, 9], [9, 1, 2]], [[9, 9, 9], [2, 1, 9]]]


def test_halving_by_hand():
    """Antialiased bicubic halving of a step, 0 | 200: the taps at distances 1/4, 3/4, 5/4, 7/4.

    Keys' kernel with a = -1/2 there is 0.8671875, 0.2265625, -0.0703125, -0.0234375, in all 1; a
    weight is half of it. The last pixel before the step sees 200s at 3/4, 5/4 and 7/4: 0.06640625
    of them is 13.3, and the first after it the rest, 186.7. One further the step is seen at 7/4
    only: 200 times 1.01171875 is 202.3, and below 0 on the other side.
    """
    row = torch.tensor([0] * 8 + [200] * 8, dtype=torch.uint8).view(1, 1, 16, 1)
    got = render_on_device(row, views_of([(0.0, 0.0, 1.0, 1.0)]), (1, 8))
    assert got[0, 0, 0].tolist() == [0, 0, 0, 13, 187, 202, 200, 200]


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_come_after_the_flip_and_have_their_own_fill(channels):
    """Where the geometry moves whole pixels, both engines start from the same levels."""
    images = some_images(64, 32, 32, channels)
    views = draw(64, (32, 32), crop="padded", auto_augment="rand-m9-n3-p0.9-mstd0.5-inc1")
    assert (views.ops_BL > 0).any(axis=1).mean() > 0.9
    got = render_on_device(torch.from_numpy(images), views, (32, 32), fill=9, op_fill=120)
    expected = render(images, views, (32, 32), fill=9, op_fill=120).astype(int)
    difference = np.abs(got.numpy() - expected)
    # Of one level before it, equalize or posterize may make many: rare pixels, most images equal.
    assert (difference > 1).mean() < 0.002
    assert (difference.max(axis=(1, 2, 3)) <= 1).mean() > 0.85


def test_an_images_result_depends_on_no_other_nor_on_how_many_fit_in_memory(monkeypatch):
    images = torch.from_numpy(some_images(12, 40, 30))
    views = draw(12, (40, 30), auto_augment="3augment", color_jitter=0.3)
    whole = render_on_device(images, views, (24, 24))
    parts = [
        render_on_device(images[start : start + 2], views[start : start + 2], (24, 24))
        for start in range(0, 12, 2)
    ]
    assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1
    monkeypatch.setattr(device_render, "_WEIGHTS_AT_ONCE", 5 * (40 + 30) * 24)
    in_parts = render_on_device(images, views, (24, 24))
    assert (in_parts.int() - whole.int()).abs().max() <= 1
    assert len(render_on_device(images[:0], views[:0], (24, 24))) == 0


def test_autocast_changes_nothing():
    images, views = torch.from_numpy(some_images(4, 40, 30)), draw(4, (40, 30))
    plain = render_on_device(images, views, (24, 24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(render_on_device(images, views, (24, 24)), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(32, 32), (57, 33)], ids=str)
def test_cuda_gives_the_levels_of_the_cpu(size):
    images = torch.from_numpy(some_images(32, 48, 64))
    for policy in ({}, {"crop": "padded", "padding": 0.3}):
        views = draw(32, (48, 64), aspect=size[1] / size[0], **policy)
        cpu = render_on_device(images, views, size, fill=(1, 2, 3))
        cuda = render_on_device(images.cuda(), views, size, fill=(1, 2, 3))
        assert cuda.is_cuda
        assert (cpu.int() - cuda.cpu().int()).abs().max() <= 1
