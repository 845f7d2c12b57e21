"""Classes of very different sizes: what is chosen; a killed run ends with the same bits."""

from __future__ import annotations

import signal
from pathlib import Path

import yaml

from tests.journeys.conftest import TINY, make_folder
from tests.journeys.final_state import final_state

SIZES = {"blue": 20, "green": 8, "red": 5}


def test_skewed_classes_are_seen_and_balanced_ones_left_alone(commands, photos, tmp_path):
    skewed = make_folder(tmp_path / "skewed", SIZES)
    for words, balance, reason in (
        ((f"data={photos}",), "none", "10 to 10 images a class"),
        ((f"data={skewed}",), "sampling", "4 to 18 images a class"),
        ((f"data={skewed}", "views.repeats=2"), "logits", "4 to 18 images a class"),
    ):
        out = tmp_path / balance
        assert commands("train", *words, *TINY, f"out={out}").code == 0
        config = yaml.safe_load((out / "config.yaml").read_text())
        assert config["data"]["balance"] == balance
        assert config["reasons"]["data.balance"].startswith(reason)
    metrics = commands("evaluate", tmp_path / "logits", "--json").json["heads"]["fused"]
    recalls = [row["recall"] for row in metrics["per_class"]]
    assert abs(metrics["macro"] - sum(recalls) / 3) < 1e-9
    assert metrics["macro_interval"][0] < metrics["macro"] < metrics["macro_interval"][1]


def test_balanced_sampling_goes_on_with_the_same_bits(commands, tmp_path):
    skewed = make_folder(tmp_path / "skewed", SIZES)
    words = ("train", f"data={skewed}", *TINY, "data.balance=sampling", "run.report=false")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert commands(*words, f"out={whole}").code == 0
    hooks = {"names": ["step"], "at": 8, "signal": signal.SIGKILL}
    assert commands.start(*words, f"out={cut}", hooks=hooks).wait().code == -9
    assert commands("train", f"out={cut}").code == 0
    assert final_state(cut) == final_state(whole)


def test_what_cannot_be_had_together_is_said(commands, tmp_path: Path):
    skewed = make_folder(tmp_path / "skewed", SIZES)
    words = ("train", f"data={skewed}", *TINY, "data.balance=sampling", "views.repeats=3")
    refused = commands(*words, f"out={tmp_path / 'out'}")
    assert refused.code == 2 and "views.repeats=3" in refused.err
    assert "use data.balance=logits" in refused.err
