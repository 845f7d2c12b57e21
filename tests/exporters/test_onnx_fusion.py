"""Fusion, temperature and metadata of an exported file, on a network that is arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.evaluation.logits import fuse
from deitkit.evaluation.metrics import softmax
from deitkit.exporters import onnx_graph
from deitkit.exporters.onnx_graph import onnx_bytes, quantised_bytes
from deitkit.runtime.onnx_metadata import read_metadata
from tests.exporters.conftest import NAMES
from tests.exporters.plain_networks import mean_colour_network, metadata_of, noise, run

SPEC = Preprocessing(image_size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
EYE = np.eye(3, dtype=np.float32)


@pytest.fixture(scope="module")
def toy(make_bundle) -> Bundle:
    """Stands for networks that are put in its place by hand."""
    shape = {"depth": 1, "embed_dim": 8, "num_heads": 1}
    return make_bundle("deit_nano_patch4_16", bundle={"preprocessing": SPEC}, **shape)


def plain(*colour: int) -> np.ndarray:
    """One image of one colour."""
    return np.broadcast_to(np.array(colour, np.uint8), (1, 20, 24, 3)).copy()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fusion": "cls"}, [3, 0, -1.5]),
        ({"fusion": "dist"}, [-6, 0, 3]),
        ({"fusion": "mean"}, [-1.5, 0, 0.75]),
        ({"fusion": "fitted", "fusion_weight": 0.25}, [0.75, 0, -0.375]),
        ({"fusion": "mean", "temperature": 3.0}, [-0.5, 0, 0.25]),
        ({"fusion": "cls", "temperature": 0.5}, [6, 0, -3]),
    ],
)
def test_fusion_by_hand(toy, monkeypatch, settings, expected):
    """(255, 128, 0) is (3, 0, -1.5) normalised: what one head says; the other says -2 times it."""
    spec = dataclasses.replace(SPEC, mean=(0.4, 128 / 255, 0.6))
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(spec, EYE, -2 * EYE))
    content = onnx_bytes(dataclasses.replace(toy, preprocessing=spec, **settings), subject="x")
    found = run(content, plain(255, 128, 0))
    assert list(found) == ["logits", "probabilities"]
    np.testing.assert_allclose(found["logits"], [expected], atol=1e-5)
    powers = np.exp(expected)
    np.testing.assert_allclose(found["probabilities"], [powers / powers.sum()], atol=1e-6)


def test_the_mean_of_probabilities_by_hand(toy, monkeypatch):
    """Heads (ln 9, 0, far below) and (0, ln 9, far below): (0.9 + 0.1) / 2 for both classes.

    At a temperature of 2 their shares are 3/4 and 1/4, and the mean is the same.
    """
    scale = np.log(9.0)
    cls, dist = (np.diag([0.0, 0, -99]).astype(np.float32) for _ in range(2))
    cls[0, 0] = dist[0, 1] = scale / 3
    cls[0, 2] = dist[0, 2] = -99
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, cls, dist))
    for temperature in (1.0, 2.0):
        bundle = dataclasses.replace(toy, fusion="softmax", temperature=temperature)
        found = run(onnx_bytes(bundle, subject="x"), plain(255, 128, 255))
        np.testing.assert_allclose(found["probabilities"], [[0.5, 0.5, 0]], atol=1e-6)
        np.testing.assert_allclose(found["logits"][0, :2], np.log(0.5), atol=1e-5)
        assert np.isfinite(found["logits"]).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("fusion", ["mean", "softmax", "fitted", "cls", "dist"])
def test_fusion_is_that_of_evaluation(toy, monkeypatch, fusion, temperature):
    """`fuse`, on the heads' logits as numpy has them."""
    chance = np.random.default_rng(5)
    cls, dist = chance.normal(size=(2, 3, 3)).astype(np.float32)
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, cls, dist))
    weight = 0.3 if fusion == "fitted" else None
    settings = {"fusion": fusion, "fusion_weight": weight, "temperature": temperature}
    images = noise(7, 23, 30, 3)
    means = np.stack([preprocess(image, SPEC).mean(axis=(1, 2)) for image in images])
    expected = fuse(
        means @ cls, means @ dist, fusion=fusion, temperature=temperature, weight=weight
    )
    found = run(onnx_bytes(dataclasses.replace(toy, **settings), subject="x"), images)
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], softmax(expected), atol=1e-5)


@pytest.mark.parametrize("fusion", ["mean", "softmax", "cls", "dist"])
def test_one_head_whatever_the_fusion(toy, monkeypatch, fusion):
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, EYE))
    bundle = dataclasses.replace(toy, fusion=fusion, temperature=2.0)
    found = run(onnx_bytes(bundle, subject="x"), plain(255, 0, 255))
    np.testing.assert_allclose(found["logits"], [[1.5, -5 / 6, 0.5]], atol=1e-5)


def test_names_and_origin_are_kept_exactly(toy, monkeypatch):
    """X04, X09: newline, NUL, 10 kB, right to left, </script>, and a byte that is no UTF-8."""
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, EYE))
    assert "\n" in NAMES[1] and "\0" in NAMES[2] and len(NAMES[2]) > 10_000
    bundle = dataclasses.replace(toy, threshold=0.25, metrics={"top1": 0.5})
    content = onnx_bytes(bundle, subject="x")
    for file in (content, quantised_bytes(content)):
        found = read_metadata(metadata_of(file), "x")
        assert found["class_names"] == list(NAMES)
        assert Preprocessing.from_dict(found["preprocessing"]) == SPEC
        assert found["provenance"] == {"lineage": "abc", "validation": {"step": 12, "top1": 0.5}}
        assert found["model"]["name"] == "deit_nano_patch4_16"
        assert (found["threshold"], found["metrics"]) == (0.25, {"top1": 0.5})


def test_a_network_that_torch_cannot_write_is_named(toy, monkeypatch):
    def fail(model, spec):
        raise torch.onnx.OnnxExporterError("no such operator\nand much more")

    monkeypatch.setattr(onnx_graph, "_network", fail)
    with pytest.raises(
        Exception, match=r"\[EXPORT\] run: torch .*: no such operator; try"
    ) as caught:
        onnx_bytes(toy, subject="run")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime.quantization"])
def test_what_is_not_installed_is_named(toy, monkeypatch, missing):
    monkeypatch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, EYE))
    content = onnx_bytes(toy, subject="x")
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(Exception, match=r"MISSING_PACKAGE.*pip install 'deitkit\[onnx\]'"):
        onnx_bytes(toy, subject="x")
        quantised_bytes(content)
