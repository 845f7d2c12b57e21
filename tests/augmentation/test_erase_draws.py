"""Which box is erased: how often, how large, of which shape and where; timm is the oracle."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from deitkit.augmentation import ViewPolicy, Views, draw_views
from deitkit.augmentation.draws import hash_key
from tests.augmentation.plain_views import plain_views


def some_ids(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, num, dtype=np.uint64)


def draw(policy: ViewPolicy, num: int, *, aspect: float = 1.0) -> Views:
    return draw_views(
        policy,
        view_seed=0,
        epoch=0,
        sample_ids_B=some_ids(num),
        sizes_B2=np.full((num, 2), (375, 500)),
        aspect=aspect,
    )


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.75])
def test_a16_erased_boxes_by_area_shape_place_and_frequency(aspect):
    """FACTS A.16: area within [0.02, 1/3], frequency 0.25; place uniform in what is left."""
    num = 40_000
    box = draw(ViewPolicy(erasing=0.25), num, aspect=aspect).erase_B4.astype(np.float64)
    is_erased = (box != 0).any(axis=1)
    assert abs(is_erased.mean() - 0.25) < 3 * math.sqrt(0.25 * 0.75 / num)
    top, left, bottom, right = box[is_erased].T
    high, wide = bottom - top, right - left
    assert (top >= 0).all() and (left >= 0).all() and bottom.max() <= 1 and right.max() <= 1
    assert (high < 1).all() and (wide < 1).all()
    area, shape = high * wide, high / (wide * aspect)
    assert area.min() > 0.02 - 1e-6 and area.max() < 1 / 3 + 1e-6
    assert shape.min() > 0.3 - 1e-4 and shape.max() < 1 / 0.3 + 1e-4
    for place in (top / (1 - high), left / (1 - wide)):
        assert stats.kstest(place, "uniform").statistic < 1.95 / math.sqrt(len(place))


def test_erased_boxes_are_distributed_as_timms():
    """Means and spreads of area, logarithmic shape and place in 100 x 100 pixels."""
    from timm.data.random_erasing import RandomErasing

    random.seed(0)
    eraser = RandomErasing(probability=1.0, mode="const", device="cpu")
    theirs = []
    for _ in range(3000):
        erased = (eraser(torch.ones(1, 100, 100))[0] == 0).numpy()
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        theirs.append([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])

    def values(box: np.ndarray) -> np.ndarray:
        top, left, bottom, right = box.T.astype(float)
        high, wide = bottom - top, right - left
        return np.stack([high * wide / 1e4, np.log(high / wide), top / 100, left / 100])

    ours = values(draw(ViewPolicy(erasing=1.0), 3000).erase_pixels((100, 100)))
    # Four standard errors of a difference of two means, and of two spreads.
    spread, error = values(np.array(theirs)).std(axis=1), 4 * math.sqrt(2 / 3000)
    assert (
        np.abs(ours.mean(axis=1) - values(np.array(theirs)).mean(axis=1)) < error * spread
    ).all()
    assert (np.abs(ours.std(axis=1) - spread) < error * spread).all()


def test_a_box_that_fits_in_none_of_ten_attempts_is_not_erased():
    """Twice as high as the whole square is wide: area 0.9, shape 4, height 1.9."""
    policy = ViewPolicy(erasing=1.0, erasing_scale=(0.9, 0.9), erasing_ratio=(4.0, 4.0))
    assert (draw(policy, 50).erase_B4 == 0).all()
    wide = ViewPolicy(erasing=1.0, erasing_scale=(0.25, 0.25), erasing_ratio=(1.0, 1.0))
    box = draw(wide, 50).erase_B4
    np.testing.assert_allclose(box[:, 2:] - box[:, :2], 0.5, atol=1e-6)


def test_erased_pixels_by_hand():
    """Edges at 0.1 and 0.6 of 32 rows are 3.2 and 19.2, at 0.2 and 0.7 of 9 columns 1.8 and 6.3."""
    box = np.array([[0.1, 0.2, 0.6, 0.7], [0, 0, 0, 0]], dtype=np.float32)
    views = plain_views(2, erase_B4=box)
    assert views.erase_pixels((32, 9)).tolist() == [[3, 2, 19, 6], [0, 0, 0, 0]]
    assert views.erase_pixels((32, 9)).dtype == np.int64


def test_the_key_of_erasing_noise_is_the_hash_of_the_image():
    ids, repeats = some_ids(6), np.array([0, 0, 1, 1, 2, 2])
    views = draw_views(
        ViewPolicy(erasing=0.25),
        view_seed=7,
        epoch=2,
        sample_ids_B=ids,
        sizes_B2=np.full((6, 2), 32),
        repeat_B=repeats,
    )
    expected = hash_key(7, 2, repeats, ids, purpose="erase noise")
    np.testing.assert_array_equal(views.erase_key_B, expected)
    assert views.erase_key_B.dtype == np.uint64 and len(set(expected.tolist())) == 6
