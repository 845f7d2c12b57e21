"""What a view holds: orders, boxes, flips and mix draws, and what they may depend on."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, Views, draw_views, epoch_order
from deitkit.errors import ConfigError

MIXED = ViewPolicy(mixup=0.8, cutmix=1.0)
FULL = ViewPolicy(
    mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.3, erasing=0.25
)
FIELDS = tuple(field.name for field in fields(Views))
GEOMETRY_AND_MIX = ("sample_ids_B", "box_B4", "flip_B", "lam_B", "cut_B4")
OPERATIONS_AND_ERASING = ("ops_BL", "params_BL", "erase_B4", "erase_key_B")

GOLDEN_DIGEST = "dbadef702c554a99533e474522d2e40b"
GOLDEN_OPERATIONS = {
    "rand-m9-mstd0.5-inc1": "e20a4ed3cbe4a763cfb89ac01e525055",
    "autoaugment": "d848f0ac96f74a92b391f6854e94d09f",
    "3augment": "80ec8c490fdd93c9ad08f5b268dd873d",
    "trivial": "dd339e15e60995939c80a48cae4af089",
}


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


@pytest.mark.parametrize("policy", [MIXED, FULL], ids=["mixed", "full"])
def test_a18_views_are_the_same_for_any_batches_of_whole_pairs(policy):
    """FACTS A.18: a step's size, a rank's share and a worker's batch change no byte."""
    repeats = np.arange(61) % 3
    whole = draw(policy, 61, repeat_B=repeats)
    for batch in (2, 8, 24, 60, 62):
        spans = [slice(start, start + batch) for start in range(0, 61, batch)]
        parts = [
            draw(policy, 0, ids=whole.sample_ids_B[span], repeat_B=repeats[span]) for span in spans
        ]
        assert same(Views.concatenate(parts), whole)


def test_a18_golden_digest():
    """FACTS A.18. Pinned: a change here changes the pixels of every run ever started."""
    ones = np.ones(64, dtype=np.int64)
    views = draw(MIXED, 64, size=(375, 500), epoch=3, view_seed=11, repeat_B=ones)
    padded = draw(ViewPolicy(crop="padded"), 64, size=(28, 28))
    digest = hashlib.sha256()
    for name in GEOMETRY_AND_MIX:
        digest.update(getattr(views, name).tobytes() + getattr(padded, name).tobytes())
    assert digest.hexdigest()[:32] == GOLDEN_DIGEST


@pytest.mark.parametrize("auto_augment", GOLDEN_OPERATIONS)
def test_a18_golden_digest_of_operations_and_erasing(auto_augment):
    """FACTS A.18. Pinned likewise; the words do not depend on the machine."""
    policy = ViewPolicy(auto_augment=auto_augment, color_jitter=0.3, erasing=0.5)
    views = draw(policy, 64, epoch=3, view_seed=11, repeat_B=np.arange(64) // 8)
    digest = hashlib.sha256()
    for name in OPERATIONS_AND_ERASING:
        digest.update(getattr(views, name).tobytes())
    assert digest.hexdigest()[:32] == GOLDEN_OPERATIONS[auto_augment]


@pytest.mark.parametrize(
    "key",
    [{"epoch": 1}, {"view_seed": 1}, {"repeat_B": np.ones(400, dtype=np.int64)}],
    ids=["epoch", "seed", "repeat"],
)
def test_epoch_seed_and_repeat_each_give_other_views(key):
    base, other = draw(FULL, 400), draw(FULL, 400, **key)
    assert (base.box_B4 == other.box_B4).all(axis=1).mean() < 0.01
    assert 0.3 < (base.flip_B == other.flip_B).mean() < 0.7
    assert (base.lam_B == other.lam_B).mean() < 0.1
    assert abs(np.corrcoef(base.box_B4[:, 2], other.box_B4[:, 2])[0, 1]) < 0.2
    # Of two draws, half are none; each of the other 15 is met again by chance one time in 15.
    assert 0.15 < (base.ops_BL[:, :2] == other.ops_BL[:, :2]).mean() < 0.4
    assert (base.params_BL[:, 2:] == other.params_BL[:, 2:]).mean() < 0.01
    assert ((base.erase_B4 > 0) & (base.erase_B4 == other.erase_B4)).mean() < 0.01
    assert (base.erase_key_B != other.erase_key_B).all()


def test_geometry_depends_on_the_image_alone_and_the_mix_on_both_of_a_pair():
    views = draw(FULL, 4)
    ids = views.sample_ids_B.copy()
    ids[1] = 99
    changed = draw(FULL, 4, ids=ids)
    for name in ("box_B4", *OPERATIONS_AND_ERASING):
        before, after = getattr(views, name), getattr(changed, name)
        np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert changed.lam_B[0] == changed.lam_B[1] != views.lam_B[0]
    np.testing.assert_array_equal(changed.lam_B[2:], views.lam_B[2:])


def test_the_mix_depends_on_the_repeats_of_both():
    """Repeats 0 and 1 against 1 and 0, 1 and 1: three draws; the images' own follow theirs."""
    draws = {
        repeats: draw(FULL, 2, repeat_B=np.array(repeats))
        for repeats in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    assert len({float(views.lam_B[0]) for views in draws.values()}) == 4
    for (first, _), views in draws.items():
        np.testing.assert_array_equal(views.box_B4[0], draws[first, first].box_B4[0])
        np.testing.assert_array_equal(views.params_BL[0], draws[first, first].params_BL[0])
        assert views.erase_key_B[0] == draws[first, first].erase_key_B[0]
    assert draws[0, 1].repeat_B.tolist() == [0, 1]


def test_an_image_is_not_mixed_with_its_own_copy():
    """Two repeats, and two files of one content; the next pair is mixed as before."""
    ids = some_ids(4)
    ids[1] = ids[0]
    for repeats in ([0, 1, 0, 0], [0, 0, 0, 0]):
        views = draw(MIXED, 4, ids=ids, repeat_B=np.array(repeats))
        assert views.lam_B[:2].tolist() == [1.0, 1.0] and (views.cut_B4[:2] == 0).all()
        np.testing.assert_array_equal(views.lam_B[2:], draw(MIXED, 2, ids=ids[2:]).lam_B)
        assert (views.lam_B[2:] < 1).all()


def test_a_part_of_the_policy_does_not_move_the_others():
    """What is switched on later leaves the draws of the rest as they were."""
    plain, full = draw(ViewPolicy(), 20), draw(FULL, 20)
    jitter = draw(ViewPolicy(color_jitter=0.3), 20)
    rand = draw(ViewPolicy(auto_augment=FULL.auto_augment), 20)
    for name in ("box_B4", "flip_B", "erase_key_B"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(full, name))
    np.testing.assert_array_equal(full.params_BL[:, :2], rand.params_BL)
    np.testing.assert_array_equal(full.params_BL[:, 2:], jitter.params_BL)
    erased = draw(ViewPolicy(erasing=0.25), 20)
    np.testing.assert_array_equal(full.erase_B4, erased.erase_B4)
    assert plain.ops_BL.shape == plain.params_BL.shape == (20, 0)
    assert plain.ops_BL.dtype == np.int8 and full.params_BL.dtype == np.float32


def test_slices_join_to_the_whole_and_survive_pickling():
    views = draw(FULL, 11, repeat_B=np.arange(11) % 3)
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
        {"color_jitter": -0.1},
        {"color_jitter": float("nan")},
        {"rand_ops": ("rotate", "Rotate")},
        {"erasing": 1.5},
        {"erasing_scale": (0.0, 0.3)},
        {"erasing_ratio": (2.0, 1.0)},
        {"auto_augment": "rand-m9-x1"},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        ViewPolicy(**wrong)
    assert caught.value.code == "BAD_VIEWS"
