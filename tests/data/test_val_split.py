"""The validation split: stratified, by content, and hardly moved by new images."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.data.split import class_group_pairs, group_digests, split_validation


def digests(contents: list[int]) -> np.ndarray:
    """One 16-byte digest for each number."""
    hashed = b"".join(hashlib.blake2b(b"%d" % c, digest_size=16).digest() for c in contents)
    return np.frombuffer(hashed, np.uint8).reshape(-1, 16)


def split(images: list[tuple[int, int]], fraction: float) -> np.ndarray:
    labels = np.array([label for label, _ in images])
    return split_validation(labels, digests([c for _, c in images]), fraction=fraction)


@st.composite
def classes_of_contents(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(class, content) pairs: 2 to 4 classes with 2 to 30 contents of their own, some repeated."""
    images = []
    for label in range(draw(st.integers(2, 4))):
        size = draw(st.integers(2, 30))
        contents = [1000 * label + number for number in range(size)]
        repeated = draw(st.lists(st.sampled_from(contents), max_size=5))
        images += [(label, content) for content in contents + repeated]
    return draw(st.permutations(images))


fractions = st.floats(0.01, 0.9)


@settings(max_examples=150, deadline=None)
@given(classes_of_contents(), fractions)
def test_every_class_gets_its_share_and_copies_stay_together(images, fraction):
    """round(fraction x distinct contents) of each class validate, at least one, never all."""
    is_val = split(images, fraction)
    for label in {label for label, _ in images}:
        own = {c: set() for k, c in images if k == label}
        for (k, content), side in zip(images, is_val.tolist(), strict=True):
            if k == label:
                own[content].add(side)
        assert all(len(sides) == 1 for sides in own.values())
        num_val = sum(sides == {True} for sides in own.values())
        expected = int(fraction * len(own) + 0.5)
        assert num_val == min(max(expected, 1), len(own) - 1)


@settings(max_examples=150, deadline=None)
@given(classes_of_contents(), fractions, st.integers(1, 4))
def test_adding_images_moves_at_most_one_content_for_each(images, fraction, num_added):
    """New pictures of class 0 move at most as many of its old ones, and none of other classes."""
    added = [(0, 999_000 + number) for number in range(num_added)]
    before = split(images, fraction)
    after = split(added + images, fraction)[num_added:]
    moved = {image for image, a, b in zip(images, before, after, strict=True) if a != b}
    assert len(moved) <= num_added
    assert {label for label, _ in moved} <= {0}


@settings(max_examples=100, deadline=None)
@given(classes_of_contents(), fractions, st.randoms())
def test_the_order_of_the_files_does_not_matter(images, fraction, random):
    side_of = dict(zip(images, split(images, fraction).tolist(), strict=True))
    shuffled = list(images)
    random.shuffle(shuffled)
    assert dict(zip(shuffled, split(shuffled, fraction).tolist(), strict=True)) == side_of


def test_copies_in_two_classes_stay_together_and_both_classes_are_served():
    """Class 1 shares all but one of its pictures with class 0."""
    images = [(0, c) for c in range(10)] + [(1, c) for c in range(9)] + [(1, 77)]
    is_val = split(images, 0.2)
    side_of: dict[int, set[bool]] = {}
    for (_, content), side in zip(images, is_val.tolist(), strict=True):
        side_of.setdefault(content, set()).add(side)
    assert all(len(sides) == 1 for sides in side_of.values())
    for label in (0, 1):
        assert {s for (k, _), s in zip(images, is_val.tolist(), strict=True) if k == label} == {
            True,
            False,
        }


def test_a_class_with_nothing_of_its_own_is_named():
    with pytest.raises(ValueError, match="1"):
        split([(0, 1), (0, 2), (0, 3), (1, 9)], 0.3)


def test_groups_against_numpy_unique():
    generator = np.random.default_rng(0)
    many = generator.integers(0, 3, (200, 16)).astype(np.uint8)[generator.integers(0, 40, 300)]
    groups, distinct = group_digests(many)
    oracle, inverse = np.unique(many, axis=0, return_inverse=True)
    np.testing.assert_array_equal(distinct, oracle)
    np.testing.assert_array_equal(groups, inverse.reshape(-1))


def test_pairs_of_class_and_content_by_hand():
    pairs = class_group_pairs(np.array([1, 0, 1, 1]), np.array([2, 2, 0, 2]))
    assert pairs.tolist() == [[0, 2], [1, 0], [1, 2]]
