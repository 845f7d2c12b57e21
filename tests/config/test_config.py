"""Settings from text, files and keywords: what is taken, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deitkit.config import (
    SHORT_NAMES,
    RunConfig,
    build_config,
    flatten,
    parse_duration_s,
    read_config_file,
    write_config_text,
)
from deitkit.config.changes import find_changes
from deitkit.config.help import settings_help
from deitkit.config.names import FOREIGN_NAMES
from deitkit.errors import ConfigError


def test_text_becomes_the_type_of_the_field():
    config = build_config(
        {
            "data": "photos",
            "image_size": "64x48",
            "views.scale": "0.2,1",
            "optim.clip_norm": "none",
            "overwrite": "true",
            "lr": "1e-3",
            "epochs": "3",
            "batch_size": "auto",
        }
    )
    assert config.data.path == "photos"
    assert config.data.image_size == (64, 48)
    assert config.views.scale == (0.2, 1.0)
    assert config.optim.clip_norm is None
    assert config.run.overwrite is True
    assert config.optim.lr == 1e-3
    assert config.schedule.epochs == 3
    assert config.optim.batch_size == "auto"


@pytest.mark.parametrize(
    ("foreign", "right"),
    [("imgsz", "image_size"), ("batch", "batch_size"), ("epoch", "epochs")],
)
def test_foreign_names_are_answered_with_the_right_one(foreign, right):
    with pytest.raises(ConfigError, match=f"it is {right}= here"):
        build_config({foreign: "3"})


def test_every_answer_to_a_foreign_name_is_a_setting():
    known = set(flatten(RunConfig())) | set(SHORT_NAMES)
    assert set(FOREIGN_NAMES.values()) <= known
    assert not set(FOREIGN_NAMES) & known
    assert set(SHORT_NAMES.values()) <= set(flatten(RunConfig()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epohcs": "3"}, "did you mean epochs"),
        ({"distill.kindd": "hard"}, "did you mean distill.kind"),
        ({"reduction": "numel"}, "write distill.reduction"),
        ({"epochs": "many"}, "give a whole number or auto"),
        ({"epochs": "2.5"}, "give a whole number or auto"),
        ({"epochs": 0}, "give a value from 1"),
        ({"lr": "nan"}, "give a number or auto"),
        ({"overwrite": "maybe"}, "give true or false"),
        ({"distill.kind": "sofft"}, "give auto or soft or standardised or hard or none"),
        ({"budget": "5 parsecs"}, "write 90s, 30m or 2h"),
        ({"image_size": "0"}, "give a value from 1"),
        ({"lr": "1", "optim.lr": "2"}, "set twice"),
    ],
)
def test_what_cannot_be_right_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build_config(values)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2h", 7200), ("45", 45)]
)
def test_durations(text, seconds):
    assert parse_duration_s(text) == seconds


@given(st.text(max_size=12))
def test_a_duration_is_positive_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert parse_duration_s(text) > 0


def test_a_written_config_is_read_back_equal(tmp_path):
    config = build_config({"data": "x", "image_size": "32x48", "views.scale": "0.1,0.9"})
    path = tmp_path / "config.yaml"
    path.write_text(
        write_config_text(
            config, asked={"data.path": "x"}, reasons={"a": "b"}, identity={}, header="h"
        )
    )
    values, information = read_config_file(path)
    assert build_config(values) == config
    assert information["asked"] == {"data.path": "x"}


def test_a_typo_in_a_file_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"distill": {"temperatur": 2}}))
    with pytest.raises(ConfigError, match=r"did you mean distill\.temperature"):
        read_config_file(path)
    path.write_text(yaml.safe_dump({"distil": {"temperature": 2}}))
    with pytest.raises(ConfigError, match="no such setting"):
        read_config_file(path)


def test_every_setting_is_explained_and_every_range_names_a_setting():
    from deitkit.config.loading import _RANGES

    explained = settings_help()
    assert set(explained) == set(flatten(RunConfig()))
    assert all(len(item.text) > 15 for item in explained.values())
    assert set(_RANGES) <= set(explained)


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ({"optim.lr": 5e-4}, []),
        ({"optim.lr": "auto"}, []),
        ({"data.image_size": 32}, []),
        ({"run.workers": 5}, ["free"]),
        ({"schedule.epochs": 20}, ["free"]),
        ({"schedule.epochs": 5}, ["needs_flag"]),
        ({"optim.lr": 1e-3}, ["needs_flag"]),
        ({"run.seed": 1}, ["needs_flag"]),
        ({"model.name": "deit_tiny_patch16_224"}, ["forbidden"]),
        ({"data.image_size": 64}, ["forbidden"]),
    ],
    ids=lambda value: str(value),
)
def test_t41_what_may_change_on_a_resume(asked, kinds):
    """T41: free, needs a flag, forbidden."""
    frozen = build_config(
        {"lr": 5e-4, "epochs": 10, "image_size": "32x32", "model": "deit_nano_patch4_32"}
    )
    frozen = dataclasses.replace(frozen)
    before = {"optim.lr": "auto", "schedule.epochs": 10}
    assert [change.kind for change in find_changes(frozen, before, asked)] == kinds
