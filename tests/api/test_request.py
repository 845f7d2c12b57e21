"""What was asked meets what is there: precedence, going on, refusing, starting anew."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

import deitkit
from deitkit.api.request import read_request
from deitkit.config import flatten
from deitkit.errors import CheckpointError, ConfigError, ResourceError
from tests.api.conftest import SHORT, end_state, leave_after, tree


def test_a_setting_comes_before_the_file_before_the_default(tmp_path, photos):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\noptim: {lr: 0.01}\nviews.flip: 0.25\n")
    request = read_request({"config": file, "data": photos, "out": tmp_path / "x", "epochs": 5})
    values = flatten(request.config)
    assert (values["schedule.epochs"], values["optim.lr"], values["views.flip"]) == (5, 0.01, 0.25)
    assert values["optim.eps"] == 1e-8
    assert set(request.asked) == {
        "schedule.epochs",
        "optim.lr",
        "views.flip",
        "data.path",
        "run.out",
    }


def test_a_file_names_no_folder_to_write_to(tmp_path, photos):
    """`config=` another run's config.yaml must not write into, or clear, that run."""
    file = tmp_path / "config.yaml"
    file.write_text("run: {out: runs/other, overwrite: true, accept_changes: true}\n")
    request = read_request({"config": str(file), "data": photos, "out": tmp_path / "mine"})
    assert request.folder == tmp_path / "mine"
    assert not request.config.run.overwrite and not request.config.run.accept_changes


def test_a_runs_own_config_repeats_it_bit_for_bit(tmp_path, finished_once):
    deitkit.train(config=finished_once / "config.yaml", out=tmp_path / "again")
    assert end_state(tmp_path / "again") == end_state(finished_once)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"imgsz": 32}, "UNKNOWN_SETTING", "it is image_size= here"),
        ({"epochz": 3}, "UNKNOWN_SETTING", "did you mean epochs"),
        ({"epochs": "many"}, "BAD_VALUE", "whole number"),
        ({"data": "no/such/folder"}, "", "no/such/folder"),
        ({"config": "no.yaml"}, "CONFIG_FILE", "no.yaml"),
    ],
    ids=lambda v: str(v),
)
def test_what_cannot_be_right_is_refused_before_anything_is_written(
    tmp_path, photos, settings, code, words
):
    """D01 and typing errors: ERR 2, and no folder appears."""
    with pytest.raises(ConfigError, match=words) as caught:
        deitkit.train(**({"data": photos, "out": tmp_path / "x"} | settings))
    assert caught.value.exit_code == 2 and caught.value.code.startswith(code)
    assert not (tmp_path / "x").exists()


def test_neither_run_nor_data(tmp_path):
    for settings in ({}, {"out": tmp_path / "x"}):
        with pytest.raises(ConfigError, match="data=photos/"):
            deitkit.train(**settings)
    assert not (tmp_path / "x").exists()


CHANGES = [
    ({"model": "small_cnn"}, "model.name: deit_nano_patch4_16 -> small_cnn", False),
    ({"model.depth": 3}, "model.depth: 2 -> 3", False),
    ({"image_size": 32}, r"data.image_size: \(16, 16\) -> 32", False),
    ({"data.channels": 1}, "data.channels: 3 -> 1", False),
    ({"lr": 0.5}, "optim.lr: [0-9.]+ -> 0.5", True),
    ({"seed": 7}, "run.seed: 0 -> 7", True),
    ({"epochs": 1}, "schedule.epochs: 2 -> 1", True),
    ({"views.mixup": 0.1, "batch_size": 4}, "views.mixup: 0.8 -> 0.1; optim.batch_size: 8", True),
]


@pytest.mark.parametrize(("settings", "diff", "flag_helps"), CHANGES, ids=lambda v: str(v))
def test_other_settings_are_refused_with_the_difference(unfinished, settings, diff, flag_helps):
    """T41: ERR 4 naming each difference; the flag is offered only where it helps."""
    before = tree(unfinished)
    with pytest.raises(CheckpointError, match=diff) as caught:
        deitkit.train(out=unfinished, **settings)
    assert (caught.value.code, caught.value.exit_code) == ("CONFIG_MISMATCH", 4)
    assert ("run.accept_changes=true" in str(caught.value)) == flag_helps
    assert "overwrite=true" in str(caught.value)
    if not flag_helps:
        with pytest.raises(CheckpointError, match=diff):
            deitkit.train(out=unfinished, **settings, **{"run.accept_changes": True})
    assert tree(unfinished) == before


def test_a_change_goes_on_where_it_is_accepted(unfinished):
    """T41, needs flag: from step 5 on with the new rate, and it is said."""
    events: list = []
    deitkit.train(out=unfinished, lr=0.02, on_event=events.append, **{"run.accept_changes": True})
    steps = [e for e in events if type(e).__name__ == "StepDone"]
    assert [e.step for e in steps] == list(range(6, 13))
    notes = [e.text for e in events if type(e).__name__ == "Warned"]
    assert any("optim.lr" in note and "0.02" in note for note in notes)
    # The peak is lr * batch / 512, so 0.02 * 8 / 512; step 6 of 12 is half-way down the cosine.
    assert max(e.lr for e in steps) < 0.02 * 8 / 512
    assert steps[1].lr == pytest.approx(0.02 * 8 / 512 / 2, rel=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"workers": 1},
        {"run.log_interval": 3},
        {"schedule.checkpoint_interval": 100},
        {"data.image_cache": "off"},
        {"epochs": 2, "lr": "auto"},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_what_changes_no_weight_is_free(unfinished, finished_once, settings):
    """T41, T18: it goes on, and ends as the uninterrupted run did (SAME)."""
    deitkit.train(out=unfinished, **settings)
    tensors, numbers = end_state(unfinished)
    expected_tensors, expected_numbers = end_state(finished_once)
    assert tensors == expected_tensors
    assert numbers == expected_numbers


def test_more_epochs_are_free_and_stretch_the_cosine(unfinished):
    """T41: said aloud, for it is not the run that began with three epochs."""
    events: list = []
    deitkit.train(out=unfinished, epochs=3, on_event=events.append)
    assert [e.step for e in events if type(e).__name__ == "StepDone"][-1] == 18
    notes = [e.text for e in events if type(e).__name__ == "Warned"]
    assert any("cosine is stretched" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "num_steps"),
    [({"epochs": 3}, 18), ({"lr": 0.02, "run.accept_changes": True}, 12)],
    ids=str,
)
def test_an_accepted_change_is_kept(tmp_path, unfinished, settings, num_steps):
    """Stopped again and gone on with out= alone, the run still has its new settings."""
    other = shutil.copytree(unfinished, tmp_path / "other")
    deitkit.train(out=unfinished, **settings)
    leave_after(8, out=other, **settings)
    assert deitkit.train(out=other).result["steps"] == num_steps
    assert end_state(other) == end_state(unfinished)


def test_the_same_command_on_a_finished_run_changes_nothing(finished, photos):
    """T06: for the whole command and for out= alone."""
    before = tree(finished)
    for settings in ({"data": photos, **SHORT}, {}):
        events: list = []
        run = deitkit.train(out=finished, on_event=events.append, **settings)
        assert [type(e).__name__ for e in events] == ["Finished"] and events[0].already
        assert run.result == json.loads((finished / "result.json").read_text())
    assert tree(finished) == before


def test_a_finished_run_is_not_prolonged(finished):
    before = tree(finished)
    with pytest.raises(CheckpointError, match=r"schedule\.epochs: 2 -> 9"):
        deitkit.train(out=finished, epochs=9)
    assert tree(finished) == before


def test_overwrite_starts_anew_and_leaves_other_files(finished, photos):
    (finished / "notes.txt").write_text("mine")
    run = deitkit.train(data=photos, out=finished, overwrite=True, **(SHORT | {"epochs": 1}))
    assert run.result["steps"] == 6
    assert (finished / "notes.txt").read_text() == "mine"
    steps = [json.loads(line)["step"] for line in (finished / "metrics.jsonl").open()]
    assert max(steps) == 6
    assert yaml.safe_load((finished / "config.yaml").read_text())["schedule"]["steps"] == 6


@pytest.mark.parametrize("settings", [{}, {"data": "no/such"}], ids=["no-data", "missing-data"])
def test_overwrite_without_images_destroys_nothing(finished, settings):
    before = tree(finished)
    with pytest.raises(ConfigError):
        deitkit.train(out=finished, overwrite=True, **settings)
    assert tree(finished) == before


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_a_left_run_ends_as_if_it_had_not_been(tmp_path, photos, finished_once, step):
    """SAME, from Python: also the metrics file has each step once (T04)."""
    leave_after(step, data=photos, out=tmp_path / "x", **SHORT)
    deitkit.train(out=tmp_path / "x")
    assert end_state(tmp_path / "x") == end_state(finished_once)
    logs = [(folder / "metrics.jsonl").read_text() for folder in (tmp_path / "x", finished_once)]
    assert logs[0] == logs[1]
    numbers = [json.loads(line) for line in logs[0].splitlines()]
    assert [n["step"] for n in numbers if n["event"] == "step"] == list(range(1, 13))


def test_other_images_are_refused(tmp_path, unfinished, photos):
    """D41: ERR 4 with the counts of then and now."""
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    (fewer / "train" / "a" / "3.png").unlink()
    with pytest.raises(CheckpointError, match=r"42 \+ 15 then, 41 \+ 15 now") as caught:
        deitkit.train(out=unfinished, data=fewer)
    assert (caught.value.code, caught.value.exit_code) == ("DATASET_CHANGED", 4)


def test_the_same_images_elsewhere_are_taken(tmp_path, unfinished, photos, finished_once):
    shutil.copytree(photos, tmp_path / "moved")
    deitkit.train(out=unfinished, data=tmp_path / "moved")
    assert end_state(unfinished) == end_state(finished_once)


def test_a_second_run_in_the_same_folder_is_locked_out(tmp_path, photos):
    """T25: ERR 6 while the first one runs."""
    events = deitkit.fit(data=photos, out=tmp_path / "x", **SHORT)
    next(events)
    with pytest.raises(ResourceError) as caught:
        deitkit.train(data=photos, out=tmp_path / "x", **SHORT)
    assert (caught.value.code, caught.value.exit_code) == ("LOCKED", 6)
    events.close()
    assert deitkit.train(out=tmp_path / "x").result["steps"] == 12


def pictures() -> list[tuple[np.ndarray, str]]:
    rng = np.random.default_rng(2)
    return [
        (rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), "cat" if i % 2 else "dog")
        for i in range(40)
    ]


def test_a_python_sequence_must_be_given_again(tmp_path):
    settings = {**SHORT, "out": tmp_path / "x"}
    leave_after(2, data=pictures(), **settings)
    with pytest.raises(ConfigError, match="Python sequence") as caught:
        deitkit.train(out=tmp_path / "x")
    assert caught.value.code == "NO_DATA"
    run = deitkit.train(data=pictures(), out=tmp_path / "x")
    assert run.class_names == ("cat", "dog")
    assert run.result["num_train"] + run.result["num_val"] == 40
