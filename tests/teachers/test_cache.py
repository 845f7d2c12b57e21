"""The teacher cache: its key, its damage, its data, its disk. The faults K01 to K16 by name."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deitkit.teachers.cache_folder
from deitkit.errors import CheckpointError, ConfigError, ModelFileError, ResourceError
from deitkit.teachers.cache import TeacherCache
from deitkit.teachers.cache_folder import ids_bytes
from tests.teachers.toy_cache import (
    IDS,
    NUM_CLASSES,
    SETTINGS,
    answers_to,
    bytes_of,
    fill,
    filled,
    opened,
    words_of,
)

ZEROS = np.zeros(len(IDS), dtype=np.int64)
RECORD_BYTES = 8 + 2 + 2 * NUM_CLASSES + 4


def test_the_files_by_hand(tmp_path):
    """The place of an image is its rank among the sorted ids; the rest is the record's bytes."""
    folder = filled(tmp_path)
    files = bytes_of(folder)
    epochs = [f"epoch-0000{e}.bin" for e in range(3)]
    assert sorted(files) == [".lock", *epochs, "header.json", "sample_ids.bin"]
    assert files[".lock"] == b""
    assert files["sample_ids.bin"] == np.sort(IDS).astype("<u8").tobytes()
    ranks = {int(i): rank for rank, i in enumerate(sorted(IDS.tolist()))}
    words = words_of(IDS, 2)
    for index in (0, 7, 23):
        place = ranks[int(IDS[index])] * RECORD_BYTES
        record = files["epoch-00002.bin"][place : place + RECORD_BYTES]
        assert int.from_bytes(record[:8], "little") == int(words[index])
        halves = np.frombuffer(record[10:20], "<f2")
        assert halves.tolist() == answers_to(words)[index].astype("f2").tolist()
    header = json.loads(files["header.json"])
    assert header["class_names"] == ["ant", "bee", "cat", "dog", "eel"]
    assert (header["teacher"], header["dtype"]) == ("resnet56", "float16")
    assert (header["num_samples"], header["record_bytes"]) == (24, RECORD_BYTES)


def test_a_filled_cache_is_all_hits_and_an_empty_one_none(tmp_path):
    with opened(tmp_path) as cache:
        assert [fill(cache, e) for e in (0, 1, 0, 1)] == [24, 24, 0, 0]
        assert (cache.coverage(0), cache.coverage(2)) == (1.0, 0.0)
        assert cache.is_complete(1) and not cache.is_complete(2)
    with opened(tmp_path) as cache:
        assert [fill(cache, e) for e in range(3)] == [0, 0, 24]


def test_coverage_counts_whole_records_also_of_others(tmp_path):
    with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        fill(mine, 0, IDS[:6])
        assert (mine.coverage(0), theirs.coverage(0)) == (0.25, 0.25)
        fill(theirs, 0, IDS[:12])
        assert (mine.coverage(0), theirs.coverage(0)) == (0.5, 0.5)


CHANGES = [
    {"teacher_digest": "c" * 32},
    {"class_names": ("bee", "ant", "cat", "dog", "eel")},
    {"class_names": ("ant", "bee", "cat", "dog", "fly")},
    {"class_names": ("ant", "bee", "cat", "dog")},
    {"policy_digest": "d" * 32},
    {"num_repeats": 2},
    {"dtype": "float32"},
    {"top_k": 2},
]


@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_k01_k04_another_key_is_another_cache(tmp_path, changed):
    """K01, K04, K05: never mixed, and said: whose cache is ignored, why, and what is built."""
    folder = filled(tmp_path)
    before, told = bytes_of(folder), []
    with opened(tmp_path, **changed, tell=told.append) as cache:
        assert cache.folder != folder
        assert fill(cache, 0) == len(IDS)
    assert bytes_of(folder) == before
    ignored = [text for text in told if "ignored" in text]
    assert len(ignored) == 1 and ignored[0].startswith("cache for teacher resnet56 ignored (")
    assert ignored[0].endswith("), building resnet56")
    with opened(tmp_path) as cache:
        assert [fill(cache, e) for e in range(3)] == [0, 0, 0]


def test_k04_the_message_names_both_teachers(tmp_path):
    """K04."""
    filled(tmp_path)
    told: list[str] = []
    opened(tmp_path, teacher_digest="e" * 32, teacher_name="regnet", tell=told.append).close()
    expected = (
        "cache for teacher resnet56 ignored (other weights or preprocessing), building regnet"
    )
    assert expected in told
    told.clear()
    opened(tmp_path, teacher_digest="e" * 32, teacher_name="regnet", tell=told.append).close()
    assert not [text for text in told if "ignored" in text], "nothing is built the second time"


def test_k05_k06_the_same_key(tmp_path):
    """K05, K06: names for people, stored epochs and the order of the files are not part of it."""
    folder = filled(tmp_path)
    before = bytes_of(folder)
    for changed in (
        {"teacher_name": "runs/other/best"},
        {"about": {"policy": "something"}},
        {"num_view_epochs": 2},
        {"sample_ids": IDS[::-1]},
        {"sample_ids": np.random.default_rng(5).permutation(IDS)},
    ):
        with opened(tmp_path, **changed) as cache:
            assert cache.folder == folder
            assert [fill(cache, e) for e in range(2)] == [0, 0]
    assert bytes_of(folder) == before


def test_more_stored_epochs_keep_the_first_ones(tmp_path):
    filled(tmp_path, num_view_epochs=2)
    with opened(tmp_path, num_view_epochs=4) as cache:
        assert [fill(cache, e) for e in range(4)] == [0, 0, 24, 24]
        with pytest.raises(AssertionError, match="view epoch 4"):
            fill(cache, 4)


@given(
    order=st.permutations(range(3 * len(IDS))),
    edges=st.lists(st.integers(0, 3 * len(IDS)), max_size=6),
    stale=st.lists(st.integers(0, 3 * len(IDS) - 1), max_size=6),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_k07_any_order_of_writes_gives_the_same_bytes(tmp_path_factory, order, edges, stale):
    """K07, K08: in any batches, after other views' records in the same places, by two writers."""
    folder = tmp_path_factory.mktemp("cache")
    expected = bytes_of(filled(folder / "whole"))
    with opened(folder / "parts") as one, opened(folder / "parts") as other:
        for job in stale:
            epoch, index = divmod(job, len(IDS))
            wrong = words_of(IDS[[index]], epoch) + np.uint64(1)
            one.write(epoch, ZEROS[:1], IDS[[index]], wrong, answers_to(wrong))
        marks = sorted({0, len(order), *edges})
        for number, (first, last) in enumerate(itertools.pairwise(marks)):
            for epoch in range(3):
                jobs = [j % len(IDS) for j in order[first:last] if j // len(IDS) == epoch]
                fill((one, other)[number % 2], epoch, IDS[jobs])
        assert one.folder is not None
    assert bytes_of(one.folder) == expected
    shutil.rmtree(folder)


@pytest.mark.parametrize("repeats", [2, 3])
def test_copies_of_an_image_have_places_of_their_own(tmp_path, repeats):
    """Repeated augmentation: R epochs show each image once, R times; one file holds them."""
    with opened(tmp_path, num_repeats=repeats, num_view_epochs=2 * repeats) as cache:
        for epoch in range(2 * repeats):
            part = IDS[epoch % repeats :: repeats]
            for repeat in range(repeats):
                assert fill(cache, epoch, part, repeat) == len(part)
            assert cache.coverage(epoch) == pytest.approx((epoch % repeats + 1) / repeats)
        for epoch in range(2 * repeats):
            assert cache.is_complete(epoch)
            for repeat in range(repeats):
                assert fill(cache, epoch, IDS[epoch % repeats :: repeats], repeat) == 0
        assert cache.folder is not None
        files = sorted(path.name for path in cache.folder.glob("*.bin"))
    assert files == ["epoch-00000.bin", f"epoch-0000{repeats}.bin", "sample_ids.bin"]


def test_an_image_the_cache_was_not_opened_for_is_our_mistake(tmp_path):
    with opened(tmp_path) as cache, pytest.raises(AssertionError, match="not opened for"):
        fill(cache, 0, IDS[:1] + np.uint64(1))


# Damage.


def test_k02_ten_thousand_flips_ten_thousand_found(tmp_path):
    """K02: a flipped bit of a stored epoch is a miss, counted; told once, and made good again."""
    folder = filled(tmp_path)
    path = folder / "epoch-00000.bin"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    words = words_of(IDS)
    num_flips = num_found = 0
    with opened(tmp_path) as cache:
        while num_flips < 10_000:
            data = np.frombuffer(whole, np.uint8).copy().reshape(len(IDS), -1)
            places = rng.integers(0, RECORD_BYTES, len(IDS))
            data[np.arange(len(IDS)), places] ^= np.uint8(1 << rng.integers(0, 8))
            path.write_bytes(data.tobytes())
            _, hit = cache.read(0, ZEROS, IDS, words)
            num_flips, num_found = num_flips + len(IDS), num_found + int((~hit).sum())
        assert num_found == num_flips == cache.num_bad
        told: list[str] = []
        cache._tell = told.append
        assert fill(cache, 0) == len(IDS)
        cache.flush()
        cache.flush()
        num = f"{num_flips + len(IDS):,}"
        assert told == [f"{num} damaged records of the teacher cache were asked for again"]
    assert path.read_bytes() == whole


def test_k02_a_file_cut_anywhere_is_completed(tmp_path):
    """K02: what is behind the cut is asked for again, what is before it is not."""
    folder = filled(tmp_path)
    path = folder / "epoch-00001.bin"
    before = bytes_of(folder)
    for length in (0, 1, RECORD_BYTES, RECORD_BYTES + 3, 10 * RECORD_BYTES - 1, 23 * RECORD_BYTES):
        os.truncate(path, length)
        with opened(tmp_path) as cache:
            assert fill(cache, 1) == len(IDS) - length // RECORD_BYTES
        assert bytes_of(folder) == before
    with path.open("ab") as stream:
        stream.write(b"more")
    with opened(tmp_path) as cache:
        report = {r.epoch: r for r in cache.verify()}
        assert not report[1].has_full_length and report[0].has_full_length
        assert fill(cache, 1) == 0
        fill(cache, 2)
        wrong = words_of(IDS[:1], 1)
        cache.write(1, ZEROS[:1], IDS[:1], wrong, answers_to(wrong))
    assert bytes_of(folder) == before


def test_k02_header_and_ids_are_written_again(tmp_path):
    """K02: a changed byte is found wherever it is; the records stay good."""
    folder = filled(tmp_path, about={"view_seed": 0})
    before = bytes_of(folder)
    for name in ("header.json", "sample_ids.bin"):
        for place in range(0, len(before[name]), 7 if name == "sample_ids.bin" else 23):
            damaged = bytearray(before[name])
            damaged[place] ^= 1 << place % 8
            (folder / name).write_bytes(damaged)
            told: list[str] = []
            with opened(tmp_path, about={"view_seed": 0}, tell=told.append) as cache:
                assert fill(cache, 0) == 0
            assert any("its header was damaged" in text for text in told), (name, place)
        (folder / name).unlink()
        opened(tmp_path, about={"view_seed": 0}).close()
    assert bytes_of(folder) == before


def test_verify_counts_whole_empty_and_damaged(tmp_path):
    with opened(tmp_path) as cache:
        fill(cache, 0)
        fill(cache, 2, IDS[:10])
        assert cache.folder is not None
        path = cache.folder / "epoch-00000.bin"
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        data[6 * RECORD_BYTES + 12] ^= 1
        path.write_bytes(data)
        assert [tuple(r) for r in cache.verify()] == [(0, 22, 0, 2, True), (2, 10, 14, 0, True)]


# Data that changed.


def test_k03_only_a_changed_image_is_asked_for_again(tmp_path):
    """K03: one image has other content now: one record of each stored epoch."""
    earlier = filled(tmp_path)
    changed = IDS.copy()
    changed[9] = 12345
    told: list[str] = []
    with opened(tmp_path, sample_ids=changed, tell=told.append) as cache:
        assert [fill(cache, e, changed) for e in range(3)] == [1, 1, 1]
        folder = cache.folder
    expected = (
        "the images changed: 69 records of 23 images taken over, 1 images are gone, 1 are new"
    )
    assert expected in told
    assert not earlier.exists(), "its place is taken"
    assert folder is not None
    assert bytes_of(folder) == bytes_of(filled(tmp_path / "anew", sample_ids=changed))


def test_k03_stale_records_are_replaced(tmp_path):
    """K03: the image is there, its view is another: its partner changed."""
    with opened(tmp_path) as cache:
        fill(cache, 0)
        words = words_of(IDS)
        words[3] += np.uint64(1)
        _, hit = cache.read(0, ZEROS, IDS, words)
        assert np.flatnonzero(~hit).tolist() == [3]
        assert (cache.num_stale, cache.num_bad) == (1, 0)
        cache.write(0, ZEROS[:1], IDS[[3]], words[[3]], answers_to(words[[3]]))
        assert cache.read(0, ZEROS, IDS, words)[1].all()


def test_d42_added_images_cost_only_themselves(tmp_path):
    """D42, K03: and damaged records of the earlier cache are not taken over."""
    folder = filled(tmp_path)
    path = folder / "epoch-00000.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    more = np.append(IDS, np.array([1, 2, 3], dtype=np.uint64))
    told: list[str] = []
    with opened(tmp_path, sample_ids=more, tell=told.append) as cache:
        assert [fill(cache, e, more) for e in range(3)] == [4, 3, 3]
    assert any("71 records of 24 images taken over, 0 images are gone, 3 are" in t for t in told)


def test_a_run_on_a_part_of_the_data_keeps_the_whole(tmp_path):
    """Half of the images: taken over, but the cache of all of them stays."""
    whole = filled(tmp_path)
    before, told = bytes_of(whole), []
    with opened(tmp_path, sample_ids=IDS[:12], tell=told.append) as cache:
        assert [fill(cache, e, IDS[:12]) for e in range(3)] == [0, 0, 0]
    assert f"the earlier cache stays in {whole}; deitkit cache prune removes it" in told
    assert bytes_of(whole) == before


def test_an_earlier_cache_in_use_stays(tmp_path):
    changed = IDS.copy()
    changed[0] = 1
    with opened(tmp_path) as earlier:
        fill(earlier, 0)
        with opened(tmp_path, sample_ids=changed) as cache:
            assert fill(cache, 0, changed) == 1
        assert fill(earlier, 1) == 24
        assert earlier.folder is not None and earlier.folder.is_dir()


@given(
    old=st.sets(st.integers(0, 40), min_size=1),
    new=st.sets(st.integers(0, 40), min_size=1),
    num_repeats=st.integers(1, 2),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_k03_any_change_of_the_data_costs_only_what_is_new(tmp_path_factory, old, new, num_repeats):
    """K03, K06: whatever came and went."""
    folder = tmp_path_factory.mktemp("cache")
    before, after = (np.array(sorted(ids), dtype=np.uint64) for ids in (old, new))
    given_ = {"num_repeats": num_repeats, "num_view_epochs": num_repeats}
    with opened(folder, sample_ids=before, **given_) as cache:
        for repeat in range(num_repeats):
            fill(cache, 0, before, repeat)
    with opened(folder, sample_ids=after, **given_) as cache:
        for repeat in range(num_repeats):
            assert fill(cache, 0, after, repeat) == len(new - old)
    shutil.rmtree(folder)


# The disk.


def test_k10_the_size_is_told_and_checked_before_anything_is_written(tmp_path, monkeypatch):
    """K10: ERR 6 with the bytes needed and free."""
    needed = 3 * 24 * RECORD_BYTES
    told: list[str] = []
    opened(tmp_path / "a", tell=told.append).close()
    assert "up to 1.7 KB for 3 view epochs of 24 images, 0 bytes there" in told[0]
    for module in ("cache_files", "cache_opening"):
        monkeypatch.setattr(f"deitkit.teachers.{module}.free_space_bytes", lambda path: needed - 1)
    with pytest.raises(ResourceError) as caught:
        opened(tmp_path / "b")
    assert caught.value.code == "ENOSPC" and caught.value.exit_code == 6
    assert f"{needed:,} more bytes, {needed - 1:,} are free" in caught.value.why
    assert not (tmp_path / "b").exists()


def test_k10_a_full_disk_leaves_what_is_there_usable(tmp_path, monkeypatch):
    """K10: the second stored epoch does not fit."""
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, num_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as cache:
        fill(cache, 0)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ResourceError) as caught:
            fill(cache, 1)
        assert caught.value.code == "ENOSPC"
        assert f"{24 * RECORD_BYTES:,} bytes needed" in caught.value.why
        assert "store fewer view epochs" in caught.value.do
        assert fill(cache, 0) == 0
        monkeypatch.setattr(os, "posix_fallocate", real)
        assert fill(cache, 1) == 24
    assert cache.folder is not None
    fill_rest = filled(tmp_path)
    assert bytes_of(fill_rest) == bytes_of(filled(tmp_path / "anew"))


def test_k10_memory_is_checked_too(monkeypatch):
    monkeypatch.setattr("deitkit.teachers.cache_opening.available_memory_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match=r"\[MEMORY\].*1,728 bytes of memory, 1,000 are"):
        TeacherCache.open(None, **SETTINGS, mode="memory")


def test_a_disk_that_cannot_reserve_space_still_works(tmp_path, monkeypatch):
    def unsupported(descriptor: int, offset: int, num_bytes: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    expected = bytes_of(filled(tmp_path / "a"))
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert bytes_of(filled(tmp_path / "b")) == expected


def test_k11_nothing_of_a_wrong_answer_is_stored(tmp_path):
    """K11: one image of a batch is NaN; the others' answers are not stored either."""
    with opened(tmp_path) as cache:
        words = words_of(IDS)
        logits = answers_to(words)
        logits[5, 2] = np.nan
        with pytest.raises(ModelFileError, match="TEACHER_OUTPUT"):
            cache.write(0, ZEROS, IDS, words, logits)
        with pytest.raises(ModelFileError, match="TEACHER_OUTPUT"):
            cache.write(0, ZEROS, IDS, words, answers_to(words, NUM_CLASSES + 1))
        assert cache.coverage(0) == 0.0
        assert cache.folder is not None and not list(cache.folder.glob("epoch-*"))


def test_k13_only_numbers_and_json(tmp_path):
    """K13: every byte of every file is accounted for, and nothing here can read a pickle."""
    folder = filled(tmp_path)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    header = json.loads((folder / "header.json").read_text(encoding="ascii"))
    assert sizes.pop("header.json") > 0 and sizes.pop(".lock") == 0
    assert sizes.pop("sample_ids.bin") == 8 * header["num_samples"]
    assert set(sizes.values()) == {header["record_bytes"] * header["num_samples"]}
    assert not any(dtype.endswith("O") for _, dtype in header["record"])
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in Path(deitkit.teachers.cache_folder.__file__).parent.glob("cache*.py")
    )
    assert not [word for word in ("pickle", "np.load", "torch.load", "eval(") if word in source]


def write_protected(
    monkeypatch, folder: Path, number: int, *, flags: int = os.O_RDWR | os.O_WRONLY | os.O_CREAT
) -> None:
    """Opening anything below `folder` with such flags, or making a folder, fails so."""
    real_open, real_mkdir = os.open, os.mkdir

    def open_(path, asked, *rest, **more):
        if asked & flags and str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, asked, *rest, **more)

    def mkdir(path, *rest, **more):
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return real_mkdir(path, *rest, **more)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "mkdir", mkdir)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_k15_a_read_only_cache_is_read(tmp_path, monkeypatch, number):
    """K15: hits from the disk, misses kept in memory, one warning, no byte changed."""
    with opened(tmp_path) as cache:
        fill(cache, 0)
        fill(cache, 1, IDS[:10])
        folder = cache.folder
    assert folder is not None
    before, told = bytes_of(folder), []
    write_protected(monkeypatch, tmp_path, number)
    with opened(tmp_path, tell=told.append) as cache:
        assert [fill(cache, e) for e in (0, 1, 2)] == [0, 14, 24]
        assert [fill(cache, e) for e in (0, 1, 2)] == [0, 0, 0]
        assert cache.is_complete(1)
    assert len([text for text in told if "cannot be written to" in text]) == 1
    assert bytes_of(folder) == before


def test_k15_no_file_can_be_added(tmp_path, monkeypatch):
    """K15: somebody else's folder, whose files may be written: found at the first new epoch."""
    told: list[str] = []
    with opened(tmp_path, tell=told.append) as cache:
        fill(cache, 0)
        write_protected(monkeypatch, tmp_path, errno.EACCES, flags=os.O_CREAT)
        assert [fill(cache, e) for e in (1, 1, 0, 2, 2)] == [24, 0, 0, 24, 0]
        assert cache.folder is not None and len(list(cache.folder.glob("epoch-*"))) == 1
    assert len([text for text in told if "cannot be written to" in text]) == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_k15_no_cache_can_be_begun(tmp_path, monkeypatch, number):
    """K15: all in memory, with the warning."""
    write_protected(monkeypatch, tmp_path / "root", number)
    told: list[str] = []
    with opened(tmp_path / "root", tell=told.append) as cache:
        assert cache.folder is None
        assert [fill(cache, e) for e in (0, 1, 0, 1)] == [24, 24, 0, 0]
    assert len([text for text in told if "cannot be written to" in text]) == 1


def test_k15_a_full_read_only_disk(tmp_path, monkeypatch):
    """K15: a mounted image has no free space; what it holds is read all the same."""
    with opened(tmp_path) as cache:
        fill(cache, 0)
    told: list[str] = []
    for module in ("cache_files", "cache_opening"):
        monkeypatch.setattr(f"deitkit.teachers.{module}.free_space_bytes", lambda path: 0)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with opened(tmp_path, tell=told.append) as cache:
        assert [fill(cache, e) for e in (0, 1, 1)] == [0, 24, 0]
    assert len([text for text in told if "cannot be written to" in text]) == 1


def test_k15_asked_not_to_write(tmp_path):
    """K15: `writable=False` also of a folder that is not there."""
    for _ in range(2):
        with opened(tmp_path, writable=False) as cache:
            assert [fill(cache, e) for e in (0, 0)] == [24, 0]
        assert not list(tmp_path.iterdir())
    folder = filled(tmp_path)
    before = bytes_of(folder)
    more = np.append(IDS, np.uint64(7))
    with opened(tmp_path, writable=False) as cache:
        assert fill(cache, 0) == 0
    with opened(tmp_path, writable=False, sample_ids=more) as cache:
        assert fill(cache, 0, more) == 25
    assert bytes_of(folder) == before


@pytest.mark.parametrize("what", ["folder", "root", "file", "another", "moved"])
def test_k16_removed_while_in_use(tmp_path, what):
    """K16: ERR 4 CACHE_GONE at the next view, read or write; the same command begins anew."""
    root = tmp_path / "root"
    with opened(root) as cache:
        fill(cache, 0)
        assert cache.folder is not None
        if what == "file":
            (cache.folder / "epoch-00000.bin").unlink()
        elif what == "moved":
            cache.folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(root if what == "root" else cache.folder)
        if what == "another":
            opened(root).close()
        for action in (
            lambda: fill(cache, 0),
            lambda: cache.write(0, ZEROS[:1], IDS[:1], IDS[:1], answers_to(IDS[:1])),
        ):
            with pytest.raises(CheckpointError) as caught:
                action()
            assert (caught.value.code, caught.value.exit_code) == ("CACHE_GONE", 4)
    with opened(root) as cache:
        assert fill(cache, 0) == 24
        assert bytes_of(filled(root)) == bytes_of(filled(tmp_path / "anew"))


def test_a_cache_in_memory_answers_alike_and_leaves_nothing(tmp_path):
    told: list[str] = []
    with TeacherCache.open(None, **SETTINGS, mode="memory", tell=told.append) as cache:
        assert [fill(cache, e) for e in (0, 1, 0, 1)] == [24, 24, 0, 0]
        assert (cache.coverage(1), cache.coverage(2)) == (1.0, 0.0)
        assert [tuple(r) for r in cache.verify()] == [(0, 24, 0, 0, True), (1, 24, 0, 0, True)]
    assert told == ["teacher cache in memory: up to 1.7 KB for 3 view epochs of 24 images"]


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_many_stored_epochs_need_few_open_files(tmp_path):
    with opened(tmp_path, num_view_epochs=40) as cache:
        before = num_open_files()
        for _ in range(2):
            misses = [fill(cache, e, IDS[:4]) for e in range(40)]
        assert misses == [0] * 40
        assert num_open_files() - before <= 4


def test_closing_twice_and_an_unknown_mode(tmp_path):
    cache = opened(tmp_path)
    cache.close()
    cache.close()
    with pytest.raises(ConfigError, match="CACHE_MODE"):
        opened(tmp_path, mode="cloud")


def test_ids_are_stored_little_endian():
    assert ids_bytes(np.array([1, 256], dtype=">u8")) == b"\1" + bytes(8) + b"\1" + bytes(6)
