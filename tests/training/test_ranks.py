"""Two ranks on the CPU, forked, through torchrun and through ranks=2: the run of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deitkit
from deitkit.artifacts.checkpoint import load_newest
from tests.training.ranks import run_ranks
from tests.training.toy import TINY, bits, write_photos

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN_DEITKIT = [*TORCHRUN, "-m", "deitkit", "train"]
DEITKIT = [str(Path(sys.executable).with_name("deitkit")), "train"]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, object]:
    """A distilled student with Mixup, CutMix and drop-path; 43 training and 15 validation images:
    no number here is even, so ranks never have equal shares. 6 steps an epoch, 120 in all."""
    folder = tmp_path_factory.mktemp("ranks")
    photos = write_photos(folder / "photos")
    extra = np.random.default_rng(9).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(extra).save(photos / "train" / "a" / "extra.png")
    quick = {"data": str(photos), "batch_size": 8, "workers": 0}
    deitkit.train(**quick, model="small_cnn", epochs=1, out=folder / "teacher", image_size=16)
    return {
        **quick,
        **TINY,
        "model": "deit_nano_distilled_patch4_16",
        # Z-scores of a new student's small logits would blow up the last bits of a sum.
        "distill.kind": "soft",
        "teacher": str(folder / "teacher"),
        # Another number of threads moves the last bits of the answers: half precision shows them.
        "distill.cache_dtype": "float32",
        # Other sums show in the last bits: of float32 here, also where a CPU has AMX.
        "run.precision": "float32",
        "epochs": 20,
        "model.drop_path": 0.3,
        "views.mixup": 0.8,
        "views.cutmix": 1.0,
        "schedule.eval_interval": 60,
        "schedule.checkpoint_interval": 1000,
        "run.log_interval": 1,
    }


def words(settings: dict[str, object], **more: object) -> list[str]:
    return [f"{name}={value}" for name, value in (settings | more).items()]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, settings) -> Path:
    """The whole run, never interrupted."""
    folder = tmp_path_factory.mktemp("two")
    ranks = run_ranks(2, folder / "seen", settings | {"out": str(folder / "run")})
    assert [rank.code for rank in ranks] == [0, 0], ranks
    return folder / "run"


def log(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [line for line in lines if line["event"] == kind]


def last_state(folder: Path) -> tuple[dict[str, bytes], dict]:
    found = load_newest(folder / "last")
    return bits(found.tensors), found.state | {"seconds": 0}


def test_two_ranks_have_the_losses_of_one(tmp_path, settings, two_ranks):
    """T39: 20 steps (three epochs) within 1e-5, with mixing, a teacher and dropped paths."""
    one = tmp_path / "one"
    events = deitkit.fit(out=one, **settings)
    for event in events:
        if type(event).__name__ == "StepDone" and event.step == 20:
            events.close()
    ours, theirs = log(one, "step"), log(two_ranks, "step")[:20]
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    # The teacher's term falls to 0.001, where the last bits of its logits are a part in 10,000.
    for name, atol in (("loss", 0), ("label_loss", 0), ("distill_loss", 1e-6)):
        np.testing.assert_allclose(
            [line[name] for line in theirs], [line[name] for line in ours], rtol=1e-5, atol=atol
        )
    assert [line["lr"] for line in ours] == [line["lr"] for line in theirs]
    assert len({line["loss"] for line in ours}) == 20


def test_an_evaluation_counts_every_image_once(two_ranks):
    """T38: 15 images over two ranks, the same scores as one process on the same weights."""
    run_object = deitkit.open_run(two_ranks)
    assert run_object.result["num_val"] == 15
    evaluation = run_object.evaluate()
    best = run_object.result["best"]
    assert evaluation.fused.num_images == 15
    assert evaluation.accuracy == best["top1"]
    assert evaluation.fused.nll == pytest.approx(best["nll"], rel=1e-5)
    assert [line["step"] for line in log(two_ranks, "evaluated")] == [60, 120]


def when_started(command: list[str], out: Path, num_lines: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + TIMEOUT_S
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    return process


def stop(command: list[str], out: Path, number: int, num_lines: int) -> tuple[int, str, int]:
    """Exit code, stderr, and the step of the one checkpoint."""
    process = when_started(command, out, num_lines)
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    step = load_newest(out / "last").step
    said = [line for line in errors.splitlines() if "[STOPPED]" in line]
    assert len(said) == 2 and all(f"stopped after step {step} of 120" in s for s in said), errors
    return process.returncode, errors, step


def test_signals_stop_all_ranks_at_one_step_and_it_goes_on(tmp_path, settings, two_ranks):
    """T11: SIGTERM to torchrun, gone on, SIGINT to `deitkit train ranks=2`, gone on: SAME."""
    out = tmp_path / "run"
    code, _, first = stop(
        [*TORCHRUN_DEITKIT, *words(settings, out=out)], out, signal.SIGTERM, num_lines=4
    )
    assert code != 0
    assert [path.name for path in (out / "last").iterdir()] == [f"step-{first:08d}"]
    code, errors, second = stop(
        [*DEITKIT, f"out={out}", "ranks=2"], out, signal.SIGINT, num_lines=first + 4
    )
    assert (code, second > first) == (130, True)
    assert "Traceback" not in errors
    assert f"going on from step {first} of 120" in errors
    ranks = run_ranks(2, tmp_path / "seen", settings | {"out": str(out)})
    assert [rank.code for rank in ranks] == [0, 0], ranks
    assert ranks[0].steps[0]["step"] == second + 1
    assert last_state(out) == last_state(two_ranks)
    assert (out / "metrics.jsonl").read_bytes() == (two_ranks / "metrics.jsonl").read_bytes()
