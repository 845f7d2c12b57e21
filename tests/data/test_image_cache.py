"""Images decoded once: which pixels are stored, whose they are, and what damage costs.

The lines of the catalogue for the teacher's cache (K02 to K15) hold for this one as well.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import image_cache, image_cache_folder, open_split
from deitkit.data.image_cache import num_missing
from deitkit.data.image_cache_files import StoredImages
from deitkit.data.image_cache_layout import check_of, layout_of, padded_words
from deitkit.data.image_set import ImageSet
from deitkit.data.reduction import reduced_sizes
from deitkit.errors import DataError, ResourceError
from deitkit.runtime.shared_folder import filling, is_in_use, remove_unused
from tests.data import faulty_images as fi
from tests.data.toy_photos import SIDE, SIZES, all_images, files_of, open_toys, write_toys


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return write_toys(tmp_path / "toys")


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """How often each file was decoded since."""
    counts: Counter[str] = Counter()
    real = ImageSet._decoded

    def counting(self: ImageSet, index: int, least: tuple[int, int] | None) -> np.ndarray:
        counts[Path(self.describe(index)).name] += 1
        return real(self, index, least)

    monkeypatch.setattr(ImageSet, "_decoded", counting)
    return counts


def test_reduced_sizes_by_hand():
    """500 x 256 / 375 = 341.3, 1000 x 256 / 300 = 853.3, 3 x 2 / 4 = 1.5, which goes up."""
    sizes = np.array([(375, 500), (1000, 300), (256, 9000), (100, 80), (257, 257)])
    expected = [[256, 341], [853, 256], [256, 9000], [100, 80], [256, 256]]
    assert reduced_sizes(sizes, 256).tolist() == expected
    assert reduced_sizes(np.array([(4, 6)]), 1).tolist() == [[1, 2]]
    assert reduced_sizes(sizes, None).tolist() == sizes.tolist()


def test_small_images_are_stored_to_the_byte_and_large_ones_as_pillow_reduces_them(toys, tmp_path):
    """A JPEG of 300 x 200 to 48 x 32: decoded at 1/2, the least part with twice these sides."""
    images, cache, _ = open_toys(toys, tmp_path / "root")
    for index in range(len(images)):
        path = Path(images.describe(index))
        picture = Image.open(path)
        height, width = SIZES[int(path.stem)]
        if min(height, width) > SIDE:
            wide, high = round(width * SIDE / min(SIZES[int(path.stem)])), 0
            wide, high = (SIDE, round(height * SIDE / width)) if width < height else (wide, SIDE)
            picture.draft(picture.mode, (2 * wide, 2 * high))
            picture = picture.convert("RGB").resize((wide, high), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(cache.read(index), np.asarray(picture.convert("RGB")))
    assert cache.num_remade == 0


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_are_reduced_one_by_one(channels):
    image = np.random.default_rng(0).integers(0, 256, (80, 60, channels), dtype=np.uint8)
    got = image_cache.reduce_image(image, (40, 30))
    for channel in range(channels):
        plane = Image.fromarray(image[:, :, channel].copy())
        expected = np.asarray(plane.resize((30, 40), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(got[:, :, channel], expected)


def test_a_check_by_hand():
    """Words 1 and 2 and a salt of 4 are 7; 2^64 - 7 more is 0, which stands for nothing there."""
    words = np.array([1, 2], dtype="<u8")
    assert check_of(words, 4) == 7
    assert check_of(words, 2**64 - 3) == 1
    padded = padded_words(np.array([[[1]], [[2]], [[3]]], dtype=np.uint8))
    assert padded.tolist() == [1 + (2 << 8) + (3 << 16)]


def test_k02_ten_thousand_flipped_bits_are_ten_thousand_found():
    chance = np.random.default_rng(0)
    words = padded_words(chance.integers(0, 256, (48, 57, 3), dtype=np.uint8))
    right = check_of(words, 99)
    for place, bit in zip(
        chance.integers(0, words.nbytes, 10_000), chance.integers(0, 8, 10_000), strict=True
    ):
        flipped = words.copy()
        flipped.view(np.uint8)[place] ^= 1 << bit
        assert check_of(flipped, 99) != right


@pytest.mark.parametrize("name", ["pixels.bin", "checks.bin"])
def test_k02_a_damaged_image_is_decoded_again_counted_and_mended(toys, tmp_path, decoded, name):
    images, cache, _ = open_toys(toys, tmp_path / "root")
    expected = all_images(images, cache)
    whole = files_of(tmp_path / "root")
    path = cache.stored.folder / name
    content = bytearray(path.read_bytes())
    content[0] ^= 16
    path.write_bytes(content)
    decoded.clear()
    for image, other in zip(expected, all_images(images, cache), strict=True):
        np.testing.assert_array_equal(image, other)
    assert cache.num_remade == sum(decoded.values()) == 1
    assert files_of(tmp_path / "root") == whole


@pytest.mark.parametrize("harm", ["cut", "emptied", "removed"])
def test_k16_a_cache_that_goes_while_it_is_used_costs_time_alone(toys, tmp_path, harm):
    images, cache, _ = open_toys(toys, tmp_path / "root")
    expected = all_images(images, cache)
    if harm == "removed":
        cache.stored.close()
        shutil.rmtree(tmp_path / "root")
    else:
        os.truncate(cache.stored.folder / "pixels.bin", 0 if harm == "emptied" else 9_000)
    for image, other in zip(expected, all_images(images, cache), strict=True):
        np.testing.assert_array_equal(image, other)
    assert cache.num_remade > 0
    again, mended, _ = open_toys(toys, tmp_path / "root")
    for image, other in zip(expected, all_images(again, mended), strict=True):
        np.testing.assert_array_equal(image, other)


@pytest.mark.parametrize("file", ["checks.bin", "pixels.bin"])
def test_k16_a_disk_that_fails_to_read_costs_time_alone(toys, tmp_path, monkeypatch, decoded, file):
    """EIO at every reading: each image is decoded again, none is lost, and the number is told."""
    images, cache, _ = open_toys(toys, tmp_path / "root")
    expected = all_images(images, cache)
    decoded.clear()
    real = os.pread

    def failing(descriptor: int, num_bytes: int, position: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == file:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, num_bytes, position)

    monkeypatch.setattr(os, "pread", failing)
    for image, other in zip(expected, all_images(images, cache), strict=True):
        np.testing.assert_array_equal(image, other)
    assert cache.num_remade == sum(decoded.values()) == 12


def test_k16_a_file_that_is_cut_while_it_is_read_kills_nobody(toys, tmp_path):
    """In a process of its own, which a mapped file would end by SIGBUS: cut at every length while
    it reads again and again."""
    _images, cache, _ = open_toys(toys, tmp_path / "root")
    path = cache.stored.folder / "pixels.bin"
    whole = path.read_bytes()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(200):
                for place in range(12):
                    cache.stored.read(place)
            code = 0
        finally:
            os._exit(code)
    ended = 0
    while ended == 0:
        for length in (0, 4_096, 9_000, len(whole)):
            os.truncate(path, length)
        ended, status = os.waitpid(pid, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 0
    path.write_bytes(whole)
    assert cache.stored.read(0) is not None


def test_k02_header_and_index_are_written_again(toys, tmp_path):
    open_toys(toys, tmp_path / "root")
    whole = files_of(tmp_path / "root")
    (folder,) = (tmp_path / "root").iterdir()
    for name in ("header.json", "index.bin"):
        (folder / name).write_bytes(b"?")
    said: list[str] = []
    open_toys(toys, tmp_path / "root", said=said)
    assert files_of(tmp_path / "root") == whole
    assert any("header or index was damaged" in text for text in said)


def test_k06_moved_renamed_and_other_names_are_the_same_cache(toys, tmp_path, decoded):
    _images, cache, _lock = open_toys(toys, tmp_path / "root")
    moved = tmp_path / "moved"
    shutil.copytree(toys / "jpegs", moved / "b")
    shutil.copytree(toys / "pngs", moved / "a")
    decoded.clear()
    _others, other, _ = open_toys(moved, tmp_path / "root")
    assert other.stored.folder == cache.stored.folder
    assert not decoded
    np.testing.assert_array_equal(other.read(0), cache.read(6))


def test_k03_d42_only_a_changed_image_is_decoded_again(toys, tmp_path, decoded):
    _, _, lock = open_toys(toys, tmp_path / "root")
    lock.release()
    (toys / "jpegs" / "3.jpeg").write_bytes(fi.encode(fi.photo(70, 75, 50), "JPEG"))
    decoded.clear()
    said: list[str] = []
    _images, _cache, _ = open_toys(toys, tmp_path / "root", said=said)
    assert decoded == {"3.jpeg": 1}
    assert any("11 decoded images taken over, 1 are gone, 1 are new" in text for text in said)
    _fresh, _anew, _ = open_toys(toys, tmp_path / "fresh")
    assert files_of(tmp_path / "fresh") == files_of(tmp_path / "root"), "the earlier one went"


@pytest.mark.parametrize("other", ["side", "channels"])
def test_k04_k05_images_made_otherwise_never_meet(toys, tmp_path, other):
    open_toys(toys, tmp_path / "root")
    if other == "side":
        open_toys(toys, tmp_path / "root", side=30)
    else:
        grey = open_split(toys).decoded_as(channels=1)
        image_cache.open_image_cache(
            grey,
            tmp_path / "root",
            side=SIDE,
            source="",
            tell=lambda text: None,
            progress=lambda what, done, total: None,
        )
    assert len(list((tmp_path / "root").iterdir())) == 2


def test_k01_another_decoder_is_another_cache(toys, tmp_path, monkeypatch):
    """Pillow may round otherwise in another version: what it made is not what we would make."""
    open_toys(toys, tmp_path / "root")
    monkeypatch.setattr(image_cache_folder.Image, "__version__", "99.0")
    open_toys(toys, tmp_path / "root")
    assert len(list((tmp_path / "root").iterdir())) == 2


def test_two_files_of_one_content_are_one_image(toys, tmp_path):
    shutil.copy(toys / "pngs" / "2.png", toys / "pngs" / "copy.png")
    images, cache, _ = open_toys(toys, tmp_path / "root")
    assert len(images) == 13 and len(cache.reduced.layout) == 12
    np.testing.assert_array_equal(cache.read(8), cache.read(12))


def killed_while_filling(toys: Path, root: Path, num_writes: int) -> None:
    """Fill in a child that dies half-way through its write of this number."""
    pid = os.fork()
    if pid == 0:
        real, calls = os.pwrite, iter(range(1, 10**6))

        def dying(descriptor: int, data: memoryview, position: int) -> int:
            if next(calls) == num_writes:
                real(descriptor, data[: len(data) // 2], position)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(descriptor, data, position)

        os.pwrite = dying
        try:
            open_toys(toys, root)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.parametrize("num_writes", [1, 2, 9, 24])
def test_k07_a_filling_that_was_killed_goes_on(toys, tmp_path, decoded, num_writes):
    """Each image is two writes, its pixels and its check: half of either counts as none."""
    images, cache, _ = open_toys(toys, tmp_path / "whole")
    expected = all_images(images, cache)
    killed_while_filling(toys, tmp_path / "root", num_writes)
    decoded.clear()
    again, mended, _ = open_toys(toys, tmp_path / "root")
    got = all_images(again, mended)
    for image, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(image, other)
    assert 0 < sum(decoded.values()) <= 12 - (num_writes - 1) // 2 + 1
    assert files_of(tmp_path / "root") == files_of(tmp_path / "whole")


def test_k08_one_fills_and_the_other_waits_and_is_told(toys, tmp_path, decoded):
    """The second may look at how far the first is; what it then reads was decoded once."""
    _images, cache, _lock = open_toys(toys, tmp_path / "root")
    place = cache.stored.folder
    (place / "checks.bin").write_bytes(bytes(12 * 8))
    waited, release = [], threading.Event()

    def told(what: str, done: int, total: int | None) -> None:
        if "waiting" in what:
            waited.append((done, total))
            release.set()

    def hold() -> None:
        with filling(place, lambda: None):
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.1)
    open_toys(toys, tmp_path / "root", progress=told)
    holder.join()
    assert waited[0] == (0, 12)


def test_k08_two_processes_at_once(toys, tmp_path):
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                images, cache, _ = open_toys(toys, tmp_path / "root")
                all_images(images, cache)
                code = cache.num_remade
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    open_toys(toys, tmp_path / "alone")
    assert files_of(tmp_path / "root") == files_of(tmp_path / "alone")


def test_k09_pixels_without_their_check_are_not_there(toys, tmp_path):
    """As for a reader during a write."""
    _images, cache, _ = open_toys(toys, tmp_path / "root")
    stored = cache.stored
    image = stored.read(3).copy()
    os.truncate(stored.folder / "checks.bin", 3 * 8)
    os.truncate(stored.folder / "checks.bin", 12 * 8)
    with StoredImages(stored.folder, stored.layout) as again:
        assert again.read(3) is None and again.read(2) is not None
        assert again.missing().tolist() == list(range(3, 12))
        again.write(3, image)
        np.testing.assert_array_equal(again.read(3), image)


def test_k10_a_full_disk_is_told_with_the_bytes_before_anything_is_made(
    toys, tmp_path, monkeypatch
):
    images = open_split(toys)
    needed = layout_of(images.digests, images.sizes, channels=3, side=SIDE).num_bytes
    monkeypatch.setattr(image_cache, "free_space_bytes", lambda path: needed - 1)
    with pytest.raises(ResourceError, match=rf"ENOSPC.*{needed:,} more bytes.*image_cache=off"):
        open_toys(toys, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_k10_a_disk_that_fills_up_keeps_what_is_there(toys, tmp_path, monkeypatch, decoded):
    real, calls = os.pwrite, iter(range(1, 10**6))

    def full(descriptor: int, data: memoryview, position: int) -> int:
        if next(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceError, match=r"ENOSPC.*bytes needed.*image_cache_folder="):
        open_toys(toys, tmp_path / "root")
    monkeypatch.setattr(os, "pwrite", real)
    decoded.clear()
    open_toys(toys, tmp_path / "root")
    assert sum(decoded.values()) == 8


def read_only(*args: object, **more: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_k15_a_folder_that_cannot_be_made_is_done_without(toys, tmp_path, monkeypatch):
    images, cache, _ = open_toys(toys, tmp_path / "root")
    expected = all_images(images, cache)
    monkeypatch.setattr(image_cache, "create_folder", read_only)
    said: list[str] = []
    _, without, lock = open_toys(toys, tmp_path / "other", said=said)
    assert lock is None and "cannot be written to" in said[0]
    for image, other in zip(expected, all_images(images, without), strict=True):
        np.testing.assert_array_equal(image, other)


def test_k15_a_read_only_cache_is_read(toys, tmp_path, monkeypatch, decoded):
    _, first, _ = open_toys(toys, tmp_path / "root")
    pixels = first.stored.folder / "pixels.bin"
    content = bytearray(pixels.read_bytes())
    content[0] ^= 1
    pixels.write_bytes(content)
    monkeypatch.setattr(image_cache, "repair_folder", read_only)
    decoded.clear()
    said: list[str] = []
    images, cache, _ = open_toys(toys, tmp_path / "root", said=said)
    assert "cannot be written to" in said[0]
    for _ in range(2):
        all_images(images, cache)
    assert cache.num_remade == sum(decoded.values()) == 2
    assert pixels.read_bytes() == content


def test_d39_an_image_that_vanished_before_it_was_decoded_is_an_error(toys, tmp_path):
    images = open_split(toys)
    (toys / "pngs" / "4.png").unlink()
    with pytest.raises(DataError, match=r"FILE_GONE.*4\.png"):
        image_cache.open_image_cache(
            images,
            tmp_path / "root",
            side=SIDE,
            source="",
            tell=lambda text: None,
            progress=lambda what, done, total: None,
        )


def test_nothing_is_written_into_the_users_folder(toys, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in toys.rglob("*")}
    open_toys(toys, tmp_path / "root")
    assert {path: path.stat().st_mtime_ns for path in toys.rglob("*")} == before


def test_a_cache_in_use_is_not_removed_and_a_released_one_is(toys, tmp_path):
    _, cache, lock = open_toys(toys, tmp_path / "root")
    place = cache.stored.folder
    assert is_in_use(place) and not remove_unused(place)
    lock.release()
    assert not is_in_use(place) and remove_unused(place)


def test_loader_workers_are_sent_no_pixels(toys, tmp_path):
    """D46: at most 200 bytes an image."""
    images, cache, _ = open_toys(toys, tmp_path / "root")
    expected = all_images(images, cache)
    sent = pickle.dumps(cache)
    assert len(sent) < 4_000 + 12 * 200, "the layout, and where the files are"
    for index, image in enumerate(expected):
        np.testing.assert_array_equal(pickle.loads(sent).read(index), image)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_ten_epochs(tmp_path):
    """Of what is not the cache's own file: 60 images of 192 KB are read 600 times."""
    for k in range(60):
        (tmp_path / "photos" / "cat").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "photos" / "cat" / f"{k}.bmp"
        path.write_bytes(fi.encode(fi.photo(k, 256, 256), "BMP"))
    images, cache, _ = open_toys(tmp_path / "photos", tmp_path / "root", side=200)

    def own_bytes() -> int:
        status = Path("/proc/self/status").read_text()
        (line,) = [row for row in status.splitlines() if row.startswith("RssAnon:")]
        return int(line.split()[1]) * 1024

    all_images(images, cache)
    before = own_bytes()
    for _ in range(10):
        for index in range(len(images)):
            cache.read(index)
    assert own_bytes() - before < 4 * 2**20


def test_what_is_missing_is_told_without_touching_anything(toys, tmp_path):
    """All of it before, none after it was filled, one after one was lost; a lost index is all."""
    images = open_split(toys)
    root = tmp_path / "root"

    def missing() -> int:
        return num_missing(images, root, side=SIDE, source=str(toys))

    assert missing() == len(images)
    assert not root.exists()
    open_toys(toys, root)
    before = files_of(root)
    assert missing() == 0
    assert files_of(root) == before
    (folder,) = root.iterdir()
    checks = bytearray((folder / "checks.bin").read_bytes())
    checks[8:16] = bytes(8)
    (folder / "checks.bin").write_bytes(checks)
    assert missing() == 1
    (folder / "checks.bin").unlink()
    assert missing() == len(images)
