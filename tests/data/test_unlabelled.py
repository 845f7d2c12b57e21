"""Pictures without labels: found anywhere in a folder, each new one once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from deitkit.data import DecodePolicy, open_dataset, open_unlabelled
from deitkit.errors import ConfigError, DataError


def write(path, seed: int, size=(20, 16)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def labelled(tmp_path):
    for number in range(12):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", number)
    return open_dataset(tmp_path / "photos", keep_bytes=10**9)


def opened(folder, dataset, **more):
    digests = np.concatenate([dataset.train.digests, dataset.val.digests])
    settings = {"class_names": dataset.class_names, "decode": dataset.train.decode}
    return open_unlabelled(folder, exclude_digests_M16=digests, **(settings | more))


def test_new_pictures_are_kept_once_and_known_ones_left_out(tmp_path, labelled):
    folder = tmp_path / "more"
    new = write(folder / "deep" / "er" / "x.png", 100)
    write(folder / "y.png", 101)
    write(folder / "copy of y.png", 101)
    write(folder / "a" / "known.png", 3)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("none")
    found = opened(folder, labelled)
    assert len(found) == 2 and (found.labels == -1).all()
    names = [found.describe(i).rsplit("/", 1)[1] for i in range(2)]
    assert names == ["copy of y.png", "x.png"]
    np.testing.assert_array_equal(found.image(1), new)
    assert found.report.num_skipped == 1
    (warning,) = found.report.warnings
    assert "1 are among the labelled ones, 1 are copies of another, 1 could not be read" in warning


def test_joined_images_are_those_of_both_also_in_a_worker(tmp_path, labelled):
    """Pixels in memory or read from their files, and after a journey to another process."""
    write(tmp_path / "more" / "x.png", 100)
    write(tmp_path / "more" / "y.png", 101)
    kept = opened(tmp_path / "more", labelled, keep_bytes=10**9)
    read = opened(tmp_path / "more", labelled)
    train = labelled.train
    in_block = train.joined(kept)
    assert in_block.pixels is not None and in_block.name == "train"
    mixed = pickle.loads(pickle.dumps(train.joined(read)))
    assert not mixed.is_in_memory
    parts = [train.image(i) for i in range(len(train))] + [kept.image(i) for i in range(2)]
    for joined in (in_block, mixed):
        assert len(joined) == len(train) + 2 and list(joined.labels[-2:]) == [-1, -1]
        for index, pixels in enumerate(parts):
            np.testing.assert_array_equal(joined.image(index), pixels)
        np.testing.assert_array_equal(joined.sample_ids[len(train) :], kept.sample_ids)
    last = mixed.subset(np.array([1, len(train)]), "few")
    np.testing.assert_array_equal(last.image(1), parts[len(train)])


def test_other_sizes_are_kept_as_a_list(tmp_path, labelled):
    write(tmp_path / "more" / "x.png", 100, size=(40, 40))
    joined = labelled.train.joined(opened(tmp_path / "more", labelled, keep_bytes=10**9))
    assert joined.is_in_memory and joined.pixels is None
    assert joined.image(len(joined) - 1).shape == (40, 40, 3)


def test_what_cannot_be_is_told(tmp_path, labelled):
    with pytest.raises(ConfigError, match=r"\[NO_DATA\].*is no folder"):
        opened(tmp_path / "nowhere", labelled)
    write(tmp_path / "known" / "k.png", 3)
    with pytest.raises(DataError, match=r"\[EMPTY\].*holds 1 pictures, none of which is new"):
        opened(tmp_path / "known", labelled)
    (tmp_path / "known" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"\[BAD_IMAGE\]"):
        opened(tmp_path / "known", labelled, bad_images="fail")


def test_the_pictures_are_decoded_as_the_others(tmp_path, labelled):
    write(tmp_path / "more" / "x.png", 100)
    grey = opened(tmp_path / "more", labelled, decode=DecodePolicy(channels=1))
    assert grey.image(0).shape == (20, 16, 1)
