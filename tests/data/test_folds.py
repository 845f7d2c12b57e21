"""Folds: every image held out once, classes spread evenly, copies together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.data import open_dataset
from deitkit.data.folds import hold_out
from deitkit.data.split import assign_folds
from deitkit.errors import DataError
from tests.data.test_val_split import classes_of_contents, digests


def folds_of(images: list[tuple[int, int]], num_folds: int) -> np.ndarray:
    labels = np.array([label for label, _ in images])
    return assign_folds(labels, digests([c for _, c in images]), num_folds=num_folds)


@settings(max_examples=150, deadline=None)
@given(classes_of_contents(), st.integers(2, 7))
def test_strata_differ_by_one_and_copies_stay_together(images, num_folds):
    """Of any class two folds differ by at most one content, and so do the folds in all by the
    number of classes; the order of the files does not matter."""
    contents = {label: {c for k, c in images if k == label} for label, _ in images}
    if min(map(len, contents.values())) < num_folds:
        with pytest.raises(ValueError):
            folds_of(images, num_folds)
        return
    fold_of = dict(zip(images, folds_of(images, num_folds).tolist(), strict=True))
    assert dict(zip(images, folds_of(images, num_folds), strict=True)) == fold_of
    for label, own in contents.items():
        counts = np.bincount([fold_of[label, c] for c in own], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    totals = np.bincount(list(fold_of.values()), minlength=num_folds)
    assert totals.max() - totals.min() <= 1
    backwards = images[::-1]
    assert dict(zip(backwards, folds_of(backwards, num_folds), strict=True)) == fold_of


def test_a_picture_in_two_classes_is_held_out_with_its_first():
    images = [(0, c) for c in range(6)] + [(1, c) for c in (0, 10, 11, 12)]
    fold_of = folds_of(images, 2)
    assert fold_of[0] == fold_of[6]
    assert np.bincount(fold_of[6:]).tolist() == [2, 2]


def pairs(counts: list[int]) -> list[tuple[np.ndarray, int]]:
    """(image, label) with so many different images of each class."""
    return [
        (np.full((8, 8, 3), 20 * label + number, np.uint8), label)
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def test_val_split_joins_and_test_split_stays_out():
    source = {
        "train": pairs([6, 6])[:9],
        "val": pairs([6, 6])[9:],
        "test": [(np.zeros((8, 8, 3), np.uint8), 1)],
    }
    whole = open_dataset(source, holds_out=False, keep_bytes=10**6)
    assert (len(whole.train), len(whole.val)) == (12, 0)
    assert any("3 images of the val split join" in text for text in whole.warnings)
    parts = [hold_out(whole, num_folds=3, fold=fold) for fold in (1, 2, 3)]
    held_out = np.concatenate([part.val.sample_ids for part in parts])
    assert sorted(held_out) == sorted(whole.train.sample_ids)
    assert len({part.fingerprint for part in parts} | {whole.fingerprint}) == 4
    for part in parts:
        assert (len(part.train), len(part.val)) == (8, 4)
        assert set(part.train.sample_ids).isdisjoint(part.val.sample_ids)
        assert part.report.num_images("val") == 4 and not part.trains_on_val
        assert part.val.pixels.shape == (4, 8, 8, 3)
    last = hold_out(whole, num_folds=3, fold=0)
    assert last.trains_on_val and len(last.train) == 12
    assert list(last.report.class_counts) == ["train"]


def test_a_class_that_is_too_small_is_named_with_what_would_do():
    whole = open_dataset(pairs([6, 3, 9]), holds_out=False)
    with pytest.raises(DataError, match=r"of its own: 1 \(3\).*use folds=3 or add images"):
        hold_out(whole, num_folds=5, fold=1)
