"""The disk refuses: the previous checkpoint stays, nothing partial does."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from deitkit.artifacts.checkpoint import load_newest, save_checkpoint
from deitkit.errors import ResourceError


def save(folder: Path, step: int, lineage: str = "mine", **more: object) -> Path:
    return save_checkpoint(
        folder,
        step=step,
        tensors={"w": torch.full((2, 3), float(step)), "n": torch.tensor(step)},
        state={"seed": 0, "loss": 0.1 * step, **more},
        lineage=lineage,
        machine={"threads": 1},
    )


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_full_disk_keeps_the_previous_one_and_no_partial_file(tmp_path, monkeypatch):
    """T20."""
    save(tmp_path, 1)
    real, written = os.write, []

    def fill_up(descriptor, data):
        written.append(len(data))
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", fill_up)
    with pytest.raises(ResourceError, match="bytes needed") as caught:
        save(tmp_path, 2)
    assert caught.value.code == "ENOSPC"
    monkeypatch.undo()
    assert names_in(tmp_path) == ["step-00000001"]
    assert load_newest(tmp_path).step == 1


def test_failed_fsync_gives_up_this_checkpoint_only(tmp_path, monkeypatch):
    """T09."""
    save(tmp_path, 1)
    synced = []

    def fail(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(ResourceError) as caught:
            save(tmp_path, 2)
        assert caught.value.code == "EIO"
    assert len(set(synced)) == len(synced) == 2
    monkeypatch.undo()
    assert names_in(tmp_path) == ["step-00000001"]


def test_deleted_folder_is_made_again(tmp_path):
    """T24."""
    save(tmp_path / "run" / "last", 1)
    shutil.rmtree(tmp_path / "run")
    save(tmp_path / "run" / "last", 2)
    assert load_newest(tmp_path / "run" / "last").step == 2


def test_files_follow_the_umask(tmp_path):
    """T50."""
    before = os.umask(0o022)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}
