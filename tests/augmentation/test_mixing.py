"""Mixup and CutMix of neighbouring pairs, by hand and for any split of the batch."""

# Shapes: B images, C channels, H height, W width, K classes.

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, Views, draw_views
from deitkit.augmentation.mixing import cutmix, mix_images, mix_targets, mixup, swap_pairs
from tests.augmentation.plain_views import plain_views


def views_of(lam: list[float], cut: list[tuple[float, float, float, float]]) -> Views:
    num = len(lam)
    return plain_views(
        num,
        lam_B=np.array(lam, dtype=np.float32),
        cut_B4=np.array(cut, dtype=np.float32).reshape(num, 4),
    )


def drawn_views(num: int, seed: int = 0, **policy) -> Views:
    return draw_views(
        ViewPolicy(**({"mixup": 0.8, "cutmix": 1.0} | policy)),
        view_seed=seed,
        epoch=0,
        sample_ids_B=np.arange(num, dtype=np.uint64),
        sizes_B2=np.full((num, 2), 32),
    )


def some_images(num: int, side: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_swap_pairs_by_hand():
    assert swap_pairs(torch.arange(5)).tolist() == [1, 0, 3, 2, 4]
    assert swap_pairs(torch.arange(1)).tolist() == [0]
    assert swap_pairs(torch.zeros(0, 3)).shape == (0, 3)


def test_mixup_by_hand():
    """0.75 * 1 + 0.25 * 5 = 2 and 0.75 * 5 + 0.25 * 1 = 4; lambda is each one's own share."""
    images = torch.tensor([1.0, 5.0, 7.0]).reshape(3, 1, 1, 1)
    views = views_of([0.75, 0.75, 1.0], [(0, 0, 0, 0)] * 3)
    assert mix_images(images, views).flatten().tolist() == [2.0, 4.0, 7.0]
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = [[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    assert mix_targets(targets, views, size=(1, 1)).tolist() == expected


def test_cutmix_by_hand():
    """Rows 8:24 and columns 8:24 of 32 come from the partner; a quarter of the area: A.14."""
    images = torch.stack([torch.full((1, 32, 32), 1.0), torch.full((1, 32, 32), 2.0)])
    views = views_of([0.75] * 2, [(0.25, 0.25, 0.75, 0.75)] * 2)
    mixed = mix_images(images, views)
    expected = torch.full((32, 32), 1.0)
    expected[8:24, 8:24] = 2.0
    assert torch.equal(mixed[0, 0], expected) and torch.equal(mixed[1, 0], 3.0 - expected)
    targets = mix_targets(torch.eye(2), views, size=(32, 32))
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_cutmix_boxes_are_rows_first():
    """A box of rows 0:1 and columns 0:3 in a 2 x 4 image; the other pair has none."""
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 4)
    boxes = torch.tensor([[0, 0, 1, 3]] * 2 + [[0, 0, 0, 0]] * 2)
    pasted = cutmix(images, boxes)
    assert pasted[0, 0].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(pasted[2:], images[2:])


@pytest.mark.parametrize("side", [8, 28, 32, 50])
def test_labels_claim_exactly_the_pixels_that_are_seen(side):
    """Pictures that are one-hot in the channels: their mean over pixels is the mixed target."""
    views = drawn_views(40, mixup=0.0)
    owners = torch.arange(40) % 2
    images = torch.eye(2)[owners][:, :, None, None].expand(40, 2, side, side)
    seen = mix_images(images, views).mean(dim=(2, 3))
    claimed = mix_targets(torch.eye(2)[owners], views, size=(side, side))
    torch.testing.assert_close(seen, claimed, atol=1e-6, rtol=0)


def test_student_and_teacher_see_the_same_mix_at_64_and_224():
    """Of one-coloured pictures the teacher's mix is the student's, 3.5 times as large."""
    views = drawn_views(20)
    colours = torch.arange(20.0).reshape(20, 1, 1, 1)
    student = mix_images(colours.expand(20, 1, 64, 64), views)
    teacher = mix_images(colours.expand(20, 1, 224, 224), views)
    # Every second pixel of 64 is one of 32, every seventh of 224 too.
    assert torch.equal(student[:, :, ::2, ::2], teacher[:, :, ::7, ::7])


def test_a15_mixed_targets_sum_to_one():
    """FACTS A.15, smoothed targets of 10 classes."""
    targets = torch.full((31, 10), 0.01)
    targets[torch.arange(31), torch.arange(31) % 10] += 0.9
    mixed = mix_targets(targets, drawn_views(31), size=(28, 28))
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(31))
    assert (mixed >= 0).all()
    assert torch.equal(mixed[30], targets[30])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a15_lambda_one_leaves_every_bit(dtype):
    """FACTS A.15, also for -0, infinities and values next to a partner that is not a number."""
    images = some_images(6, dtype=dtype)
    images[0, 0, 0, :3] = torch.tensor([-0.0, float("inf"), -float("inf")])
    images[1, 0] = float("nan")
    lam = torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0, 1.0])
    kept = [0, 1, 4, 5]
    bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
    assert torch.equal(mixup(images, lam)[kept].view(bits), images[kept].view(bits))
    assert mixup(images, lam).dtype == dtype
    views = views_of([1.0] * 6, [(0, 0, 0, 0)] * 6)
    assert torch.equal(mix_images(images, views).view(bits), images.view(bits))


@given(num=st.integers(1, 17), first=st.integers(0, 8), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_slice_of_whole_pairs_is_mixed_as_in_the_whole_batch(num, first, seed):
    """Micro-batches, ranks and an odd end: the same bits."""
    images, views = some_images(num), drawn_views(num, seed)
    cut = min(2 * first, num)
    parts = [mix_images(images[span], views[span]) for span in (slice(0, cut), slice(cut, num))]
    assert torch.equal(torch.cat(parts), mix_images(images, views))
    targets = torch.eye(5)[torch.arange(num) % 5]
    shares = [
        mix_targets(targets[span], views[span], size=(16, 16))
        for span in (slice(0, cut), slice(cut, num))
    ]
    assert torch.equal(torch.cat(shares), mix_targets(targets, views, size=(16, 16)))


def test_inputs_are_not_changed():
    images, views = some_images(8), drawn_views(8)
    before = images.clone()
    mix_images(images, views)
    assert torch.equal(images, before)


def test_whole_numbers_are_refused():
    with pytest.raises(AssertionError, match="floating"):
        mix_images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), drawn_views(2))
