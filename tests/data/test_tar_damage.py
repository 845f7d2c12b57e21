"""Tar archives that are damaged, strange or changing under the reader."""

from __future__ import annotations

import errno
import io
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.data import open_dataset, open_split, shard_reading
from deitkit.data.tar_members import DamagedArchive, Member, walk_members
from deitkit.errors import DataError
from tests.data import faulty_images as fi
from tests.data.tar_files import add, members, picture, write_tar

LABELS = ["cat", "dog"] * 5


def walked(content: bytes) -> tuple[list[Member], list[str]]:
    notes: list[str] = []
    return list(walk_members(io.BytesIO(content), len(content), note=notes.append)), notes


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/"), min_size=1, max_size=150
).filter(lambda name: name not in (".", ".."))


@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=8),
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_reads(files, kind):
    """GNU long names, pax names: names and contents as Python's own reader has them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in files:
            add(archive, name, content)
    content = stream.getvalue()
    found, notes = walked(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [
            (entry.name.encode("utf-8", "surrogateescape"), archive.extractfile(entry).read())
            for entry in archive
        ]
    assert [(m.name, content[m.offset : m.offset + m.size]) for m in found] == expected
    assert notes == [] and all(m.unusual == "" for m in found)


@given(
    cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)))
)
def test_any_damage_is_told_or_harmless(cut, flips):
    """A walk over a damaged archive ends, inside the file, without another kind of error."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "x" * 120 + ".png", b"p" * 700)
        add(archive, "a.cls", b"1")
    content = bytearray(stream.getvalue()[:cut])
    for place, value in flips:
        if place < len(content):
            content[place] ^= value
    try:
        found, _ = walked(bytes(content))
    except DamagedArchive:
        return
    assert all(m.offset >= 0 and m.offset + m.size <= len(content) for m in found)


def test_a_truncated_shard_is_refused(tmp_path):
    """D14: it is not taken for a shorter one; the member and the place are named."""
    path = write_tar(tmp_path / "x.tar", members(LABELS))
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 * 5 + 300])
    with pytest.raises(DataError, match=r"BAD_SHARD.*x\.tar.*ends in the middle of"):
        open_dataset(path)
    path.write_bytes(whole[:1024] + b"\x01" * 512 + whole[1536:])
    with pytest.raises(DataError, match=r"BAD_SHARD.*x\.tar.*is no header"):
        open_dataset(path)


def test_no_end_mark_and_bytes_behind_it_are_told(tmp_path):
    path = write_tar(tmp_path / "x.tar", members(LABELS))
    whole = path.read_bytes()
    last = whole.rindex(b"000009.cls") + 1024
    path.write_bytes(whole[:last])
    dataset = open_dataset(path)
    assert len(dataset.train) + len(dataset.val) == 10
    assert any("no end mark" in warning for warning in dataset.warnings)
    path.write_bytes(whole[: last + 1024] + whole)
    assert any("bytes behind its end mark" in w for w in open_dataset(path).warnings)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>" * 90, b"version https://git-lfs"])
def test_what_is_no_tar(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"BAD_SHARD.*x\.tar.*no tar archive"):
        open_dataset(tmp_path)


def test_hostile_names_are_read_in_place_and_shown_safely(tmp_path):
    """D33, D28, D29, M12: nothing is unpacked, whatever a member is called."""
    outside = tmp_path / "outside.png"
    names = ["../outside", "/etc/passwd", "a/../../b", "C:\\x", "new\nline", "\udcff\x1b[31m", "‮"]
    found = [m for n, name in enumerate(names) for m in ((f"{name}.png", picture(n)),)]
    found += [(f"{name}.cls", b"cat") for name in names]
    path = write_tar(tmp_path / "data" / "x.tar", found, kind=tarfile.GNU_FORMAT)
    before = sorted(tmp_path.rglob("*"))
    images = open_split(path)
    assert len(images) == len(names)
    for row in range(len(names)):
        np.testing.assert_array_equal(images.image(row), fi.photo(row, 10, 12))
    assert sorted(tmp_path.rglob("*")) == before and not outside.exists()
    path = write_tar(path, [("\x1b[31m\n../x.png", b"no"), ("\x1b[31m\n../x.cls", b"cat")])
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert str(caught.value).isprintable()


def test_links_devices_and_holes_are_skipped(tmp_path):
    """D30, D32, M12: not_a_regular_file, and never followed."""
    (tmp_path / "secret.png").write_bytes(picture(90))
    path = tmp_path / "data" / "x.tar"
    write_tar(path, members(LABELS))
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
    with tarfile.open(path, "a") as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"s{number}.png")
            info.type, info.linkname = kind, "../secret.png"
            archive.addfile(info)
            add(archive, f"s{number}.cls", b"cat")
        sparse = tarfile.TarInfo("hole.png")
        sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        sparse.size = 512
        archive.addfile(sparse, io.BytesIO(bytes(512)))
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    report = open_dataset(path).report
    assert report.skip_counts == {"not_a_regular_file": 5}
    assert f"{path}:s0.png" in report.skipped.paths["not_a_regular_file"]


def old_sparse_member(content: bytes) -> bytes:
    """An old GNU sparse header with one block of its map behind it, and its content."""
    info = tarfile.TarInfo("old.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, len(content)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(512) + content.ljust(512, b"\0")


def test_old_sparse_members_are_passed_over():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        add(archive, "a.png", b"after")
    found, _ = walked(old_sparse_member(b"x" * 40) + stream.getvalue())
    assert [(m.name, m.unusual) for m in found] == [
        (b"old.png", "a file with holes"),
        (b"a.png", ""),
    ]


def test_a_name_that_takes_megabytes_is_refused():
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 20
    with pytest.raises(DamagedArchive, match="take 3145728 bytes"):
        walked(info.tobuf(tarfile.GNU_FORMAT) + bytes(3 << 20))


@pytest.mark.parametrize("held", [None, 0])
def test_a_shard_that_changed_or_went_away(tmp_path, held):
    """D39, D40."""
    path = write_tar(tmp_path / "x.tar", members(LABELS))
    train = open_dataset(path).train
    train = train.holding(1 if held is None else held)
    write_tar(path, members(LABELS[::-1]))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"FILE_CHANGED.*x\.tar"):
        train.image(0)
    path.unlink()
    with pytest.raises(DataError, match=r"FILE_GONE.*x\.tar"):
        train.image(0)


def test_a_device_that_fails(tmp_path, monkeypatch):
    """D45: three tries, then IO_ERROR with the shard's name; D11: no permission."""
    path = write_tar(tmp_path / "x.tar", members(LABELS))
    train = open_dataset(path).train.holding(0)
    monkeypatch.setattr(shard_reading, "_RETRY_WAITS_S", (0.0, 0.0))
    calls, real = [], os.read

    def failing(code: int, times: int):
        def read(descriptor: int, size: int) -> bytes:
            calls.append(size)
            if len(calls) <= times:
                raise OSError(code, "made up")
            return real(descriptor, size)

        return read

    monkeypatch.setattr(os, "read", failing(errno.EIO, 2))
    train.image(0)
    calls.clear()
    monkeypatch.setattr(os, "read", failing(errno.EIO, 99))
    with pytest.raises(DataError, match=r"IO_ERROR.*x\.tar"):
        train.image(0)
    assert len(calls) == 3
    monkeypatch.setattr(os, "read", failing(errno.EACCES, 10**9))
    with pytest.raises(DataError, match=r"UNREADABLE.*x\.tar"):
        train.image(0)


def test_a_pipe_named_tar_does_not_hang(tmp_path):
    """D32."""
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"UNREADABLE.*no regular file"):
        open_dataset(tmp_path)


def test_any_damaged_picture_faults_alone(tmp_path):
    """D27: mutants of a picture are skipped, never another error."""
    rng = np.random.default_rng(0)
    found = members(LABELS * 60)
    for number in range(4):
        broken = bytearray(picture(number))
        broken[rng.integers(30, len(broken))] ^= 0xFF
        found += [(f"m{number}.png", bytes(broken)), (f"m{number}.cls", b"cat")]
    report = open_dataset(write_tar(tmp_path / "x.tar", found)).report
    assert report.num_skipped <= 4


def test_memory_of_many_samples(tmp_path):
    """D46, D47: below 200 bytes a picture in what stays, names of 11 characters."""
    tiny = fi.encode(fi.photo(0, 8, 8))
    path = write_tar(
        tmp_path / "x.tar",
        (
            (f"{n:07d}.{end}", tiny if end == "png" else b"1")
            for n in range(3000)
            for end in ("png", "cls")
        ),
    )
    images = open_split(path)
    columns = images._store._columns
    arrays = (columns.shards_N, columns.offsets_N, columns.sizes_N, columns.blocks_N)
    num_bytes = sum(array.nbytes for array in arrays) + 3000 * (11 + 8)
    num_bytes += images.labels.nbytes + images.digests.nbytes + images.sizes.nbytes
    assert num_bytes + images.sample_ids.nbytes < 200 * 3000
