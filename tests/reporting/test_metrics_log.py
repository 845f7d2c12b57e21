"""metrics.jsonl: each step once, whatever was interrupted, and always JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.flow import LossTerms
from deitkit.reporting.metrics_log import MetricsLog
from deitkit.training.events import Evaluated, StepDone


def step(number: int, *, loss: float = 1.5, skipped: bool = False) -> StepDone:
    terms = LossTerms(*(torch.tensor(v) for v in (loss, 1.0, 0.5)))
    return StepDone(number, number / 3, 1e-3, terms, torch.tensor(loss), skipped)


def evaluated(number: int) -> Evaluated:
    scores = {"raw": {"top1": 0.5, "nll": 1.0}}
    return Evaluated(number, number / 3, scores, True, {"step": number})


def lines(path) -> list[dict]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    text = path.read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write(path, numbers, *, interval: int = 1, evaluate_every: int = 4) -> None:
    with MetricsLog(path, enabled=True) as log:
        for number in numbers:
            log.write(step(number), log_interval=interval)
            if number % evaluate_every == 0:
                log.write(evaluated(number), log_interval=interval)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_a_step_is_a_line_of_numbers(path):
    write(path, [1])
    assert lines(path) == [
        {
            "event": "step",
            "step": 1,
            "epoch": 0.3333,
            "lr": 1e-3,
            "loss": 1.5,
            "label_loss": 1.0,
            "distill_loss": 0.5,
            "grad_norm": 1.5,
            "skipped": False,
        }
    ]


def test_every_third_step_and_the_first_and_every_evaluation(path):
    write(path, range(1, 11), interval=3)
    found = [(line["event"], line["step"]) for line in lines(path)]
    steps = [("step", s) for s in (1, 3, 6, 9)]
    assert sorted(found) == sorted([*steps, ("evaluated", 4), ("evaluated", 8)])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_is_written_and_stays_json(path, poison):
    """Other programs read this file: NaN and Infinity are no JSON; they become null."""
    with MetricsLog(path, enabled=True) as log:
        log.write(step(2, loss=poison, skipped=True), log_interval=100)
    (line,) = lines(path)
    assert (line["loss"], line["grad_norm"], line["label_loss"]) == (None, None, 1.0)
    assert line["skipped"] is True


@given(stops=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_each_step_once_after_any_interruptions(stops, tmp_path_factory):
    """T04: killed somewhere, perhaps in the middle of a line; gone on from an earlier step."""
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    start = 0
    for num_more, num_cut in stops:
        log = MetricsLog(path, enabled=True)
        log.rewind(start)
        write(path, range(start + 1, min(start + num_more, 12) + 1))
        if num_cut and path.is_file():
            # The last line is cut short; what it told is lost, so that step is done again.
            whole = path.read_bytes()
            last = whole.rstrip(b"\n").rfind(b"\n") + 1
            path.write_bytes(whole[: max(last, len(whole) - num_cut)])
        start = min(start + num_more // 2, 12)
    MetricsLog(path, enabled=True).rewind(start)
    write(path, range(start + 1, 13))
    steps = [line["step"] for line in lines(path) if line["event"] == "step"]
    assert steps == sorted(set(steps)), "a step is there twice or out of order"
    assert set(range(start + 1, 13)) <= set(steps)
    assert all(line["step"] <= 12 for line in lines(path))


@pytest.mark.parametrize(
    "torn",
    [b'{"event": "step", "st', b"\0" * 40, b"\xff\xfe\x80", b"7", b"[]", b'{"step": "x"}', b"{}"],
    ids=repr,
)
def test_what_is_no_line_of_ours_is_dropped(path, torn):
    write(path, [1, 2])
    path.write_bytes(path.read_bytes() + torn)
    MetricsLog(path, enabled=True).rewind(2)
    assert [line["step"] for line in lines(path)] == [1, 2]
    write(path, [3])
    assert [line["step"] for line in lines(path)] == [1, 2, 3]


def test_rewinding_to_zero_leaves_nothing(path):
    write(path, range(1, 6))
    MetricsLog(path, enabled=True).rewind(0)
    assert path.read_bytes() == b""


def test_a_line_is_on_disk_as_soon_as_it_is_written(path):
    with MetricsLog(path, enabled=True) as log:
        log.write(step(1), log_interval=1)
        assert len(lines(path)) == 1


def test_other_ranks_write_nothing(path):
    write(path, [1])
    before = path.read_bytes()
    with MetricsLog(path, enabled=False) as log:
        log.rewind(0)
        log.write(step(5), log_interval=1)
    assert path.read_bytes() == before
