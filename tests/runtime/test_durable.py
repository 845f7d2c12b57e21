"""Files on disk: whole, lasting, with the umask's mode, and told about when the disk refuses."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from deitkit.errors import ResourceError
from deitkit.runtime.durable import make_folder, write_file, write_json
from deitkit.runtime.temporary_names import is_temporary


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_bytes_replace_the_old_ones(tmp_path):
    target = tmp_path / "config.yaml"
    write_file(target, b"old")
    write_file(target, b"new and longer")
    assert target.read_bytes() == b"new and longer"
    assert names_in(tmp_path) == ["config.yaml"]


def test_missing_folders_above_are_made(tmp_path):
    """T24."""
    write_file(tmp_path / "a" / "b" / "c", b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_json_is_readable_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 0.1, None, "ä"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 0.1, None, "ä"]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert names_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize("umask, mode", [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_file_mode_follows_the_umask(tmp_path, umask, mode):
    """T50."""
    before = os.umask(umask)
    try:
        write_file(tmp_path / "new" / "f", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "f").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode | (mode & 0o444) >> 2


def test_order_of_calls_outlives_a_power_cut(tmp_path, monkeypatch):
    """T07: file synced before its rename, its folder after, both before the call returns."""
    calls = record_calls(monkeypatch)
    write_file(tmp_path / "f", b"x")
    assert calls == ["open .tmp", "write", "fsync file", "close", "replace", "open", "fsync folder",
                     "close"]  # fmt: skip


def record_calls(monkeypatch) -> list[str]:
    calls: list[str] = []

    def wrap(name, describe):
        real = getattr(os, name)

        def wrapped(*args, **kwargs):
            calls.append(describe(*args))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapped)

    def of_descriptor(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        return f"fsync {kind}"

    wrap("open", lambda path, *_: "open .tmp" if ".tmp-" in str(path) else "open")
    wrap("write", lambda *_: "write")
    wrap("fsync", of_descriptor)
    wrap("close", lambda *_: "close")
    wrap("replace", lambda *_: "replace")
    wrap("rename", lambda *_: "rename")
    return calls


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    write_file(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS"])
def test_refused_write_names_the_errno_and_bytes_and_keeps_the_old(tmp_path, monkeypatch, name):
    """T20, T22."""
    write_file(tmp_path / "f", b"old")

    def refuse(descriptor, data):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(ResourceError, match=r"1,000 bytes needed, [0-9,]+ bytes free") as caught:
        write_file(tmp_path / "f", b"x" * 1000)
    assert caught.value.code == name
    assert caught.value.exit_code == 6
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names_in(tmp_path) == ["f"]


@pytest.mark.parametrize("call, code", [("open", errno.EMFILE), ("close", errno.EDQUOT)])
def test_other_calls_that_fail_are_told_too(tmp_path, monkeypatch, call, code):
    """T22."""
    real = getattr(os, call)

    def refuse(*args, **kwargs):
        if call == "close":
            real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(ResourceError) as caught:
        write_file(tmp_path / "f", b"x")
    assert caught.value.code == errno.errorcode[code]
    assert names_in(tmp_path) == []


def test_failed_fsync_is_never_repeated_and_the_next_name_is_new(tmp_path, monkeypatch):
    """T09."""
    synced: list[str] = []

    def fail(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(ResourceError) as caught:
            write_file(tmp_path / "f", b"x")
        assert caught.value.code == "EIO"
    assert len(synced) == len(set(synced)) == 2
    assert names_in(tmp_path) == []


def test_too_long_a_name(tmp_path):
    """T22."""
    with pytest.raises(ResourceError) as caught:
        write_file(tmp_path / ("x" * 250), b"x")
    assert caught.value.code == "ENAMETOOLONG"


def test_temporary_file_stands_beside_its_target(tmp_path, monkeypatch):
    """T49."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    opened: list[Path] = []
    real = os.open

    def watch(path, *args, **kwargs):
        opened.append(Path(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", watch)
    write_file(tmp_path / "f", b"x")
    assert {path.parent for path in opened if is_temporary(path.name)} == {tmp_path}


def test_make_folder_syncs_each_new_name(tmp_path, monkeypatch):
    calls = record_calls(monkeypatch)
    make_folder(tmp_path / "a" / "b")
    assert calls.count("fsync folder") == 2
    make_folder(tmp_path / "a" / "b")
    assert calls.count("fsync folder") == 2
