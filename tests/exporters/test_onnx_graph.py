"""Networks as torch exports them, opened with onnxruntime alone: torch is the oracle."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.metrics import softmax
from deitkit.evaluation.predictor import Predictor
from deitkit.exporters import onnx_graph
from deitkit.exporters.onnx_graph import onnx_bytes, quantised_bytes
from deitkit.exporters.onnx_kernels import quantised_kernels
from deitkit.runtime.onnx_metadata import read_metadata
from tests.exporters.plain_networks import (
    DROPS,
    TWO_HEADS,
    metadata_of,
    noise,
    onnx,
    outspoken,
    pictures,
    run,
    session_of,
    torch_network,
)

SIZES = [(16, 16), (8, 9), (31, 20), (19, 64), (60, 45)]


@pytest.fixture(autouse=True)
def torchs_export_once(monkeypatch):
    monkeypatch.setattr(onnx_graph, "_network", torch_network)


GREY = Preprocessing(
    image_size=(24, 32), resize="squash", crop_ratio=0.8, channels=1, mean=(0.3,), std=(0.2,)
)
NETWORKS: dict[str, dict[str, Any]] = {
    "two heads, all kinds of dropout": {
        **TWO_HEADS,
        "bundle": {"fusion": "fitted", "fusion_weight": 0.3, "temperature": 1.5},
    },
    "convolutions, LayerScale": {
        "name": "deit_nano_conv_distilled_patch4_16",
        "depth": 1,
        "layer_scale": 0.1,
        "bundle": {"fusion": "softmax"},
    },
    "DeiT III, grey, oblong, squashed": {
        "name": "deit_nano_patch4_16",
        "depth": 1,
        "image_size": (24, 32),
        "in_channels": 1,
        "pos_embed_cls": False,
        "bundle": {"preprocessing": GREY},
    },
    "pooling stem": {"name": "deit_slim_quick_distilled_patch4_16"},
    "quick_cnn": {"name": "quick_cnn_narrow", "bundle": {"temperature": 0.8}},
    "small_cnn": {"name": "small_cnn", "bundle": {"temperature": 0.8}},
    "RegNetY": {"name": "regnety_002", "image_size": 32, "depth": 4},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name == "RegNetY" else [])
        for name in NETWORKS
    ],
)
def bundle(request, make_bundle) -> Bundle:
    return outspoken(make_bundle(**NETWORKS[request.param]))


def test_torch_says_the_same(bundle):
    """X01, X02, X03: in eval mode, both heads, any size, batches of 1, 2, 7 and 33."""
    predictor = Predictor(bundle, device=torch.device("cpu"))
    session = session_of(onnx_bytes(bundle, subject="x"))
    seen = []
    for (height, width), num in zip(SIZES, itertools.cycle((1, 2, 7, 33)), strict=False):
        images = pictures(num, height, width, bundle.preprocessing.channels)
        expected = predictor.probabilities(list(images))
        (got,) = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5)
        (logits,) = session.run(["logits"], {"images": images})
        np.testing.assert_allclose(softmax(logits), got, rtol=0, atol=1e-5)
        seen.append(expected)
    assert np.concatenate(seen).std(axis=0).min() > 0.1, "pictures get different answers"


def test_onnx_accepts_the_file(bundle):
    """X05: onnx's checker; the operators and the format of the oldest onnxruntime we name."""
    content = onnx_bytes(bundle, subject="x")
    for file in (content, quantised_bytes(content)):
        model = onnx.load_from_string(file)
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
        assert model.ir_version <= 10
        domains = {node.domain for node in model.graph.node}
        assert domains <= {"", "ai.onnx"}
        # onnxruntime 1.20 takes the results of these for empty, and then refuses Resize.
        assert not {"GreaterOrEqual", "LessOrEqual"} & {node.op_type for node in model.graph.node}


def test_int8_is_a_quarter_and_says_nearly_the_same(bundle):
    content = onnx_bytes(bundle, subject="x")
    small = quantised_bytes(content)
    model = onnx.load_from_string(small)
    images = pictures(7, 31, 20, bundle.preprocessing.channels)
    drift = np.abs(run(small, images)["probabilities"] - run(content, images)["probabilities"])
    pools = bundle.model_config["name"].startswith(("quick_cnn", "deit_slim_quick"))
    # Pooling networks that learnt nothing have pictures that differ by little, which heads magnify.
    assert 1e-6 < drift.max() < (0.2 if pools else 0.15)
    # What is left in 32 bits is no matrix and no kernel.
    kept = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
    ]
    assert not [name for name in kept if "weight" in name], kept
    # Filters that whiten are differences of large values: rounded, they let those through.
    assert any(name.endswith("filters") for name in kept) == pools
    small_types = onnx.TensorProto.INT8, onnx.TensorProto.UINT8
    weights = [t for t in model.graph.initializer if t.data_type in small_types]
    assert sum(len(t.raw_data) for t in weights) > 0.9 * sum(
        tensor.numel() for tensor in bundle.state_dict.values() if tensor.ndim in (2, 4)
    )
    assert read_metadata(metadata_of(small), "x")["precision"] == "int8"


def test_int8_products_fit_on_every_cpu(bundle):
    """Without VNNI two products of a byte, up to 255, and a weight are added in 16 bits."""
    model = onnx.load_from_string(quantised_bytes(onnx_bytes(bundle, subject="x")))
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert products
    for node in products:
        weight_IO = weights[node.input[1]]
        assert weight_IO.dtype == np.int8 and not weights[node.input[3]].any()
        assert 255 * 2 * np.abs(weight_IO.astype(np.int32)).max() < 2**15
        assert np.abs(weight_IO).max(axis=0).min() >= 63, "each column uses its whole range"


def test_kernels_as_bytes_by_hand():
    """-1 to 1.55 in steps of 0.01: -1 is byte 0, 0 byte 100, 1.55 byte 255; a row of 0 stays 0."""
    kernels = np.array([[-1, 0, 0.5, 1.55], [0, 0, 0, 0], [0.2, 0.1, 0.4, 0.51]], np.float32)
    found, scale, zero = quantised_kernels(kernels.reshape(3, 1, 2, 2))
    np.testing.assert_array_equal(found.reshape(3, 4)[0], [0, 100, 150, 255])
    np.testing.assert_allclose(scale, [0.01, 1, 0.002], rtol=1e-6)
    np.testing.assert_array_equal(zero, [100, 0, 0])
    back = (found.reshape(3, 4) - zero[:, None].astype(np.float32)) * scale[:, None]
    np.testing.assert_allclose(back, kernels, atol=1e-6)


def test_dropout_in_the_config_changes_nothing(make_bundle):
    """X02: the same weights without any dropout, asked in torch, answer as the file does."""
    bundle = outspoken(make_bundle(**NETWORKS["two heads, all kinds of dropout"]))
    assert all(bundle.model_config[name] == rate for name, rate in DROPS.items())
    calm = dataclasses.replace(
        bundle, model_config=dict(bundle.model_config) | dict.fromkeys(DROPS, 0.0)
    )
    content = onnx_bytes(bundle, subject="x")
    images = pictures(7, 16, 20, 3)
    expected = Predictor(calm, device=torch.device("cpu")).probabilities(list(images))
    for _ in range(2):
        np.testing.assert_allclose(run(content, images)["probabilities"], expected, atol=2e-5)
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert not [kind for kind in kinds if "Dropout" in kind or "Random" in kind]


def test_nothing_of_this_machine_is_in_the_file(make_bundle):
    """torch notes the path and the source line of each operator."""
    bundle = outspoken(make_bundle(**NETWORKS["two heads, all kinds of dropout"]))
    content = onnx_bytes(bundle, subject="x")
    for said in (b".py", b"site-packages", b"deitkit/", onnx_graph.__file__.encode()):
        assert said not in content
        assert said not in quantised_bytes(content)


@pytest.mark.slow
def test_the_same_bundle_gives_the_same_bytes(make_bundle, monkeypatch):
    monkeypatch.undo()
    bundle = make_bundle("deit_nano_distilled_patch4_16", depth=1)
    first, second = (onnx_bytes(bundle, subject="x") for _ in range(2))
    assert first == second
    assert quantised_bytes(first) == quantised_bytes(second)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "regnety_002"])
def test_at_full_size_torch_says_the_same(name, make_bundle):
    bundle = make_bundle(name)
    predictor = Predictor(bundle, device=torch.device("cpu"))
    images = noise(3, 375, 500, 3)
    expected = predictor.probabilities(list(images))
    found = run(onnx_bytes(bundle, subject="x"), images)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-4)
