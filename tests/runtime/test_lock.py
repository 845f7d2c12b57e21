"""One run a folder; death frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deitkit.errors import ResourceError
from deitkit.runtime.lock import RunLock

OWNER = r"""
import os, sys, time
from pathlib import Path
from deitkit.runtime.lock import RunLock
with RunLock(Path(sys.argv[1])):
    if sys.argv[2] == "forks" and os.fork() == 0:
        os.write(1, b"%d\n" % os.getpid())
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\n")
    time.sleep(60)
"""


def owner_of(folder: Path, kind: str = "plain") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), kind], stdout=subprocess.PIPE, text=True
    )
    return process


def test_second_owner_is_told_who_holds_it_and_a_killed_one_frees_it(tmp_path):
    """T25."""
    owner = owner_of(tmp_path)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(ResourceError) as caught, RunLock(tmp_path):
            pass
        # The bound is the fault's own; the refusal itself takes under a millisecond.
        assert time.monotonic() - started < 1.0
        assert caught.value.code == "LOCKED"
        assert caught.value.exit_code == 6
        assert f"pid {owner.pid} on {os.uname().nodename}, started 20" in caught.value.why
    finally:
        owner.kill()
        owner.wait()
    with RunLock(tmp_path):
        pass


def test_a_worker_forked_by_the_owner_does_not_keep_it(tmp_path):
    """T25."""
    owner = owner_of(tmp_path, "forks")
    assert owner.stdout is not None
    lines = {owner.stdout.readline().strip(), owner.stdout.readline().strip()}
    (worker,) = (int(line) for line in lines - {"held"})
    owner.kill()
    owner.wait()
    try:
        os.kill(worker, 0)
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_lock_is_free_again_after_the_block_and_after_an_error(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    told = pytest.raises(ResourceError, match=f"pid {os.getpid()} ")
    with RunLock(tmp_path), told, RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_other_ranks_work_under_the_main_ones_lock(tmp_path):
    with RunLock(tmp_path), RunLock(tmp_path, enabled=False):
        pass


def test_missing_folder_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError) as caught, RunLock(tmp_path / "none"):
        pass
    assert caught.value.code == "ENOENT"
