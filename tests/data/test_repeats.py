"""The same picture twice: in a class, in two classes, in two splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from deitkit.data import open_dataset
from deitkit.errors import DataError
from tests.data import faulty_images as fi


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train with 20 and val with 5 pictures a class, all different."""
    fi.write_photos(tmp_path / "train", ["cat", "dog"], 20)
    fi.write_photos(tmp_path / "val", ["cat", "dog"], 5, 1000)
    return tmp_path


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def test_nothing_repeated_nothing_said(photos):
    assert open_dataset(photos).warnings == []


def test_duplicates_in_a_class_are_counted(photos):
    """D36."""
    copy(photos / "train/cat/0.png", photos / "train/cat/copy.png")
    copy(photos / "train/cat/0.png", photos / "train/cat/copy2.png")
    report = open_dataset(photos).report
    assert report.duplicates.count == 2
    assert report.duplicates.examples == [
        [str(photos / "train/cat" / name) for name in ("0.png", "copy.png", "copy2.png")]
    ]
    (warning,) = report.warnings
    assert warning.startswith("2 images repeat")
    assert (report.conflicts.count, report.leaks.count) == (0, 0)


def test_duplicates_validate_or_train_together(tmp_path):
    """D36."""
    fi.write_photos(tmp_path, ["cat", "dog"], 10)
    for number in range(10):
        copy(tmp_path / f"cat/{number}.png", tmp_path / f"cat/copy{number}.png")
    report = open_dataset(tmp_path, val_fraction=0.3).report
    assert report.duplicates.count == 10
    assert report.leaks.count == 0
    assert report.class_counts["val"]["cat"] == 6


def test_one_picture_in_two_classes_is_a_warning(photos):
    """D37."""
    copy(photos / "train/cat/0.png", photos / "train/dog/also.png")
    report = open_dataset(photos).report
    assert report.conflicts.count == 2
    assert report.conflicts.examples == [
        [str(photos / "train/cat/0.png"), str(photos / "train/dog/also.png")]
    ]
    (warning,) = report.warnings
    assert "more than one class" in warning
    assert report.duplicates.count == 0


def test_above_5_percent_it_is_an_error(photos):
    """D37: 2 of 52 images are 4 %, 4 of 54 are 7 %."""
    for number in range(2):
        copy(photos / f"train/cat/{number}.png", photos / f"train/dog/also{number}.png")
    with pytest.raises(DataError, match=r"CONFLICTING_LABELS.*4 of 52 images") as caught:
        open_dataset(photos)
    assert caught.value.exit_code == 3


def test_one_picture_in_two_classes_stays_on_one_side(tmp_path):
    """D37."""
    fi.write_photos(tmp_path, ["cat", "dog"], 50)
    copy(tmp_path / "cat/3.png", tmp_path / "dog/also.png")
    for fraction in (0.1, 0.4, 0.8):
        report = open_dataset(tmp_path, val_fraction=fraction).report
        assert (report.conflicts.count, report.leaks.count) == (2, 0)


def test_leaks_are_a_warning_or_an_error(photos):
    """D38."""
    copy(photos / "train/cat/0.png", photos / "val/cat/again.png")
    report = open_dataset(photos).report
    assert report.leaks.count == 1
    assert report.leaks.examples == [
        [str(photos / "train/cat/0.png"), str(photos / "val/cat/again.png")]
    ]
    (warning,) = report.warnings
    assert "also training images" in warning
    assert report.duplicates.count == 0
    with pytest.raises(DataError, match="LEAK") as caught:
        open_dataset(photos, fail_on_leak=True)
    assert caught.value.exit_code == 3


def test_a_leak_into_another_class_is_a_conflict_too(photos):
    """D38."""
    copy(photos / "train/cat/0.png", photos / "val/dog/again.png")
    report = open_dataset(photos).report
    assert (report.leaks.count, report.conflicts.count) == (1, 2)
    assert len(report.warnings) == 2
