"""A step whose gradient is no number: the device decides as the host does, and nobody waits."""

from __future__ import annotations

import copy
import dataclasses
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode

from deitkit.augmentation import ViewPolicy
from deitkit.flow import LossTerms
from deitkit.optim import WeightAverage
from deitkit.teachers import LiveTeacher
from deitkit.training.events import StepDone
from deitkit.training.parts import TrainParts
from deitkit.training.state import TrainState
from deitkit.training.step import train_step
from deitkit.training.verdict import DeviceVerdict, HostVerdict, judge_for
from tests.training.test_loop import Bench, run_until_error, told
from tests.training.toy import (
    ConvTeacher,
    bits,
    live_teacher,
    toy_images,
    toy_model,
    toy_run,
)

EVERYTHING = ViewPolicy(
    scale=(0.3, 1.0), mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.9
)


def run_of(judge: Any, optimizer: str) -> tuple[TrainState, TrainParts, Any]:
    state, parts, steps = toy_run(
        toy_images(24), batch_size=8, model=toy_model(drop_path=0.3), optimizer=optimizer
    )
    state.average = WeightAverage(state.model, decay=0.9, warmup=True)
    return state, dataclasses.replace(parts, judge=judge), steps


def poison(parts: TrainParts, factor: float) -> TrainParts:
    healthy = parts.loss

    def poisoned(*args: Any, **more: Any) -> LossTerms:
        terms = healthy(*args, **more)
        return terms._replace(total=terms.total * factor)

    return dataclasses.replace(parts, loss=poisoned)


@pytest.mark.parametrize("bad", [(), (0, 1), (3,)], ids=["none", "the first", "a later one"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_device_decides_as_the_host_does(optimizer, bad):
    """T26: after six steps, some without a finite gradient, every bit of weights, average and
    moments is that of the host's decision, and so are the counters."""
    ends, numbers = [], []
    for judge in (HostVerdict, DeviceVerdict):
        state, parts, steps = run_of(judge, optimizer)
        for step in range(6):
            use = poison(parts, math.nan if step % 2 else math.inf) if step in bad else parts
            done = train_step(state, steps[step], use)
            assert bool(done.skipped) == (step in bad)
        tensors, values = state.pack()
        ends.append(bits(tensors))
        numbers.append(values)
    host, device = ends
    assert host == device
    assert numbers[0] == numbers[1] and numbers[0]["num_updates"] == 6 - len(bad)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_step_the_device_skips_leaves_every_bit(optimizer):
    """T26: weights, average, moments and step counters, after a step that moved all of them; the
    counters say so, and survive a checkpoint."""
    state, parts, steps = run_of(DeviceVerdict, optimizer)
    train_step(state, steps[0], parts)
    kept = bits(state.pack()[0])
    for step in (1, 2):
        train_step(state, steps[step], poison(parts, math.nan))
        assert bits(state.pack()[0]) == kept
    tensors, numbers = state.pack()
    assert (numbers["step"], numbers["num_updates"], numbers["bad_in_a_row"]) == (3, 1, 2)
    other, _, _ = run_of(DeviceVerdict, optimizer)
    other.unpack({name: t.clone() for name, t in tensors.items()}, copy.deepcopy(numbers))
    assert other.pack()[1] == numbers
    train_step(other, steps[3], parts)
    assert (int(other.num_updates), int(other.bad_in_a_row)) == (2, 0)


def test_cuda_decides_for_itself_and_nothing_else_does():
    kinds = ("cpu", "mps", "cuda")
    judges = [judge_for(torch.device(kind)) for kind in kinds]
    assert judges == [HostVerdict, HostVerdict, DeviceVerdict]


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a device: a read, or a copy that blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.num_sent = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = str(func), kwargs or {}
        inside = [a for a in args if isinstance(a, torch.Tensor) and a.is_meta]
        if inside:
            assert "_local_scalar_dense" not in name and "nonzero" not in name, name
            assert "bincount" not in name and "masked_select" not in name, name
        target = kwargs.get("device")
        if "_to_copy" in name and target is not None and args[0].device != target:
            assert target.type == "meta", f"{name} brings numbers back"
            assert kwargs.get("non_blocking"), f"{name} waits"
            self.num_sent += 1
        if "aten.copy_" in name and args[0].device != args[1].device:
            assert args[2] if len(args) > 2 else kwargs.get("non_blocking"), f"{name} waits"
        return func(*args, **kwargs)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_nothing_in_a_step_waits_for_the_device(optimizer, monkeypatch):
    """The whole step on torch's device without memory, from which nothing can be read: rendering,
    operations, erasing, mixing, teacher, dropped paths, loss, clipping, update, average; every
    number that is sent there is sent without blocking."""
    here = torch.device("meta")
    model = toy_model(distilled=True, drop_path=0.5)
    state, parts, steps = toy_run(
        toy_images(24),
        batch_size=12,
        policy=EVERYTHING,
        model=model,
        teacher=live_teacher(ConvTeacher()),
        kind="soft",
        optimizer=optimizer,
        device_batch_size=8,
    )
    steps.on_device = True
    batch = steps[0]
    assert batch.sources_BHWC is not None and (batch.views.ops_BL > 0).any()
    state.model.to(here)
    classifier = live_teacher(ConvTeacher()).classifier.on(here)
    parts.teacher.teacher = LiveTeacher(classifier, class_columns=[0, 1, 2])
    state.average = WeightAverage(state.model, decay=0.9, warmup=True)
    parts = dataclasses.replace(parts, device=here, judge=DeviceVerdict)
    # Neither knows such a device; the first does nothing without a dtype.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(clip_grad, "_device_has_foreach_support", lambda device: True)
    with NoWaiting() as waiting:
        for _ in range(2):
            done = train_step(state, batch, parts)
    assert isinstance(done.skipped, torch.Tensor) and done.skipped.is_meta
    assert waiting.num_sent > 20
    with pytest.raises(RuntimeError, match="meta"):
        bool(done.skipped)


def test_a_late_answer_changes_nothing_of_what_is_told(tmp_path):
    """The same events in the same order with the same losses, and the same checkpoint."""
    found = []
    for judge in (HostVerdict, DeviceVerdict):
        bench = Bench(tmp_path / judge.__name__)
        fit = bench.fit()
        fit = dataclasses.replace(fit, parts=dataclasses.replace(fit.parts, judge=judge))
        events = list(fit.events())
        losses = [e.loss for e in events if isinstance(e, StepDone)]
        assert not any(e.skipped is not False for e in events if isinstance(e, StepDone))
        found.append((told(events), losses, bench.on_disk()))
    assert found[0] == found[1]


def test_three_steps_the_device_skipped_end_the_run(tmp_path):
    """T26: the error names the third, and each was told of, though it is known one step late."""
    fit = Bench(tmp_path, total_steps=12).fit()
    state = fit.state

    def poisoned(output, *args, **more):
        zero = output.cls_logits.sum() * (math.nan if state.step >= 4 else 1.0)
        return LossTerms(zero, zero, zero)

    parts = dataclasses.replace(fit.parts, loss=poisoned, judge=DeviceVerdict)
    events, error = run_until_error(dataclasses.replace(fit, parts=parts))
    assert [e.step for e in events if isinstance(e, StepDone) and e.skipped] == [5, 6, 7]
    assert (error.exit_code, error.subject) == (7, "step 7")
    assert "gradient norm nan" in error.why
