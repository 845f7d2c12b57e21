"""Unlabelled images for prediction."""

from __future__ import annotations

import numpy as np
import pytest

from deitkit.data import DecodeFault, DecodePolicy, list_images
from deitkit.errors import ConfigError
from tests.data import faulty_images as fi


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("b.png", "a.png", "deep/c.png", ".hidden/d.png", "notes.txt")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(fi.encode(fi.photo(number)))
    return tmp_path


def test_files_as_named_folders_sorted_hidden_left_aside(folder):
    named = folder / "notes.txt"
    found = [(path, load()) for path, load in list_images([named, folder])]
    expected = [
        (named, 4),
        (folder / "a.png", 1),
        (folder / "b.png", 0),
        (folder / "deep/c.png", 2),
    ]
    assert [path for path, _ in found] == [str(path) for path, _ in expected]
    for (_, pixels), (_, number) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pixels, fi.photo(number))


def test_one_path_and_another_policy(folder):
    ((_, load),) = list_images(str(folder / "a.png"), decode=DecodePolicy(channels=1))
    assert load().shape == (24, 32, 1)


def test_a_missing_path_is_an_error_before_anything_is_read(folder):
    """D01."""
    with pytest.raises(ConfigError, match=r"NO_DATA.*nowhere") as caught:
        list_images([folder, folder / "nowhere"])
    assert caught.value.exit_code == 2
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"NO_IMAGES.*empty"):
        list_images(folder / "empty")


def test_a_bad_file_faults_alone(folder):
    """D14, D32."""
    (folder / "a.png").write_bytes(fi.encode(fi.photo(1))[:-100])
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(folder / "gone.png")
    listed = dict(list_images([folder / "a.png", folder / "b.png", folder / "deep"]))
    loaders = list(listed.values())
    with pytest.raises(DecodeFault, match="truncated"):
        loaders[0]()
    with pytest.raises(DecodeFault, match="not_a_regular_file"):
        loaders[1]()
    np.testing.assert_array_equal(loaders[2](), fi.photo(2))
