"""Python sequences of (image, label)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import DecodePolicy, open_dataset, open_split
from deitkit.errors import DataError
from tests.data import faulty_images as fi


def pictures(number: int = 12) -> list[np.ndarray]:
    return [fi.photo(seed, 10, 12) for seed in range(number)]


def test_every_kind_of_image_gives_the_same_pixels(tmp_path):
    paths = []
    for number, image in enumerate(pictures()):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(fi.encode(image))
    kinds = {
        "array": pictures(),
        "pillow": [Image.fromarray(image) for image in pictures()],
        "path": paths,
        "text": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
    }
    for name, images in kinds.items():
        images_and_labels = [(image, number % 2) for number, image in enumerate(images)]
        whole = open_split(images_and_labels)
        for index, expected in enumerate(pictures()):
            np.testing.assert_array_equal(whole.image(index), expected, err_msg=name)
        assert whole.labels.tolist() == [0, 1] * 6
        assert whole.class_names == ("0", "1")


def test_text_labels_are_sorted_and_numbers_can_be_named():
    text = open_dataset([(image, "dog" if i % 2 else "cat") for i, image in enumerate(pictures())])
    numbers = open_dataset(
        [(image, i % 2) for i, image in enumerate(pictures())], class_names=["cat", "dog"]
    )
    assert text.class_names == numbers.class_names == ("cat", "dog")
    assert text.fingerprint == numbers.fingerprint


def test_mapping_of_splits():
    train, val = pictures(20)[:12], pictures(20)[12:]
    pairs = {
        "train": [(image, i % 2) for i, image in enumerate(train)],
        "validation": [(image, i % 2) for i, image in enumerate(val)],
    }
    dataset = open_dataset(pairs)
    assert (len(dataset.train), len(dataset.val)) == (12, 8)
    with pytest.raises(DataError, match="BAD_SPLIT"):
        open_dataset({"some": pairs["train"]})


def test_items_are_asked_for_when_needed_and_never_kept():
    class Lazy:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            self.asked.append(index)
            return fi.photo(index, 10, 12), index % 2

    lazy = Lazy()
    dataset = open_dataset(lazy)
    lazy.asked.clear()
    index = 3
    place = int(dataset.train.describe(index).split()[1])
    np.testing.assert_array_equal(dataset.train.image(index), fi.photo(place, 10, 12))
    assert lazy.asked == [place]


def test_generators_are_read_once():
    dataset = open_dataset((image, i % 2) for i, image in enumerate(pictures()))
    assert len(dataset.train) == 10


@pytest.mark.parametrize("label", [1.0, 1.5, None, float("nan"), True, "", -1, b"cat"])
def test_labels_are_never_coerced(label):
    """D34."""
    images = pictures(3)
    with pytest.raises(DataError, match=r"BAD_LABEL\] item 2"):
        open_dataset([(images[0], 0), (images[1], 1), (images[2], label)])


def test_out_of_range_and_unknown():
    """D34."""
    images = pictures(2)
    with pytest.raises(DataError, match=r"BAD_LABEL\] item 1: 1 labels cannot"):
        open_dataset([(images[0], 0), (images[1], 2)], class_names=["cat", "dog"])
    with pytest.raises(DataError, match="'cow'"):
        open_dataset([(images[0], "cat"), (images[1], "cow")], class_names=["cat", "dog"])


def test_what_is_no_pair_or_no_image():
    with pytest.raises(DataError, match=r"BAD_SEQUENCE\] item 0"):
        open_dataset([fi.photo(0)])
    with pytest.raises(DataError, match=r"BAD_ARRAY\] item 1.*dict"):
        open_split([(fi.photo(0), 0), ({}, 1)])
    with pytest.raises(DataError, match=r"BAD_ARRAY\] item 0.*float64"):
        open_split([(np.zeros((10, 10, 3)), 0)])
    with pytest.raises(DataError, match="EMPTY"):
        open_dataset([])


def test_five_channels():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 10, 12, 5), dtype=np.uint8)
    dataset = open_dataset(
        [(image, i % 2) for i, image in enumerate(images)], decode=DecodePolicy(channels=5)
    )
    place = int(dataset.train.describe(0).split()[1])
    np.testing.assert_array_equal(dataset.train.image(0), images[place])


def test_files_of_a_sequence_are_watched(tmp_path):
    """D39, D40."""
    paths = []
    for number, image in enumerate(pictures(6)):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(fi.encode(image))
    whole = open_split([(path, i % 2) for i, path in enumerate(paths)])
    Path(paths[0]).unlink()
    Path(paths[1]).write_bytes(b"other content")
    with pytest.raises(DataError, match=r"FILE_GONE.*0\.png"):
        whole.image(0)
    with pytest.raises(DataError, match=r"FILE_CHANGED.*1\.png"):
        whole.image(1)
