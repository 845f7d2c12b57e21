"""A plan is what train decides: the same settings, the same reasons, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deitkit
from deitkit.api import deciding, planning
from deitkit.api.choosing_ranks import RankNotNeeded
from deitkit.api.planning import _command
from deitkit.cli.main import main
from deitkit.config import build_config, flatten, read_config_file
from deitkit.errors import ConfigError, StoppedError
from deitkit.training import teacher_asking, timing
from deitkit.training.spending import Spending
from tests.api.conftest import SHORT
from tests.data.toy_photos import write_toys
from tests.training.toy import write_photos

BY_THE_CLOCK = {"schedule.checkpoint_interval"}
"""Depends on the seconds of a step even where epochs are counted; it changes no weight."""

FLAT = {"model.depth": 2, "model.embed_dim": 48, "model.num_heads": 2}
"""So that a step takes milliseconds; the model's name is still chosen."""


def frozen(out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and reasons of the run's config.yaml."""
    values, information = read_config_file(out / "config.yaml")
    return flatten(build_config(values)), information["reasons"]


def begin(**settings: Any) -> list[Any]:
    """The events of a training that is left before its first step."""
    events = deitkit.fit(**settings)
    found = [next(events)]
    events.close()
    return found


def check_alike(plan: Any, out: Path, *, but: set[str] = BY_THE_CLOCK) -> None:
    settings, reasons = frozen(out)
    assert {k: v for k, v in plan.settings.items() if k not in but} == {
        k: v for k, v in settings.items() if k not in but
    }
    assert set(plan.reasons) == set(reasons)
    same = [k for k in reasons if "steps of the student a step" not in reasons[k]]
    assert {k: plan.reasons[k] for k in same if k not in but} == {
        k: reasons[k] for k in same if k not in but
    }


def photographs(folder: Path) -> Path:
    return write_toys(folder / "toys")


def python_images(folder: Path) -> list[tuple[np.ndarray, str]]:
    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 255, (40, 12, 12, 3)).astype(np.uint8)
    return [(picture, "ab"[place % 2]) for place, picture in enumerate(pictures)]


@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (lambda folder: write_photos(folder / "photos"), FLAT),
        (lambda folder: write_photos(folder / "photos"), {**FLAT, "epochs": 120}),
        (photographs, {**FLAT, "init": "scratch", "image_size": 32}),
        (photographs, {**FLAT, "init": "scratch", "image_size": 32, "data.image_cache": "off"}),
        (python_images, {"model": "small_cnn"}),
    ],
    ids=["small", "long", "photographs", "not kept", "python"],
)
def test_the_plan_is_what_train_freezes(tmp_path, write, settings):
    """For small pictures, many epochs, photographs in and out of memory, and arrays."""
    asked = {"data": write(tmp_path), "out": tmp_path / "run", "epochs": 2, "workers": 0} | settings
    plan = deitkit.plan(**asked)
    assert not (tmp_path / "run").exists()
    begin(**asked)
    check_alike(plan, tmp_path / "run")


def test_under_a_budget_too(tmp_path, monkeypatch, photos):
    """With a clock that says the same to both: 40 ms a step, 0.1 s an evaluation, 5 s gone."""
    monkeypatch.setattr(timing, "measure", lambda assembly, **rest: (0.04, 0.1))
    monkeypatch.setattr(Spending, "elapsed_s", lambda self: 5.0)
    asked = {"data": photos, "out": tmp_path / "run", "budget": "35s", "workers": 0, **FLAT}
    plan = deitkit.plan(**asked)
    begin(**asked)
    check_alike(plan, tmp_path / "run", but=set())
    # 0.94 of the 30 s that are left are 28.2; 14 evaluations take 1.4 s, so 26.8 s / 40 ms.
    assert plan.settings["schedule.steps"] == 670
    assert plan.forecast.seconds["steps"] == pytest.approx(26.8)


def test_with_a_teacher_that_is_trained_first(tmp_path, photos):
    """Planned without training it: its shape and cost are known, and the forecast has its time."""
    asked = {"data": photos, "out": tmp_path / "run", "teacher": "auto", "epochs": 2, "workers": 0}
    asked |= FLAT
    plan = deitkit.plan(**asked)
    assert not (tmp_path / "run").exists()
    assert plan.forecast.seconds["teacher"] > 0
    (row,) = [row for row in plan.rows if row.what == "teacher"]
    settings, _ = frozen_after(asked, tmp_path / "run")
    clock = {*BY_THE_CLOCK, "distill.view_epochs", "distill.teacher_cache"}
    assert {k: v for k, v in plan.settings.items() if k not in clock} == {
        k: v for k, v in settings.items() if k not in clock
    }
    teacher, _ = frozen(tmp_path / "run" / "teacher")
    assert row.choice.startswith(f"{teacher['model.name']} is trained first, ")
    assert f"{teacher['schedule.steps']} steps" in row.choice


def frozen_after(asked: dict[str, Any], out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    begin(**asked)
    return frozen(out)


def test_a_teacher_is_never_asked_more_than_train_asks(tmp_path, monkeypatch, finished, photos):
    """A named teacher with the same classes; the clock says the same to both: half a step."""
    monkeypatch.setattr(timing, "measure", lambda assembly, **rest: (0.04, 0.1))
    monkeypatch.setattr(deciding, "_teacher_step_s", lambda probe, teacher: 0.02)
    asked_about: list[int] = []
    real = teacher_asking.ask_on_clean

    def counting(classifier, images, *, indices, **rest):
        asked_about.append(len(indices))
        return real(classifier, images, indices=indices, **rest)

    monkeypatch.setattr(teacher_asking, "ask_on_clean", counting)
    asked = {"data": photos, "out": tmp_path / "run", **SHORT, "teacher": str(finished)}
    plan = deitkit.plan(**asked)
    by_plan = sum(asked_about)
    assert plan.forecast.seconds["asking"] > 0
    begin(**asked)
    check_alike(plan, tmp_path / "run", but=set())
    assert plan.settings["distill.teacher_cache"] == "disk"
    assert 0 < by_plan <= sum(asked_about) - by_plan


def beside(out: Path) -> dict[str, Any]:
    return json.loads((out / "forecast.json").read_text())


def test_forecast_and_outcome_stand_side_by_side(tmp_path, photos):
    run = deitkit.train(data=photos, out=tmp_path / "run", **SHORT)
    forecast, spent = beside(run.folder)["forecast"], beside(run.folder)["spent"]
    assert set(spent["seconds"]) >= {"reading", "steps", "evaluations", "conclusion"}
    for said in (forecast, spent):
        assert said["total_s"] == pytest.approx(sum(said["seconds"].values()), abs=0.06)
        assert said["memory_bytes"] > 10**8
    assert spent["total_s"] >= run.result["seconds"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "forecast before the first step" in page


def test_a_run_of_several_commands_has_no_outcome_of_one(tmp_path, photos):
    events = deitkit.fit(data=photos, out=tmp_path / "run", **SHORT)
    for event in events:
        if type(event).__name__ == "StepDone" and event.step == 5:
            events.close()
    begun = beside(tmp_path / "run")
    assert set(begun) == {"forecast"}
    deitkit.train(data=photos, out=tmp_path / "run", **SHORT)
    assert beside(tmp_path / "run") == begun


def test_an_image_cache_is_planned_and_not_filled(tmp_path):
    """Then train fills it, and the next plan expects nothing of it."""
    asked = {
        "data": photographs(tmp_path),
        "out": tmp_path / "run",
        "init": "scratch",
        "image_size": 32,
        "epochs": 2,
        "workers": 0,
        **FLAT,
        "data.image_cache": "disk",
        "data.image_cache_folder": str(tmp_path / "caches"),
    }
    plan = deitkit.plan(**asked)
    assert not (tmp_path / "caches").exists()
    assert plan.settings["data.source_side"] == 37
    begin(**asked)
    check_alike(plan, tmp_path / "run")
    (cache,) = (tmp_path / "caches").iterdir()
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    again = deitkit.plan(**asked, overwrite=True)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert again.settings["data.source_side"] == 37


def test_a_budget_too_short_says_what_is_needed(tmp_path, monkeypatch, photos):
    """6 steps of 10 s an epoch, a twentieth to evaluate: 4 + 60 / 0.95 / 0.94 = 71.2."""
    monkeypatch.setattr(timing, "measure", lambda assembly, **rest: (10.0, 1.0))
    monkeypatch.setattr(Spending, "elapsed_s", lambda self: 4.0)
    asked = {"data": photos, "out": tmp_path / "run", "batch_size": 8, "workers": 0, **FLAT}
    with pytest.raises(ConfigError) as caught:
        deitkit.plan(**asked, budget="20s")
    assert caught.value.code == "BUDGET"
    assert "1 steps see 17 % of the images once" in str(caught.value)
    assert "use budget=72s or more" in str(caught.value)
    assert deitkit.plan(**asked, budget="72s").settings["schedule.steps"] == 6


def test_progress_that_raises_ends_a_plan(tmp_path, photos):
    def told(what: str, done: int, total: int | None) -> None:
        if what == "timing a few steps":
            raise StoppedError(2, tmp_path, "stopped", "again")

    with pytest.raises(StoppedError):
        deitkit.plan(data=photos, out=tmp_path / "run", **SHORT, progress=told)
    assert not (tmp_path / "run").exists()


def test_the_command_is_what_would_be_typed():
    """Lists with commas, a run by its folder; what no command can name is three dots."""
    run = deitkit.Run(Path("runs/t"))
    asked = {"data": Path("my photos"), "sizes": (16, 32), "teacher": run, "overwrite": True}
    expected = "deitkit train 'data=my photos' sizes=16,32 teacher=runs/t overwrite=true"
    assert _command({**asked, "epochs": None}) == expected
    assert _command({"data": [(np.zeros((8, 8, 3)), "a")]}) == "deitkit train data=..."


def test_a_rank_that_is_not_needed_leaves_without_a_word(monkeypatch, capsys, photos):
    """The command ends well; for the ranks that go on it was no error."""

    def leave(*args: Any) -> None:
        raise RankNotNeeded

    monkeypatch.setattr(planning, "_plan", leave)
    with pytest.raises(RankNotNeeded):
        deitkit.plan(data=photos)
    assert main(["plan", f"data={photos}"]) == 0
    assert capsys.readouterr() == ("", "")
