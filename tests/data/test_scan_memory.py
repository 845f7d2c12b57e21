"""A second scan reads only what changed, and finds what the first found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from deitkit.data import open_dataset, open_split, scan, scan_memory, stores
from deitkit.data.parquet import ParquetStore
from deitkit.data.tar_store import TarStore
from deitkit.errors import DataError
from tests.data import faulty_images as fi
from tests.data import tar_files
from tests.data.test_parquet import write_shard

NUM = 6


@pytest.fixture(autouse=True)
def remembered_at_once(monkeypatch, tmp_path) -> Path:
    """Also what took no time and was written just now."""
    monkeypatch.setattr(scan, "WORTH_REMEMBERING_S", -1.0)
    monkeypatch.setattr(scan_memory, "SETTLED_S", -60.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "deitkit" / "scans"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Of the rows that are read, what people call them."""
    names: list[str] = []
    for kind in (stores.FileStore, TarStore, ParquetStore):

        def counted(store, row, own=kind.read):
            names.append(store.describe(row).rsplit("/", 1)[-1])
            return own(store, row)

        monkeypatch.setattr(kind, "read", counted)
    return names


def write_folder(folder: Path) -> Path:
    for number in range(NUM):
        path = folder / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fi.encode(fi.photo(number, 10, 12 + number % 2)))
    return folder


def write_tars(folder: Path) -> Path:
    tar_files.write_tar(folder / "x-train-0.tar", tar_files.members("abab"))
    tar_files.write_tar(folder / "x-train-1.tar", tar_files.members("ab", first=4))
    return folder


def write_parquet(folder: Path) -> Path:
    write_shard(folder / "train-00000-of-00001.parquet", [0, 1] * 3, names=["a", "b"])
    return folder


def facts(images) -> tuple:
    return (
        images.digests.tolist(),
        images.sizes.tolist(),
        images.labels.tolist(),
        images.report.to_dict(),
        [images.image(row).tolist() for row in range(len(images))],
    )


@pytest.mark.parametrize("write", [write_folder, write_tars, write_parquet])
def test_what_did_not_change_is_not_read_again(write, tmp_path, read):
    folder = write(tmp_path / "photos")
    first = facts(open_split(folder, split="train"))
    assert len(read) == NUM
    read.clear()
    again = facts(open_split(folder, split="train"))
    assert read == []
    assert again == first


def test_a_file_of_other_content_is_read_though_size_and_time_are_the_same(tmp_path, read):
    folder = write_folder(tmp_path / "photos")
    before = open_split(folder, split="train")
    path = folder / "train" / "class0" / "2.png"
    found = path.stat()
    content = bytearray(path.read_bytes())
    replacement = fi.encode(fi.photo(77, 10, 12))
    path.write_bytes(replacement.ljust(len(content), b"\0")[: max(len(content), len(replacement))])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    read.clear()
    after = open_split(folder, split="train")
    assert read == ["2.png"]
    changed = (before.digests != after.digests).any(axis=1)
    assert changed.sum() == 1


def test_new_and_renamed_files_are_read_and_gone_ones_forgotten(tmp_path, read):
    folder = write_folder(tmp_path / "photos")
    open_split(folder, split="train")
    here = folder / "train" / "class0"
    (here / "0.png").unlink()
    (here / "2.png").rename(here / "renamed.png")
    (here / "new.png").write_bytes(fi.encode(fi.photo(99, 10, 12)))
    read.clear()
    images = open_split(folder, split="train")
    assert sorted(read) == ["new.png", "renamed.png"]
    assert len(images) == NUM


def test_a_changed_shard_is_read_whole(tmp_path, read):
    folder = write_tars(tmp_path / "photos")
    open_split(folder, split="train")
    tar_files.write_tar(folder / "x-train-1.tar", tar_files.members("ba", first=4))
    read.clear()
    open_split(folder, split="train")
    assert len(read) == 2


def test_what_is_broken_is_looked_at_and_told_each_time(tmp_path, read):
    folder = write_folder(tmp_path / "photos")
    (folder / "train" / "class1" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    first = open_split(folder, split="train")
    read.clear()
    again = open_split(folder, split="train")
    assert read == ["bad.png"]
    assert again.report.skipped.total == first.report.skipped.total == 1


def test_pictures_that_fit_into_memory_are_read_and_kept(tmp_path, read):
    folder = write_folder(tmp_path / "photos")
    open_dataset(folder, val_fraction=0.4)
    read.clear()
    dataset = open_dataset(folder, val_fraction=0.4, keep_bytes=1 << 20)
    assert len(read) == NUM
    assert dataset.train.is_in_memory


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path, read, monkeypatch):
    monkeypatch.setattr(scan_memory, "SETTLED_S", 60.0)
    folder = write_folder(tmp_path / "photos")
    open_split(folder, split="train")
    read.clear()
    open_split(folder, split="train")
    assert len(read) == NUM


@pytest.mark.parametrize("place", [0, 40, 300, -1])
def test_a_damaged_memory_is_no_memory(place, tmp_path, read, remembered_at_once):
    folder = write_folder(tmp_path / "photos")
    first = facts(open_split(folder, split="train"))
    (path,) = remembered_at_once.iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    read.clear()
    assert facts(open_split(folder, split="train")) == first
    assert len(read) == NUM


def test_other_settings_have_a_memory_of_their_own(tmp_path, read):
    folder = write_folder(tmp_path / "photos")
    open_dataset(folder, val_fraction=0.4)
    read.clear()
    with pytest.raises(DataError, match="too_small"):
        open_split(folder, split="train", decode=scan.DecodePolicy(min_side=11))
    assert len(read) == NUM


def test_nothing_is_remembered_unasked_for(tmp_path, remembered_at_once):
    folder = write_folder(tmp_path / "photos")
    open_dataset(folder, val_fraction=0.4, remember=False)
    open_split(folder, split="train", remember=False)
    assert not remembered_at_once.exists()


def test_what_is_remembered_is_not_written_again(tmp_path, monkeypatch):
    """Also where the pictures are read because they fit into memory."""
    folder = write_folder(tmp_path / "photos")
    open_dataset(folder, val_fraction=0.4)
    kept: list[int] = []
    monkeypatch.setattr(scan_memory.ScanMemory, "keep", lambda self, facts: kept.append(len(facts)))
    open_dataset(folder, val_fraction=0.4, keep_bytes=1 << 20)
    open_dataset(folder, val_fraction=0.4)
    assert kept == []


def test_no_place_to_write_is_no_reason_to_stop(tmp_path, monkeypatch, read):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_split(write_folder(tmp_path / "photos"), split="train")) == NUM


def test_a_key_by_hand():
    """The same name and numbers, the same key; no digit moves from one number to the next."""
    assert scan_memory.key_of(b"a", 12, 3) == scan_memory.key_of(b"a", 12, 3)
    others = {scan_memory.key_of(b"a", 1, 23), scan_memory.key_of(b"a1", 2, 3), b"\0" * 16}
    assert scan_memory.key_of(b"a", 12, 3) not in others
    facts_K = np.zeros(1, scan_memory.FACTS)
    assert facts_K.nbytes == 43, "a picture costs so many bytes of the cache folder"
