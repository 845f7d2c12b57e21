"""Preprocessing inside the file: against numbers by hand, Pillow, and the code that training has.

Tolerance: 4e-5 of the range of levels, a hundredth of one of 255 levels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deitkit.data.preprocess import Preprocessing, pixels, preprocess, resized_size
from deitkit.exporters.onnx_preprocess import Operators, preprocessing_operators
from tests.exporters.plain_networks import noise, onnx, session_of

TOLERANCE = 4e-5
SIZES = [(8, 9), (9, 8), (1, 1), (1, 40), (40, 1), (2, 3), (16, 16), (17, 16), (18, 18), (19, 31)]
SIZES += [(64, 64), (33, 501), (500, 37), (7, 300), (100, 101), (256, 255), (8, 9000), (9000, 8)]


def spec_of(size: tuple[int, int], *, channels: int = 3, **more: Any) -> Preprocessing:
    """Levels 0 to 1 come out as they are."""
    return Preprocessing(
        image_size=size, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels, **more
    )


@cache
def session(spec: Preprocessing) -> Any:
    """The operators alone, with what Resize gives as a second output."""
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = ["n", spec.channels, *spec.image_size]
    graph = helper.make_graph(
        [],
        "preprocessing",
        [helper.make_tensor_value_info("images", kinds.UINT8, ["n", "h", "w", spec.channels])],
        [
            helper.make_tensor_value_info("pixels", kinds.FLOAT, shape),
            helper.make_tensor_value_info("deitkit.resized", kinds.FLOAT, [None] * 4),
        ],
    )
    ops = Operators(onnx, graph)
    preprocessing_operators(ops, spec)
    graph.node.extend(ops.nodes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return session_of(model.SerializeToString())


def in_graph(images_NHWC: np.ndarray, spec: Preprocessing) -> np.ndarray:
    (found_NCHW,) = session(spec).run(["pixels"], {"images": images_NHWC})
    return found_NCHW


def assert_same(images_NHWC: np.ndarray, spec: Preprocessing) -> None:
    expected = np.stack([preprocess(image, spec) for image in images_NHWC])
    np.testing.assert_allclose(in_graph(images_NHWC, spec), expected, rtol=0, atol=TOLERANCE)


def test_normalisation_by_hand():
    """Levels 0, 51, 255 are 0, 0.2 and 1; (x - 0.2) / 0.4 makes -0.5, 0 and 2 of them."""
    image = np.array([[[0], [51], [255]]], dtype=np.uint8)
    spec = Preprocessing(image_size=(1, 3), crop_ratio=1.0, channels=1, mean=(0.2,), std=(0.4,))
    np.testing.assert_allclose(in_graph(image[None], spec), [[[[-0.5, 0.0, 2.0]]]], atol=1e-6)


def test_two_columns_to_four_by_hand():
    """Keys' kernel at 0.25, 0.75 and 1.25 is 0.8671875, 0.2265625 and -0.0703125."""
    image = np.zeros((1, 2, 1), np.uint8)
    image[0, 1] = 100
    inner = 100 * 0.2265625 / 1.09375 / 255
    # One image, and the same upright: what is done to columns is done to rows.
    for turned in (image, image.transpose(1, 0, 2)):
        size = (1, 4) if turned is image else (4, 1)
        spec = spec_of(size, channels=1, crop_ratio=1.0, resize="squash")
        got = in_graph(turned[None], spec).reshape(4)
        # Outermost, it overshoots below 0 and above 100: 0 stays 0.
        over = 100 * 0.8671875 / (0.8671875 - 0.0703125) / 255
        np.testing.assert_allclose(got, [0, inner, 100 / 255 - inner, over], atol=1e-6)


def test_the_middle_is_kept_by_hand():
    """Four columns on a model of 2: columns 1 and 2; of five, floor(3 / 2) before: 1 and 2."""
    for width in (4, 5):
        image = np.arange(2 * width, dtype=np.uint8).reshape(2, width, 1)
        got = in_graph(image[None], spec_of((2, 2), channels=1, crop_ratio=1.0))
        np.testing.assert_allclose(got[0, 0] * 255, image[:, 1:3, 0], atol=1e-4)
        got = in_graph(image.transpose(1, 0, 2)[None], spec_of((2, 2), channels=1, crop_ratio=1.0))
        np.testing.assert_allclose(got[0, 0] * 255, image[:, 1:3, 0].T, atol=1e-4)


def test_an_image_of_the_models_size_is_passed_on():
    image = noise(16, 16, 3)
    got = in_graph(image[None], spec_of((16, 16), crop_ratio=1.0))
    np.testing.assert_allclose(got[0].transpose(1, 2, 0) * 255, image, atol=1e-4)


@pytest.mark.parametrize("resize", ["shorter", "squash"])
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 0.95, 1.0])
def test_the_same_pixels_as_the_run_reads(resize, crop_ratio):
    """X04: every size and shape, both ways to resize, in colour and in grey."""
    for channels in (1, 3):
        spec = spec_of((16, 16), channels=channels, crop_ratio=crop_ratio, resize=resize)
        for size in SIZES:
            assert_same(noise(1, *size, channels), spec)


@pytest.mark.parametrize("image_size", [(24, 40), (40, 24), (1, 7)])
def test_oblong_models(image_size):
    for size in SIZES:
        assert_same(noise(1, *size, 3), spec_of(image_size, crop_ratio=0.9))


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (224, 224), (96, 1000), (1, 3)])
def test_the_size_of_the_public_models(size):
    assert_same(noise(1, *size, 3), spec_of((224, 224)))


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    kind=st.sampled_from([((16, 16), 0.9), ((12, 20), 0.875), ((9, 9), 1.0)]),
    resize=st.sampled_from(["shorter", "squash"]),
    num_images=st.integers(1, 3),
)
def test_any_size(size, kind, resize, num_images):
    spec = spec_of(kind[0], crop_ratio=kind[1], resize=resize)
    assert_same(noise(num_images, *size, 3), spec)


@settings(max_examples=40)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), seed=st.integers(0, 9))
def test_pillow_resizes_the_same(size, seed):
    """Pillow's own bicubic resize in floating point, then a plain crop."""
    spec = spec_of((16, 12), channels=1, crop_ratio=0.9)
    image = noise(*size, 1, seed=seed)
    height, width = resized_size(size, spec)
    plane = Image.fromarray(image[:, :, 0].astype(np.float32))
    resized = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 12) // 2
    expected = resized[top : top + 16, left : left + 12].clip(0, 255) / 255
    np.testing.assert_allclose(in_graph(image[None], spec)[0, 0], expected, atol=TOLERANCE)


def test_overshoot_is_clamped():
    step = np.repeat([0, 255], 8).astype(np.uint8)[None, :, None].repeat(16, axis=0)
    spec = spec_of((32, 32), channels=1, crop_ratio=1.0)
    got = in_graph(step[None], spec)
    assert got.min() == 0 and got.max() == 1
    np.testing.assert_allclose(got[0], pixels(step, spec), atol=TOLERANCE)


@pytest.mark.parametrize("size", [(8, 100_000), (100_000, 8)])
def test_a_strip_costs_no_more_than_a_square(size):
    """D24: resized as a whole, this would take 10 GB at 224 pixels; its middle takes little."""
    spec = spec_of((32, 32), crop_ratio=1.0)
    image = np.zeros((*size, 3), np.uint8)
    middle = slice(50_000 - 20, 50_000 + 20)
    image[middle if size[0] > 8 else slice(None), middle if size[1] > 8 else slice(None)] = 200
    resized, got = session(spec).run(["deitkit.resized", "pixels"], {"images": image[None]})
    assert resized.size < 3 * 32 * 32
    np.testing.assert_allclose(got, 200 / 255, atol=TOLERANCE)


def test_images_of_a_batch_do_not_meet():
    images = noise(5, 21, 34, 3)
    spec = spec_of((16, 16))
    alone = np.concatenate([in_graph(images[k : k + 1], spec) for k in range(5)])
    np.testing.assert_allclose(in_graph(images, spec), alone, atol=1e-6)
