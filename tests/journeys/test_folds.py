"""`deitkit train folds=3`: a run for each fold, what they say together, one run on all images."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import deitkit
from deitkit.api.freeze import no_progress, scan
from deitkit.config import build_config, read_config_file
from tests.journeys.commands import Commands, Ended
from tests.journeys.conftest import CLASSES, TINY
from tests.journeys.final_state import final_state

FOLDS = 3
FOLDED = (f"folds={FOLDS}", *TINY, "run.report=false")
RUNS = [f"folds/{number}" for number in range(1, FOLDS + 1)] + ["."]


@pytest.fixture(scope="module")
def folded(
    commands: Commands, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ended, Path]:
    """The command's end, and its folder. Do not change it."""
    out = tmp_path_factory.mktemp("folded") / "out"
    return commands("train", f"data={photos}", *FOLDED, f"out={out}"), out


def without_times(run: Path) -> dict[str, Any]:
    state = final_state(run)
    for fold in state["result"].get("folds", {"folds": []})["folds"]:
        del fold["seconds"]
    return state


def config_of(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_each_image_is_judged_once_by_a_run_that_never_saw_it(folded):
    """The folds' own numbers add up: 30 pictures to train and 9 to validate are 39."""
    ended, out = folded
    assert ended.code == 0, ended.err
    held_out: list[int] = []
    right = 0
    for number in range(1, FOLDS + 1):
        config = build_config(read_config_file(out / f"folds/{number}/config.yaml")[0])
        dataset = scan(config, config.data.path, no_progress)
        assert set(dataset.train.sample_ids).isdisjoint(dataset.val.sample_ids)
        assert len(dataset.train) + len(dataset.val) == 39
        counts = np.bincount(dataset.val.labels)
        assert counts.max() - counts.min() <= 1
        held_out += dataset.val.sample_ids.tolist()
        answers_NK = deitkit.open_run(out / f"folds/{number}").predictor.fused_logits(dataset.val)
        right += int((answers_NK.argmax(axis=1) == dataset.val.labels).sum())
    assert sorted(held_out) == sorted(set(held_out)) and len(held_out) == 39
    found = deitkit.open_run(out).folds
    assert found == json.loads((out / "folds.json").read_text())
    results = [deitkit.open_run(out / f"folds/{n}").result for n in range(1, FOLDS + 1)]
    assert found["accuracy"] == pytest.approx(right / 39)
    assert found["mean"] == pytest.approx(sum(r["val_top1"] for r in results) / FOLDS)
    recalls = [row["recall"] for row in found["per_class"]]
    assert found["macro"] == pytest.approx(sum(recalls) / len(CLASSES))


def test_last_run_learns_from_all_images_as_the_folds_did(folded):
    _, out = folded
    first, last = config_of(out / "folds/1"), config_of(out)
    assert (last["data"]["folds"], last["data"]["fold"]) == (FOLDS, 0)
    for section, name in (("optim", "lr"), ("model", "name"), ("views", "crop")):
        assert first[section][name] == last[section][name]
    result = deitkit.open_run(out).result
    assert result["num_train"] == result["num_val"] == 39
    assert result["val_top1"] == result["folds"]["accuracy"]
    assert result["epochs"] == last["schedule"]["epochs"] <= 3
    assert "each held out once" in folded[0].err


def test_folder_is_an_ordinary_run(commands, folded, photos, tmp_path):
    """Evaluate on the test split, predict, report; the same command changes nothing."""
    _, out = folded
    evaluated = commands("evaluate", out, "--json")
    assert evaluated.json["data"] == f"{photos} (test)"
    assert commands("predict", out, photos / "test" / "red" / "13.png", "--json").code == 0
    page = tmp_path / "page.html"
    assert commands("report", out, f"out={page}").code == 0
    assert "by a fold that did not train on it" in page.read_text()
    again = commands("train", f"out={out}")
    assert again.code == 0 and "already complete" in again.err
    refused = commands("train", f"out={out}", "folds=4")
    assert "data.folds: 3 -> 4" in refused.err and refused.code == 4


def test_own_figure_needs_images_that_were_not_trained_on(commands, photos, folded, tmp_path):
    """Without a test split there is none left, and the folds' figure is named."""
    shutil.copytree(folded[1], tmp_path / "out", symlinks=True)
    config = tmp_path / "out" / "config.yaml"
    config.write_text(config.read_text().replace(f"path: {photos}", f"path: {photos / 'train'}"))
    refused = commands("evaluate", tmp_path / "out")
    assert refused.code == 3 and "folds.json in it holds what its folds found" in refused.err


@pytest.mark.parametrize(
    ("number", "at", "num_done"),
    [
        (signal.SIGKILL, 12 + 5, 1),
        pytest.param(signal.SIGTERM, 12 + 5, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 3 * 12 + 7, 0, marks=pytest.mark.slow),
    ],
)
def test_stopped_folds_go_on(commands, folded, photos, tmp_path, number, at, num_done):
    """In the second fold or the last run: finished folds are left, and the bits are the same."""
    out = tmp_path / "out"
    hooks = {"names": ["step"], "at": at, "signal": number}
    words = ("train", f"data={photos}", *FOLDED, f"out={out}")
    stopped = commands.start(*words, hooks=hooks).wait()
    if number == signal.SIGTERM:
        assert stopped.code == 143 and f"stopped in fold 2 of {FOLDS}" in stopped.err
        assert f"go on with `deitkit train out={out}`" in stopped.err
    ended = commands("train", f"out={out}")
    assert ended.code == 0, ended.err
    assert ended.err.count("already complete") == num_done
    for run in RUNS:
        assert without_times(out / run) == without_times(folded[1] / run)


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "said"),
    [
        (("folds=14",), "FOLDS", 3, "use folds=13 or add images"),
        (("folds=1",), "BAD_VALUE", 2, "one fold cannot train"),
        (("folds=3", "data.fold=4"), "BAD_VALUE", 2, "has no fold 4"),
        (("folds=3", "ranks=auto"), "RANKS", 2, "give a number"),
    ],
)
def test_refusals_leave_nothing_behind(commands, photos, tmp_path, words, code, exit_code, said):
    out = tmp_path / "out"
    refused = commands("train", f"data={photos}", *words, *TINY, f"out={out}")
    assert refused.code == exit_code
    (line,) = refused.errors
    assert f"[{code}]" in line and said in line
    assert not (out / "folds").exists()
