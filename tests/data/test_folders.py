"""Folders of class folders: layouts, what is left out, and every complaint about them."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from deitkit.data import check_source, open_dataset, open_split
from deitkit.errors import ConfigError, DataError
from tests.data import faulty_images as fi


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One level of class folders, two classes of 10 pictures."""
    fi.write_photos(tmp_path / "photos", ["cat", "dog"], 10)
    return tmp_path / "photos"


@pytest.fixture
def split_photos(tmp_path: Path) -> Path:
    """train, val and test, two classes."""
    for number, (split, count) in enumerate((("train", 6), ("val", 3), ("test", 2))):
        fi.write_photos(tmp_path / "photos" / split, ["cat", "dog"], count, 1000 * number)
    return tmp_path / "photos"


def data_error(source: object, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        open_dataset(source, **options)
    assert caught.value.exit_code == 3
    return caught.value


def test_one_level_of_class_folders_is_split(photos):
    dataset = open_dataset(photos, val_fraction=0.2)
    assert dataset.class_names == ("cat", "dog")
    assert np.bincount(dataset.train.labels).tolist() == [8, 8]
    assert np.bincount(dataset.val.labels).tolist() == [2, 2]
    seen = {s.describe(i) for s in (dataset.train, dataset.val) for i in range(len(s))}
    assert seen == {str(path) for path in photos.rglob("*.png")}
    for index in range(len(dataset.train)):
        path = dataset.train.describe(index)
        assert Path(path).parent.name == dataset.class_names[dataset.train.labels[index]]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_val_folder_is_taken_as_it_is(split_photos, name):
    (split_photos / "val").rename(split_photos / name)
    dataset = open_dataset(split_photos)
    assert (len(dataset.train), len(dataset.val)) == (12, 6)
    assert dataset.test_source == str(split_photos / "test")


def test_test_images_are_never_read_for_training(split_photos):
    """Every file of the test split is broken; training does not notice."""
    for path in (split_photos / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert open_dataset(split_photos).report.num_skipped == 0


def test_train_and_test_only_splits_train(split_photos):
    for path in (split_photos / "val").rglob("*.png"):
        path.unlink()
    for name in ("cat", "dog"):
        (split_photos / "val" / name).rmdir()
    (split_photos / "val").rmdir()
    dataset = open_dataset(split_photos)
    assert (len(dataset.train), len(dataset.val)) == (10, 2)


def test_no_train_split(split_photos):
    (split_photos / "train").rename(split_photos.parent / "elsewhere")
    assert data_error(split_photos).code == "NO_TRAIN"


def test_pictures_below_class_folders_are_found(photos):
    write(photos / "cat" / "deep" / "er" / "x.PNG", fi.encode(fi.photo(77)))
    assert open_dataset(photos).report.class_counts["train"]["cat"] == 10


def test_missing_or_a_file_before_torch(tmp_path):
    """D01: Exit code 2, and neither torch nor pyarrow has been imported by then."""
    file = write(tmp_path / "notes.txt", b"hello")
    program = (
        "import sys\nfrom deitkit.data import check_source\n"
        "from deitkit.errors import DeitkitError\n"
        "try:\n    check_source(sys.argv[1])\nexcept DeitkitError as error:\n    print(error)\n"
        "    assert not {'torch', 'pyarrow'} & set(sys.modules)\n    sys.exit(error.exit_code)\n"
    )
    for source, code in ((tmp_path / "nowhere", "NO_DATA"), (file, "NOT_DATA")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert f"[{code}] {source}" in done.stdout
        with pytest.raises(ConfigError, match=code):
            open_dataset(source)


def test_home_is_expanded(monkeypatch, photos):
    """D01."""
    monkeypatch.setenv("HOME", str(photos.parent))
    check_source("~/photos")
    assert len(open_dataset("~/photos").train) == 18


def test_empty_folder(tmp_path):
    """D02."""
    error = data_error(tmp_path)
    assert error.code == "EMPTY"
    assert str(tmp_path) in str(error)
    assert ".jpg" in str(error)
    (tmp_path / "cat").mkdir()
    assert data_error(tmp_path).code == "EMPTY"


def test_class_without_a_usable_image(photos):
    """D03."""
    write(photos / "eel" / "a.jpg", b"this is text")
    error = data_error(photos)
    assert error.code == "EMPTY_CLASS"
    assert "eel" in error.why
    assert "not_an_image" in error.why
    dataset = open_dataset(photos, allow_empty_class=True)
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.report.class_counts["train"]["eel"] == 0
    assert any("eel" in warning for warning in dataset.warnings)


def test_one_class(tmp_path):
    """D04."""
    fi.write_photos(tmp_path, ["cat"], 4)
    assert data_error(tmp_path).code == "ONE_CLASS"
    assert len(open_split(tmp_path)) == 4


def test_class_with_one_image_cannot_be_split(photos):
    """D05."""
    write(photos / "eel" / "a.png", fi.encode(fi.photo(500)))
    error = data_error(photos)
    assert error.code == "CLASS_TOO_SMALL"
    assert "eel (1)" in error.why


def test_two_copies_of_one_image_cannot_be_split(photos):
    """D05."""
    for name in ("a.png", "b.png"):
        write(photos / "eel" / name, fi.encode(fi.photo(500)))
    error = data_error(photos)
    assert error.code == "CLASS_TOO_SMALL"
    assert "eel (2)" in error.why


def test_class_with_one_image_and_a_val_folder_is_a_warning(split_photos):
    """D05."""
    write(split_photos / "train" / "eel" / "a.png", fi.encode(fi.photo(500)))
    write(split_photos / "val" / "eel" / "a.png", fi.encode(fi.photo(501)))
    dataset = open_dataset(split_photos)
    assert any("eel (1)" in warning for warning in dataset.warnings)


def test_images_without_class_folders(tmp_path):
    """D06."""
    write(tmp_path / "a.png", fi.encode(fi.photo(0)))
    error = data_error(tmp_path)
    assert error.code == "NO_CLASSES"
    assert "photos/cat/1.jpg" in error.do


def test_classes_of_val_that_train_does_not_know(split_photos):
    """D07."""
    (split_photos / "val" / "cat").rename(split_photos / "val" / "cow")
    error = data_error(split_photos)
    assert error.code == "CLASS_MISMATCH"
    assert "cow" in error.why
    assert "cat" in error.why


def test_val_labels_come_from_the_train_classes(split_photos):
    """D07: Val has only the second class; its own order would call that class 0."""
    for path in (split_photos / "val" / "cat").iterdir():
        path.unlink()
    (split_photos / "val" / "cat").rmdir()
    dataset = open_dataset(split_photos)
    assert dataset.val.labels.tolist() == [1, 1, 1]


def test_val_with_fewer_classes_is_a_warning(split_photos):
    """D08."""
    for path in (split_photos / "val" / "dog").iterdir():
        path.unlink()
    dataset = open_dataset(split_photos)
    assert any("dog" in warning for warning in dataset.warnings)
    assert dataset.report.class_counts["val"] == {"cat": 3, "dog": 0}


@pytest.mark.parametrize("pair", [("cat", "Cat"), ("stra\u00dfe", "STRASSE"), ("caf\u00e9",) * 2])
def test_class_names_that_look_the_same(tmp_path, pair):
    """D09."""
    first, second = pair[0], unicodedata.normalize("NFD", pair[1])
    fi.write_photos(tmp_path, [first, second], 3)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system holds only one of the two names")
    error = data_error(tmp_path)
    assert error.code == "CLASS_COLLISION"
    assert f"U+{ord(first[0]):04X}" in error.why


def test_splits_that_write_an_accent_differently(split_photos):
    """D09."""
    for split, form in (("train", "NFC"), ("val", "NFD")):
        name = unicodedata.normalize(form, "Caf\u00e9")
        (split_photos / split / "cat").rename(split_photos / split / name)
    error = data_error(split_photos)
    assert error.code == "CLASS_COLLISION"
    assert "U+0301" in error.why


def test_hidden_things_are_ignored_and_counted(photos):
    """D10."""
    junk = (".ipynb_checkpoints/a.png", "__MACOSX/a.png", "cat/@eaDir/a.png", "cat/._x.jpg")
    for name in (*junk, "cat/Thumbs.db", "dog/notes.txt"):
        write(photos / name, fi.encode(fi.photo(900)))
    dataset = open_dataset(photos)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train) + len(dataset.val) == 20
    assert dataset.report.ignored == 6


def test_the_scan_writes_nothing_into_the_data(photos):
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in photos.rglob("*")
        }

    before = state()
    open_dataset(photos)
    assert state() == before


def test_progress_counts_to_the_end(photos):
    calls: list[tuple[int, int | None]] = []
    open_dataset(photos, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 20) for number in range(1, 21)]


def test_an_interrupt_ends_the_scan(photos):
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_dataset(photos, progress=interrupt)


def test_fingerprint_follows_content_class_and_split_only(photos):
    first = open_dataset(photos)
    (photos / "cat" / "0.png").rename(photos / "cat" / "zzz.png")
    assert open_dataset(photos).fingerprint == first.fingerprint
    assert open_dataset(photos, val_fraction=0.3).fingerprint != first.fingerprint
    (photos / "cat" / "zzz.png").rename(photos / "dog" / "zzz.png")
    moved = open_dataset(photos).fingerprint
    assert moved != first.fingerprint
    (photos / "dog" / "zzz.png").unlink()
    assert open_dataset(photos).fingerprint not in (moved, first.fingerprint)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_val_fraction_is_a_share(photos, fraction):
    with pytest.raises(ConfigError, match="val_fraction"):
        open_dataset(photos, val_fraction=fraction)
