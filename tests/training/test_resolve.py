"""From "auto" to values: everything is settled, everything has a reason, the user's word stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.config import AUTO, RunConfig, build_config, flatten, with_values
from deitkit.data import Dataset, open_dataset
from deitkit.errors import ConfigError
from deitkit.training.compile_choice import settle_compile
from deitkit.training.resolution import Resolution
from deitkit.training.resolve import as_pair, resolve_from_clock, resolve_from_data
from deitkit.training.resolve_teacher import settle_teacher_cache
from deitkit.training.sources import settle_sources


def dataset(side: int = 16, num: int = 40, names: tuple[str, ...] = ("cat", "dog")) -> Dataset:
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 200, (side, side, 3), dtype=np.uint8), names[i % len(names)])
        for i in range(num)
    ]
    return open_dataset(pairs, keep_bytes=2**30)


SMALL = dataset()


def resolve(settings: dict[str, object], data: Dataset = SMALL, **clock: float) -> Resolution:
    r = resolve_from_data(build_config(settings), data, device_type="cpu", num_cores=2)
    settle_sources(
        r,
        data.train,
        render_size=as_pair(r.get("data.image_size")),
        in_memory=data.train.is_in_memory,
        free_disk=10**9,
    )
    times = {"step_s": 0.01, "evaluation_s": 0.1, "seconds_left": 20.0} | clock
    resolve_from_clock(r, steps_per_epoch=5, **times)
    settle_compile(r, device_type="cpu", step_s=times["step_s"], fault=lambda: None)
    settle_teacher_cache(
        r, num_images=40, num_classes=len(data.class_names), free_disk=10**9, free_memory=10**9
    )
    r.settle_ranks(1, "asked for")
    return r


@pytest.mark.parametrize(
    "settings",
    [{}, {"epochs": 3}, {"model": "small_cnn"}, {"budget": "5s"}, {"teacher": "runs/teacher"}],
    ids=str,
)
def test_nothing_stays_undecided_and_all_has_a_reason(settings):
    r = resolve(settings)
    open_names = {n for n, v in flatten(r.config).items() if v == AUTO}
    # With a number of epochs nobody needs a budget, and the reverse; `device` is picked later, and
    # with it the precision is, before a teacher is asked (api/precision.py).
    undecided = {"schedule.epochs", "schedule.budget", "run.device", "run.precision"}
    assert open_names <= undecided
    before = flatten(build_config(settings))
    changed = {n for n, v in flatten(r.config).items() if v != before[n]}
    assert changed - {"data.image_size"} <= set(r.reasons)
    assert all(reason.strip() for reason in r.reasons.values())


USERS = {
    "image_size": st.sampled_from([8, 16, (16, 24)]),
    "model": st.sampled_from(["small_cnn", "deit_nano_patch4_16", "deit_micro_patch8_32"]),
    "init": st.just("runs/old"),
    "data.resize": st.sampled_from(["squash", "shorter"]),
    "data.crop_ratio": st.floats(0.2, 1),
    "data.mean": st.just((0.1, 0.2, 0.3)),
    "data.std": st.just((0.4, 0.5, 0.6)),
    "views.crop": st.sampled_from(["none", "padded", "random_resized"]),
    "views.padding": st.floats(0, 1),
    "views.flip": st.floats(0, 1),
    "views.mixup": st.floats(0, 2),
    "views.cutmix": st.floats(0, 2),
    "views.scale": st.just((0.3, 0.9)),
    "batch_size": st.integers(2, 64),
    "optim.device_batch_size": st.integers(2, 64),
    "lr": st.floats(1e-5, 1),
    "optim.min_lr": st.floats(0, 1e-3),
    "optim.warmup": st.floats(0, 0.5),
    "epochs": st.integers(1, 50),
    "schedule.steps": st.integers(1, 500),
    "schedule.eval_interval": st.integers(1, 50),
    "schedule.checkpoint_interval": st.integers(1, 50),
    "distill.weight": st.floats(0, 1),
    "workers": st.integers(0, 4),
    "run.view_seed": st.integers(0, 9),
    "run.weight_seed": st.integers(0, 9),
}


@given(st.fixed_dictionaries({}, optional=USERS))
@settings(max_examples=60, deadline=None)
def test_a_users_value_is_never_replaced(given_settings):
    config = build_config(given_settings)
    r = resolve(given_settings)
    before, after = flatten(config), flatten(r.config)
    defaults = flatten(RunConfig())
    for name, value in before.items():
        if value != defaults[name]:
            kept = after[name] if name != "data.image_size" else after[name][0]
            expected = value[0] if name == "data.image_size" and isinstance(value, tuple) else value
            assert kept == expected, name
            assert name not in r.reasons, name


def test_a_pair_of_sides_stays_a_pair():
    assert resolve({"image_size": (16, 24), "model": "small_cnn"}).get("data.image_size") == (
        16,
        24,
    )


def test_epochs_times_steps_per_epoch_is_the_number_of_steps():
    """Whatever the clock says: three epochs of five steps are 15."""
    for step_s in (1e-4, 10.0):
        assert resolve({"epochs": 3}, step_s=step_s).get("schedule.steps") == 15


def test_a_run_without_time_still_trains_a_step():
    r = resolve({}, seconds_left=-5.0)
    assert r.get("schedule.steps") >= 1
    assert 1 <= r.get("schedule.checkpoint_interval") <= max(1, r.get("schedule.eval_interval"))


def test_statistics_are_those_of_the_training_images():
    """Mean and deviation of levels of 0 to 1 at the student's size; here every pixel is read."""
    levels = np.stack([SMALL.train.image(i) for i in range(len(SMALL.train))]) / 255
    r = resolve({})
    assert r.get("data.mean") == pytest.approx(levels.mean(axis=(0, 1, 2)), abs=1e-4)
    assert r.get("data.std") == pytest.approx(levels.std(axis=(0, 1, 2)), abs=1e-4)


def test_an_image_size_the_patches_do_not_divide_is_refused_with_one_that_fits():
    with pytest.raises(ConfigError, match="image_size=24x24") as caught:
        resolve({"model": "deit_nano_patch8_16", "image_size": 22})
    assert caught.value.exit_code == 2


def test_a_kind_of_distillation_without_a_teacher_is_refused():
    with pytest.raises(ConfigError, match="teacher=runs/teacher"):
        resolve({"distill.kind": "soft"})


def test_digits_are_not_mirrored_and_cats_are():
    assert resolve({}, dataset(names=("0", "1"))).get("views.flip") == 0.0
    assert resolve({}).get("views.flip") > 0.0


def test_of_epochs_and_budget_the_first_to_end_counts():
    """3 epochs of 10 steps: 30 steps where 100 s allow 1,000 of 0.1 s, 20 where they allow 20."""
    for step_s, steps in ((0.1, 30), (5.0, 20)):
        config = build_config({"data": "x", "epochs": 3, "budget": "110s", "image_size": 16})
        resolution = Resolution(with_values(config, {"data.crop_ratio": 1.0}))
        resolve_from_clock(
            resolution, step_s=step_s, evaluation_s=0.0, steps_per_epoch=10, seconds_left=100.0
        )
        assert resolution.get("schedule.steps") == steps


@pytest.mark.parametrize(
    ("asked", "strengths"),
    [
        ({}, (1.0,) * 9 + (0.0,)),
        ({"views.cutmix": 0.5}, (1.0,) * 9 + (0.0,)),
        ({"views.mixup": 0.8, "views.cutmix": 1.0}, ()),
        ({"views.mixup": 0.0, "views.cutmix": 0.0}, ()),
        ({"strengths": (0.5, 1.0)}, (0.5, 1.0)),
    ],
    ids=str,
)
def test_mixing_that_was_chosen_ends_before_the_run_does(asked, strengths):
    """Of 300 epochs, in which Mixup and CutMix are chosen; what a user set is not cut short."""
    r = resolve({"epochs": 300, **asked})
    assert r.get("schedule.strengths") == strengths
