"""What can go wrong around a run, and what the user is told: exit code and one line each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.commands import QUIET, Commands, Ended
from tests.journeys.conftest import TINY, make_folder, make_splits
from tests.journeys.final_state import files_of, final_state


@pytest.fixture(scope="module")
def undisturbed(
    commands: Commands, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The final state of a run to its end."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert commands("train", f"data={photos}", *TINY, f"out={out}").code == 0
    return final_state(out)


@pytest.fixture(scope="module")
def left_at_7(commands: Commands, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped as it began step 7. Do not change it."""
    out = tmp_path_factory.mktemp("left") / "run"
    stopped(commands, photos, out, 7)
    return out


def stopped(commands: Commands, photos: Path, out: Path, step: int, number: int = 15) -> Ended:
    """A run that got a signal as it began this step."""
    hooks = {"names": ["step"], "signal": number, "at": step}
    return commands("train", f"data={photos}", *TINY, f"out={out}", hooks=hooks)


def the_error(ended: Ended, exit_code: int, code: str) -> str:
    """The one line of the error, as every fault ends."""
    assert ended.code == exit_code, ended.err
    assert len(ended.errors) == 1
    assert ended.err.splitlines()[-1] == ended.errors[0]
    assert ended.errors[0].startswith(f"deitkit: error [{code}] ")
    assert "Traceback" not in ended.err
    return ended.errors[0]


CHECK_TORCH = """
import sys
from deitkit.cli.main import main
code = main(sys.argv[1:])
print(code, "torch" in sys.modules)
"""


def test_missing_data_is_told_before_torch(tmp_path):
    """D01: a folder that is not there, and a file that is no table; nothing is created."""
    (tmp_path / "notes.txt").write_text("no images")
    for name in ("nowhere", "notes.txt"):
        done = without_torch("train", f"data={tmp_path / name}", f"out={tmp_path / 'run'}")
        assert done.stdout == "2 False\n"
        assert done.stderr.startswith("deitkit: error [")
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_output_folder_that_is_a_file_is_told_before_torch(photos, tmp_path, below):
    """T23."""
    (tmp_path / "run").write_bytes(b"a file")
    done = without_torch("train", f"data={photos}", f"out={tmp_path / 'run' / below}")
    assert done.stdout == "6 False\n"
    assert done.stderr.count("\n") == 1
    assert "choose another folder with out=" in done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_read_only_output_folder_is_told_before_torch(photos, tmp_path):
    """T23: on a real read-only mount, and before the data are read."""
    place = tmp_path / "mount"
    place.mkdir()
    (tmp_path / "check.py").write_text(CHECK_TORCH)
    command = (
        f"mount -t tmpfs -o ro tmpfs {place} && exec {sys.executable} {tmp_path / 'check.py'} "
        f"train data={photos} out={place / 'run'}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if any(word in done.stderr for word in ("permission denied", "not permitted")):
        pytest.skip("mounting needs root")
    assert done.stdout == "6 False\n"
    assert done.stderr.startswith("deitkit: error [EROFS] ")


def without_torch(*argv: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that ends by saying its code and whether torch was imported."""
    return subprocess.run(
        [sys.executable, "-c", CHECK_TORCH, *argv],
        capture_output=True,
        text=True,
        env=os.environ | QUIET,
        check=False,
    )


def test_empty_folder(commands, tmp_path):
    """D02: names the folder and what would be accepted."""
    (tmp_path / "empty").mkdir()
    ended = commands("train", "data=empty", "out=run", folder=tmp_path)
    line = the_error(ended, 3, "EMPTY")
    assert str(tmp_path / "empty") in line
    assert ".jpg" in line and ".png" in line


def test_one_class(commands, student, tmp_path):
    """D04: an error for training; predicting works."""
    folder = make_folder(tmp_path / "one", {"red": 4})
    line = the_error(commands("train", f"data={folder}", f"out={tmp_path / 'run'}"), 3, "ONE_CLASS")
    assert "red" in line
    ended = commands("predict", student, folder, "--json")
    assert ended.code == 0
    assert len(ended.json) == 4


def test_images_without_class_folders(commands, tmp_path):
    """D06: shows the layout that is expected."""
    folder = make_folder(tmp_path / "flat", {".": 4})
    line = the_error(
        commands("train", f"data={folder}", f"out={tmp_path / 'run'}"), 3, "NO_CLASSES"
    )
    assert "train/" in line


def test_second_run_in_one_folder(commands, photos, undisturbed, tmp_path):
    """T25: LOCKED with the owner's pid; a killed owner blocks nobody."""
    out = tmp_path / "run"
    hooks = {"names": ["step"], "signal": signal.SIGSTOP, "at": 5}
    owner = commands.start("train", f"data={photos}", *TINY, f"out={out}", hooks=hooks)
    while not (out / "last" / "step-00000004").exists():
        os.sched_yield()
    before = files_of(out)
    line = the_error(commands("train", f"data={photos}", *TINY, f"out={out}"), 6, "LOCKED")
    assert f"pid {owner.pid} " in line
    assert files_of(out) == before
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert commands("train", f"data={photos}", *TINY, f"out={out}").code == 0
    assert final_state(out) == undisturbed


def test_disk_that_refuses_checkpoints(commands, photos, undisturbed, tmp_path):
    """T20: two are warned about, the third ends the run; what was there is whole and goes on.

    A checkpoint has four times the bytes of a bundle, so a limit on the size of files (EFBIG, a
    real refusal of the system) meets only checkpoints.
    """
    out = tmp_path / "run"
    assert stopped(commands, photos, out, 3, signal.SIGKILL).code == -9
    before = files_of(out / "last")
    assert "step-00000002/state.safetensors" in before
    ended = commands("train", f"out={out}", file_size_limit=500_000)
    line = the_error(ended, 6, "EFBIG")
    assert "bytes needed" in line and "free" in line
    warned = [text for text in ended.err.splitlines() if text.startswith("note: no checkpoint at")]
    assert [text.split()[5] for text in warned] == ["4:", "6:"]
    assert files_of(out / "last") == before
    assert commands("train", f"out={out}").code == 0
    assert final_state(out) == undisturbed


def test_gradients_that_are_not_finite(commands, photos, student, tmp_path):
    """T26: steps are skipped, and three in a row end the run; the message names them."""
    from deitkit.artifacts.bundle import load_bundle, save_bundle

    bundle = load_bundle(student)
    # Logits of 1e25 are finite; the norm of their gradient is not.
    bundle.state_dict["head.weight"] *= 1e25
    save_bundle(tmp_path / "huge", bundle)
    rest = [word for word in TINY if not word.startswith("model=")]
    out = tmp_path / "run"
    ended = commands(
        "train",
        f"data={photos}",
        "model=deit_nano_distilled_patch4_16",
        f"init={tmp_path / 'huge'}",
        *rest,
        f"out={out}",
    )
    line = the_error(ended, 7, "NOT_FINITE")
    assert "] step 3: 3 steps in a row" in line
    for words in ("learning rate ", "gradient norm inf", "sample ids "):
        assert words in line
    named = line.partition("sample ids ")[2].partition(")")[0].split(", ")
    assert len(set(named)) == 8
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in named)
    log = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["skipped"]) for entry in log] == [(1, True), (2, True), (3, True)]


def test_other_settings_on_a_run(commands, left_at_7, tmp_path):
    """T41: free, with a flag, never; the differences are named and nothing is changed."""
    out = tmp_path / "run"
    shutil.copytree(left_at_7, out)
    before = files_of(out)
    for words, said in (
        (("model.depth=3",), "model.depth: 2 -> 3"),
        (("model=small_cnn",), "model.name: deit_nano_patch4_16 -> small_cnn"),
        (("image_size=8",), "data.image_size: (16, 16) -> 8"),
        (("lr=0.5",), "optim.lr: "),
        (("epochs=2",), "schedule.epochs: 3 -> 2"),
    ):
        ended = commands("train", f"out={out}", *words)
        line = the_error(ended, 4, "CONFIG_MISMATCH")
        assert said in line
        assert ("run.accept_changes=true" in line) == (
            words[0].partition("=")[0] in ("lr", "epochs")
        )
    ended = commands("train", f"out={out}", "model.depth=3", "run.accept_changes=true")
    the_error(ended, 4, "CONFIG_MISMATCH")
    assert files_of(out) == before
    ended = commands("train", f"out={out}", "run.log_interval=2", "epochs=4")
    assert ended.code == 0, ended.err
    assert "note: changed: schedule.epochs: 3 -> 4" in ended.err
    assert final_state(out)["step"] == 16


def test_change_that_was_accepted(commands, left_at_7, tmp_path):
    """T41."""
    out = tmp_path / "run"
    shutil.copytree(left_at_7, out)
    ended = commands("train", f"out={out}", "optim.weight_decay=0.2", "run.accept_changes=true")
    assert ended.code == 0, ended.err
    assert "note: changed: optim.weight_decay: 0.05 -> 0.2" in ended.err


def test_other_images_on_a_run(commands, tmp_path):
    """D41: a class more or a picture more is not the run that began."""
    photos = make_splits(tmp_path / "photos", train=6, val=2, test=0)
    out = tmp_path / "run"
    stopped(commands, photos, out, 2)
    make_folder(photos / "train", {"red": 1}, start=50)
    line = the_error(commands("train", f"out={out}"), 4, "DATASET_CHANGED")
    assert "18 + 6 then, 19 + 6 now" in line


def damage(path: Path, how: str) -> None:
    """Break the newest checkpoint."""
    tensors = path / "state.safetensors"
    if how == "truncated":
        os.truncate(tensors, tensors.stat().st_size // 2)
    elif how == "flipped":
        data = bytearray(tensors.read_bytes())
        data[len(data) // 2] ^= 1
        tensors.write_bytes(data)
    elif how == "empty":
        tensors.write_bytes(b"")
    elif how == "directory":
        tensors.unlink()
        tensors.mkdir()
    elif how == "manifest":
        (path / "manifest.json").write_text("{}")
    elif how == "file":
        shutil.rmtree(path)
        path.write_bytes(b"a file")


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "directory", "manifest", "file"])
def test_damaged_checkpoint_is_passed_over(commands, left_at_7, undisturbed, tmp_path, how):
    """T42: named, renamed to .bad, and the one before gives the same bits."""
    out = tmp_path / "run"
    shutil.copytree(left_at_7, out)
    names = sorted(path.name for path in (out / "last").iterdir())
    assert names == ["step-00000006", "step-00000007"]
    damage(out / "last" / "step-00000007", how)
    ended = commands("train", f"out={out}")
    assert ended.code == 0, ended.err
    assert "note: set aside step-00000007" in ended.err
    assert "going on from step 6 " in ended.err
    assert (out / "last" / "step-00000007.bad").exists()
    assert final_state(out) == undisturbed


def test_no_whole_checkpoint_left(commands, photos, left_at_7, tmp_path):
    """T42: never a silent fresh start, and nothing is renamed or deleted."""
    out = tmp_path / "run"
    shutil.copytree(left_at_7, out)
    for path in (out / "last").iterdir():
        damage(path, "truncated")
    before = files_of(out)
    for _ in range(2):
        line = the_error(commands("train", f"out={out}"), 4, "CORRUPT")
        assert "step-00000006" in line and "step-00000007" in line
        assert "overwrite=true" in line
        assert files_of(out) == before
    assert commands("train", f"data={photos}", *TINY, f"out={out}", "overwrite=true").code == 0


@pytest.mark.parametrize("words", [("data=nowhere",), ()], ids=["typo", "no data"])
def test_overwrite_that_cannot_begin_clears_nothing(commands, photos, student, tmp_path, words):
    """D01 on a folder that holds a finished run."""
    out = tmp_path / "run"
    shutil.copytree(student, out)
    before = files_of(out)
    ended = commands("train", *words, f"out={out}", "overwrite=true", folder=tmp_path)
    the_error(ended, 2, "NO_DATA")
    assert files_of(out) == before
