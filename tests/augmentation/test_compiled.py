"""Compiled flips and operations, held to the bit to those of Pillow and `axis_operations`."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, compiled, draw_views, erasing, render
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES
from deitkit.augmentation.operations import apply_operations, join_channels, split_channels

pytestmark = pytest.mark.skipif(
    compiled.load_kernels() is None and shutil.which("cc") is None,
    reason="deitkit was built without a compiler",
)

ONLY_PILLOW = {"blur"}
RANGES = {
    "rotate": (-400.0, 400.0),
    "posterize": (1.0, 8.0),
    "solarize": (0.0, 256.0),
    "solarize_add": (0.0, 128.0),
    "color": (0.0, 2.0),
    "contrast": (0.0, 2.0),
    "brightness": (0.0, 2.0),
    "sharpness": (0.0, 2.0),
}
"""Of an operation's parameter; shears and moves also leave the image."""


@st.composite
def operations(draw) -> tuple[list[int], list[float]]:
    names = draw(
        st.lists(st.sampled_from(sorted(set(OP_NAMES) - ONLY_PILLOW)), min_size=1, max_size=3)
    )
    params = [draw(st.floats(*RANGES.get(name, (-1.5, 1.5)), width=32)) for name in names]
    return [OP_CODES[name] for name in names], params


@st.composite
def images(draw) -> np.ndarray:
    """Noise, a plain area, or steps: the last two are where sums come out whole."""
    shape = (draw(st.integers(1, 50)), draw(st.integers(1, 50)), 3)
    chance = np.random.default_rng(draw(st.integers(0, 999)))
    noise = chance.integers(0, 256, shape, dtype=np.uint8)
    kind = draw(st.sampled_from(["noise", "plain", "steps"]))
    if kind == "plain":
        return np.full(shape, noise[0, 0])
    return noise // 64 * 64 + noise[0, 0] % 60 if kind == "steps" else noise


def by_pillow(image_HWC, is_flipped, codes, params, fill) -> np.ndarray:
    shown_HWC = image_HWC[:, ::-1] if is_flipped else image_HWC
    picture = apply_operations(
        split_channels(shown_HWC), np.array(codes), np.array(params, np.float32), op_fill=fill
    )
    return join_channels(picture).transpose(2, 0, 1)


@given(image_HWC=images(), is_flipped=st.booleans(), ops=operations(), seed=st.integers(0, 99))
@settings(max_examples=400)
def test_every_operation_has_the_bytes_of_what_it_replaces(image_HWC, is_flipped, ops, seed):
    codes, params = ops
    fill = np.random.default_rng(seed).integers(0, 256, 3).tolist()
    out_CHW = np.empty((3, *image_HWC.shape[:2]), np.uint8)
    done = compiled.show_compiled(
        image_HWC,
        is_flipped=is_flipped,
        ops_L=np.array(codes),
        params_L=np.array(params, np.float32),
        op_fill=fill,
        out_CHW=out_CHW,
    )
    turns = [p for code, p in zip(codes, params, strict=True) if OP_NAMES[code] == "rotate"]
    assert done or any(degrees % 90 == 0 for degrees in turns)
    if done:
        np.testing.assert_array_equal(
            out_CHW, by_pillow(image_HWC, is_flipped, codes, params, fill)
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_bits_of_numpys(channels, monkeypatch):
    """Boxes at the corners, inside, of one pixel, of all."""
    boxes = [(0, 0, 3, 4), (5, 6, 9, 11), (8, 10, 9, 11), (0, 0, 9, 11)]
    images_BCHW = torch.rand(
        len(boxes), channels, 9, 11, generator=torch.Generator().manual_seed(0)
    )
    keys = np.array([0, 1, 2**63 + 5, 2**64 - 1], np.uint64)
    levels = torch.tensor([[0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]])

    def erased() -> torch.Tensor:
        images = images_BCHW.clone()
        erasing._erase_boxes_(images, np.arange(4), np.array(boxes), keys, "pixel", levels)
        return images

    with_code = erased()
    monkeypatch.setattr(compiled, "load_kernels", lambda: None)
    assert torch.equal(with_code, erased())
    assert not torch.equal(with_code, images_BCHW)


def test_a_move_by_hand():
    """Fetched a whole column further right: what comes in is the fill."""
    image_HWC = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)
    out_CHW = np.empty((3, 1, 4), np.uint8)
    assert compiled.show_compiled(
        image_HWC,
        is_flipped=False,
        ops_L=np.array([OP_CODES["translate_x"]]),
        params_L=np.array([0.25]),
        op_fill=(100, 101, 102),
        out_CHW=out_CHW,
    )
    np.testing.assert_array_equal(out_CHW[0, 0], [3, 6, 9, 100])
    np.testing.assert_array_equal(out_CHW[2, 0], [5, 8, 11, 102])


@pytest.mark.parametrize("size", [(160, 160), (40, 56), (20, 20)])
def test_views_are_the_same_with_and_without_compiled_code(size, monkeypatch):
    """Crops of large images, of small ones, and whole small ones that are moved."""
    height, width = (300, 200) if size == (160, 160) else (40, 56)
    chance = np.random.default_rng(0)
    images_BHWC = chance.integers(0, 256, (24, height, width, 3), dtype=np.uint8)
    views = draw_views(
        ViewPolicy(crop="padded" if size == (40, 56) else "random_resized", auto_augment="rand-m9"),
        view_seed=1,
        epoch=0,
        repeat_B=np.zeros(24, np.int64),
        sample_ids_B=np.arange(24, dtype=np.uint64),
        sizes_B2=np.tile([height, width], (24, 1)),
        aspect=size[1] / size[0],
    )
    with_code = render(images_BHWC, views, size, op_fill=(1, 2, 3))
    monkeypatch.setattr(compiled, "load_kernels", lambda: None)
    np.testing.assert_array_equal(with_code, render(images_BHWC, views, size, op_fill=(1, 2, 3)))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_are_left_to_pillow(channels):
    out_CHW = np.zeros((channels, 8, 8), np.uint8)
    assert not compiled.show_compiled(
        np.ones((8, 8, channels), np.uint8),
        is_flipped=False,
        ops_L=np.zeros(2, np.int64),
        params_L=np.zeros(2, np.float32),
        op_fill=(0,) * channels,
        out_CHW=out_CHW,
    )
    assert not out_CHW.any()
