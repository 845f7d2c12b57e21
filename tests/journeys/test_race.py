"""deitkit train strategy=auto: what could win is tried within one budget, and the best is kept."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import yaml

import deitkit
from deitkit.cli.demo import write_digits
from tests.journeys.final_state import files_of

ARMS = (
    "linear",
    "teacher",
    "fine_tuned",
    "fine_tuned_taught",
    "scratch_taught",
    "scratch",
)


@pytest.fixture(scope="module")
def race(commands, photos, teacher, student, tmp_path_factory):
    """The words, the command's end, and its folder. Do not change it."""
    out = tmp_path_factory.mktemp("race") / "out"
    words = (f"data={photos}", f"init={student}", f"teacher={teacher}", "strategy=auto")
    words = (*words, "budget=12s", "workers=0")
    return words, commands("train", *words, f"out={out}"), out


def arms_of(out):
    return {arm["name"]: arm for arm in json.loads((out / "race.json").read_text())["arms"]}


def test_every_arm_is_told_and_the_best_is_the_run(race, commands, photos):
    """The winner has the highest accuracy of those with a bundle, and answers in the folder."""
    _, ended, out = race
    assert ended.code == 0, ended.err
    raced, arms = json.loads((out / "race.json").read_text()), arms_of(out)
    assert tuple(arms) == ARMS and all(arm["title"] in ended.err for arm in arms.values())
    assert all(arm["state"] in ("finished", "tried") or arm["why"] for arm in arms.values())
    with_bundle = {name: arm for name, arm in arms.items() if arm["folder"] is not None}
    assert {"linear", "teacher"} <= set(with_bundle)
    best = max(arm["num_right"] for arm in with_bundle.values())
    won = arms[raced["winner"]]
    assert won["num_right"] == best and won["num_images"] == 9
    result = json.loads((out / "result.json").read_text())
    assert result["val_top1"] == won["accuracy"] and result["race"]["winner"] == raced["winner"]
    said = commands("evaluate", out, f"data={photos / 'val'}", "--json").json
    assert said["heads"]["fused"]["top1"] == won["accuracy"]
    assert commands("predict", out, photos / "test").code == 0
    assert "What was tried" in (out / "report.html").read_text()


def test_every_arm_with_a_bundle_is_a_run_that_answers_as_told(race, photos):
    _, _, out = race
    for arm in arms_of(out).values():
        if arm["folder"] is not None:
            run = deitkit.open_run(out / arm["folder"])
            assert run.evaluate(photos / "val").accuracy == arm["accuracy"], arm["name"]
            assert run.predictor.num_params == arm["parameters"]


def test_same_command_changes_nothing_and_another_is_refused(race, commands):
    words, _, out = race
    before = files_of(out)
    again = commands("train", *words, f"out={out}")
    assert again.code == 0 and "already complete" in again.err
    other = commands("train", *words[:-2], "budget=20s", "workers=0", f"out={out}")
    assert other.code == 4
    assert "schedule.budget: 12s -> 20s" in other.errors[0]
    assert files_of(out) == before


@pytest.mark.slow
def test_a_killed_race_goes_on(race, commands, photos, tmp_path):
    """Killed after two steps of the finalist: what was finished is not done again."""
    words, _, _ = race
    out = tmp_path / "out"
    hooks = {"names": ["step"], "at": 2, "signal": signal.SIGKILL}
    killed = commands.start("train", *words, f"out={out}", hooks=hooks).wait()
    assert killed.code == -signal.SIGKILL
    before = arms_of(out)
    assert before["linear"]["state"] == before["teacher"]["state"] == "finished"
    assert deitkit.open_run(out).evaluate(photos / "val").accuracy > 0, "an answer is there"
    ended = commands("train", f"out={out}")
    assert ended.code == 0, ended.err
    after = arms_of(out)
    assert {n: after[n] for n in ("linear", "teacher")} == {
        n: before[n] for n in ("linear", "teacher")
    }
    frozen = yaml.safe_load((out / "config.yaml").read_text())
    assert frozen["schedule"]["strategy"] == "one", "the winner is one run, that can be repeated"


def test_kill_between_the_winner_and_its_result(race, commands, tmp_path):
    """Without result.json the end is done again, and is the same."""
    _, _, out = race
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "result.json").unlink()
    ended = commands("train", f"out={copy}")
    assert ended.code == 0, ended.err
    assert (
        json.loads((copy / "result.json").read_text())["race"]
        == (json.loads((out / "result.json").read_text())["race"])
    )


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("train", ("ranks=2",), "leave ranks= and torchrun out"),
        ("train", ("epochs=3",), "say how long with budget="),
        ("train", ("folds=3",), "all arms of a race share one split"),
        ("plan", (), "it would try"),
        ("ablate", (), "the ladder sets it itself"),
    ],
)
def test_what_a_race_cannot_do_is_one_line(commands, photos, tmp_path, verb, words, said):
    ended = commands(verb, f"data={photos}", "strategy=auto", *words, folder=tmp_path)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_race_on_digits_with_a_teacher_of_its_own(commands, tmp_path):
    """No start: two arms are tried, one is trained on, and the teacher is no worse than it was."""
    write_digits(tmp_path / "digits")
    words = ("train", f"data={tmp_path / 'digits'}", "strategy=auto", "teacher=auto", "budget=60s")
    ended = commands(*words, f"out={tmp_path / 'out'}")
    assert ended.code == 0, ended.err
    arms = arms_of(tmp_path / "out")
    assert {n for n, arm in arms.items() if arm["state"] == "impossible"} == {
        "linear",
        "fine_tuned",
        "fine_tuned_taught",
    }
    states = sorted(arms[n]["state"] for n in ("scratch_taught", "scratch"))
    assert states in (["finished", "tried"], ["dropped", "finished"]), (
        "the second on a slow machine"
    )
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["val_top1"] == max(arm["accuracy"] or 0.0 for arm in arms.values())
