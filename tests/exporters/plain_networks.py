"""Networks for exports that take a moment: of a few operators by hand, or torch's, made once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.exporters import onnx_graph
from deitkit.models import ImageModel

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DROPS = {"attn_drop": 0.3, "proj_drop": 0.3, "pos_drop": 0.3, "drop_path": 0.5}
TWO_HEADS: dict[str, Any] = {"name": "deit_nano_distilled_patch4_16", "depth": 2, **DROPS}
"""A network that several tests export, so that torch's exporter is asked once."""

Network = Callable[[ImageModel, Preprocessing], Any]
_torchs_own: Network = onnx_graph._network
_made: dict[str, bytes] = {}


def torch_network(model: ImageModel, spec: Preprocessing) -> Any:
    """What torch's exporter makes, once for the same network: fusion and names stand outside."""
    key = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for tensor in model.state_dict().values():
        key.update(tensor.numpy().tobytes())
    if key.hexdigest() not in _made:
        _made[key.hexdigest()] = _torchs_own(model, spec).SerializeToString()
    return onnx.load_from_string(_made[key.hexdigest()])


def network(
    nodes: Sequence[Any],
    spec: Preprocessing,
    num_classes: int,
    *,
    outputs: Sequence[str] = ("cls_logits", "dist_logits"),
    **constants: Any,
) -> Network:
    """pixels -> `nodes` -> the heads' logits; float32 constants by name."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = ["n", spec.channels, *spec.image_size]
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info(name, kind, ["n", num_classes]) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)]
    ).SerializeToString()
    return lambda model, spec: onnx.load_from_string(content)


def mean_colour_network(
    spec: Preprocessing, cls_CK: np.ndarray, dist_CK: np.ndarray | None = None
) -> Network:
    """Each head is a matrix on the mean of each channel of the normalised pixels."""
    helper = onnx.helper
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("MatMul", ["means", "cls"], ["cls_logits"]),
    ]
    if dist_CK is None:
        return network(nodes, spec, cls_CK.shape[1], outputs=["cls_logits"], cls=cls_CK)
    nodes.append(helper.make_node("MatMul", ["means", "dist"], ["dist_logits"]))
    return network(nodes, spec, cls_CK.shape[1], cls=cls_CK, dist=dist_CK)


def session_of(content: bytes) -> Any:
    """onnxruntime on the file, as somebody without deitkit opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Every output by name."""
    session = session_of(content)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images_NHWC}), strict=True))


def metadata_of(content: bytes) -> dict[str, str]:
    """The file's own texts by name."""
    texts: dict[str, str] = session_of(content).get_modelmeta().custom_metadata_map
    return texts


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """uint8."""
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape).astype(np.uint8)


def pictures(num: int, height: int, width: int, channels: int, *, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W, C] of colours far apart, with some noise."""
    chance = np.random.default_rng([seed, num, height, width])
    colours = chance.integers(0, 2, (num, 1, 1, channels)) * 200
    ramp = chance.integers(-60, 60, (num, 1, 1, 1)) * np.linspace(-1, 1, width)[:, None]
    grain = noise(num, height, width, channels, seed=seed) / 4
    return np.clip(colours + ramp + grain, 0, 255).astype(np.uint8)


@torch.no_grad()
def outspoken(bundle: Bundle) -> Bundle:
    """Its heads spread pictures over all classes, each with logits of mean 0 and deviation 2."""
    spec = bundle.preprocessing
    images = np.stack([preprocess(x, spec) for x in pictures(64, 20, 24, spec.channels)])
    output = bundle.build_model()(torch.from_numpy(images))
    weights = {key: value.clone() for key, value in bundle.state_dict.items()}
    for logits, names in zip(output, (("head", "head.fc"), ("head_dist",)), strict=True):
        for name in names:
            if f"{name}.weight" in weights:
                mean, scale = logits.mean(dim=0), 2 / logits.std(dim=0)
                weights[f"{name}.bias"] = (weights[f"{name}.bias"] - mean) * scale
                weights[f"{name}.weight"] *= scale[:, None]
    return dataclasses.replace(bundle, state_dict=weights)
