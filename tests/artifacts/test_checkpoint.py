"""Checkpoints: found by number and digest, never half, never another run's, never NaN."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from deitkit.artifacts.checkpoint import (
    load_newest,
    rotate,
    save_checkpoint,
)
from deitkit.errors import CheckpointError, DivergedError
from deitkit.runtime.sealed_folder import _manifest_bytes


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


def test_everything_comes_back_bit_for_bit(tmp_path):
    """T17."""
    shared = torch.randn(4, 4)
    tensors = {
        "f32": torch.randn(3),
        "f64": torch.tensor(0.1, dtype=torch.float64),
        "bf16": torch.randn(5).bfloat16(),
        "f16": torch.randn(2).half(),
        "i64": torch.tensor([2**62, -1]),
        "u8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(-0.0),
        "tiny": torch.tensor(1e-45),
        "all": shared,
        "same memory": shared,
        "part of it": shared[1:3, ::2],
        "gradient": torch.ones(2, requires_grad=True),
    }
    state = {"seed": 2**64 - 1, "loss": 0.1 + 0.2, "best": None, "list": [1, "ü", True], "d": {}}
    path = save_checkpoint(
        tmp_path, step=12, tensors=tensors, state=state, lineage="x", machine={"threads": 2}
    )
    checkpoint = load_newest(tmp_path)
    assert path.name == "step-00000012" and checkpoint.path == path
    assert (checkpoint.step, checkpoint.lineage, checkpoint.rejected) == (12, "x", [])
    assert checkpoint.state == state and checkpoint.machine == {"threads": 2}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        back = checkpoint.tensors[name]
        assert back.dtype == tensor.dtype and back.shape == tensor.shape
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (back, tensor)]
        assert torch.equal(*raw), name


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, 3)
    for file in names_in(tmp_path / "a" / "step-00000003"):
        one, other = (tmp_path / name / "step-00000003" / file for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_second_save_of_a_step_replaces_the_first(tmp_path):
    save(tmp_path, 3, evaluated=False)
    save(tmp_path, 3, evaluated=True)
    assert load_newest(tmp_path).state["evaluated"] is True
    assert names_in(tmp_path) == ["step-00000003"]


def test_no_checkpoint_yet_is_none(tmp_path):
    """T05."""
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "not there") is None
    (tmp_path / ".step-00000001.tmp-host-1-0").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-x").mkdir()
    assert load_newest(tmp_path) is None


def test_newest_is_by_number_never_by_text_or_time(tmp_path):
    """T46, T48."""
    for step in (100, 9, 99, 10, 123_456_789_012):
        save(tmp_path, step)
    for age, step in enumerate((123_456_789_012, 100, 99, 10, 9)):
        path = tmp_path / f"step-{step:08d}"
        # The newest has the oldest time, and 9 one of next year.
        os.utime(path, (2e9 * age, 2e9 * age))
    found = []
    while (checkpoint := load_newest(tmp_path)) is not None:
        found.append(checkpoint.step)
        shutil.rmtree(checkpoint.path)
    assert found == [123_456_789_012, 100, 99, 10, 9]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_non_finite_tensors_are_never_saved(tmp_path, bad, dtype):
    """T27."""
    save(tmp_path, 1)
    with pytest.raises(DivergedError, match=r"average\.head") as caught:
        save_checkpoint(
            tmp_path,
            step=2,
            tensors={"w": torch.zeros(2), "average.head": torch.tensor([0, bad], dtype=dtype)},
            state={},
            lineage="mine",
            machine={},
        )
    assert caught.value.exit_code == 7
    assert names_in(tmp_path) == ["step-00000001"]


def test_non_finite_state_is_refused_before_writing(tmp_path):
    with pytest.raises(ValueError):
        save(tmp_path, 1, best=-float("inf"))
    assert names_in(tmp_path) == []


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


def file_as_folder(path: Path) -> None:
    (path / "state.safetensors").unlink()
    (path / "state.safetensors").mkdir()


DAMAGE = {
    "truncated": lambda p: os.truncate(p / "state.safetensors", 50),
    "empty": lambda p: os.truncate(p / "state.json", 0),
    "no manifest": lambda p: (p / "manifest.json").unlink(),
    "missing file": lambda p: (p / "state.json").unlink(),
    "empty folder": lambda p: [f.unlink() for f in p.iterdir()],
    "a file": as_file,
    "file is a folder": file_as_folder,
    "grown": lambda p: (p / "state.json").write_bytes((p / "state.json").read_bytes() + b" "),
    "other step": lambda p: shutil.copytree(
        p.with_name("step-00000001"), p, dirs_exist_ok=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_newest_is_set_aside_and_named(tmp_path, kind):
    """T42."""
    save(tmp_path, 1)
    DAMAGE[kind](save(tmp_path, 2))
    looked = load_newest(tmp_path, rename_rejected=False)
    assert looked.step == 1 and names_in(tmp_path) == ["step-00000001", "step-00000002"]
    checkpoint = load_newest(tmp_path)
    assert checkpoint.step == 1
    (rejected,) = checkpoint.rejected
    assert rejected.path.name == "step-00000002.bad" and rejected.why
    assert str(rejected) == f"{rejected.path}: {rejected.why}"
    assert names_in(tmp_path) == ["step-00000001", "step-00000002.bad"]
    assert load_newest(tmp_path).rejected == []


def test_second_damage_of_one_step_gets_its_own_name(tmp_path):
    """T42."""
    save(tmp_path, 1)
    for _ in range(3):
        os.truncate(save(tmp_path, 2) / "state.json", 0)
        assert load_newest(tmp_path).step == 1
    assert names_in(tmp_path) == [
        "step-00000001",
        "step-00000002.2.bad",
        "step-00000002.3.bad",
        "step-00000002.bad",
    ]


def test_none_whole_is_an_error_and_never_a_fresh_start(tmp_path):
    """T42."""
    for step in (1, 2):
        os.truncate(save(tmp_path, step) / "state.json", 0)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step-00000002: .*; step-00000001: ") as caught:
            load_newest(tmp_path)
        assert caught.value.code == "CORRUPT" and caught.value.exit_code == 4
    assert names_in(tmp_path) == ["step-00000001", "step-00000002"]
    for name in names_in(tmp_path):
        (tmp_path / name).rename(tmp_path / f"{name}.bad")
    with pytest.raises(CheckpointError):
        load_newest(tmp_path)


def put_byte(file: Path, position: int, value: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        stream.write(bytes([value]))


def test_two_thousand_flipped_bits_are_all_rejected(tmp_path):
    """T42."""
    path = save(tmp_path, 3)
    files = sorted(path.iterdir())
    whole = {file: file.read_bytes() for file in files}
    chance = random.Random(0)
    for _ in range(2_000):
        file = chance.choices(files, [len(whole[file]) for file in files])[0]
        position = chance.randrange(len(whole[file]))
        put_byte(file, position, whole[file][position] ^ 1 << chance.randrange(8))
        with pytest.raises(CheckpointError) as caught:
            load_newest(tmp_path)
        assert caught.value.code == "CORRUPT"
        put_byte(file, position, whole[file][position])
    assert load_newest(tmp_path).step == 3


def test_other_lineage_is_an_error(tmp_path):
    """T43."""
    save(tmp_path, 1, lineage="run of photos")
    with pytest.raises(CheckpointError, match="run of photos, not to run of cats") as caught:
        load_newest(tmp_path, lineage="run of cats")
    assert caught.value.code == "LINEAGE"
    assert load_newest(tmp_path, lineage="run of photos").step == 1
    assert load_newest(tmp_path).lineage == "run of photos"


def test_newer_schema_is_told_and_left_alone(tmp_path):
    """T45."""
    save(tmp_path, 1)
    os.truncate(save(tmp_path, 3) / "state.json", 0)
    path = save(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_bytes(_manifest_bytes({**manifest, "schema": 7}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match="format 7, this deitkit reads up to 1") as caught:
        load_newest(tmp_path)
    assert caught.value.code == "NEWER"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_rotation_keeps_the_newest_by_number(tmp_path):
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    removed = rotate(tmp_path, keep=2)
    assert sorted(path.name for path in removed) == ["step-00000008", "step-00000009"]
    assert names_in(tmp_path) == ["step-00000010", "step-00000011"]
    assert rotate(tmp_path, keep=2) == []


def test_rotation_waits_until_the_newest_verifies(tmp_path):
    """T03."""
    for step in (1, 2, 3):
        path = save(tmp_path, step)
    os.truncate(path / "state.safetensors", 10)
    assert rotate(tmp_path, keep=1) == []
    assert load_newest(tmp_path).step == 2


def test_rotation_deletes_no_bad_ones(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step-00000001.bad")
    for step in (2, 3, 4):
        save(tmp_path, step)
    rotate(tmp_path, keep=1)
    assert names_in(tmp_path) == ["step-00000001.bad", "step-00000004"]
