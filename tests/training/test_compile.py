"""run.compile: chosen with a reason, refused with a reason, and the same steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from deitkit.augmentation import ViewPolicy
from deitkit.config import build_config
from deitkit.errors import ConfigError
from deitkit.models.deit import DeiT
from deitkit.runtime import compiler
from deitkit.runtime.compiler import compiler_fault
from deitkit.runtime.world import World
from deitkit.training import assemble as assembling
from deitkit.training.assemble import assemble
from deitkit.training.compile_choice import choose_compile
from deitkit.training.sizes import SizePhases
from deitkit.training.step import train_step
from tests.training.test_resolve import SMALL, resolve
from tests.training.toy import ConvTeacher, live_teacher, toy_images, toy_model, toy_run

CPU = torch.device("cpu")
LONG_ON_CUDA = {
    "is_transformer": True,
    "has_dropout": False,
    "device_type": "cuda",
    "seconds": 900.0,
    "fault": lambda: None,
}


@pytest.mark.parametrize(
    ("other", "value", "words"),
    [
        ({}, True, "15 min"),
        ({"seconds": 599.0}, False, "599 s"),
        ({"device_type": "cpu"}, False, "cpu"),
        ({"is_transformer": False}, False, "transformers"),
        ({"has_dropout": True}, False, "dropout"),
        ({"fault": lambda: "there is no compiler"}, False, "there is no compiler"),
    ],
    ids=["long on cuda", "short", "cpu", "cnn", "dropout", "no compiler"],
)
def test_auto_compiles_long_runs_on_cuda(other, value, words):
    choice = choose_compile(**(LONG_ON_CUDA | other))
    assert choice.value is value and words in choice.reason


def test_the_choice_is_written_down_and_the_users_stays():
    r = resolve({})
    assert r.config.run.compile is False and "cpu" in r.reasons["run.compile"]
    asked = resolve({"run.compile": "true"})
    assert asked.config.run.compile is True and "run.compile" not in asked.reasons


def test_without_a_compiler_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler_fault(CPU) == "there is no compiler (no-such-compiler)"
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"run\.compile.*no compiler \(g\+\+ or clang\+\+\)") as e:
        assemble(resolve({"run.compile": True}).config, SMALL, world=World())
    assert "run.compile=false" in str(e.value)


def test_what_has_nothing_to_compile_is_refused(monkeypatch):
    monkeypatch.setattr(assembling, "compiler_fault", lambda device: None)
    with pytest.raises(ConfigError, match="small_cnn has no transformer blocks"):
        config = resolve({"run.compile": True, "model": "small_cnn"}).config
        assemble(config, SMALL, world=World())
    with pytest.raises(ConfigError, match="dropout"):
        toy_model(proj_drop=0.1).compile_blocks()


def test_a_changed_setting_of_a_finished_run_is_free():
    """It changes no more than the last bits, as the device does."""
    from deitkit.config.changes import find_changes

    frozen = build_config({"run.compile": True})
    (change,) = find_changes(frozen, {}, {"run.compile": False})
    assert change.kind == "free"


@pytest.mark.slow
def test_compiled_steps_are_the_steps():
    """Losses of ten steps within 1e-5: dropped paths, a teacher, growing images, a last
    micro-batch of another size. The average computes with its own weights, the names are the same,
    and a run that is not compiled goes on from the state."""

    from torch._dynamo import config as dynamo

    def begin(*, compiled: bool):
        state, parts, steps = toy_run(
            toy_images(44),
            batch_size=22,
            policy=ViewPolicy(crop="padded", mixup=0.8, cutmix=1.0),
            model=toy_model(distilled=True, depth=3, drop_path=0.4),
            teacher=live_teacher(ConvTeacher()),
            kind="soft",
            device_batch_size=8,
            decay=0.9,
        )
        steps.sizes = SizePhases(sizes=((8, 8), (16, 16)), total_steps=8)
        if compiled:
            assert isinstance(state.model, DeiT)
            state.model.compile_blocks()
        return state, parts, steps

    plain, parts, steps = begin(compiled=False)
    fast, fast_parts, _ = begin(compiled=True)
    losses = [train_step(plain, steps[step], parts).loss for step in range(8)]
    # A frame that was compiled too often would silently run as it was.
    with dynamo.patch(fail_on_recompile_limit_hit=True):
        compiled = [train_step(fast, steps[step], fast_parts).loss for step in range(8)]
    np.testing.assert_allclose(compiled, losses, rtol=1e-5)
    assert list(fast.pack()[0]) == list(plain.pack()[0])
    images = torch.rand(2, 3, 16, 16)
    copied = copy.deepcopy(fast.model).train()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(images).cls_logits.any()

    resumed, resumed_parts, _ = begin(compiled=False)
    tensors, numbers = fast.pack()
    resumed.unpack({n: t.clone() for n, t in tensors.items()}, copy.deepcopy(numbers))
    for step in (8, 9):
        one = train_step(resumed, steps[step], resumed_parts)
        two = train_step(fast, steps[step], fast_parts)
        np.testing.assert_allclose(one.loss, two.loss, rtol=1e-5)
