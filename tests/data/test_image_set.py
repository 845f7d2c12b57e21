"""ImageSet: columns, subsets, memory, worker processes, and files that change under it."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import ImageSet, open_dataset, open_split
from deitkit.errors import DataError
from tests.data import faulty_images as fi


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fi.write_photos(tmp_path, ["cat", "dog"], 6)
    return tmp_path


@pytest.fixture
def images(photos: Path) -> ImageSet:
    """12 pictures of 10 x 12; the k-th is fi.photo(k, 10, 12)."""
    return open_split(photos)


def test_digest_and_sample_id_by_hand(images, photos):
    encoded = (photos / "cat" / "0.png").read_bytes()
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    assert images.digests[0].tobytes() == digest
    assert images.sample_ids.dtype == np.uint64
    assert int(images.sample_ids[0]) == int.from_bytes(digest[:8], "little")


def test_columns(images):
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0] * 6 + [1] * 6
    assert images.sizes.dtype == np.int32
    assert images.sizes.tolist() == [[10, 12]] * 12


def test_subset_keeps_order_and_everything_else(images, photos):
    part = images.subset(np.array([9, 0, 4]), "few")
    assert part.name == "few"
    assert part.describe(0) == str(photos / "dog" / "3.png")
    np.testing.assert_array_equal(part.sample_ids, images.sample_ids[[9, 0, 4]])
    again = part.subset(np.array([2]), "one")
    np.testing.assert_array_equal(again.image(0), fi.photo(4, 10, 12))


@pytest.mark.parametrize("held", [False, True])
def test_the_same_pictures_in_grey(photos, images, held):
    """As if they had been opened so; what is in memory is in other channels."""
    images = images.in_memory(10_000) if held else images
    grey = images.decoded_as(channels=1)
    for index in range(12):
        with Image.open(photos / ("cat", "dog")[index // 6] / f"{index % 6}.png") as picture:
            expected = np.asarray(picture.convert("L"))
        np.testing.assert_array_equal(grey.image(index)[:, :, 0], expected)
    for name in ("labels", "digests", "sizes", "sample_ids"):
        assert np.array_equal(getattr(grey, name), getattr(images, name))
    assert images.decoded_as(channels=3) is images


def test_on_another_background(tmp_path):
    """Fully transparent pixels show it."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            picture = Image.new("RGBA", (10, 10), (9, i, 9, 0))
            picture.save(tmp_path / name / f"{i}.png")
    images = open_split(tmp_path)
    assert (images.image(0) == 255).all()
    blue = images.decoded_as(channels=3, background=(0, 0, 200))
    assert (blue.image(3) == (0, 0, 200)).all()
    assert blue.decoded_as(channels=3).decode.background == (0, 0, 200)


def test_in_memory_is_one_block_for_one_size(images):
    held = images.in_memory(10_000)
    assert held.pixels.shape == (12, 10, 12, 3)
    for index in range(12):
        np.testing.assert_array_equal(held.pixels[index], fi.photo(index, 10, 12))
    assert held.in_memory(0) is held
    part = held.subset(np.array([11, 2]), "part")
    np.testing.assert_array_equal(part.pixels, held.pixels[[11, 2]])


def test_in_memory_keeps_mixed_sizes_in_a_list(images, photos):
    (photos / "cat" / "0.png").write_bytes(fi.encode(fi.photo(50, 20, 9)))
    held = open_split(photos).in_memory(10_000)
    assert held.pixels is None
    assert held.is_in_memory
    for path in photos.rglob("*.png"):
        path.unlink()
    np.testing.assert_array_equal(held.image(0), fi.photo(50, 20, 9))
    np.testing.assert_array_equal(held.subset(np.array([7, 0]), "p").image(0), fi.photo(7, 10, 12))


def test_in_memory_over_the_limit_is_the_same_set(images):
    needed = 12 * 10 * 12 * 3
    assert images.in_memory(needed - 1) is images
    assert images.in_memory(needed).pixels is not None


@pytest.mark.parametrize("keep_bytes", [0, 4319, 4320, 10**9])
def test_the_scan_keeps_pixels_if_all_fit(photos, keep_bytes):
    """12 pictures of 10 x 12 x 3 are 4,320 bytes. Kept ones survive their files."""
    dataset = open_dataset(photos, keep_bytes=keep_bytes)
    assert (dataset.train.pixels is not None) == (keep_bytes >= 4320)
    expected = {dataset.train.describe(i): dataset.train.image(i) for i in range(10)}
    for path in photos.rglob("*.png"):
        number = int(path.stem) + 6 * (path.parent.name == "dog")
        if str(path) in expected:
            np.testing.assert_array_equal(expected[str(path)], fi.photo(number, 10, 12))
        path.unlink()
    if keep_bytes >= 4320:
        assert dataset.val.image(0).shape == (10, 12, 3)
    else:
        with pytest.raises(DataError, match="FILE_GONE"):
            dataset.val.image(0)


def test_the_scan_keeps_the_right_pixels_beside_skipped_files(photos):
    (photos / "cat" / "3.png").write_bytes(b"")
    held = open_split(photos, keep_bytes=10**6)
    assert held.pixels.shape[0] == 11
    numbers = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    for index, number in enumerate(numbers):
        np.testing.assert_array_equal(held.image(index), fi.photo(number, 10, 12))


def test_many_threads_keep_the_order(tmp_path):
    """60 pictures over 4 threads: labels, digests and pixels still belong together."""
    from deitkit.data.decoding import DecodePolicy
    from deitkit.data.scan import scan_store
    from deitkit.data.sources import resolve_source

    fi.write_photos(tmp_path, ["cat", "dog"], 30)
    store = resolve_source(tmp_path).splits["all"]().store
    one, four = (
        scan_store(store, DecodePolicy(), bad_images="skip", keep_bytes=10**6, num_threads=n)
        for n in (1, 4)
    )
    np.testing.assert_array_equal(one.digests, four.digests)
    np.testing.assert_array_equal(one.pixels, four.pixels)
    np.testing.assert_array_equal(one.rows, np.arange(60))


def test_another_process_reads_the_same_pixels(images):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        got = pool.submit(images.image, 7).result()
    np.testing.assert_array_equal(got, fi.photo(7, 10, 12))


def test_an_image_costs_at_most_200_bytes(tmp_path):
    """D46: Measured by what a worker process is sent, for paths of 60 characters below the root."""
    name = "n" * 50
    fi.write_photos(tmp_path, ["class_one", "class_two"], 40)
    for path in list(tmp_path.rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}{name}"[:46] + ".png"))
    images = open_split(tmp_path)
    few = images.subset(np.arange(10), "few")
    sizes = [len(pickle.dumps(part)) for part in (images, few)]
    assert (sizes[0] - sizes[1]) / 70 <= 200


def test_a_file_that_went_away(images, photos):
    """D39."""
    path = photos / "cat" / "2.png"
    path.unlink()
    with pytest.raises(DataError) as caught:
        images.image(2)
    assert (caught.value.code, caught.value.subject) == ("FILE_GONE", str(path))
    assert caught.value.exit_code == 3
    np.testing.assert_array_equal(images.image(3), fi.photo(3, 10, 12))


def test_a_file_that_changed(images, photos):
    """D40."""
    path = photos / "cat" / "2.png"
    path.write_bytes(fi.encode(fi.photo(99, 10, 12)))
    with pytest.raises(DataError) as caught:
        images.image(2)
    assert (caught.value.code, caught.value.subject) == ("FILE_CHANGED", str(path))


def test_same_size_other_time(images, photos):
    """D40."""
    path = photos / "cat" / "2.png"
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataError, match="FILE_CHANGED"):
        images.image(2)


@pytest.mark.parametrize(("num_failures", "succeeds"), [(2, True), (3, False)])
def test_an_io_error_is_tried_three_times(images, monkeypatch, num_failures, succeeds):
    """D45."""
    real_read = os.read
    failures = iter(range(num_failures))

    def failing_read(descriptor: int, count: int) -> bytes:
        if next(failures, None) is not None:
            raise OSError(errno.EIO, "Input/output error")
        return real_read(descriptor, count)

    monkeypatch.setattr(os, "read", failing_read)
    monkeypatch.setattr("deitkit.data.reading._RETRY_WAITS_S", (0.0, 0.0))
    if succeeds:
        np.testing.assert_array_equal(images.image(0), fi.photo(0, 10, 12))
    else:
        with pytest.raises(DataError, match=r"IO_ERROR.*0\.png.*EIO"):
            images.image(0)
