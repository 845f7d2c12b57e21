"""deitkit teach: killed, stopped, shared among ranks, and then trained from."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.journeys.commands import Commands, Ended, installed
from tests.journeys.conftest import TINY

VIEWS = 60


def words(photos: Path, teacher: Path, folder: Path) -> list[str]:
    return [
        "teach",
        f"data={photos}",
        f"teacher={teacher}",
        "model=deit_nano_distilled_patch4_16",
        *TINY[1:],
        f"views={VIEWS}",
        "out=run",
        f"distill.cache_folder={folder / 'cache'}",
    ]


def records(folder: Path) -> dict[str, bytes]:
    """Every file of the one cache that training reads, by name."""
    (cache,) = (folder / "cache").iterdir()
    return {p.name: p.read_bytes() for p in sorted(cache.iterdir()) if "lock" not in p.name}


def interrupted(commands: Commands, folder: Path, argv: list[str], number: int) -> Ended:
    """Start the command, signal it once some view epochs are there; how it ended."""
    started = commands.start(*argv, folder=folder)
    while started.is_running() and not list(folder.glob("cache/*/epoch-00005.bin")):
        time.sleep(0.01)
    os.kill(started.pid, number)
    return started.wait()


@pytest.fixture(scope="module")
def whole(photos, teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ended = installed(*words(photos, teacher, folder), "--json", folder=folder)
    assert ended.code == 0, ended.err
    assert ended.json["num_asked"] == ended.json["num_views"] == VIEWS * 30
    return folder


def test_killed_and_started_again_it_leaves_the_same_bytes(
    commands, photos, teacher, whole, tmp_path
):
    """K07, and the answers are then all that training needs."""
    argv = words(photos, teacher, tmp_path)
    assert interrupted(commands, tmp_path, argv, signal.SIGKILL).code == -signal.SIGKILL
    ended = commands(*argv, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert 0 < ended.json["num_asked"] < VIEWS * 30
    assert records(tmp_path) == records(whole)


def test_ctrl_c_keeps_what_was_said(commands, photos, teacher, whole, tmp_path):
    argv = words(photos, teacher, tmp_path)
    stopped = interrupted(commands, tmp_path, argv, signal.SIGINT)
    assert stopped.code == 130, stopped.err
    (line,) = stopped.errors
    assert "[STOPPED]" in line and "what it said is kept" in line and "goes on" in line
    ended = commands(*argv, "--json", folder=tmp_path)
    assert 0 < ended.json["num_asked"] < VIEWS * 30
    assert records(tmp_path) == records(whole)


def test_two_ranks_fill_one_cache(photos, teacher, whole, tmp_path):
    """Each writes its own records; the bytes are those of one process."""
    argv = words(photos, teacher, tmp_path)
    ended = installed(*argv, "ranks=2", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json["num_asked"] == VIEWS * 30
    assert records(tmp_path) == records(whole)


def test_training_then_finds_every_answer(commands, whole):
    """The cache's files stay as they are, and the note says how much is there."""
    before = records(whole)
    ended = commands("train", "out=run", folder=whole)
    assert ended.code == 0, ended.err
    assert records(whole) == before
    ended = commands("cache", "list", whole / "cache", "--json", folder=whole)
    assert ended.code == 0, ended.err
    (found,) = ended.json if isinstance(ended.json, list) else ended.json["caches"]
    assert found["num_view_epochs"] == VIEWS and found["num_images"] == 30


def test_asking_nobody_and_keeping_nothing_are_told(commands, photos, teacher, tmp_path):
    ended = commands("teach", f"data={photos}", "out=run", folder=tmp_path)
    assert ended.code == 2 and "[NO_TEACHER]" in ended.errors[0]
    more = ("teacher_cache=memory", f"teacher={teacher}")
    ended = commands("teach", f"data={photos}", "out=run", *more, folder=tmp_path)
    assert ended.code == 2 and "[CACHE_MODE]" in ended.errors[0]
