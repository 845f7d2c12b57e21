"""Runs side by side: numbers counted by hand, and what is not the same in settings and data."""

# Shapes: N images, K classes.

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import deitkit
from deitkit.api.comparing import compare
from deitkit.artifacts.bundle import load_bundle, save_bundle
from deitkit.errors import ConfigError
from deitkit.reporting.comparison import comparison_page
from tests.api.conftest import SHORT, leave_after
from tests.reporting.page_tree import check_self_contained, parse, words_of


@pytest.fixture(scope="module")
def other(tmp_path_factory, photos) -> Path:
    """Trained longer and under another seed."""
    out = tmp_path_factory.mktemp("runs") / "other"
    deitkit.train(data=photos, out=out, **(SHORT | {"epochs": 4, "seed": 5}))
    return out


def right_answers(run: Path, folder: Path) -> dict[str, bool]:
    """Picture by picture, through predict: whether its folder's name is said."""
    found = {}
    for prediction in deitkit.open_run(run).predict(folder):
        found[prediction.source] = prediction.class_name == Path(prediction.source).parent.name
    return found


def exact_p_value(b: int, c: int) -> Fraction:
    """McNemar: two-sided binomial with 1/2, as fractions."""
    tail = sum(Fraction(math.comb(b + c, k), 2 ** (b + c)) for k in range(min(b, c) + 1))
    return min(Fraction(1), 2 * tail)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory, finished_once) -> Path:
    """The first run with noise in its head: it says other classes of some pictures."""
    bundle = load_bundle(finished_once)
    weights = dict(bundle.state_dict)
    noise = torch.randn(weights["head.weight"].shape, generator=torch.Generator().manual_seed(0))
    weights["head.weight"] = weights["head.weight"] + 0.5 * noise
    folder = tmp_path_factory.mktemp("bundles") / "spoilt"
    save_bundle(folder, replace(bundle, state_dict=weights))
    return folder


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory, photos) -> Path:
    """The training pictures in class folders by chance, so that each run is right on some."""
    folder = tmp_path_factory.mktemp("shuffled") / "photos"
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted((photos / "train").rglob("*.png"))):
        target = folder / str(rng.choice(["a", "b", "c"])) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def test_the_numbers_are_those_counted_by_hand(finished_once, spoilt, shuffled):
    found = compare([finished_once, spoilt], data=shuffled)
    first, second = (right_answers(run, shuffled) for run in (finished_once, spoilt))
    names = list(first)
    b = sum(second[name] and not first[name] for name in names)
    c = sum(first[name] and not second[name] for name in names)
    assert b > 0 and c > 0, "or there is little to test"
    gain = found.runs[1].gain
    assert found.runs[0].gain is None and gain is not None
    assert gain.p_value == pytest.approx(float(exact_p_value(b, c)))
    assert gain.difference == pytest.approx((b - c) / len(names))
    assert gain.interval[0] < gain.difference < gain.interval[1]
    for one, right in zip(found.runs, (first, second), strict=True):
        assert one.metrics.num_images == len(names) == 42
        assert one.metrics.top1 == pytest.approx(sum(right.values()) / len(names))
        assert one.metrics.top1_interval[0] < one.metrics.top1 < one.metrics.top1_interval[1]
    assert [one.num_params for one in found.runs] == [load_params(finished_once)] * 2


def load_params(run: Path) -> int:
    return sum(value.numel() for value in load_bundle(run).state_dict.values())


def test_without_data_the_images_are_those_of_the_first_run(finished_once, other, photos):
    """Its validation images, as evaluate takes them where there is no test split."""
    found = compare([finished_once, other])
    assert [one.epochs for one in found.runs] == [2, 4]
    assert found.runs[0].metrics.num_images == 15
    result = deitkit.open_run(finished_once).result
    assert found.runs[0].metrics.top1 == pytest.approx(result["val_top1"])


def test_settings_that_differ_and_no_others(finished_once, other):
    settings = compare([finished_once, other]).settings
    assert settings["schedule.epochs"] == ("2", "4")
    assert settings["run.seed"] == ("0", "5")
    assert not {"run.out", "run.overwrite", "data.path", "model.name"} & set(settings)


def test_a_run_beside_itself_differs_in_nothing(finished_once, tmp_path):
    twin = shutil.copytree(finished_once, tmp_path / "twin")
    found = compare([finished_once, twin])
    assert (found.settings, found.data) == ({}, {})
    gain = found.runs[1].gain
    assert (gain.difference, gain.p_value) == (0, 1)


def test_data_that_differ(finished_once, photos, tmp_path):
    """Two pictures fewer and a corrected label: other counts, another content."""
    fewer = Path(shutil.copytree(photos, tmp_path / "fewer"))
    (fewer / "train" / "a" / "0.png").unlink()
    (fewer / "train" / "b" / "1.png").unlink()
    (fewer / "train" / "c" / "2.png").rename(fewer / "train" / "a" / "moved.png")
    leave_after(3, data=fewer, out=tmp_path / "run", **(SHORT | {"schedule.eval_interval": 2}))
    found = compare([finished_once, tmp_path / "run"])
    assert found.data["train images"] == ("42", "40")
    assert found.data["source"] == (str(photos), str(fewer))
    assert len(set(found.data["content, classes and split"])) == 2
    assert "val images" not in found.data
    assert found.runs[1].seconds is None, "it is not finished"
    shutil.rmtree(tmp_path / "run")


def test_classes_in_another_order_are_matched_by_name(finished_once, photos, tmp_path):
    """The same weights with their outputs turned round answer the same."""
    bundle = load_bundle(finished_once)
    order = [2, 0, 1]
    weights = dict(bundle.state_dict)
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name][order].clone()
    turned = replace(bundle, class_names=[bundle.class_names[k] for k in order], state_dict=weights)
    save_bundle(tmp_path / "turned", turned)
    found = compare([finished_once, tmp_path / "turned"], data=photos / "train")
    first, second = (one.metrics for one in found.runs)
    np.testing.assert_array_equal(first.confusion_KK, second.confusion_KK)
    assert second.nll == pytest.approx(first.nll)
    assert found.runs[1].gain.p_value == 1
    assert (found.settings, found.data) == ({}, {}), "of a bundle alone nothing is known"
    assert (found.runs[1].seconds, found.runs[1].epochs) == (None, None)


def test_runs_of_other_classes_cannot_be_compared(finished_once, tmp_path):
    bundle = load_bundle(finished_once)
    save_bundle(tmp_path / "others", replace(bundle, class_names=["x", "y", "z"]))
    with pytest.raises(ConfigError, match="it does not know a, b, c") as caught:
        compare([finished_once, tmp_path / "others"])
    assert caught.value.code == "OTHER_CLASSES"
    with pytest.raises(ConfigError, match="name two or more") as caught:
        compare([finished_once])
    assert caught.value.code == "FEW_RUNS"


def test_names_tell_runs_of_one_name_apart(finished_once, tmp_path):
    for place in ("x", "y"):
        shutil.copytree(finished_once, tmp_path / place / "run")
    found = compare([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [one.name for one in found.runs] == ["x/run", "y/run"]


def test_the_page_shows_the_numbers_and_both_curves(finished_once, other, photos):
    found = compare([finished_once, other], data=photos / "train")
    facts = found.to_dict()
    page = comparison_page(facts, {one.name: one.log for one in found.runs}, version="1")
    check_self_contained(page)
    words = words_of(page)
    for one in facts["runs"]:
        assert f"{100 * one['metrics']['top1']:.1f} %" in words
        low, high = one["metrics"]["top1_interval"]
        assert f"{100 * low:.1f} % to {100 * high:.1f} %" in words
    gain = facts["runs"][1]["gain"]
    assert f"{100 * gain['difference']:+.1f} points" in words
    assert f"{gain['p_value']:.3f}" in words
    for title in ("Validation accuracy", "Label loss", "Settings that differ"):
        assert title in words
    # In both charts a line of each run, in the legend and in the plot.
    assert words.count("other") >= 4
    assert page.count(b"<polyline") >= 8


def test_a_hostile_name_stays_text(finished_once, tmp_path):
    """S23: of folders; and the same elements as under a harmless one."""
    pages = []
    for name in ("<img src=x onerror=alert(1)>", "harmless"):
        shutil.copytree(finished_once, tmp_path / f"{name}-1")
        shutil.copytree(finished_once, tmp_path / f"{name}-2")
        found = compare([tmp_path / f"{name}-1", tmp_path / f"{name}-2"])
        logs = {one.name: one.log for one in found.runs}
        pages.append(comparison_page(found.to_dict(), logs, version="1"))
    hostile, harmless = pages
    check_self_contained(hostile)
    assert parse(hostile).elements == parse(harmless).elements
    assert "<img src=x onerror=alert(1)>-2" in words_of(hostile)
