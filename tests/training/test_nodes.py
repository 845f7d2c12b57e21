"""torchrun as on a cluster: two agents that meet, and ranks that are started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deitkit.artifacts.checkpoint import load_newest
from tests.training.ranks import TIMEOUT_S, free_port, run_ranks
from tests.training.toy import TINY, bits, write_photos

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two_nodes.sh"
DEITKIT = [sys.executable, "-m", "deitkit", "train"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    photos = write_photos(tmp_path_factory.mktemp("nodes") / "photos")
    return {
        "data": str(photos),
        **TINY,
        "workers": 0,
        "batch_size": 8,
        # Other sums show in the last bits: of float32 here, also where a CPU has AMX.
        "run.precision": "float32",
        "epochs": 4,
        "views.cutmix": 1.0,
        "schedule.eval_interval": 1000,
        "schedule.checkpoint_interval": 4,
        "run.log_interval": 1,
        "run.report": False,
    }


def words(settings: dict[str, Any], **more: Any) -> list[str]:
    return [f"{name}={value}" for name, value in (settings | more).items()]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def when_at_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    metrics = run / "metrics.jsonl"
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_two_nodes_train_what_one_process_trains(settings, tmp_path):
    """The example as it stands, its two machines being this one: the same losses, one folder."""
    head = f"127.0.0.1:{free_port()}"
    out = tmp_path / "run"
    command = ["sh", str(EXAMPLE), *words(settings, out=out)]
    nodes = [start(command, HEAD=head, RANKS="1", PYTHON=sys.executable) for _ in range(2)]
    ended = [node.communicate(timeout=TIMEOUT_S) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ended
    assert json.loads((out / "result.json").read_text())["steps"] == len(losses(out)) == 24
    (one,) = run_ranks(1, tmp_path / "seen", settings | {"out": str(tmp_path / "one")})
    np.testing.assert_allclose(losses(out)[:20], one.losses[:20], rtol=1e-5)


@pytest.mark.slow
def test_torchrun_begins_again_after_a_killed_rank(settings, tmp_path):
    """T35: --max-restarts=1 goes on from the last checkpoint; SAME."""
    undisturbed = tmp_path / "undisturbed"
    seen = run_ranks(2, tmp_path / "seen", settings | {"out": str(undisturbed), "epochs": 60})
    assert [rank.code for rank in seen] == [0, 0]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "--max-restarts=1", "-m", "deitkit", "train"]
    out = tmp_path / "run"
    process = start([*torchrun, *words(settings, out=out, epochs=60)])
    when_at_step(process, out, 30)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert "ended without a word" in errors and "going on from step" in errors
    assert last_bits(out) == last_bits(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_command_ends_with_8_and_goes_on(settings, tmp_path, number):
    """T35 as a user has it: `deitkit train ranks=2`; the other rank ends within 30 s."""
    out = tmp_path / "run"
    command = [*DEITKIT, *words(settings, out=out, ranks=2, epochs=3000)]
    process = start(command)
    when_at_step(process, out, 30)
    first, second = children(process.pid)
    harmed = time.monotonic()
    os.kill(second, number)
    while Path(f"/proc/{first}/cmdline").exists() and Path(f"/proc/{first}/cmdline").read_bytes():
        assert time.monotonic() - harmed < 60
        time.sleep(0.1)
    # The launcher gives a rank that stands still half a minute to save.
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 8, errors
    lines = [line for line in errors.splitlines() if line.startswith("deitkit: error ")]
    assert f"rank 1 (pid {second} on " in lines[0] and "the same command goes on" in lines[0]
    assert "Traceback" not in errors
    again = start([*DEITKIT, f"out={out}", "ranks=2"])
    when_at_step(again, out, 60)
    again.terminate()
    assert again.wait(timeout=TIMEOUT_S) == 143


def last_bits(run: Path) -> dict[str, bytes]:
    found = load_newest(run / "last")
    assert found is not None
    return bits(found.tensors)
