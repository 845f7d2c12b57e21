"""The loop: when it evaluates and saves, how it stops, what it keeps, and that it goes on."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.artifacts.checkpoint import load_newest
from deitkit.errors import DivergedError, ResourceError, StoppedError
from deitkit.flow import LossTerms
from deitkit.training import loop
from deitkit.training.events import Evaluated, Event, Finished, Saved, StepDone, Warned
from deitkit.training.loop import Fit
from deitkit.training.workers import load_steps
from tests.training.toy import bits, toy_images, toy_model, toy_run

IMAGES = toy_images(12)


class Stop:
    signal_number: int | None = None


class Bench:
    """A run in a folder; `fit()` builds everything anew from it, as a new process would."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = {"total_steps": 10, "eval_interval": 4, "checkpoint_interval": 3} | settings
        self.scores: Callable[[int, str], dict[str, float]] = lambda step, source: {
            "top1": step / 100,
            "nll": 1.0,
            "num_images": 10**6,
        }
        self.evaluated: list[tuple[int, str]] = []
        self.best: list[tuple[bool, dict[str, Any]]] = []
        self.stop = Stop()
        self.stop_in_evaluation = False

    def fit(self) -> Fit:
        state, parts, steps = toy_run(
            IMAGES,
            batch_size=6,
            model=toy_model(depth=1, embed_dim=8),
            decay=0.9,
            total_steps=self.settings["total_steps"],
        )
        found = load_newest(self.folder / "last", lineage="here")
        if found is not None:
            state.unpack(found.tensors, found.state)

        def validate(model, stop):
            source = "raw" if model is state.model else "ema"
            if self.stop_in_evaluation:
                self.stop.signal_number = int(signal.SIGTERM)
            if stop():
                return None
            self.evaluated.append((state.step, source))
            return self.scores(state.step, source)

        def save_best(model, scores):
            self.best.append((model is not state.model, scores))

        return Fit(
            state=state,
            parts=parts,
            batches=lambda first, last: load_steps(steps, first, last, workers=0),
            validate=validate,
            save_best=save_best,
            folder=self.folder / "last",
            lineage="here",
            machine={},
            stop=self.stop,
            **self.settings,
        )

    def on_disk(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The newest checkpoint, but for the seconds it took."""
        found = load_newest(self.folder / "last", lineage="here")
        return bits(found.tensors), found.state | {"seconds": 0}

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "last").glob("step-*"))


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def told(events: list[Event]) -> list[str]:
    letters = {StepDone: "step", Evaluated: "eval", Saved: "save", Finished: "end", Warned: "warn"}
    return [f"{letters[type(e)]} {getattr(e, 'step', '')}".strip() for e in events]


def run_until_error(fit: Fit) -> tuple[list[Event], Exception]:
    events: list[Event] = []
    with pytest.raises((StoppedError, DivergedError, ResourceError)) as caught:
        for event in fit.events():
            events.append(event)
    return events, caught.value


def test_steps_evaluations_and_checkpoints_come_in_this_order(bench):
    events = told(list(bench.fit().events()))
    assert events == [
        *("step 1", "step 2", "step 3", "save 3", "step 4", "eval 4", "step 5", "step 6", "save 6"),
        *("step 7", "step 8", "eval 8", "step 9", "save 9", "step 10", "eval 10", "save 10"),
        "end 10",
    ]
    assert bench.names() == ["step-00000009", "step-00000010"]
    assert bench.evaluated == [(s, source) for s in (4, 8, 10) for source in ("raw", "ema")]


def test_a_finished_fit_does_nothing_more(bench):
    list(bench.fit().events())
    before = bench.on_disk()
    assert told(list(bench.fit().events())) == ["end 10"]
    assert bench.on_disk() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_then_stops(bench, number):
    """T10, T12, T15: the step is finished, its checkpoint is there, the code is 128 + number."""
    fit = bench.fit()
    seen = []
    with pytest.raises(StoppedError) as caught:
        for event in fit.events():
            seen.append(event)
            if isinstance(event, StepDone) and event.step == 5:
                bench.stop.signal_number = int(number)
    assert told(seen)[-2:] == ["step 5", "save 5"]
    assert caught.value.exit_code == 128 + number
    assert f"deitkit train out={bench.folder}" in str(caught.value)
    assert bench.on_disk()[1]["step"] == 5


def test_stopping_where_nothing_is_new_saves_nothing(bench):
    """Asked to stop before its first step, a resumed run leaves its folder alone."""
    bench.settings["total_steps"] = 3
    list(bench.fit().events())
    bench.settings["total_steps"] = 10
    bench.stop.signal_number = 15
    events, error = run_until_error(bench.fit())
    assert (events, error.exit_code) == ([], 143)


def test_leaving_the_loop_saves(bench):
    """A notebook that breaks out of `for event in fit(...)` loses nothing."""
    events = bench.fit().events()
    for event in events:
        if isinstance(event, StepDone) and event.step == 5:
            break
    events.close()
    assert bench.on_disk()[1]["step"] == 5
    assert told(list(bench.fit().events()))[0] == "step 6"


@pytest.mark.parametrize("stop_after", range(0, 10))
def test_an_interrupted_fit_ends_with_the_same_bits(tmp_path, stop_after):
    """SAME (T10, T17): weights, average, moments, history, best and counters, at every step."""
    whole, parted = Bench(tmp_path / "whole"), Bench(tmp_path / "parted")
    all_events = told(list(whole.fit().events()))
    first: list[Event] = []
    fit = parted.fit()
    if stop_after == 0:
        parted.stop.signal_number = 15
    with pytest.raises(StoppedError):
        for event in fit.events():
            first.append(event)
            if isinstance(event, StepDone) and event.step == stop_after:
                parted.stop.signal_number = 15
    parted.stop.signal_number = None
    second = list(parted.fit().events())
    assert parted.on_disk() == whole.on_disk()
    steps_and_evaluations = [e for e in told(first + second) if not e.startswith("save")]
    assert steps_and_evaluations == [e for e in all_events if not e.startswith("save")]
    assert parted.best == whole.best


@pytest.mark.parametrize("stop_after", [0, 3, 7, 8])
def test_patience_ends_a_run_early_and_at_the_same_step_after_a_stop(tmp_path, stop_after):
    """Best at step 4 of 20, evaluated every 2: three more evaluations end it after step 10."""

    def patient(folder: Path) -> Bench:
        bench = Bench(folder, total_steps=20, eval_interval=2, patience=3)
        bench.scores = lambda step, source: {
            "top1": 0.9 - abs(step - 4) / 100,
            "nll": 1.0 + abs(step - 4),
            "num_images": 100,
        }
        return bench

    whole, parted = patient(tmp_path / "whole"), patient(tmp_path / "parted")
    events = list(whole.fit().events())
    assert told(events)[-4:] == ["eval 10", "save 10", "warn", "end 10"]
    (said,) = [event.text for event in events if isinstance(event, Warned)]
    assert "after step 10 of 20: 3 evaluations" in said
    stopped = parted.fit().events()
    for event in stopped:
        if stop_after == 0 or getattr(event, "step", 0) == stop_after:
            break
    stopped.close()
    assert told(list(parted.fit().events()))[-1] == "end 10"
    assert parted.on_disk() == whole.on_disk()
    assert told(list(parted.fit().events())) == ["warn", "end 10"]


@pytest.mark.parametrize("interval", [3, 4, 5], ids="checkpoint-{}".format)
@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_an_interrupted_evaluation_is_done_again(tmp_path, interval, evaluation):
    """T01: the evaluation at step 4, 8 or 10 (the last) is cut; all of it comes after the resume,
    and the last checkpoint is that of a run which was never cut."""
    whole = Bench(tmp_path / "whole", checkpoint_interval=interval)
    list(whole.fit().events())
    parted = Bench(tmp_path / "parted", checkpoint_interval=interval)
    at = [0, 4, 8, 10][evaluation]
    fit = parted.fit()
    events: list[Event] = []
    with pytest.raises(StoppedError):
        for event in fit.events():
            events.append(event)
            parted.stop_in_evaluation = isinstance(event, StepDone) and event.step == at
    assert told(events)[-1] == f"save {at}"
    assert parted.on_disk()[1]["evaluated_step"] < at
    parted.stop_in_evaluation, parted.stop.signal_number = False, None
    assert told(list(parted.fit().events()))[0] == f"eval {at}"
    assert parted.on_disk() == whole.on_disk()
    assert [entry["step"] for entry in parted.on_disk()[1]["history"]] == [4, 8, 10]


def failing_saves(monkeypatch, failures: set[int]) -> list[int]:
    """The saves of these numbers (from 1) meet a full disk."""
    real, calls = loop.save_checkpoint, []

    def save(folder, *, step, **more):
        calls.append(step)
        if len(calls) in failures:
            raise ResourceError("DISK_FULL", folder, "no space left", "free some")
        return real(folder, step=step, **more)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    return calls


def test_a_failed_save_is_a_warning_and_the_next_is_tried(bench, monkeypatch):
    """T20: two failures, a success, two failures: the count starts again, training goes on."""
    bench.settings |= {"checkpoint_interval": 1, "total_steps": 6, "eval_interval": 100}
    calls = failing_saves(monkeypatch, {1, 2, 4, 5})
    events = told(list(bench.fit().events()))
    assert events[1] == "warn" and events.count("warn") == 4
    assert calls == [1, 2, 3, 4, 5, 6]
    assert bench.on_disk()[1]["step"] == 6


def test_the_third_failed_save_ends_the_run(bench, monkeypatch):
    """T20: ERR 6 after three in a row; what was saved before stays."""
    bench.settings |= {"checkpoint_interval": 1}
    failing_saves(monkeypatch, {3, 4, 5})
    events, error = run_until_error(bench.fit())
    assert (error.exit_code, told(events).count("warn")) == (6, 2)
    assert bench.on_disk()[1]["step"] == 2


NUM = {"num_images": 10**6}


def test_the_best_of_weights_and_average_is_kept(bench):
    """Accuracy first, then likelihood; of equals the later; the source is written down."""
    table = {
        (4, "raw"): (0.5, 1.0),
        (4, "ema"): (0.5, 0.9),  # same accuracy, likelier
        (8, "raw"): (0.4, 0.1),
        (8, "ema"): (0.49, 0.1),  # likelier, and certainly less accurate
        (10, "raw"): (0.6, 2.0),
        (10, "ema"): (0.5, 0.1),
    }
    bench.scores = lambda step, source: {
        "top1": table[step, source][0],
        "nll": table[step, source][1],
        "num_images": 10**6,
    }
    events = [e for e in bench.fit().events() if isinstance(e, Evaluated | Finished)]
    assert bench.best == [
        (True, {"step": 4, "source": "ema", "top1": 0.5, "nll": 0.9, "peak_top1": 0.5} | NUM),
        (False, {"step": 10, "source": "raw", "top1": 0.6, "nll": 2.0, "peak_top1": 0.6} | NUM),
    ]
    assert [e.is_best for e in events[:-1]] == [True, False, True]
    assert events[-1].best["source"] == "raw"
    assert set(events[0].scores) == {"raw", "ema"}


def test_without_an_average_only_the_weights_are_evaluated(bench):
    fit = bench.fit()
    fit.state.average = None
    found = [e for e in fit.events() if isinstance(e, Evaluated)]
    assert [list(e.scores) for e in found] == [["raw"]] * 3


def test_three_steps_without_a_gradient_end_the_run(bench):
    """T26: ERR 7 naming step, rate, norm and images; the best weights so far stay."""
    fit = bench.fit()

    def poisoned(output, targets, teacher_logits, *, normalizer, **more):
        zero = output.cls_logits.sum() * (math.nan if fit.state.step >= 4 else 1.0)
        return LossTerms(zero, zero, zero)

    fit = dataclasses.replace(fit, parts=dataclasses.replace(fit.parts, loss=poisoned))
    events, error = run_until_error(fit)
    assert [e.step for e in events if isinstance(e, StepDone) and e.skipped] == [5, 6, 7]
    assert (error.exit_code, error.subject) == (7, "step 7")
    last = next(e for e in reversed(events) if isinstance(e, StepDone))
    assert f"{last.sample_ids[0]:016x}" in error.why and "gradient norm nan" in error.why
    assert f"{last.lr:.3g}" in error.why
    assert [scores["step"] for _, scores in bench.best] == [4]
    assert all(torch.isfinite(p).all() for p in fit.state.model.parameters())


@given(
    total=st.integers(1, 30),
    eval_interval=st.integers(1, 35),
    checkpoint_interval=st.integers(1, 35),
)
@settings(max_examples=60, deadline=None)
def test_every_interval_is_kept(total, eval_interval, checkpoint_interval, tmp_path_factory):
    """At each multiple and at the end, each once, an evaluation before the save of its step."""
    settings = {"total_steps": total, "eval_interval": eval_interval}
    bench = Bench(tmp_path_factory.mktemp("run"), **settings)
    bench.settings["checkpoint_interval"] = checkpoint_interval
    saves: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", count_only)
        patch.setattr(loop, "save_checkpoint", lambda folder, *, step, **more: saves.append(step))
        events = told(list(bench.fit().events()))

    def due(interval: int) -> list[int]:
        return sorted({*range(interval, total + 1, interval), total})

    assert saves == due(checkpoint_interval)
    assert [e for e in events if e.startswith("eval")] == [f"eval {s}" for s in due(eval_interval)]
    assert [e for e in events if e.startswith("step")] == [f"step {s}" for s in range(1, total + 1)]
    for step in set(due(eval_interval)) & set(saves):
        assert events.index(f"eval {step}") < events.index(f"save {step}")


def count_only(state, batch, parts) -> StepDone:
    state.step += 1
    zero = torch.zeros(())
    return StepDone(state.step, 0.0, 0.0, LossTerms(zero, zero, zero), zero, False)
