"""What a view holds: orders, boxes, flips and mix draws, and what they may depend on."""

from __future__ import annotations

import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, Views, draw_views, epoch_order
from deitkit.errors import ConfigError

MIXED = ViewPolicy(mixup=0.8, cutmix=1.0)
FIELDS = ("sample_ids_B", "box_B4", "flip_B", "lam_B", "cut_B4")


def some_ids(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, num, dtype=np.uint64)


def draw(policy: ViewPolicy, num: int, size=(375, 500), *, epoch=0, view_seed=0, **more) -> Views:
    ids = more.pop("ids", some_ids(num))
    return draw_views(
        policy,
        view_seed=view_seed,
        epoch=epoch,
        sample_ids_B=ids,
        sizes_B2=np.full((len(ids), 2), size),
        **more,
    )


def same(a: Views, b: Views) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def test_order_is_a_permutation_that_changes_with_epoch_and_seed():
    ids = some_ids(1000)
    orders = [epoch_order(*key, ids) for key in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for other in orders[1:]:
        assert (orders[0] == other).sum() < 10
        assert abs(np.corrcoef(np.argsort(orders[0]), np.argsort(other))[0, 1]) < 0.13
    np.testing.assert_array_equal(orders[0], epoch_order(0, 0, ids))


@given(
    ids=st.lists(st.integers(0, 20), min_size=0, max_size=30),
    added=st.lists(st.integers(0, 40), max_size=10),
)
@settings(max_examples=60, deadline=None)
def test_adding_images_only_inserts_them(ids, added):
    """The order of the old contents stays, also with several copies of one content."""
    old = np.array(ids, dtype=np.uint64)
    new = np.array([*ids, *added], dtype=np.uint64)
    order = epoch_order(3, 5, new)
    kept = order[order < len(old)]
    np.testing.assert_array_equal(kept, epoch_order(3, 5, old))


def test_order_does_not_depend_on_where_the_images_stand():
    ids = some_ids(200)
    shuffled = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(
        ids[epoch_order(0, 4, ids)], ids[shuffled][epoch_order(0, 4, ids[shuffled])]
    )


def test_copies_of_one_content_are_spread_over_the_epoch():
    """100 copies among 200: by chance alone about 50 of the pairs of neighbours are both copies."""
    ids = np.concatenate([some_ids(100), np.full(100, 7, dtype=np.uint64)])
    is_copy = epoch_order(0, 0, ids) >= 100
    assert 30 < (is_copy[1:] & is_copy[:-1]).sum() < 70


def test_a18_views_are_the_same_for_any_batches_of_whole_pairs():
    """FACTS A.18: a step's size, a rank's share and a worker's batch change no byte."""
    whole = draw(MIXED, 61)
    for batch in (2, 8, 24, 60, 62):
        parts = [
            draw(MIXED, 0, ids=whole.sample_ids_B[start : start + batch])
            for start in range(0, 61, batch)
        ]
        assert same(Views.concatenate(parts), whole)


def test_a18_golden_digest():
    """FACTS A.18. Pinned: a change here changes the pixels of every run ever started."""
    views = draw(MIXED, 64, size=(375, 500), epoch=3, view_seed=11, repeat=1)
    padded = draw(ViewPolicy(crop="padded"), 64, size=(28, 28))
    digest = hashlib.sha256()
    for name in FIELDS:
        digest.update(getattr(views, name).tobytes() + getattr(padded, name).tobytes())
    assert digest.hexdigest()[:32] == GOLDEN_DIGEST


@pytest.mark.parametrize("key", [{"epoch": 1}, {"view_seed": 1}, {"repeat": 1}])
def test_epoch_seed_and_repeat_each_give_other_views(key):
    base, other = draw(MIXED, 400), draw(MIXED, 400, **key)
    assert (base.box_B4 == other.box_B4).all(axis=1).mean() < 0.01
    assert 0.3 < (base.flip_B == other.flip_B).mean() < 0.7
    assert (base.lam_B == other.lam_B).mean() < 0.1
    assert abs(np.corrcoef(base.box_B4[:, 2], other.box_B4[:, 2])[0, 1]) < 0.2


def test_geometry_depends_on_the_image_alone_and_the_mix_on_both_of_a_pair():
    views = draw(MIXED, 4)
    ids = views.sample_ids_B.copy()
    ids[1] = 99
    changed = draw(MIXED, 4, ids=ids)
    np.testing.assert_array_equal(changed.box_B4[[0, 2, 3]], views.box_B4[[0, 2, 3]])
    assert changed.lam_B[0] == changed.lam_B[1] != views.lam_B[0]
    np.testing.assert_array_equal(changed.lam_B[2:], views.lam_B[2:])


def test_mixing_settings_do_not_move_the_geometry():
    plain, mixed = draw(ViewPolicy(), 20), draw(MIXED, 20)
    np.testing.assert_array_equal(plain.box_B4, mixed.box_B4)
    np.testing.assert_array_equal(plain.flip_B, mixed.flip_B)


def test_slices_join_to_the_whole_and_survive_pickling():
    views = draw(MIXED, 11)
    parts = [views[:4], views[4:4], views[4:10], views[10:]]
    assert [len(part) for part in parts] == [4, 0, 6, 1]
    assert same(Views.concatenate(parts), views)
    assert same(pickle.loads(pickle.dumps(views)), views)
    assert same(views[:100], views)


@pytest.mark.parametrize("span", [slice(1, 4), slice(0, 3), slice(0, 4, 2)])
def test_a_slice_through_a_pair_is_refused(span):
    with pytest.raises(AssertionError, match=r"pair|order"):
        draw(MIXED, 8)[span]


def test_joining_after_an_odd_part_is_refused():
    views = draw(MIXED, 3)
    with pytest.raises(AssertionError, match="pairs"):
        Views.concatenate([views, views])


def test_random_resized_boxes_are_distributed_as_torchvisions():
    """Same means and spreads of area, shape and place on a 300 x 500 source."""
    from torchvision.transforms import RandomResizedCrop

    height, width, num = 300, 500, 4000
    torch.manual_seed(0)
    blank = torch.empty(1, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(num)]
    )
    ours = draw(ViewPolicy(), num, (height, width)).box_B4 * [height, width, height, width]

    def summary(box: np.ndarray) -> np.ndarray:
        top, left, high, wide = box.T.astype(float)
        values = np.stack(
            [high * wide / (height * width), np.log(wide / high), top / height, left / width]
        )
        return np.concatenate([values.mean(axis=1), values.std(axis=1)])

    np.testing.assert_allclose(summary(ours), summary(theirs), atol=0.02)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    seed=st.integers(0, 2**64 - 1),
    aspect=st.sampled_from([0.5, 1.0, 1.75]),
)
@settings(max_examples=100, deadline=None)
def test_random_resized_boxes_lie_inside_and_keep_their_shape(height, width, seed, aspect):
    box = draw(ViewPolicy(), 4, (height, width), view_seed=seed, aspect=aspect).box_B4
    top, left, high, wide = box.T.astype(np.float64)
    assert (box[:, 2:] > 0).all() and (box[:, :2] >= 0).all()
    assert (top + high <= 1 + 1e-6).all() and (left + wide <= 1 + 1e-6).all()
    shape = wide * width / (high * height) / aspect
    assert ((shape > 0.75 - 1e-5) & (shape < 4 / 3 + 1e-5)).all()


@pytest.mark.parametrize(
    "size, share",
    [((1, 5000), (1.0, 4 / 3 / 5000)), ((5000, 1), (4 / 3 / 5000, 1.0))],
    ids=["D24 1x5000", "D24 5000x1"],
)
def test_d24_a_source_no_box_fits_in_gets_the_central_one(size, share):
    """No attempt fits in a strip: the widest allowed shape in its middle, by hand."""
    box = draw(ViewPolicy(), 2, size).box_B4
    expected = [(1 - share[0]) / 2, (1 - share[1]) / 2, *share]
    np.testing.assert_allclose(box, [expected] * 2, rtol=1e-5)


def test_padded_boxes_take_every_whole_pixel_shift_equally_often():
    """32 px and padding 0.125: 9 x 9 places, as RandomCrop(32, padding=4). Chi-square, df 80."""
    num = 81 * 100
    box = draw(ViewPolicy(crop="padded", padding=0.125), num, (32, 32)).box_B4
    assert (box[:, 2:] == 1.0).all()
    shift = box[:, :2] * 32
    assert (shift == np.rint(shift)).all() and np.abs(shift).max() == 4
    counts = np.histogram2d(*shift.T, bins=9, range=[(-4.5, 4.5)] * 2)[0]
    assert ((counts - 100) ** 2 / 100).sum() < 135


def test_padding_of_odd_sizes_is_rounded_to_pixels():
    """28 px: 3.5 pixels round to 4; 8 px: 1; 7 x 12 in its own shape: 1 and 2 (0.875, 1.5)."""
    for size, most in (((28, 28), (4, 4)), ((8, 8), (1, 1)), ((7, 12), (1, 2))):
        box = draw(ViewPolicy(crop="padded"), 500, size, aspect=size[1] / size[0]).box_B4
        found = np.abs(box[:, :2] * np.array(size)).max(axis=0)
        np.testing.assert_allclose(found, most, rtol=1e-6)


def test_without_a_crop_the_box_is_the_largest_of_the_outputs_shape():
    """300 x 500 for a square: columns 100 to 400; for 2:1: rows 25 to 275."""
    square = draw(ViewPolicy(crop="none"), 2, (300, 500)).box_B4
    np.testing.assert_allclose(square, [[0, 0.2, 1, 0.6]] * 2, rtol=1e-6)
    wide = draw(ViewPolicy(crop="none"), 2, (300, 500), aspect=2.0).box_B4
    np.testing.assert_allclose(wide, [[25 / 300, 0, 250 / 300, 1]] * 2, rtol=1e-6)


@pytest.mark.parametrize("flip", [0.0, 0.3, 0.5, 1.0])
def test_flips_come_with_their_probability(flip):
    share = draw(ViewPolicy(flip=flip), 4000).flip_B.mean()
    assert abs(share - flip) <= 3 * math.sqrt(flip * (1 - flip) / 4000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": "centre"},
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"scale": (0.5, float("nan"))},
        {"ratio": (0.0, 1.0)},
        {"padding": 1.5},
        {"flip": -0.1},
        {"mixup": -1.0},
        {"cutmix": float("inf")},
        {"mix_prob": 1.1},
        {"switch_prob": float("nan")},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        ViewPolicy(**wrong)
    assert caught.value.code == "BAD_VIEWS"


GOLDEN_DIGEST = "dbadef702c554a99533e474522d2e40b"
