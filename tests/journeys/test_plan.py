"""`deitkit plan`, as it is typed: what it says, what it leaves, and how it refuses."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.journeys.commands import installed
from tests.journeys.conftest import TINY


def test_from_a_plan_to_the_run_it_names(commands, photos, tmp_path):
    """The installed program: a table, the command under it, and the run it then makes."""
    ended = installed("plan", f"data={photos}", *TINY, folder=tmp_path)
    assert ended.code == 0, ended.err
    assert list(tmp_path.iterdir()) == []
    for words in ("image size", "augmentation: mixing", "teacher", "the whole command", "memory"):
        assert words in ended.out
    command = shlex.split(ended.out.splitlines()[-1])
    assert command == ["deitkit", "train", f"data={photos}", *TINY]
    ran = commands(*command[1:], folder=tmp_path)
    assert ran.code == 0, ran.err
    assert "forecast" in ran.err
    beside = json.loads((tmp_path / "runs" / photos.stem / "forecast.json").read_text())
    assert beside["forecast"]["total_s"] > 0
    assert beside["spent"]["seconds"]["steps"] > 0


def test_as_json(commands, photos, teacher, tmp_path):
    words = (f"data={photos}", f"teacher={teacher}", "epochs=3", "batch_size=8", "workers=0")
    ended = commands("plan", *words, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    plan = ended.json
    assert plan["settings"]["distill.teacher"] == str(teacher)
    assert plan["settings"]["schedule.epochs"] == 3
    rows = {row["what"]: row for row in plan["choices"]}
    assert rows["batch"]["choice"] == "8"
    assert rows["batch"]["reason"] == "asked for"
    assert rows["image size"]["reason"] == "the images have 16 pixels a side"
    assert rows["epochs"]["choice"] == "3.0 (12 steps)"
    assert "asking" in plan["forecast"]["seconds"]
    assert plan["command"].startswith("deitkit train ")
    assert list(tmp_path.iterdir()) == []


def test_with_a_teacher_of_its_own_and_as_many_ranks_as_pay(photos, tmp_path):
    """The teacher is planned on all ranks; which of them go on is the student's to say."""
    words = (f"data={photos}", "teacher=auto", "ranks=auto", "budget=20m")
    ended = installed("plan", *words, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    rows = {row["what"]: row for row in ended.json["choices"]}
    assert rows["ranks"]["choice"] in ("1", "2")
    assert "trained first" in rows["teacher"]["choice"]


def test_a_folder_that_holds_a_run_is_told_and_left(commands, photos, student):
    before = sorted(path.name for path in student.iterdir())
    ended = commands("plan", f"data={photos}", f"out={student}", "epochs=1", "workers=0")
    assert ended.code == 0, ended.err
    assert "holds a run already" in " ".join(ended.out.split())
    assert sorted(path.name for path in student.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "said"),
    [
        ((), 2, "NO_DATA", "write `deitkit train data=photos/`"),
        (("data=nowhere",), 2, "NO_DATA", "does not exist"),
        (("out=nothing",), 2, "NO_DATA", "name the images"),
        (("data=PHOTOS", "epoch=3"), 2, "UNKNOWN_SETTING", "it is epochs= here"),
        (("data=PHOTOS", "budget=soon"), 2, "BAD_VALUE", "write 90s, 30m or 2h"),
        (("data=PHOTOS", "budget=1ms"), 2, "BAD_VALUE", "no time"),
        (("data=PHOTOS", "budget=0.01s"), 2, "BUDGET", "or more, or epochs="),
        (("data=PHOTOS", "teacher=none.pt"), 2, "NO_TEACHER", "out=runs/teacher"),
    ],
    ids=str,
)
def test_errors(commands, photos, tmp_path, words, exit_code, code, said):
    typed = [word.replace("PHOTOS", str(photos)) for word in words]
    ended = commands("plan", *typed, folder=tmp_path)
    assert ended.code == exit_code, ended.err
    (line,) = ended.errors
    assert line.startswith(f"deitkit: error [{code}] ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
