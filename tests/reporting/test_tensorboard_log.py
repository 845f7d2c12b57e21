"""What TensorBoard reads back is what metrics.jsonl holds, each step once."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from deitkit.errors import ConfigError
from deitkit.flow import LossTerms
from deitkit.reporting.metrics_log import MetricsLog
from deitkit.reporting.tensorboard_log import TensorBoardLog
from deitkit.training.events import Evaluated, StepDone

pytest.importorskip("tensorboard")

FROM_LOG = {
    "loss": "train/loss/total",
    "label_loss": "train/loss/label",
    "distill_loss": "train/loss/distill",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
}


def step(number: int, *, attempt: int = 0, skipped: bool = False) -> StepDone:
    """Numbers of its own for each step, and for each time it is done."""
    label, distill = 1 / number + attempt, 0.5 / number
    terms = LossTerms(*(torch.tensor(v) for v in (label + distill, label, distill)))
    return StepDone(number, number / 4, 1e-3 * number, terms, torch.tensor(2.0 * number), skipped)


def evaluated(number: int, *, attempt: int = 0) -> Evaluated:
    scores = {
        source: {"top1": number / 100 + attempt, "nll": 1 / number, "ece": 0.01 * number}
        for source in ("raw", "ema")
    }
    return Evaluated(number, number / 4, scores, True, {"step": number})


def write(
    folder: Path, start: int, stop: int, *, interval: int = 1, attempt: int = 0, skips: int = 0
) -> None:
    """Gone on with after `start` steps, as `fit` does it; an evaluation every 4 steps."""
    log = MetricsLog(folder / "metrics.jsonl", enabled=True)
    board = TensorBoardLog(folder / "tensorboard", enabled=True)
    for one in (log, board):
        one.rewind(start)
    with log, board:
        for number in range(start + 1, stop + 1):
            for one in (log, board):
                event = step(number, attempt=attempt, skipped=number == skips)
                one.write(event, log_interval=interval)
                if number % 4 == 0:
                    one.write(evaluated(number, attempt=attempt), log_interval=interval)


def in_log(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["event"] == "step":
            for key, name in FROM_LOG.items():
                found.setdefault(name, []).append((line["step"], line[key]))
        else:
            for source, scores in line["scores"].items():
                for key in ("top1", "nll", "ece"):
                    name = f"validation/{source}/{key}"
                    found.setdefault(name, []).append((line["step"], scores[key]))
    return found


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By TensorBoard's own reader; names whose points are all hidden are left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        name: [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
        if reader.Scalars(name)
    }


def assert_same(folder: Path) -> None:
    ours, theirs = in_log(folder), in_tensorboard(folder)
    assert theirs.keys() == ours.keys()
    for name, points in ours.items():
        assert [place for place, _ in theirs[name]] == [place for place, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in theirs[name]] == pytest.approx(values, rel=1e-6), name


@pytest.mark.parametrize("interval", [1, 3])
def test_the_same_numbers_as_metrics_jsonl(tmp_path, interval):
    write(tmp_path, 0, 9, interval=interval)
    assert len(in_log(tmp_path)["train/lr"]) == {1: 9, 3: 4}[interval]
    assert len(in_log(tmp_path)["validation/ema/ece"]) == 2
    assert_same(tmp_path)


def test_a_skipped_step_is_in_both(tmp_path):
    write(tmp_path, 0, 5, interval=100, skips=3)
    assert [place for place, _ in in_log(tmp_path)["train/lr"]] == [1, 3]
    assert_same(tmp_path)


def test_gone_on_with_from_an_earlier_step_no_point_is_there_twice(tmp_path):
    """T04: killed after step 10, gone on with from 6, killed after 8, gone on with from 8; the
    second and third time the numbers are others, and only they are seen."""
    write(tmp_path, 0, 10)
    write(tmp_path, 6, 8, attempt=1)
    write(tmp_path, 8, 12, attempt=2)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    losses = dict(in_tensorboard(tmp_path)["train/loss/label"])
    expected = {k: 1 / k + (k > 6) + (k > 8) for k in range(1, 13)}
    assert losses == pytest.approx(expected)
    assert_same(tmp_path)


def test_begun_anew_nothing_of_the_old_run_is_seen(tmp_path):
    """overwrite=true: rewound to step 0."""
    write(tmp_path, 0, 8)
    write(tmp_path, 0, 3, attempt=5)
    assert {place for place, _ in in_tensorboard(tmp_path)["train/lr"]} == {1, 2, 3}
    assert_same(tmp_path)


def test_numbers_that_are_none_stay_readable(tmp_path):
    with TensorBoardLog(tmp_path / "tensorboard", enabled=True) as board:
        board.rewind(0)
        terms = LossTerms(*(torch.tensor(v) for v in (math.nan, math.inf, 0.0)))
        event = StepDone(1, 0.1, 1e-3, terms, torch.tensor(math.nan), True)
        board.write(event, log_interval=1)
    assert math.isnan(in_tensorboard(tmp_path)["train/loss/total"][0][1])


def test_off_it_writes_nothing(tmp_path):
    with TensorBoardLog(tmp_path / "tensorboard", enabled=False) as board:
        board.rewind(0)
        board.write(step(1), log_interval=1)
    assert not (tmp_path / "tensorboard").exists()


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    """Off, it is not missed."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"deitkit\[tensorboard\]") as caught:
        TensorBoardLog(tmp_path, enabled=True)
    assert caught.value.code == "MISSING_PACKAGE"
    TensorBoardLog(tmp_path, enabled=False)
