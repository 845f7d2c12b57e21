"""The output folder is tried before anything else is begun; real mounts included."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deitkit.errors import ResourceError
from deitkit.runtime.lock import check_free_space, check_output_folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_output_folder_is_made_and_left_empty(tmp_path):
    """T23."""
    check_output_folder(tmp_path / "runs" / "a")
    assert names_in(tmp_path / "runs" / "a") == []


@pytest.mark.parametrize("below", ["", "deeper"])
def test_file_in_place_of_the_output_folder(tmp_path, below):
    """T23."""
    (tmp_path / "runs").write_bytes(b"a file")
    with pytest.raises(ResourceError) as caught:
        check_output_folder(tmp_path / "runs" / below)
    assert caught.value.code in ("EEXIST", "ENOTDIR")
    assert (tmp_path / "runs").read_bytes() == b"a file"


def test_output_folder_without_permission(tmp_path, monkeypatch):
    """T23."""

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ResourceError, match="permissions") as caught:
        check_output_folder(tmp_path)
    assert caught.value.code == "EACCES"


def test_free_space_is_compared_with_the_need(tmp_path):
    """T21."""
    free = shutil.disk_usage(tmp_path).free
    check_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(ResourceError, match=f"{free * 4:,} bytes needed") as caught:
        check_free_space(tmp_path / "not" / "there", free * 4)
    assert caught.value.code == "ENOSPC"


def mounted(tmp_path: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script under a tmpfs of its own, in a mount namespace that ends with it."""
    place = tmp_path / "mount"
    place.mkdir()
    command = f"mount -t tmpfs -o {options} tmpfs {place} && exec {sys.executable} -c '{script}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PLACE": str(place)},
        check=False,
    )
    if any(word in done.stderr for word in ("permission denied", "not permitted")):
        pytest.skip("mounting needs root")
    return done


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_read_only_mount_is_told_before_torch(tmp_path):
    """T23."""
    script = """
import os, sys
from pathlib import Path
from deitkit.errors import ResourceError
from deitkit.runtime.lock import check_output_folder
try:
    check_output_folder(Path(os.environ["PLACE"]) / "run")
except ResourceError as error:
    print(error.code, "torch" in sys.modules)
"""
    assert mounted(tmp_path, "ro", script).stdout == "EROFS False\n"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_really_full_disk_keeps_the_old_file(tmp_path):
    """T20."""
    script = """
import os
from pathlib import Path
from deitkit.errors import ResourceError
from deitkit.runtime.durable import write_file
from deitkit.runtime.sealed_folder import replace_folder, verify_folder
place = Path(os.environ["PLACE"])
write_file(place / "f", b"old" * 1000)
replace_folder(place / "best", {"a": b"a" * 100_000}, {})
for size in range(100_000, 1_200_000, 50_000):
    try:
        write_file(place / "g", b"n" * size)
        os.unlink(place / "g")
        replace_folder(place / "new", {"a": b"x", "b": b"y" * size}, {})
    except ResourceError as error:
        print(error.code, sorted(os.listdir(place)))
        break
print((place / "f").read_bytes() == b"old" * 1000, verify_folder(place / "best"))
"""
    done = mounted(tmp_path, "size=1m", script)
    assert done.stdout == "ENOSPC ['best', 'f', 'new']\nTrue []\n", done.stderr
