"""What becomes of the others when one rank dies, stands still, is slow, or is told to stop."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from deitkit.artifacts.checkpoint import load_newest
from tests.training.ranks import Fault, Seen, end_ranks, run_ranks, start_ranks
from tests.training.toy import TINY, bits, write_photos

NUM_STEPS = 12
QUICKER = {"SILENT_S": 4.0, "GRACE_S": 2.0, "SLOW_S": 2.0}
"""A third of what a user waits. A busy machine holds a rank up for seconds too."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    photos = write_photos(tmp_path_factory.mktemp("faults") / "photos")
    return {
        "data": str(photos),
        **TINY,
        "workers": 0,
        "batch_size": 8,
        "epochs": 2,
        "views.cutmix": 1.0,
        "schedule.eval_interval": NUM_STEPS,
        "schedule.checkpoint_interval": 3,
        "run.report": False,
    }


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory) -> dict[str, bytes]:
    """The end of the run on two ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ranks = run_ranks(2, folder / "seen", settings | {"out": str(folder / "run")})
    assert [rank.code for rank in ranks] == [0, 0], ranks
    return last_state(folder / "run")


def last_state(run: Path) -> dict[str, bytes]:
    found = load_newest(run / "last")
    assert found is not None
    return bits(found.tensors)


def said(folder: Path, rank: int, seen: list[Seen]) -> str:
    """The line of a rank's error, whichever of its threads said it."""
    return seen[rank].error or (folder / f"{rank}.err").read_text()


def test_a_killed_rank_ends_the_other_and_the_run_goes_on(settings, undisturbed, tmp_path):
    """T35: exit 8 with its name at once, by its closed connection; then SAME."""
    words = settings | {"out": str(tmp_path / "run")}
    folder = tmp_path / "seen"
    seen = run_ranks(2, folder, words, faults=[Fault(1, 7, "kill")])
    assert [rank.code for rank in seen] == [8, -signal.SIGKILL]
    line = said(folder, 0, seen)
    assert "[RANK_LOST] rank 0 of 2: rank 1 (pid " in line
    assert "ended without a word; the same command goes on from the last checkpoint" in line
    assert load_newest(tmp_path / "run" / "last").step == 6
    assert [rank.code for rank in run_ranks(2, tmp_path / "again", words)] == [0, 0]
    assert last_state(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_rank_that_stands_still_ends_the_others(settings, tmp_path, stopped):
    """T35: SIGSTOP closes no connection; of a rank 0 that holds the meeting point, that is told."""
    folder = tmp_path / "seen"
    words = settings | {"out": str(tmp_path / "run")}
    ranks = start_ranks(
        3 if stopped else 2,
        folder,
        words | {"batch_size": 6},
        faults=[Fault(stopped, 7, "stop")],
        patience=QUICKER,
    )
    others = [process for rank, process in enumerate(ranks) if rank != stopped]
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [8] * len(others)
    ranks[stopped].kill()
    seen = end_ranks(ranks, folder)
    culprit = (
        f"nothing was heard of rank {stopped} (pid " if stopped else "meeting point 127.0.0.1:"
    )
    for rank in range(len(ranks)):
        if rank != stopped:
            line = said(folder, rank, seen)
            assert "[RANK_LOST]" in line and "the same command goes on" in line
            assert culprit in line


def test_a_slow_rank_is_waited_for_and_named(settings, undisturbed, tmp_path):
    """T36: slow for longer than silence would be borne, it beats all the while; nothing is lost."""
    words = settings | {"out": str(tmp_path / "run")}
    fault = Fault(1, 5, "sleep", seconds=7)
    seen = run_ranks(2, tmp_path / "seen", words, faults=[fault], patience=QUICKER)
    assert [rank.code for rank in seen] == [0, 0]
    named = [text for text in seen[0].warnings if "kept the others waiting" in text]
    assert any(text.startswith("rank 1 (pid ") for text in named), seen[0].warnings
    assert last_state(tmp_path / "run") == undisturbed


def test_one_rank_told_to_stop_stops_all_at_its_step(settings, undisturbed, tmp_path):
    """T11: SIGTERM to rank 1 alone; one checkpoint, 143 everywhere; then SAME."""
    words = settings | {"out": str(tmp_path / "run")}
    seen = run_ranks(2, tmp_path / "seen", words, faults=[Fault(1, 6, str(int(signal.SIGTERM)))])
    assert [rank.code for rank in seen] == [143, 143]
    assert [len(rank.steps) for rank in seen] == [7, 7]
    assert all("stopped after step 7 of 12, checkpoint saved" in rank.error for rank in seen)
    assert load_newest(tmp_path / "run" / "last").step == 7
    assert [rank.code for rank in run_ranks(2, tmp_path / "again", words)] == [0, 0]
    assert last_state(tmp_path / "run") == undisturbed
    finished = run_ranks(2, tmp_path / "third", words)
    assert [(rank.code, rank.steps) for rank in finished] == [(0, []), (0, [])]


def test_a_port_in_use_is_told(settings, tmp_path, monkeypatch):
    """T37: ERR 8 with host and port, from the whole command."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("tests.training.ranks.free_port", lambda: port)
        monkeypatch.setattr("tests.training.ranks.launched_ranks", lambda num: range(1))
        (alone,) = run_ranks(2, tmp_path / "seen", settings | {"out": str(tmp_path / "run")})
    assert alone.code == 8
    assert f"[RENDEZVOUS] 127.0.0.1:{port}: rank 0 did not find all 2 ranks" in alone.error
    assert "--master-port" in alone.error
