"""One split for evaluation: which one, and its classes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from deitkit.data import open_split
from deitkit.errors import DataError
from tests.data import faulty_images as fi


@pytest.fixture
def split_photos(tmp_path: Path) -> Path:
    """train, val and test, two classes."""
    for number, (split, count) in enumerate((("train", 6), ("val", 3), ("test", 2))):
        fi.write_photos(tmp_path / "photos" / split, ["cat", "dog"], count, 1000 * number)
    return tmp_path / "photos"


def test_evaluation_takes_the_test_split_and_matches_classes_by_name(split_photos):
    images = open_split(split_photos, class_names=["zebra", "dog", "cat"])
    assert images.name == "test"
    assert images.labels.tolist() == [2, 2, 1, 1]
    assert images.class_names == ("zebra", "dog", "cat")
    assert any("zebra" in warning for warning in images.report.warnings)
    assert open_split(split_photos, split="val").name == "val"
    assert len(open_split(split_photos / "test")) == 4


def test_evaluation_without_a_test_split_takes_val(split_photos):
    (split_photos / "test").rename(split_photos.parent / "test")
    assert open_split(split_photos).name == "val"
    with pytest.raises(DataError, match="NO_SPLIT"):
        open_split(split_photos, split="test")


def test_evaluation_on_unknown_classes(split_photos):
    with pytest.raises(DataError, match=r"CLASS_MISMATCH.*dog.*bird"):
        open_split(split_photos, class_names=["cat", "bird"])
