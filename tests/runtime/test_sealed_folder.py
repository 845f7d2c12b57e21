"""A folder with a manifest: whole, or found to be broken."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from deitkit.errors import ResourceError
from deitkit.runtime.sealed_folder import (
    BrokenFolderError,
    find_folder,
    read_manifest,
    read_sealed_file,
    replace_folder,
    verify_folder,
    write_folder,
)

FILES = {"a.bin": b"\x00\x01\x02", "b.json": b"{}"}


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "thing"
    write_folder(path, FILES, {"kind": "test", "step": 7})
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read(folder):
    manifest = read_manifest(folder)
    assert manifest["step"] == 7
    # sha256 of the bytes 0, 1, 2 and of "{}", from coreutils' sha256sum.
    assert manifest["files"] == {
        "a.bin": {
            "sha256": "ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc",
            "size": 3,
        },
        "b.json": {
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2,
        },
    }
    assert {name: read_sealed_file(folder, manifest, name) for name in FILES} == FILES
    assert verify_folder(folder) == []
    assert names_in(folder.parent) == ["thing"]


def test_modes_follow_the_umask(tmp_path):
    """T50."""
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "x", FILES, {})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
    assert modes == {"a.bin": 0o640, "b.json": 0o640, "manifest.json": 0o640}
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o750


def test_new_folder_does_not_take_a_taken_name(folder):
    with pytest.raises(ResourceError) as caught:
        write_folder(folder, {}, {})
    assert caught.value.code == "EEXIST"
    assert verify_folder(folder) == []


def test_a_flipped_bit_in_any_byte_is_found(folder):
    """Every byte of all three files, manifest included; each of the eight bits takes turns."""
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for position in range(len(whole)):
            with path.open("r+b") as stream:
                stream.seek(position)
                stream.write(bytes([whole[position] ^ 1 << position % 8]))
                stream.flush()
                assert verify_folder(folder), f"{path.name} byte {position}"
                stream.seek(position)
                stream.write(whole[position : position + 1])
    assert verify_folder(folder) == []


@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda p: (p / "a.bin").write_bytes(b""), "a.bin holds 0 bytes of 3"),
        (lambda p: (p / "a.bin").write_bytes(b"\x00\x01\x03"), "a.bin is damaged"),
        (lambda p: (p / "a.bin").unlink(), "a.bin cannot be read"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda p: (p / "manifest.json").write_bytes(b""), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_bytes(b"[" * 100_000), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_bytes(b" " * (2 << 20)), "is larger than"),
        (lambda p: as_folder(p / "a.bin"), "a.bin is not a file"),
        (lambda p: as_pipe(p / "a.bin"), "a.bin is not a file"),
        (lambda p: p.rename(p.parent / "elsewhere"), "missing"),
    ],
)
def test_broken_folders_say_how(folder, break_it, said):
    """T42."""
    break_it(folder)
    (problem,) = verify_folder(folder)
    assert said in problem


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_file_in_place_of_the_folder(tmp_path):
    """T42."""
    (tmp_path / "x").write_bytes(b"")
    assert verify_folder(tmp_path / "x") == ["not a folder"]


def test_permission_is_no_damage(folder, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ResourceError) as caught:
        verify_folder(folder)
    assert caught.value.code == "EACCES"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b"])
def test_a_strangers_manifest_stays_in_its_folder(folder, name):
    """M12."""
    from deitkit.runtime.sealed_folder import _manifest_bytes

    manifest = read_manifest(folder)
    manifest["files"][name] = manifest["files"]["a.bin"]
    (folder / "manifest.json").write_bytes(_manifest_bytes(manifest))
    with pytest.raises(BrokenFolderError, match="no list of files"):
        read_manifest(folder)


def test_manifest_is_plain_json_for_people(folder):
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "test"


def test_replacing_leaves_only_the_new_one(folder):
    replace_folder(folder, {"c": b"new"}, {})
    assert verify_folder(folder) == []
    assert names_in(folder) == ["c", "manifest.json"]
    assert names_in(folder.parent) == ["thing"]


def test_between_two_renames_the_previous_one_is_found(folder):
    previous = folder.with_name("thing.previous")
    assert find_folder(folder) == folder
    folder.rename(previous)
    assert find_folder(folder) == previous
    replace_folder(folder, {"c": b"new"}, {})
    assert find_folder(folder) == folder
    assert names_in(folder.parent) == ["thing"]
    assert find_folder(folder.parent / "other") is None
