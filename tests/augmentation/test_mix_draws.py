"""The mix draws of views: CutMix boxes, lambdas and how often which is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deitkit.augmentation import ViewPolicy, Views, draw_views
from deitkit.augmentation.views import CUT_GRID, cut_boxes

MIXED = ViewPolicy(mixup=0.8, cutmix=1.0)


def draw(policy: ViewPolicy, num: int) -> Views:
    return draw_views(
        policy,
        view_seed=0,
        epoch=0,
        sample_ids_B=np.random.default_rng(0).integers(0, 2**64, num, dtype=np.uint64),
        sizes_B2=np.full((num, 2), 32),
    )


@pytest.mark.parametrize(
    "lam, size, centre, box, corrected",
    [
        (0.7, 32, (16, 16), (8, 8, 24, 24), 0.75),
        (0.7, 32, (0, 0), (0, 0, 8, 8), 0.9375),
        (0.7, 224, (112, 112), (51, 51, 173, 173), 0.703364),
        (0.7, 224, (0, 0), (0, 0, 61, 61), 0.925841),
        (0.5, 32, (16, 16), (5, 5, 27, 27), 0.527344),
    ],
)
def test_a14_cutmix_box_and_corrected_lambda(lam, size, centre, box, corrected):
    """FACTS A.14. Half of the cut of 17 is 8, so the box has 16 rows."""
    found = cut_boxes(np.array([lam]), np.array([centre]), (size, size))[0]
    assert tuple(found) == box
    area = (found[2] - found[0]) * (found[3] - found[1])
    assert 1 - area / size**2 == pytest.approx(corrected, abs=5e-7)


def test_a15_every_pair_is_mixed_and_cutmix_has_half_of_them():
    """FACTS A.15: probability 1.0 and share 0.5 within three sigma; a tiny cut may be empty."""
    num_pairs = 4000
    views = draw(MIXED, 2 * num_pairs)
    is_cut = (views.cut_B4[::2, 2] > 0).sum()
    is_mixup = ((views.cut_B4[::2] == 0).all(axis=1) & (views.lam_B[::2] < 1)).sum()
    assert is_cut + is_mixup > 0.99 * num_pairs
    assert abs(is_mixup - num_pairs / 2) < 3 * math.sqrt(num_pairs / 4)
    mixup_lam = views.lam_B[::2][(views.cut_B4[::2] == 0).all(axis=1)]
    assert mixup_lam.mean() == pytest.approx(0.5, abs=0.03)
    assert mixup_lam.var() == pytest.approx(0.0962, abs=0.01)


@pytest.mark.parametrize(
    "policy, mixed, cut",
    [
        (ViewPolicy(), 0.0, 0.0),
        (ViewPolicy(mixup=0.8), 1.0, 0.0),
        (ViewPolicy(cutmix=1.0), 1.0, 1.0),
        (ViewPolicy(mixup=0.8, cutmix=1.0, mix_prob=0.0), 0.0, 0.0),
        (ViewPolicy(mixup=0.8, cutmix=1.0, mix_prob=0.25), 0.25, 0.125),
        (ViewPolicy(mixup=0.8, cutmix=1.0, switch_prob=0.0), 1.0, 0.0),
        (ViewPolicy(mixup=0.8, cutmix=1.0, switch_prob=1.0), 1.0, 1.0),
    ],
)
def test_switches_of_the_mix(policy, mixed, cut):
    views = draw(policy, 4000)
    assert (views.lam_B < 1).mean() == pytest.approx(mixed, abs=0.03)
    assert (views.cut_B4[:, 2] > 0).mean() == pytest.approx(cut, abs=0.04)


def test_both_of_a_pair_share_the_draw_and_an_odd_last_one_is_unmixed():
    views = draw(MIXED, 33)
    np.testing.assert_array_equal(views.lam_B[:32:2], views.lam_B[1:32:2])
    np.testing.assert_array_equal(views.cut_B4[:32:2], views.cut_B4[1:32:2])
    assert views.lam_B[32] == 1.0 and (views.cut_B4[32] == 0).all()
    assert len(draw(MIXED, 0)) == 0 and draw(MIXED, 1).lam_B.tolist() == [1.0]


@pytest.mark.parametrize("side", [32, 64, 96, 128, 160, 192, 224, 256, 384])
def test_the_mix_is_the_same_at_every_size_the_grid_divides(side):
    """Boxes scale without rounding and lambda is theirs: a teacher at another size agrees."""
    views = draw(ViewPolicy(cutmix=1.0), 200)
    scale = side // CUT_GRID
    np.testing.assert_array_equal(
        views.cut_pixels((side, side)), scale * views.cut_pixels((CUT_GRID, CUT_GRID))
    )
    np.testing.assert_array_equal(views.lam_at((side, side)), views.lam_B)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (36, 20)])
def test_at_other_sizes_lambda_is_what_was_really_pasted(size):
    """Edges within half a pixel of the drawn ones; lambda counts the pixels."""
    views = draw(ViewPolicy(mixup=0.8, cutmix=1.0), 200)
    cut = views.cut_pixels(size)
    exact = views.cut_B4.astype(np.float64) * [*size, *size]
    assert np.abs(cut - exact).max() <= 0.5
    lam = views.lam_at(size)
    for position in range(200):
        top, left, bottom, right = cut[position]
        if views.cut_B4[position, 2] > 0:
            kept = np.ones(size)
            kept[top:bottom, left:right] = 0
            assert lam[position] == np.float32(kept.mean())
        else:
            assert lam[position] == views.lam_B[position]
