"""Photos, a finished run on them, and the shortest way to another one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

import deitkit
from deitkit.artifacts.checkpoint import load_newest
from tests.training.toy import TINY, bits, write_photos

SHORT = {
    **TINY,
    "epochs": 2,
    "batch_size": 8,
    "workers": 0,
    "schedule.eval_interval": 4,
    "schedule.checkpoint_interval": 3,
    "run.log_interval": 1,
    "views.mixup": 0.8,
    "model.drop_path": 0.2,
}
"""42 images in steps of 8 (6 steps an epoch): 12 steps."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, photos) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "teacher"
    settings = {"model": "small_cnn", "epochs": 8, "batch_size": 8, "workers": 0}
    settings["run.report"] = False
    deitkit.train(data=photos, out=out, image_size=16, **settings)
    return out


@pytest.fixture
def asked(monkeypatch):
    """(hits, misses) of every cache that was closed."""
    found = []
    from deitkit.training.teaching import StoredTeaching

    close = StoredTeaching.close

    def closing(self):
        found.append((self.cached.num_hits, self.cached.num_misses))
        close(self)

    monkeypatch.setattr(StoredTeaching, "close", closing)
    return found


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory, photos) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    deitkit.train(data=photos, out=out, **SHORT)
    return out


@pytest.fixture
def finished(tmp_path, finished_once) -> Path:
    """A finished run that a test may spoil."""
    return Path(shutil.copytree(finished_once, tmp_path / "finished"))


@pytest.fixture
def unfinished(tmp_path, photos) -> Path:
    """A run that was left after step 5."""
    out = tmp_path / "unfinished"
    leave_after(5, data=photos, out=out, **SHORT)
    return out


def leave_after(step: int, **settings: Any) -> None:
    events = deitkit.fit(**settings)
    for event in events:
        if type(event).__name__ == "StepDone" and event.step == step:
            events.close()


def tree(folder: Path) -> dict[str, str]:
    """Content of every file but the lock, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }


def end_state(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Everything in the last checkpoint but the seconds it took."""
    found = load_newest(folder / "last", lineage=None)
    return bits(found.tensors), found.state | {"seconds": 0}
