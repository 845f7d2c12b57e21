"""run.precision: chosen by the device, free to change, told where it is slow; the same steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deitkit.api.precision import settle_precision
from deitkit.api.request import read_request
from deitkit.augmentation import ViewPolicy
from deitkit.config import build_config
from deitkit.config.changes import find_changes
from deitkit.training.precision import choose_precision, training_dtype
from deitkit.training.step import train_step
from tests.training.toy import ConvTeacher, live_teacher, toy_images, toy_model, toy_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("device_type", "has_units", "value", "word"),
    [
        ("cpu", True, "bfloat16", "AMX"),
        ("cuda", True, "bfloat16", "cuda"),
        ("cpu", False, "float32", "cpu"),
        ("mps", False, "float32", "mps"),
    ],
)
def test_bfloat16_is_taken_where_there_are_units_for_it(device_type, has_units, value, word):
    choice = choose_precision(device_type=device_type, has_units=has_units)
    assert choice.value == value and word in choice.reason


def test_what_is_asked_is_what_products_are_computed_in(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert training_dtype("float32", CUDA) is None
    assert training_dtype("bfloat16", CPU) is torch.bfloat16
    # Parts that are put together by hand, where nobody chose: as evaluations.
    assert training_dtype("auto", CUDA) is torch.bfloat16
    assert training_dtype("auto", CPU) is None


@pytest.mark.parametrize("has_units", [True, False])
def test_a_request_is_settled_once_and_told_where_it_is_slow(monkeypatch, tmp_path, has_units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_units})
    chosen = "bfloat16" if has_units else "float32"
    request = read_request({"data": [], "out": str(tmp_path / "a")})
    settle_precision(request, CPU)
    assert request.config.run.precision == chosen and "run.precision" in request.reasons
    settle_precision(request, CPU)
    assert request.config.run.precision == chosen and request.notes == []

    settings = {"data": [], "out": str(tmp_path / "b"), "run.precision": "bfloat16"}
    asked = read_request(settings)
    settle_precision(asked, CPU)
    assert asked.config.run.precision == "bfloat16" and "run.precision" not in asked.reasons
    assert has_units or "run.precision=float32" in asked.notes[0]
    assert len(asked.notes) == (0 if has_units else 1)


def test_a_run_may_go_on_in_the_other():
    frozen = build_config({"run.precision": "bfloat16"})
    (change,) = find_changes(frozen, {}, {"run.precision": "float32"})
    assert change.kind == "free"


def test_steps_in_bfloat16_are_those_of_float32_to_a_hundredth():
    """With a teacher, mixing and micro-batches; weights, gradients and the average are float32."""

    def begin(dtype):
        state, parts, steps = toy_run(
            toy_images(44),
            batch_size=22,
            policy=ViewPolicy(crop="padded", mixup=0.8, cutmix=1.0),
            model=toy_model(distilled=True),
            teacher=live_teacher(ConvTeacher(), autocast_dtype=dtype),
            kind="soft",
            device_batch_size=8,
            decay=0.9,
        )
        return state, replace(parts, autocast_dtype=dtype), steps

    plain, plain_parts, steps = begin(None)
    half, half_parts, _ = begin(torch.bfloat16)
    losses, halved = [], []
    for step in range(8):
        losses.append(train_step(plain, steps[step], plain_parts).loss)
        halved.append(train_step(half, steps[step], half_parts).loss)
    np.testing.assert_allclose(halved, losses, rtol=0.01)
    assert halved != losses
    assert half.average is not None
    for model in (half.model, half.average.model):
        assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
