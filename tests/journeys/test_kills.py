"""The same command again, after any end of it, gives the bits of the run nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.commands import Commands, Ended
from tests.journeys.conftest import TINY
from tests.journeys.final_state import files_of, final_state

EVERYWHERE = ["decode", "step", "evaluate", "fsync", "rename", "replace", "unlink"]
NUM_STEPS = 12


@pytest.fixture(scope="module")
def settings(photos: Path, teacher: Path) -> list[str]:
    """A distilled student with everything that draws chance or keeps state."""
    return [
        f"data={photos}",
        f"teacher={teacher}",
        "model=deit_nano_distilled_patch4_16",
        *TINY[1:],
        "views.mixup=0.8",
        "views.cutmix=1",
        "model.drop_path=0.2",
        "model.pos_drop=0.1",
        # Left to auto, how dear the teacher is, by the clock, decides whether its answers are kept.
        "view_epochs=3",
        "teacher_cache=disk",
    ]


@pytest.fixture(scope="module")
def undisturbed(
    commands: Commands, settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Final state, seconds and the calls of a run to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    ended = commands(
        "train",
        *settings,
        f"out={folder / 'run'}",
        hooks={"names": EVERYWHERE, "trace": str(folder / "trace.json")},
    )
    seconds = time.monotonic() - start
    assert ended.code == 0, ended.err
    trace = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    state = final_state(folder / "run")
    assert state["step"] == NUM_STEPS
    return {"state": state, "seconds": seconds, "trace": trace}


def killed(code: int) -> bool:
    return code == -signal.SIGKILL


def test_kill_at_random_times(commands, settings, undisturbed, tmp_path):
    """T01, T04, T05: 20 SIGKILLs, several within one run until it is done, each time SAME."""
    chance = random.Random(20)
    num_kills = num_runs = 0
    while num_kills < 20:
        num_runs += 1
        out = tmp_path / f"run{num_runs}"
        for attempt in range(6):
            started = commands.start("train", *settings, f"out={out}")
            if attempt < 5:
                time.sleep(chance.uniform(0, 0.8 * undisturbed["seconds"]))
                os.kill(started.pid, signal.SIGKILL)
            ended = started.wait()
            if not killed(ended.code):
                assert ended.code == 0, ended.err
            num_kills += killed(ended.code)
        assert final_state(out) == undisturbed["state"]


@pytest.mark.parametrize("place", ["decode", "step", "evaluate", "fsync", "rename", "unlink"])
def test_kill_at_a_place(commands, settings, undisturbed, tmp_path, place):
    """T01, T04: in the scan, a step, an evaluation and a save; early, in the middle and late."""
    calls = [k for k, name in enumerate(undisturbed["trace"], 1) if name == place]
    out = tmp_path / "run"
    # Later attempts begin further on, so they make fewer calls than the first one.
    for at in (calls[0], calls[len(calls) // 2], calls[-1]):
        ended = commands(
            "train",
            *settings,
            f"out={out}",
            hooks={"names": EVERYWHERE, "signal": signal.SIGKILL, "at": at},
        )
        assert killed(ended.code) or at != calls[0]
    ended = commands("train", *settings, f"out={out}")
    assert ended.code == 0, ended.err
    assert final_state(out) == undisturbed["state"]


def stopped_at_step(
    commands: Commands, settings: list[str], out: Path, step: int, number: int, times: int = 1
) -> Ended:
    """The command, sent a signal as it begins this step; the steps timed before do not count."""
    hooks = {"names": ["step"], "signal": number, "at": step, "times": times}
    return commands("train", *settings, f"out={out}", hooks=hooks)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=["T10", "T12", "T15"],
)
def test_signal_finishes_the_step_and_saves(
    commands, settings, undisturbed, tmp_path, number, code
):
    """T10, T12, T15: the step is finished and saved, and the message says how to go on."""
    out = tmp_path / "run"
    ended = stopped_at_step(commands, settings, out, 5, number)
    assert ended.code == code
    assert ended.errors == [
        f"deitkit: error [STOPPED] {out}: stopped after step 5 of {NUM_STEPS}, checkpoint saved; "
        f"go on with `deitkit train out={out}`"
    ]
    assert (out / "last" / "step-00000005").is_dir()
    assert "Traceback" not in ended.err
    went_on = commands("train", f"out={out}")
    assert went_on.code == 0, went_on.err
    assert f"going on from step 5 of {NUM_STEPS}" in went_on.err
    assert final_state(out) == undisturbed["state"]


def test_signal_while_the_own_teacher_is_trained(commands, photos, tmp_path):
    """The message is about the whole run: what goes on with it is the command, not its part."""
    words = [f"data={photos}", "teacher=auto", "budget=30s", "workers=0"]
    out = tmp_path / "run"
    ended = stopped_at_step(commands, words, out, 2, signal.SIGINT)
    assert ended.code == 130
    (error,) = ended.errors
    assert error.startswith(f"deitkit: error [STOPPED] {out}: stopped in teacher: ")
    assert "stopped after step 2 of" in error
    assert error.endswith("checkpoint saved; the same command goes on")


def test_second_ctrl_c_ends_at_once(commands, settings, undisturbed, tmp_path):
    """T13: no write is begun; the checkpoints of before are whole."""
    out = tmp_path / "run"
    ended = stopped_at_step(commands, settings, out, 6, signal.SIGINT, times=2)
    assert ended.code == 130
    assert ended.errors == []
    assert [path.name for path in sorted((out / "last").iterdir())] == [
        "step-00000002",
        "step-00000004",
    ]
    assert commands("train", f"out={out}").code == 0
    assert final_state(out) == undisturbed["state"]


def test_signal_during_an_evaluation(commands, settings, undisturbed, tmp_path):
    """T10, T17: the evaluation is left, the step is kept, and the evaluation is done again."""
    calls = [name for name in undisturbed["trace"] if name in ("step", "evaluate")]
    at = calls.index("evaluate", calls.index("step")) + 1
    hooks = {"names": ["step", "evaluate"], "signal": signal.SIGTERM, "at": at}
    out = tmp_path / "run"
    ended = commands("train", *settings, f"out={out}", hooks=hooks)
    assert ended.code == 143
    assert "stopped after step 3" in ended.errors[0]
    assert commands("train", f"out={out}").code == 0
    assert final_state(out) == undisturbed["state"]


def test_signal_during_the_scan(commands, settings, undisturbed, tmp_path):
    """T10, T05: before there is a run, nothing is left that could disturb the next one."""
    out = tmp_path / "run"
    hooks = {"names": ["decode"], "signal": signal.SIGTERM, "at": 7}
    ended = commands("train", *settings, f"out={out}", hooks=hooks)
    assert ended.code == 143
    assert ended.errors == [
        f"deitkit: error [STOPPED] {out}: stopped reading images; the same command goes on"
    ]
    assert files_of(out) == {}
    assert commands("train", *settings, f"out={out}").code == 0
    assert final_state(out) == undisturbed["state"]


@pytest.mark.parametrize("workers", [(2, 0), (0, 2), (2, 2)])
def test_other_number_of_workers_goes_on(commands, settings, undisturbed, tmp_path, workers):
    """T18: who renders the pictures changes no bit, before and after a kill."""
    out = tmp_path / "run"
    rest = [word for word in settings if not word.startswith("workers=")]
    words = [*rest, f"workers={workers[0]}"]
    ended = stopped_at_step(commands, words, out, 7, signal.SIGKILL)
    assert killed(ended.code)
    ended = commands("train", f"out={out}", f"workers={workers[1]}")
    assert ended.code == 0, ended.err
    assert final_state(out) == undisturbed["state"]


def test_finished_run_is_left_alone(commands, settings, undisturbed, tmp_path):
    """T06: "already complete", exit 0, no file changed; and without result.json only that, which
    puts the best bundle beside its teacher: answered for once more, with no step."""
    out = tmp_path / "run"
    assert commands("train", *settings, f"out={out}").code == 0
    before = files_of(out)
    again = commands("train", *settings, f"out={out}")
    assert again.code == 0
    assert "already complete" in again.err
    assert files_of(out) == before
    (out / "result.json").unlink()
    finishing = commands(
        "train",
        *settings,
        f"out={out}",
        hooks={"names": ["step", "evaluate"], "trace": str(tmp_path / "trace.json")},
    )
    assert finishing.code == 0, finishing.err
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8")) == ["evaluate"]
    assert final_state(out) == undisturbed["state"]
    changed = {name for name in before if files_of(out)[name] != before[name]}
    assert changed <= {"result.json", "metrics.jsonl", "report.html"}
