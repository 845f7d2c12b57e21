"""Unfinished files of the dead go; all else stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deitkit.runtime.temporary_names import remove_leftovers, temporary_name


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_go_only_if_ours_from_here_and_dead(tmp_path):
    """T47."""
    dead, host = a_dead_pid(), temporary_host()
    doomed = [
        f".f.tmp-{host}-{dead}-0",
        f".step-1.tmp-{host}-{dead}-12",
        f".f.tmp-{host}-1{'9' * 30}-0",
    ]
    doomed.append(f".f.tmp-{host}-{os.getpid()}-999999")  # of the life before, in a container
    kept = [
        f".f.tmp-{host}-{os.getppid()}-0",
        f".f.tmp-elsewhere-{dead}-0",
        f"f.tmp-{dead}",
        ".f.tmp",
        "f",
    ]
    for name in (*doomed, *kept):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / doomed[1]).unlink()
    (tmp_path / doomed[1] / "inner").mkdir(parents=True)
    (tmp_path / doomed[1] / "inner" / "file").write_bytes(b"x")
    with temporary_name(tmp_path / "now") as mine:
        mine.write_bytes(b"x")
        removed = remove_leftovers(tmp_path)
        assert sorted(path.name for path in removed) == sorted(doomed)
        assert names_in(tmp_path) == sorted([*kept, mine.name])


def temporary_host() -> str:
    with temporary_name(Path("x")) as path:
        return path.name.removeprefix(".x.tmp-").rsplit("-", 2)[0]


def test_leftovers_of_a_missing_folder_are_none(tmp_path):
    assert remove_leftovers(tmp_path / "none") == []


def test_links_in_leftovers_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").write_bytes(b"x")
    leftover = tmp_path / "out" / f".f.tmp-{temporary_host()}-{a_dead_pid()}-0"
    leftover.mkdir(parents=True)
    (leftover / "link").symlink_to(precious)
    assert remove_leftovers(tmp_path / "out") == [leftover]
    assert names_in(precious) == ["photo.jpg"]
