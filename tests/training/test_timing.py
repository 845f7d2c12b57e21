"""How steps and saves are timed before their number is decided, with a clock of our own."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deitkit.runtime.world import World
from deitkit.training import timing


@pytest.mark.parametrize(
    ("first_s", "step_s", "limit_s", "num_steps"),
    [
        (9.0, 0.5, 30.0, 2 + 8),
        (0.1, 0.1, 20.0, 2 + 21),
        (0.1, 0.5, 99.0, 2 + 20),
        (0.1, 0.01, 99.0, 2 + 24),
        (7.0, 7.0, 3, 4),
    ],
    ids=[
        "eight are enough",
        "until two seconds are over",
        "a tenth of the limit",
        "no more than 24",
        "slow",
    ],
)
def test_steps_are_timed_after_two_until_enough(
    monkeypatch, most_timed_steps, first_s, step_s, limit_s, num_steps
):
    """The first two steps never count, whatever they take."""
    monkeypatch.setattr(timing, "MAX_TIMED_STEPS", most_timed_steps)
    now, done = [100.0], []

    def step(state, batch, parts):
        now[0] += first_s if batch < 2 else step_s
        done.append(batch)
        return SimpleNamespace(losses=SimpleNamespace(total=torch.tensor(0.0)))

    monkeypatch.setattr(timing, "train_step", step)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assembly = SimpleNamespace(
        state=None,
        parts=None,
        world=World(),
        num_workers=0,
        batches=lambda first, last: (number for number in range(first, last)),
    )
    told: list[tuple[int, int]] = []
    got = timing._measure_step(assembly, limit_s, 0, 1, lambda *said: told.append(said))
    assert got == pytest.approx(step_s)
    assert len(done) == num_steps
    assert told[-1] == (num_steps, 2 + 24)


def saving_assembly(tensors: dict[str, torch.Tensor], saved: list[str]) -> SimpleNamespace:
    model = nn.Linear(3, 1)
    return SimpleNamespace(
        state=SimpleNamespace(pack=lambda: (tensors, {}), model=model),
        save_best=lambda folder, provenance: lambda model, scores: saved.append(str(folder)),
    )


def test_of_a_large_state_a_part_is_written_and_counted_for_all(monkeypatch):
    """Tensors of 40, 40 and 80 bytes, at most 100 written: 80 of 160, so twice the time."""
    written: list[set[str]] = []
    now = [0.0]

    def save(folder, *, tensors, **rest):
        written.append(set(tensors))
        now[0] += 3.0

    monkeypatch.setattr(timing, "save_checkpoint", save)
    monkeypatch.setattr(timing, "MAX_SAVED_BYTES", 100)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saved: list[str] = []
    tensors = {"a": torch.zeros(10), "b": torch.zeros(10), "c": torch.zeros(20)}
    _, checkpoint_s = timing.measure_saving(saving_assembly(tensors, saved))
    assert written == [{"a", "b"}]
    assert checkpoint_s == 6.0
    assert len(saved) == 1


def test_a_disk_that_refuses_costs_no_forecast(monkeypatch):
    def full(folder, **rest):
        raise OSError(28, "no space")

    monkeypatch.setattr(timing, "save_checkpoint", full)
    tensors = {"a": torch.zeros(10)}
    assert timing.measure_saving(saving_assembly(tensors, [])) == (0.0, 0.0)
