"""The process dies at every filesystem call of a save, and something whole is always found.

Each point is a forked child whose `os` functions are wrapped; k = 1, 2, 3 ... until it survives,
so no point is missed when the code changes. Three ways to die at call k:

- kill: SIGKILL just before it;
- torn: SIGKILL half-way through it; here only writes count;
- power: as kill, but what was written and not yet synced is gone from the files as well.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deitkit.artifacts.bundle import Bundle, load_bundle, save_bundle
from deitkit.artifacts.checkpoint import load_newest, rotate, save_checkpoint
from deitkit.data.preprocess import Preprocessing
from deitkit.models import create_model
from deitkit.runtime.durable import write_file
from deitkit.runtime.temporary_names import is_temporary, remove_leftovers

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
WAYS = ("kill", "torn", "power")


class DyingDisk:
    """Counts the calls of this process, and ends it at one of them."""

    def __init__(self, kill_at: int, way: str) -> None:
        self.kill_at = kill_at
        self.way = way
        self.num_calls = 0
        self.unsynced: dict[int, int] = {}
        """Descriptor -> its duplicate, which still reaches the file after close and rename."""
        self.real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self.wrapped(name))

    def wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += self.way != "torn" or name == "write"
            if self.num_calls == self.kill_at:
                self.die(name, args)
            result = self.real[name](*args, **kwargs)
            if name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR):
                self.unsynced[result] = os.dup(result)
            elif name == "fsync" and args[0] in self.unsynced:
                self.real["close"](self.unsynced.pop(args[0]))
            return result

        return call

    def die(self, name: str, args: tuple[Any, ...]) -> None:
        if self.way == "torn":
            self.real["write"](args[0], bytes(args[1])[: len(args[1]) // 2])
        if self.way == "power":
            for duplicate in self.unsynced.values():
                os.ftruncate(duplicate, 0)
        os.kill(os.getpid(), signal.SIGKILL)


def survives(action: Callable[[], None], kill_at: int, way: str) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            DyingDisk(kill_at, way)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the save itself failed"
    return not os.WIFSIGNALED(status)


def sweep(
    folder: Path,
    start: Callable[[Path], None],
    action: Callable[[Path], None],
    found: Callable[[Path], Any],
    way: str,
) -> list[Any]:
    """What `found` sees after a death at call 1, 2, 3 ..., up to the run that survives."""
    template = folder / "template"
    template.mkdir()
    start(template)
    seen = []
    for kill_at in itertools.count(1):
        place = folder / "place"
        shutil.copytree(template, place)
        done = survives(lambda place=place: action(place), kill_at, way)
        seen.append(found(place))
        # The next run cleans up after the dead one, which changes nothing that is found.
        for inner in [place, *(path for path in place.rglob("*") if path.is_dir())]:
            remove_leftovers(inner)
        assert not any(is_temporary(path.name) for path in place.rglob("*")), kill_at
        assert found(place) == seen[-1], kill_at
        shutil.rmtree(place)
        if done:
            return seen
    raise AssertionError("unreachable")


def saved(place: Path, step: int, value: float | None = None) -> None:
    value = float(step) if value is None else value
    save_checkpoint(
        place,
        step=step,
        tensors={"w": torch.full((64,), value)},
        state={"value": value},
        lineage="mine",
        machine={},
    )


def newest(place: Path) -> tuple[int, float]:
    checkpoint = load_newest(place, lineage="mine", rename_rejected=False)
    assert checkpoint is not None and checkpoint.rejected == []
    value = checkpoint.state["value"]
    assert torch.equal(checkpoint.tensors["w"], torch.full((64,), value))
    return checkpoint.step, value


@pytest.mark.parametrize("way", WAYS)
def test_save_and_rotation(tmp_path, way):
    """T02, T03, T08: old until the rename, new ever after; the purge never takes the last one."""

    def start(place: Path) -> None:
        saved(place, 1)
        saved(place, 2)

    def action(place: Path) -> None:
        saved(place, 3)
        rotate(place, keep=1)

    seen = sweep(tmp_path, start, action, newest, way)
    assert seen == sorted(seen)
    assert {step for step, _ in seen} == {2, 3}
    assert seen[-1] == (3, 3.0)
    assert len(seen) == 4 if way == "torn" else len(seen) > 30


@pytest.mark.parametrize("way", WAYS)
def test_first_save_is_all_or_nothing(tmp_path, way):
    """T05."""

    def found(place: Path) -> int:
        checkpoint = load_newest(place / "new" / "last")
        return 0 if checkpoint is None else checkpoint.step

    seen = sweep(
        tmp_path, lambda place: None, lambda place: saved(place / "new" / "last", 1), found, way
    )
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("killed_before", [False, True])
def test_second_save_of_a_step(tmp_path, way, killed_before):
    """T02: also after a kill between the two renames of the first try."""

    def start(place: Path) -> None:
        saved(place, 3, 1.0)
        if killed_before:
            (place / "step-00000003").rename(place / "step-00000003.previous")

    seen = sweep(tmp_path, start, lambda place: saved(place, 3, 2.0), newest, way)
    assert seen == sorted(seen) and set(seen) == {(3, 1.0), (3, 2.0)}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return create_model(
        "deit_tiny_patch16_224", num_classes=2, image_size=16, depth=1, embed_dim=4, num_heads=1
    )


@pytest.mark.parametrize("way", WAYS)
def test_best_bundle_is_replaced_whole(tmp_path, model, way):
    """X06."""

    def write(place: Path, step: int) -> None:
        bundle = Bundle(
            model_config=model.config,
            class_names=("cat", "dog"),
            preprocessing=Preprocessing(image_size=(16, 16)),
            state_dict={k: torch.full_like(v, float(step)) for k, v in model.state_dict().items()},
            provenance={"step": step},
        )
        save_bundle(place / "best", bundle)

    def found(place: Path) -> int:
        bundle = load_bundle(place)
        step = bundle.provenance["step"]
        assert all(bool((tensor == step).all()) for tensor in bundle.state_dict.values())
        return step

    seen = sweep(tmp_path, lambda place: write(place, 1), lambda place: write(place, 2), found, way)
    assert seen == sorted(seen) and set(seen) == {1, 2}


@pytest.mark.parametrize("way", WAYS)
def test_single_file_is_replaced_whole(tmp_path, way):
    """T02."""
    seen = sweep(
        tmp_path,
        lambda place: write_file(place / "config.yaml", b"1" * 100),
        lambda place: write_file(place / "config.yaml", b"2" * 50),
        lambda place: (place / "config.yaml").read_bytes(),
        way,
    )
    assert seen == sorted(seen) and set(seen) == {b"1" * 100, b"2" * 50}


def test_the_sweep_itself_finds_a_missing_fsync(tmp_path):
    """Were the sync left out, a power cut would leave an empty file: the instrument sees it."""

    def forget_to_sync(place: Path) -> None:
        os.fsync = lambda descriptor: None
        write_file(place / "f", b"new")

    seen = sweep(
        tmp_path,
        lambda place: write_file(place / "f", b"old"),
        forget_to_sync,
        lambda place: (place / "f").read_bytes(),
        "power",
    )
    assert b"" in seen
