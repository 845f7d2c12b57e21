"""The same from Python: train, fit, Run, and their answers beside the command's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deitkit
from deitkit.errors import CheckpointError, ConfigError
from deitkit.training.events import Evaluated, Finished, Planned, Saved, StepDone
from tests.journeys.conftest import TINY, make_picture
from tests.journeys.final_state import files_of, final_state


def keyword_settings(**more: Any) -> dict[str, Any]:
    """TINY as `deitkit.train` takes it: Python values under the same names."""
    pairs = (word.split("=") for word in TINY)
    return {name: int(value) if value.isdecimal() else value for name, value in pairs} | more


@pytest.fixture(scope="module")
def from_command(commands, photos, tmp_path_factory) -> Path:
    """The run the command makes of `photos`."""
    out = tmp_path_factory.mktemp("command") / "run"
    assert commands("train", f"data={photos}", *TINY, f"out={out}").code == 0
    return out


def test_train_equals_the_command(photos, from_command, tmp_path):
    """Bit for bit; and a second call on the finished run changes nothing."""
    events: list[Any] = []
    settings = keyword_settings(data=photos, out=tmp_path / "run")
    run = deitkit.train(on_event=events.append, **settings)
    assert isinstance(run, deitkit.Run)
    assert final_state(run.folder) == final_state(from_command)
    assert run.result is not None
    assert run.result["val_top1"] == events[-1].best["top1"]
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, 13))
    assert [event.step for event in events if isinstance(event, Evaluated)] == [3, 6, 9, 12]
    assert [event.step for event in events if isinstance(event, Saved)] == [2, 4, 6, 8, 10, 12]
    before = files_of(run.folder)
    again = deitkit.train(**settings)
    assert again.result == run.result
    assert files_of(run.folder) == before


@pytest.mark.parametrize("last_step", [1, 5, 6, 12])
def test_loop_left_early_goes_on(photos, from_command, tmp_path, last_step):
    """T17: `break` saves a checkpoint and frees the folder; the same call goes on."""
    settings = keyword_settings(data=str(photos), out=str(tmp_path / "run"))
    for event in deitkit.fit(**settings):
        if isinstance(event, StepDone) and event.step == last_step:
            break
    assert (tmp_path / "run" / "last" / f"step-{last_step:08d}" / "manifest.json").is_file()
    went_on = list(deitkit.fit(**settings))
    assert isinstance(went_on[0], Planned)
    assert went_on[0].start_step == last_step
    assert isinstance(went_on[-1], Finished) and not went_on[-1].already
    assert final_state(tmp_path / "run") == final_state(from_command)


def test_error_in_the_loop_of_the_user_goes_on(photos, from_command, tmp_path):
    """T34: the user's own exception passes through; nothing of the run is lost or locked."""
    settings = keyword_settings(data=photos, out=tmp_path / "run")

    def boom(event: Any) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        deitkit.train(on_event=boom, **settings)
    del caught
    deitkit.train(**settings)
    assert final_state(tmp_path / "run") == final_state(from_command)


def pairs(first: int, count: int) -> list[tuple[Any, str]]:
    """Pictures in memory, as arrays and as PIL images."""
    found: list[tuple[Any, str]] = []
    for name in ("blue", "green", "red"):
        for number in range(first, first + count):
            picture = make_picture(name, number)
            found.append((Image.fromarray(picture) if number % 2 else picture, name))
    return found


def test_sequence_of_pairs(tmp_path):
    """Trained on pictures in memory; going on needs them again, and the same ones."""
    settings = keyword_settings(out=tmp_path / "run", **{"data.val_fraction": 0.2})
    for event in deitkit.fit(data=pairs(0, 10), **settings):
        if isinstance(event, StepDone) and event.step == 4:
            break
    with pytest.raises(ConfigError, match="Python sequence"):
        deitkit.train(out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="DATASET_CHANGED"):
        deitkit.train(data=pairs(1, 10), **settings)
    run = deitkit.train(data=pairs(0, 10), **settings)
    assert run.class_names == ("blue", "green", "red")
    whole = deitkit.train(data=pairs(0, 10), **(settings | {"out": tmp_path / "whole"}))
    assert final_state(run.folder) == final_state(whole.folder)
    with pytest.raises(ConfigError, match="does not say what it was trained on"):
        run.evaluate()
    evaluation = run.evaluate(pairs(30, 4))
    pictures = [picture for picture, _ in pairs(30, 4)]
    named = [prediction.class_name for prediction in run.predict(pictures)]
    right = sum(name == truth for name, (_, truth) in zip(named, pairs(30, 4), strict=True))
    assert evaluation.accuracy == right / 12


def test_run_as_teacher_and_its_answers_beside_the_command(commands, photos, student):
    """`Run.evaluate` and `Run.predict` equal `deitkit evaluate` and `deitkit predict`."""
    run = deitkit.open_run(student)
    said = commands("evaluate", student, "--json").json
    assert json.loads(json.dumps(run.evaluate().to_dict())) == said
    folder = photos / "test" / "red"
    rows = commands("predict", student, folder, "--json").json
    predictions = run.predict(folder)
    assert [prediction.source for prediction in predictions] == [row["source"] for row in rows]
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.class_name == row["class"]
        assert prediction.probability == row["probability"]
        names = run.class_names
        probabilities = {name: row["probabilities"][name] for name in names}
        assert dict(zip(names, prediction.probabilities.tolist(), strict=True)) == probabilities
    one = run.predict(Image.open(folder / "13.png"))
    assert len(one) == 1
    np.testing.assert_allclose(one[0].probabilities, predictions[0].probabilities, rtol=1e-5)


def test_teacher_given_as_a_run(photos, teacher, student, tmp_path):
    """`teacher=Run` is `teacher=folder`: the student is the same."""
    settings = keyword_settings(
        data=photos, out=tmp_path / "run", teacher=deitkit.open_run(teacher)
    )
    settings |= {"model": "deit_nano_distilled_patch4_16", "view_epochs": 3}
    assert final_state(deitkit.train(**settings).folder) == final_state(student)


def test_class_with_a_picture_of_its_own_size(tmp_path):
    """Pictures of many sizes and shapes in one sequence."""
    data = [
        (make_picture(name, number, size=(10 + 3 * number, 40 - 3 * number)), name)
        for name in ("a", "b")
        for number in range(6)
    ]
    run = deitkit.train(data=data, **keyword_settings(out=tmp_path / "run"))
    assert run.result is not None and run.result["num_train"] == 10
