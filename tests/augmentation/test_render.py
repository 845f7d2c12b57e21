"""Views applied on the CPU, held to Pillow called directly and to arithmetic by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deitkit.augmentation import ViewPolicy, Views, draw_views, render
from deitkit.data.preprocess import Preprocessing, pixels
from tests.augmentation.plain_views import plain_views, views_of_operations


def some_images(num: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    shape = (num, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def view_of(box: tuple[float, float, float, float], flip: bool = False) -> Views:
    return plain_views(1, box_B4=np.array([box], dtype=np.float32), flip_B=np.array([flip]))


def draw(policy: ViewPolicy, images, **key) -> Views:
    return draw_views(
        policy,
        view_seed=key.get("seed", 0),
        epoch=key.get("epoch", 0),
        sample_ids_B=np.arange(len(images), dtype=np.uint64),
        sizes_B2=np.array([image.shape[:2] for image in images]).reshape(-1, 2),
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (40, 24), (7, 90)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_against_pillow_called_directly_with_the_same_box(channels, size, flip):
    """Box of rows 8.25 to 30.75 and columns 5.5 to 55 of 48 x 64, channel by channel."""
    image = some_images(1, 48, 64, channels)[0]
    box = (8.25 / 48, 5.5 / 64, 22.5 / 48, 49.5 / 64)
    got = render([image], view_of(box, flip), size)
    for channel in range(channels):
        plane = Image.fromarray(image[:, :, channel])
        resized = plane.resize(size[::-1], Image.Resampling.BICUBIC, (5.5, 8.25, 55.0, 30.75))
        expected = np.asarray(resized)
        np.testing.assert_array_equal(got[0, channel], expected[:, ::-1] if flip else expected)


def test_random_views_against_pillow():
    """Drawn boxes are Pillow's boxes to 1/512 of a pixel."""
    images = list(some_images(12, 60, 90, 3))
    views = draw(ViewPolicy(), images)
    got = render(images, views, (32, 32))
    for index, image in enumerate(images):
        top, left, high, wide = views.box_B4[index].astype(np.float64) * [60, 90, 60, 90]
        box = (left, top, min(left + wide, 90), min(top + high, 60))
        resized = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC, box)
        expected = np.asarray(resized).astype(int)
        if views.flip_B[index]:
            expected = expected[:, ::-1]
        assert np.abs(got[index] - expected.transpose(2, 0, 1)).max() <= 2


def test_a_shift_by_hand_with_fill_on_the_outside():
    """2 x 3 pixels moved down by one and right by one: the first row and column are fill."""
    image = np.array([[[1], [2], [3]], [[4], [5], [6]]], dtype=np.uint8)
    expected = [[9, 9, 9], [9, 1, 2]]
    box = (-1 / 2, -1 / 3, 1.0, 1.0)
    for images in ([image], image[None]):
        assert render(images, view_of(box), (2, 3), fill=9)[0, 0].tolist() == expected
        flipped = render(images, view_of(box, flip=True), (2, 3), fill=9)
        assert flipped[0, 0].tolist() == [row[::-1] for row in expected]


def test_fill_may_differ_by_channel():
    image = np.full((1, 4, 4, 3), 200, dtype=np.uint8)
    for images in (image, list(image)):
        got = render(images, view_of((0.5, 0.0, 1.0, 1.0)), (4, 4), fill=(1, 2, 3))[0]
        assert got[:, 3, 0].tolist() == [1, 2, 3] and (got[:, :2] == 200).all()


@given(
    side=st.sampled_from([(8, 8), (28, 28), (13, 21)]),
    channels=st.sampled_from([1, 3, 6]),
    padding=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_fast_path_is_the_general_path(side, channels, padding, seed):
    """One array goes the fast way, a list of the same images through Pillow: the same bytes."""
    images = some_images(6, *side, channels, seed)
    sizes = np.full((6, 2), side)
    views = draw_views(
        ViewPolicy(crop="padded", padding=padding),
        view_seed=seed,
        epoch=0,
        sample_ids_B=np.arange(6, dtype=np.uint64),
        sizes_B2=sizes,
        aspect=side[1] / side[0],
    )
    fast, general = render(images, views, side, fill=7), render(list(images), views, side, fill=7)
    np.testing.assert_array_equal(fast, general)
    assert fast.flags.c_contiguous and general.flags.c_contiguous


@pytest.mark.parametrize("size", [(20, 20), (9, 33), (64, 64)])
def test_a_view_shows_the_same_place_at_any_size(size):
    """Of a ramp that counts columns, output column x shows left + (x + 1/2) width / W - 1/2."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (50, 200, 1))
    left, wide = 60.0, 80.0
    got = render([ramp], view_of((0.2, left / 200, 0.6, wide / 200)), size)[0, 0]
    expected = left + (np.arange(size[1]) + 0.5) * wide / size[1] - 0.5
    assert np.abs(got - expected).max() <= 0.51


def test_an_image_does_not_depend_on_its_batch():
    images = [some_images(1, 20 + k, 30, 3, k)[0] for k in range(6)]
    views = draw(ViewPolicy(), images)
    whole = render(images, views, (16, 16))
    parts = [render(images[k : k + 2], views[k : k + 2], (16, 16)) for k in (0, 2, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_one_array_and_a_list_agree_for_random_resized_views():
    images = some_images(6, 24, 24, 3)
    views = draw(ViewPolicy(), images)
    np.testing.assert_array_equal(
        render(images, views, (24, 24)), render(list(images), views, (24, 24))
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)], ids=lambda s: f"D24 {s}")
def test_d24_sources_of_one_pixel_or_one_row_are_rendered(shape):
    """Rows stay rows: a constant strip gives its constant for every crop."""
    image = np.full((*shape, 3), 77, dtype=np.uint8)
    for crop in ("random_resized", "none"):
        views = draw(ViewPolicy(crop=crop), [image] * 4)
        assert (render([image] * 4, views, (8, 8)) == 77).all()
    padded = render([image] * 4, draw(ViewPolicy(crop="padded"), [image] * 4), (8, 8), fill=77)
    assert (padded == 77).all()


@pytest.mark.parametrize("side", [16, 40, 56])
def test_training_sees_what_evaluation_sees_to_a_level(side):
    """Without crop or flip, render differs from `data.preprocess` by rounding only."""
    # Half the contrast: Pillow clamps after each axis, evaluation once at the end.
    images = some_images(3, 40, 40, 3) // 2 + 64
    got = render(images, draw(ViewPolicy(crop="none", flip=0.0), images), (side, side))
    spec = Preprocessing(image_size=(side, side), crop_ratio=1.0)
    for rendered, image in zip(got, images, strict=True):
        # And Pillow rounds to whole levels after each axis.
        assert np.abs(pixels(image, spec) * 255.0 - rendered).max() < 1.5


CHAINS = (
    [("posterize", 3.0), ("shear_x", 0.21)],
    [],
    [("color", 0.3), ("none", 0.0), ("rotate", -20.0)],
    [("equalize", 0.0)],
    [("translate_y", 0.25), ("solarize", 77.0)],
    [("blur", 0.03), ("contrast", 1.6)],
)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_operations_act_on_the_cropped_and_flipped_image_in_their_order(channels):
    """Render without operations, then Pillow by hand for one image of each chain."""
    images = some_images(6, 40, 52, channels)
    box_B4 = np.tile(np.array([0.1, 0.2, 0.7, 0.6], dtype=np.float32), (6, 1))
    geometry = plain_views(6, box_B4=box_B4, flip_B=np.arange(6) % 2 == 0)
    operations = views_of_operations(*CHAINS)
    views = replace(geometry, ops_BL=operations.ops_BL, params_BL=operations.params_BL)
    fill = tuple(range(10, 10 + channels))
    before, got = render(images, geometry, (32, 24)), render(images, views, (32, 24), op_fill=fill)

    np.testing.assert_array_equal(got[1], before[1])
    for channel in range(channels):
        kept = before[0, channel] & 0b11100000
        sheared = Image.fromarray(kept).transform(
            (24, 32),
            Image.Transform.AFFINE,
            (1, float(np.float32(0.21)), 0, 0, 1, 0),
            Image.Resampling.BICUBIC,
            fillcolor=fill[channel],
        )
        # Sums of float32 here, of doubles in Pillow: the last bit may decide between two levels.
        apart = np.abs(got[0, channel].astype(int) - np.asarray(sheared))
        assert apart.max() <= 1 and (apart > 0).mean() <= 0.02
        moved = np.full((32, 24), fill[channel], dtype=np.uint8)
        moved[:24] = before[4, channel, 8:]
        moved = np.where(moved >= 77, 255 - moved, moved)
        np.testing.assert_array_equal(got[4, channel], moved)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_operations_on_the_fast_path_are_those_of_the_general_path(channels):
    """One array goes by shifts, a list of the same images through Pillow: the same bytes."""
    images = some_images(6, 24, 24, channels)
    views = replace(views_of_operations(*CHAINS), flip_B=np.arange(6) % 2 == 0)
    fast = render(images, views, (24, 24), op_fill=99)
    np.testing.assert_array_equal(fast, render(list(images), views, (24, 24), op_fill=99))
    assert fast.flags.c_contiguous
    np.testing.assert_array_equal(images, some_images(6, 24, 24, channels))


@pytest.mark.parametrize("as_array", [True, False])
def test_an_image_with_operations_does_not_depend_on_its_batch(as_array):
    images = some_images(8, 28, 28, 3)
    policy = ViewPolicy(crop="padded", auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.3)
    views = draw(policy, images)
    whole = render(images if as_array else list(images), views, (28, 28), op_fill=(1, 2, 3))
    for start in range(0, 8, 2):
        part = images[start : start + 2]
        got = render(
            part if as_array else list(part), views[start : start + 2], (28, 28), op_fill=(1, 2, 3)
        )
        np.testing.assert_array_equal(got, whole[start : start + 2])


def test_the_two_fills_are_kept_apart():
    """A crop moved down by half leaves `fill` above; a translation by half uncovers `op_fill`."""
    views = replace(
        views_of_operations([("translate_y", 0.5)]),
        box_B4=np.array([[-0.5, 0.0, 1.0, 1.0]], dtype=np.float32),
    )
    image = np.full((1, 8, 8, 3), 200, dtype=np.uint8)
    for images in (image, list(image)):
        got = render(images, views, (8, 8), fill=(1, 2, 3), op_fill=(4, 5, 6))[0]
        assert (got[:, :4] == 200).all()
        assert got[:, 4:, 3].T.tolist() == [[4, 5, 6]] * 4
        views_up = replace(views, params_BL=-views.params_BL)
        got = render(images, views_up, (8, 8), fill=(1, 2, 3), op_fill=(4, 5, 6))[0]
        assert got[:, :4, 3].T.tolist() == [[4, 5, 6]] * 4
        assert got[:, 4:, 3].T.tolist() == [[1, 2, 3]] * 4


def test_no_images_give_an_empty_batch():
    views = draw(ViewPolicy(), [])
    assert render([], views, (8, 8), op_fill=(1, 2, 3)).shape[0] == 0
    assert render(some_images(0, 8, 8, 3), views, (8, 8)).shape[0] == 0


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (224, 96)])
def test_real_photographs_against_pillow(shared_data, size):
    """Random crops of imagenette photographs: Pillow's crop and resize, a level more or less in one
    value of twenty (weights have 16 bits), further away in one of two thousand."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.ParquetFile(shared_data / "imagenette" / "test.parquet")
    rows = next(table.iter_batches(batch_size=12, columns=["image"])).to_pylist()
    pictures = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    images = [np.asarray(picture) for picture in pictures]
    views = draw(ViewPolicy(), images)
    apart = np.empty((12, *size, 3), dtype=int)
    for index, rendered in enumerate(render(images, views, size)):
        picture = pictures[index]
        top, left, high, wide = views.box_B4[index].astype(np.float64)
        box = np.array([left, top, left + wide, top + high]) * np.tile(picture.size, 2)
        cropped = picture.crop(np.rint(box).astype(int).tolist())
        expected = np.asarray(cropped.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        expected = expected[:, ::-1] if views.flip_B[index] else expected
        apart[index] = np.abs(rendered.transpose(1, 2, 0) - expected)
    assert (apart > 0).mean() < 0.08 and (apart > 1).mean() < 5e-4 and apart.max() < 8


def test_boxes_of_large_images_are_whole_pixels_and_read_nothing_around_them():
    """A grey box in white, 127.6 to 200.4 of 300 pixels down and along: 128 to 200 is grey alone;
    the same box of the middle 120 x 120 pixels is not rounded, and its border is lighter."""
    image = np.full((300, 300, 3), 255, dtype=np.uint8)
    image[128:200, 128:200] = 100
    share = (127.6 / 300, 127.6 / 300, 72.8 / 300, 72.8 / 300)
    assert (render([image], view_of(share), (32, 32)) == 100).all()
    small = image[100:220, 100:220]
    got = render([small], view_of((27.6 / 120, 27.6 / 120, 72.8 / 120, 72.8 / 120)), (32, 32))
    assert got[0, 0, 0, 0] > 100 and got[0, 0, 16, 16] == 100


@pytest.mark.parametrize("channels", [1, 3])
def test_large_boxes_that_stick_out_are_filled(channels):
    """A plain image of 130 x 140, from 13 rows above it and 14 columns before it."""
    image = np.full((130, 140, channels), 200, dtype=np.uint8)
    got = render([image], view_of((-0.1, -0.1, 1.0, 1.0)), (130, 140), fill=9)[0]
    assert (got[:, :13] == 9).all() and (got[:, :, :14] == 9).all()
    assert (got[:, 13:, 14:] == 200).all()
    got = render([image], view_of((0.1, 0.1, 1.0, 1.0)), (130, 140), fill=9)[0]
    assert (got[:, 117:] == 9).all() and (got[:, :, 126:] == 9).all()
    assert (got[:, :117, :126] == 200).all()
