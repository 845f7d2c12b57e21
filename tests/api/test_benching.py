"""`deitkit bench`: what is timed is what is used, and the figures follow from the calls."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from deitkit.api import benching
from deitkit.api.benching import bench
from deitkit.cli.main import main
from deitkit.errors import ConfigError
from deitkit.exporters import onnx_graph
from deitkit.reporting.bench_table import print_bench
from deitkit.reporting.console import make_console

pytest.importorskip("onnxruntime")


@pytest.fixture
def torchs_export_once(monkeypatch):
    from tests.exporters.plain_networks import torch_network

    monkeypatch.setattr(onnx_graph, "_network", torch_network)


def test_figures_follow_from_the_calls_by_hand():
    """Calls of 1, 2, 3, 4 and 10 seconds with 6 pictures: median 3 s, two pictures a second."""
    row = benching._row("torch", 6, [1.0, 2.0, 3.0, 4.0, 10.0])
    assert (row.median_ms, row.images_per_s, row.num_calls) == (3000.0, 2.0, 5)
    assert row.p95_ms == pytest.approx(1000 * (4 + 0.8 * 6))


def test_ways_take_turns_until_each_had_its_time(monkeypatch):
    """A slow way and a fast one: both get their seconds, never two calls in a row at first."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    order = []

    def way(name: str, seconds: float):
        def ask(pictures):
            order.append(name)
            clock[0] += seconds

        return ask

    ways = {"slow": way("slow", 0.5), "fast": way("fast", 0.1)}
    pictures = [np.zeros((2, 2, 3), np.uint8)]
    calls = benching._time(ways, pictures, [1], 2.0, lambda *told: None)
    assert order[:10] == ["slow", "fast"] * 5
    assert len(calls["slow", 1]) == 5, "at least five calls"
    assert sum(calls["fast", 1]) >= 2.0 - 1e-9


def test_all_ways_give_the_same_answers(torchs_export_once):
    """What bench calls are the predictor and the exported files, in one order of classes."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import torch

    bundle = benching._bundle_of("deit_nano_distilled_patch4_16")
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    with TemporaryDirectory() as folder:
        ways = benching._ways(bundle, Path(folder), torch.device("cpu"), False)
        answers = {name: build()(pictures) for name, build in ways}
    assert list(answers) == ["torch", "onnx", "onnx, int8"]
    np.testing.assert_allclose(answers["onnx"], answers["torch"], atol=1e-4)
    np.testing.assert_allclose(answers["onnx, int8"], answers["torch"], atol=1e-3)


def test_the_table_says_what_was_found_and_what_fails(capsys):
    rows = [
        {"way": "torch", "batch_size": 4, "images_per_s": 1234.56, "median_ms": 3.24}
        | {"p95_ms": 4.0, "num_calls": 9, "why": ""},
        {"way": "onnx", "batch_size": 4, "images_per_s": None, "median_ms": None}
        | {"p95_ms": None, "num_calls": 0, "why": "it needs onnx"},
    ]
    facts = {"model": "deit", "picture_size": [16, 24], "machine": {"cpu": "x"}, "rows": rows}
    print_bench(make_console(stderr=False), facts)
    said = capsys.readouterr().out
    assert "deit, pictures of 24x16" in said and "onnx: it needs onnx" in said
    assert "1,234.6" in said and "3.2 ms" in said and "4.0 ms" in said


@pytest.mark.parametrize("wrong", [{"batch_sizes": (0,)}, {"batch_sizes": ()}, {"seconds": 0}])
def test_what_cannot_be_timed_is_refused(wrong):
    with pytest.raises(ConfigError, match="BAD_VALUE"):
        bench("deit_nano_patch4_16", **wrong)


def test_the_command_prints_json(torchs_export_once, capsys):
    words = ["bench", "deit_nano_distilled_patch4_16", "batch=1,4", "seconds=0.05"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["way"], row["batch_size"]) for row in found["rows"]] == [
        (way, size) for way in ("torch", "onnx", "onnx, int8") for size in (1, 4)
    ]
    for row in found["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["num_calls"] >= 5
        assert row["images_per_s"] == pytest.approx(1000 * row["batch_size"] / row["median_ms"])
    assert main(["bench", "deit_nano_patch4_16", "batch=one"]) == 2
    assert "[BAD_VALUE]" in capsys.readouterr().err
