"""ranks=auto: who goes on, what is written down, and how the command ends."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from deitkit.api.launching import ranks_wanted
from deitkit.config import read_config_file
from deitkit.errors import WorkerError
from deitkit.runtime import launch
from deitkit.training.choice import Choice
from deitkit.training.choices import choose_workers, for_ranks
from tests.training.ranks import Seen, run_ranks
from tests.training.toy import TINY, write_photos


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    photos = write_photos(tmp_path_factory.mktemp("auto") / "photos")
    quick = {"data": str(photos), **TINY, "workers": 0, "batch_size": 8, "epochs": 1}
    return quick | {"ranks": "auto", "run.report": False}


def trained(settings: dict[str, Any], folder: Path, step_s: dict[int, float]) -> list[Seen]:
    out = {"out": str(folder / "run")}
    seen = run_ranks(2, folder / "seen", settings | out, step_s=step_s)
    assert [rank.code for rank in seen] == [0, 0], seen
    return seen


def written(folder: Path) -> tuple[int, str]:
    values, information = read_config_file(folder / "run" / "config.yaml")
    return values["run.ranks"], information["reasons"]["run.ranks"]


def test_ranks_that_win_go_on(settings, tmp_path):
    seen = trained(settings, tmp_path, {2: 0.1, 1: 0.106})
    assert [len(rank.steps) for rank in seen] == [6, 6]
    ranks, why = written(tmp_path)
    assert ranks == 2
    assert why == "100 ms a step on 2 ranks, 106 ms in one process with all threads"


def test_ranks_that_do_not_win_leave_the_first_alone(settings, tmp_path):
    """Faster by 4 % is not enough for twice the memory. The same command keeps the number."""
    seen = trained(settings, tmp_path, {2: 0.1, 1: 0.104})
    assert [len(rank.steps) for rank in seen] == [6, 0]
    assert [len(step["ids"]) for step in seen[0].steps] == [6, 8, 6, 8, 6, 8]
    ranks, why = written(tmp_path)
    assert ranks == 1
    assert "104 ms in one process" in why
    assert ranks_wanted(settings | {"out": str(tmp_path / "run")}) == (1, False)


def test_a_new_run_tries_what_the_machine_has(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "ranks_to_try", lambda device: 4)
    assert ranks_wanted(settings | {"out": str(tmp_path / "new")}) == (4, True)
    assert ranks_wanted(settings | {"ranks": "3"}) == (3, False)


def test_batches_and_workers_are_shared_by_the_ranks():
    """64 images as 11 pairs for each of 3 ranks; 16 cores are 8 workers, or 5 for each of 3."""
    assert for_ranks(Choice(64, "x"), 4) == Choice(64, "x")
    assert for_ranks(Choice(64, "x"), 3).value == 66
    shared = {"in_memory": False, "is_small": False, "num_cores": 16}
    assert [choose_workers(**shared, num_ranks=n).value for n in (1, 3, 32)] == [8, 5, 1]


def test_the_command_ends_as_the_first_rank_to_fail():
    """T35: a killed rank is told by the launcher, as code 8; a signal that asks is no fault."""
    assert launch._exit_code(1, 7, 2) == 7
    assert launch._exit_code(1, -signal.SIGTERM, 2) == 143
    with pytest.raises(WorkerError, match="rank 1 of 2: it was ended by SIGKILL") as caught:
        launch._exit_code(1, -signal.SIGKILL, 2)
    assert caught.value.exit_code == 8


def test_ranks_that_see_other_disks_are_told(settings, tmp_path):
    """A checkpoint that only one of them can read."""
    words = {k: v for k, v in settings.items() if k != "ranks"} | {
        "schedule.checkpoint_interval": 2
    }
    first = run_ranks(1, tmp_path / "first", words | {"out": str(tmp_path / "run"), "epochs": 2})
    assert first[0].code == 0
    (tmp_path / "run" / "result.json").unlink()
    own = {1: {"out": str(tmp_path / "elsewhere")}}
    words |= {"out": str(tmp_path / "run")}
    seen = run_ranks(2, tmp_path / "seen", words | {"epochs": 2}, own=own)
    assert seen[1].code == 4
    assert "[NOT_SHARED]" in seen[1].error and "rank 1 sees no checkpoint" in seen[1].error
    assert seen[0].code == 8 and "NOT_SHARED" in seen[0].error
