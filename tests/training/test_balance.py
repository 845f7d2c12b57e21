"""Balanced sampling and what it rests on, by hand and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import epoch_order
from deitkit.training.balance import (
    balance_order,
    choose_balance,
    class_draws,
    log_priors,
    occurrences,
)

counts = st.lists(st.integers(0, 60), min_size=2, max_size=6).filter(any)


def test_draws_by_hand():
    """100, 25 and 4 images: by the square root 10 : 5 : 2 of 129, and 43 of each in full."""
    sizes = np.array([100, 25, 4])
    assert class_draws(sizes, strength=0.0).tolist() == [100, 25, 4]
    assert class_draws(sizes, strength=0.5).tolist() == [76, 38, 15]
    assert class_draws(sizes, strength=1.0).tolist() == [43, 43, 43]
    assert class_draws(np.array([3, 0, 1]), strength=1.0).tolist() == [2, 0, 2]


@settings(max_examples=80, deadline=None)
@given(counts, st.floats(0, 1), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_is_as_long_as_before_and_follows_seed_and_epoch(sizes, strength, seed, extra):
    labels = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(extra, -1)])
    ids = np.random.default_rng(7).integers(0, 2**63, len(labels)).astype(np.uint64)
    words = {"strength": strength, "view_seed": seed}

    def order(epoch: int) -> np.ndarray:
        plain = epoch_order(seed, epoch, ids)
        return balance_order(plain, labels, ids, epoch=epoch, **words)

    drawn = order(3)
    assert len(drawn) == len(labels)
    np.testing.assert_array_equal(drawn, order(3))
    wanted = class_draws(np.array(sizes), strength=strength)
    found = np.bincount(labels[drawn][labels[drawn] >= 0], minlength=len(sizes))
    np.testing.assert_array_equal(found, wanted)
    assert sorted(drawn[labels[drawn] < 0]) == sorted(np.flatnonzero(labels < 0))
    times = np.bincount(drawn, minlength=len(labels))
    for label in range(len(sizes)):
        own = times[labels == label]
        assert not len(own) or own.max() - own.min() <= 1


def test_all_images_of_a_large_class_come_in_turn():
    """43 of 100 an epoch: after 20 epochs none is left out (0.57^20 is 1 in 76,000 each)."""
    labels = np.repeat([0, 1, 2], [100, 25, 4])
    ids = np.arange(129).astype(np.uint64) * np.uint64(7919)
    seen = set()
    for epoch in range(20):
        plain = epoch_order(0, epoch, ids)
        drawn = balance_order(plain, labels, ids, strength=1.0, view_seed=0, epoch=epoch)
        seen |= set(drawn.tolist())
    assert len(seen) == 129


def test_occurrences_by_hand():
    assert occurrences(np.array([4, 2, 4, 4, 0, 2])).tolist() == [0, 0, 1, 2, 0, 1]


def test_priors_by_hand():
    """6, 3 and 1 of 10; a class without images counts as one of one."""
    assert log_priors(np.array([6, 3, 1])) == pytest.approx([math.log(p) for p in (0.6, 0.3, 0.1)])
    assert log_priors(np.array([9, 0, 1]))[1] == pytest.approx(math.log(0.1))


@pytest.mark.parametrize(
    ("sizes", "loss", "can_sample", "chosen"),
    [
        ([30, 11], "cross_entropy", True, "none"),
        ([33, 11, 0], "cross_entropy", True, "sampling"),
        ([33, 11, 0], "cross_entropy", False, "logits"),
        ([33, 11], "binary", True, "sampling"),
        ([33, 11], "binary", False, "none"),
    ],
)
def test_choice_says_the_class_sizes(sizes, loss, can_sample, chosen):
    choice = choose_balance(np.array(sizes), label_loss=loss, can_sample=can_sample)
    assert choice.value == chosen
    assert f"11 to {max(sizes)} images a class" in choice.reason
