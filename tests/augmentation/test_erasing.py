"""Random erasing: noise by its known words, distribution and place, for any split of the batch."""

# Shapes: B images, C channels, H height, W width.

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from deitkit.augmentation import ViewPolicy, Views, draw_views, draws, erasing
from deitkit.augmentation.draws import hash_key
from deitkit.augmentation.erasing import FILLS, _normal_quantiles, _stream_words, erase_images_

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def views_of(boxes, keys=None) -> Views:
    """Boxes in shares of the output; by default every image has its own key."""
    num = len(boxes)
    if keys is None:
        keys = hash_key(np.arange(num, dtype=np.uint64), purpose="erase noise")
    return Views(
        sample_ids_B=np.arange(num, dtype=np.uint64),
        epoch=0,
        repeat_B=np.zeros(num, dtype=np.int64),
        box_B4=np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (num, 1)),
        flip_B=np.zeros(num, dtype=bool),
        lam_B=np.ones(num, dtype=np.float32),
        cut_B4=np.zeros((num, 4), dtype=np.float32),
        ops_BL=np.zeros((num, 0), dtype=np.int8),
        params_BL=np.zeros((num, 0), dtype=np.float32),
        erase_B4=np.array(boxes, dtype=np.float32).reshape(num, 4),
        erase_key_B=np.array(keys, dtype=np.uint64),
    )


def drawn_views(num: int, chance: float = 0.5) -> Views:
    return draw_views(
        ViewPolicy(erasing=chance),
        view_seed=0,
        epoch=0,
        sample_ids_B=np.arange(num, dtype=np.uint64),
        sizes_B2=np.full((num, 2), 32),
    )


def erase(images: torch.Tensor, views: Views, fill: str = "pixel", mean=MEAN, std=STD):
    return erase_images_(images.clone(), views, fill=fill, mean=mean, std=std)


def some_images(num: int, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(num, channels, height, width, generator=torch.Generator().manual_seed(0))


WHOLE = (0.0, 0.0, 1.0, 1.0)
NONE = (0.0, 0.0, 0.0, 0.0)
QUARTER = (0.25, 0.5, 0.75, 1.0)
"""Rows 8 to 24 and columns 16 to 32 of 32."""


def test_words_are_those_of_the_draws_bit_for_bit():
    """The mixer of numpy's uint64 words; keys with and without the highest bit."""
    keys = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0xDEADBEEFCAFEF00D], dtype=np.uint64)
    index = np.array([0, 1, 2, 1000, 3 * 384 * 384, 2**40])
    counters = (index.astype(np.uint64) + np.uint64(1)) * draws._GAMMA
    expected = draws._mix(keys[:, None] + counters)
    got = _stream_words(torch.from_numpy(keys.view(np.int64))[:, None], torch.from_numpy(index))
    np.testing.assert_array_equal(got.numpy().view(np.uint64), expected)


def test_key_zero_gives_splitmix64s_published_sequence():
    """The generator's first outputs from seed 0, as its public implementations print them."""
    got = _stream_words(torch.zeros(1, dtype=torch.int64), torch.arange(3))
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert got.numpy().view(np.uint64).tolist() == expected


def test_quantiles_have_mean_0_and_variance_1():
    """Symmetric, sorted, and with the normal's 97.5 % point at its place."""
    quantiles = _normal_quantiles().astype(np.float64)
    assert len(quantiles) == 4096 and (np.diff(quantiles) > 0).all()
    np.testing.assert_allclose(quantiles, -quantiles[::-1], atol=1e-6)
    assert np.mean(quantiles**2) == pytest.approx(1.0, abs=1e-7)
    assert quantiles[int(4096 * 0.975)] == pytest.approx(1.96, abs=0.005)


def test_golden_values():
    """Pinned: a change here changes every run with erasing. Also by the definition: the noise of
    channel c, row y, column x is quantile number (word >> 52) of word (c H + y) W + x + 1."""
    erased = erase(torch.zeros(1, 2, 4, 4), views_of([WHOLE], [12345]), mean=(0, 0), std=(1, 1))
    counters = np.arange(1, 33, dtype=np.uint64) * draws._GAMMA
    words = draws._mix(np.array([12345], dtype=np.uint64) + counters)
    expected = _normal_quantiles()[(words >> np.uint64(52)).astype(np.int64)]
    assert erased.flatten().tolist() == expected.tolist()
    np.testing.assert_allclose(erased.flatten()[:4], GOLDEN, atol=1e-6)


def test_a16_pixel_noise_is_standard_normal_after_normalisation():
    """FACTS A.16: mean 0, std 1, in each channel; four standard errors. Values uncorrelated."""
    num = 40
    erased = erase(torch.zeros(num, 3, 32, 32), views_of([WHOLE] * num))
    normalised = (erased - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    count = num * 32 * 32
    for channel in normalised.unbind(1):
        assert abs(channel.mean()) < 4 / math.sqrt(count)
        assert abs(channel.var() - 1) < 4 * math.sqrt(2 / count)
        assert abs((channel**4).mean() - 3) < 4 * math.sqrt(96 / count)
    neighbours = {
        "column": normalised[..., 1:] * normalised[..., :-1],
        "row": normalised[:, :, 1:] * normalised[:, :, :-1],
        "channel": normalised[:, 1:] * normalised[:, :-1],
        "image": normalised[1:] * normalised[:-1],
    }
    for name, product in neighbours.items():
        assert abs(product.mean()) < 4 / math.sqrt(product.numel()), name


def test_pixel_noise_is_distributed_as_timms():
    """Moments and quantiles of the erased values after normalisation, timm's at the same size."""
    from timm.data.random_erasing import RandomErasing

    torch.manual_seed(0)
    random.seed(0)  # timm draws its rectangles from it
    theirs = torch.full((512, 3, 32, 32), 9.0)
    erasing = RandomErasing(1.0, mode="pixel", max_count=1, num_splits=0, device="cpu")
    theirs = erasing(theirs)
    theirs = theirs[theirs != 9.0]
    ours = erase(torch.full((512, 3, 32, 32), 9.0), drawn_views(512, 1.0), mean=[0.0], std=[1.0])
    ours = ours[ours != 9.0]
    # Areas are uniform in 2 % to a third, 18 % on average.
    assert 0.5 < len(ours) / len(theirs) < 2
    points = torch.tensor([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
    torch.testing.assert_close(
        torch.quantile(ours, points), torch.quantile(theirs, points), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_outside_the_box_is_touched_and_all_inside_is(fill):
    images = some_images(3) + 5.0
    erased = erase(images, views_of([NONE, QUARTER, WHOLE]), fill)
    changed = (erased != images).all(dim=1)
    expected = torch.zeros(3, 32, 32, dtype=torch.bool)
    expected[1, 8:24, 16:32] = True
    expected[2] = True
    assert torch.equal(changed, expected)
    assert torch.equal((erased != images).any(dim=1), expected)


@pytest.mark.parametrize("size", [(32, 32), (20, 9)], ids=str)
def test_a_box_at_two_sizes_is_the_views_box_in_whole_pixels(size):
    """A third of 20 rows is 6.67, so 7; 0.9 of 9 columns is 8.1, so 8."""
    views = views_of([(1 / 3, 0.0, 0.9, 0.9)])
    erased = erase(torch.ones(1, 3, *size), views, "constant")
    top, left, bottom, right = views.erase_pixels(size)[0]
    expected = torch.ones(size)
    expected[top:bottom, left:right] = 0.0
    assert torch.equal(erased[0, 0], expected)
    if size == (20, 9):
        assert (top, left, bottom, right) == (7, 0, 18, 8)


def test_mean_and_constant_by_hand():
    views = views_of([QUARTER])
    mean = erase(torch.ones(1, 3, 32, 32), views, "mean")[0, :, 10, 20]
    assert mean.tolist() == torch.tensor(MEAN).tolist()
    assert erase(torch.ones(1, 3, 32, 32), views, "constant")[0, :, 10, 20].tolist() == [0, 0, 0]


def test_color_is_one_normal_colour_for_each_box():
    """One value in a box and channel; over images mean 0 and variance 1 after normalisation."""
    num = 2000
    erased = erase(torch.zeros(num, 3, 2, 2), views_of([WHOLE] * num), "color")
    assert (erased == erased[..., :1, :1]).all()
    colour = (erased[:, :, 0, 0] - torch.tensor(MEAN)) / torch.tensor(STD)
    assert (colour.mean(0).abs() < 4 / math.sqrt(num)).all()
    assert ((colour.var(0) - 1).abs() < 4 * math.sqrt(2 / num)).all()
    assert (torch.corrcoef(colour.T) - torch.eye(3)).abs().max() < 4 / math.sqrt(num)


@pytest.mark.parametrize("fill", FILLS)
def test_any_split_of_the_batch_gives_the_same_bits(fill):
    images, views = some_images(13), drawn_views(13)
    whole = erase(images, views, fill)
    for step in (2, 4, 12):
        parts = [
            erase(images[start : start + step], views[start : start + step], fill)
            for start in range(0, 13, step)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_every_image_and_epoch_has_its_own_noise():
    erased = erase(torch.zeros(3, 3, 32, 32), views_of([WHOLE] * 3, [5, 6, 5]))
    assert torch.equal(erased[0], erased[2])
    assert (erased[0] == erased[1]).float().mean() < 0.01
    one, other = (
        draw_views(
            ViewPolicy(erasing=1.0),
            view_seed=0,
            epoch=epoch,
            sample_ids_B=np.arange(20, dtype=np.uint64),
            sizes_B2=np.full((20, 2), 32),
        )
        for epoch in (0, 1)
    )
    assert not np.isin(one.erase_key_B, other.erase_key_B).any()


def test_boxes_are_erased_in_place_and_what_has_none_stays():
    images = some_images(2)
    before = images.clone()
    for boxes in ([NONE, NONE], [(0.5, 0.5, 0.501, 0.9)] * 2):  # that one rounds to nothing
        assert erase_images_(images, views_of(boxes), fill="pixel", mean=MEAN, std=STD) is images
        assert torch.equal(images, before)
    erase_images_(images, views_of([NONE, QUARTER]), fill="constant", mean=MEAN, std=STD)
    before[1, :, 8:24, 16:32] = 0
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_images_get_the_same_values_rounded(dtype):
    images, views = some_images(4), drawn_views(4, 1.0)
    expected = erase(images, views).to(dtype)
    got = erase(images.to(dtype), views)
    assert got.dtype == dtype and torch.equal(got, expected)


def test_any_number_of_channels_and_odd_shapes():
    for channels, size in ((1, (7, 13)), (5, (13, 7))):
        images = some_images(2, *size, channels)
        erased = erase(images, views_of([QUARTER, WHOLE]), mean=[0.5], std=[0.25])
        assert (erased[1] != images[1]).all() and (erased[0] != images[0]).any()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_one_by_one_and_all_pixels_at_once_are_the_same_bits(fill, channels, monkeypatch):
    """The way of an accelerator, here on the CPU."""
    images, views = some_images(16, 20, 33, channels), drawn_views(16, 0.7)
    mean, std = MEAN[:channels], STD[:channels]
    one_by_one = erase(images, views, fill, mean, std)
    monkeypatch.setattr(erasing, "_erase_boxes_", erasing._erase_pixels_)
    assert torch.equal(erase(images, views, fill, mean, std), one_by_one)
    assert not torch.equal(images, one_by_one)


@pytest.mark.gpu
@pytest.mark.parametrize("fill", FILLS)
def test_cuda_gives_the_bits_of_the_cpu(fill):
    images, views = some_images(16), drawn_views(16, 1.0)
    assert torch.equal(erase(images.cuda(), views, fill).cpu(), erase(images, views, fill))


GOLDEN = [-1.1116683, -0.8250402, -1.1776445, -0.9302962]
