"""A bundle as one ONNX graph: decoded bytes in, the fused answer out.

The network comes from torch's exporter; what stands before it (`data.preprocess`) and after it
(`evaluation.logits.fuse`) is written here, operator by operator. Inputs and outputs:

    images         uint8 [N, H, W, C], any N, H and W; the images of a batch have one size
    logits         float32 [N, K], both heads fused, after the temperature
    probabilities  float32 [N, K]
"""

# Shapes: N images, C channels, H height, W width, K classes.

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ModelFileError
from deitkit.exporters.onnx_kernels import store_kernels_as_bytes
from deitkit.exporters.onnx_preprocess import Operators, preprocessing_operators
from deitkit.models import ImageModel
from deitkit.runtime.durable import faults_told
from deitkit.runtime.onnx_file import DIGEST_KEY, digests
from deitkit.runtime.onnx_metadata import metadata_texts
from deitkit.runtime.optional import optional_package

OPSET = 20
"""The first whose Resize and GELU are all here; onnxruntime 1.20 of 2024 runs it."""
IR_VERSION = 10


def onnx_bytes(bundle: Bundle, *, subject: str) -> bytes:
    """The whole model as one ONNX file, with class names, preprocessing and provenance in it.

    Raises:
        ConfigError: MISSING_PACKAGE onnx or onnxscript.
        ModelFileError: EXPORT, torch's exporter or ONNX's checker refuses this network.
    """
    onnx = optional_package("onnx", extra="onnx", subject="to=onnx")
    optional_package("onnxscript", extra="onnx", subject="to=onnx")
    try:
        network = _network(bundle.build_model(), bundle.preprocessing)
        _put_before(onnx, network.graph, bundle.preprocessing)
        _put_after(onnx, network.graph, bundle)
        network.ir_version = IR_VERSION
        _forget_origin(network.graph)
        _note(network, _facts(bundle))
        onnx.checker.check_model(network, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelFileError(
            "EXPORT",
            subject,
            f"torch {torch.__version__} cannot write this network as ONNX: {why}",
            "try another version of torch or onnxscript",
        ) from error
    return _sealed(network)


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "class_names": list(bundle.class_names),
        "preprocessing": bundle.preprocessing.to_dict(),
        "model": dict(bundle.model_config),
        "fusion": bundle.fusion,
        "fusion_weight": bundle.fusion_weight,
        "temperature": bundle.temperature,
        "threshold": bundle.threshold,
        "provenance": dict(bundle.provenance),
        "metrics": None if bundle.metrics is None else dict(bundle.metrics),
    }


class _Heads(nn.Module):
    """The network as the exporter wants it: a tuple of tensors."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        output = self.model(pixels_BCHW)
        if output.dist_logits is None:
            return (output.cls_logits,)
        return output.cls_logits, output.dist_logits


def _network(model: ImageModel, spec: Preprocessing) -> Any:
    """torch's own export, a ModelProto: normalised pixels -> the logits of each head."""
    names = ["cls_logits", "dist_logits"] if model.config.get("distilled") else ["cls_logits"]
    example = torch.zeros(2, spec.channels, *spec.image_size)
    with _quietly("torch.onnx"):
        program = torch.onnx.export(
            _Heads(model).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
        )
    assert program is not None, "the dynamo exporter gives a program"
    return program.model_proto


def _forget_origin(graph: Any) -> None:
    """What torch notes of where each operator comes from: paths and code of this machine.

    Shapes that it noted hold no longer, and quantisation would believe them.
    """
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.initializer):
        del part.metadata_props[:]


@contextlib.contextmanager
def _quietly(logger_name: str) -> Any:
    """Without what exporters say of themselves."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _put_before(onnx: Any, graph: Any, spec: Preprocessing) -> None:
    """The network reads what `data.preprocess` gives: that comes first."""
    ops = Operators(onnx, graph)
    preprocessing_operators(ops, spec)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*ops.nodes, *rest])
    del graph.input[:]
    kind = onnx.TensorProto.UINT8
    graph.input.append(ops.value("images", kind, ["N", "H", "W", spec.channels]))


def _put_after(onnx: Any, graph: Any, bundle: Bundle) -> None:
    """`evaluation.logits.fuse` and the softmax; the heads' own logits are no outputs."""
    ops = Operators(onnx, graph)
    heads = [output.name for output in graph.output]
    scaled = {name: name for name in heads}
    if bundle.temperature != 1:
        divisor = ops.const("temperature", bundle.temperature, np.float32)
        scaled = {name: ops.op("Div", [name, divisor], f"cool_{name}") for name in heads}
    _fuse(ops, scaled["cls_logits"], scaled.get("dist_logits"), bundle)
    ops.op("Softmax", ["logits"], "probabilities", axis=1)
    graph.node.extend(ops.nodes)
    del graph.output[:]
    shape = ["N", len(bundle.class_names)]
    for name in ("logits", "probabilities"):
        graph.output.append(ops.value(name, onnx.TensorProto.FLOAT, shape))


def _fuse(ops: Operators, cls: str, dist: str | None, bundle: Bundle) -> None:
    if dist is None or bundle.fusion == "cls":
        ops.op("Identity", [cls], "logits")
    elif bundle.fusion == "dist":
        ops.op("Identity", [dist], "logits")
    elif bundle.fusion == "softmax":
        shares = [
            ops.op("Softmax", [name], f"softmax_{place}", axis=1)
            for place, name in enumerate((cls, dist))
        ]
        mean = ops.op("Mean", shares, "mean_softmax")
        tiny = ops.const("tiny", np.finfo(np.float32).tiny, np.float32)
        ops.op("Log", [ops.op("Max", [mean, tiny], "above_zero")], "logits")
    else:
        weight = 0.5 if bundle.fusion_weight is None else bundle.fusion_weight
        parts = [
            ops.op("Mul", [name, ops.const(f"share_{place}", share, np.float32)], f"p{place}")
            for place, (name, share) in enumerate(((cls, 1 - weight), (dist, weight)))
        ]
        ops.op("Add", parts, "logits")


def quantised_bytes(content: bytes) -> bytes:
    """The same file with int8 weights: a quarter of the size.

    Matrix products are computed in whole numbers, convolutions as before. Weights are signed, for
    which onnxruntime's kernels are 2.6 times as fast as for unsigned ones, and of 7 bits: those
    kernels add two products of 8 bits in 16, which on CPUs without VNNI overflows from 129 on.

    Raises:
        ConfigError: MISSING_PACKAGE.
        ResourceError: the temporary folder cannot be written.
    """
    onnx = optional_package("onnx", extra="onnx", subject="int8=true")
    tools = optional_package("onnxruntime.quantization", extra="onnx", subject="int8=true")
    with tempfile.TemporaryDirectory(prefix="deitkit-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        with faults_told(path), _quietly(""):
            tools.quantize_dynamic(
                onnx.load_from_string(content),
                path,
                op_types_to_quantize=["MatMul"],
                weight_type=tools.QuantType.QInt8,
                reduce_range=True,
                per_channel=True,
            )
        model = onnx.load(path)
    store_kernels_as_bytes(onnx, model.graph)
    _note(model, {"precision": "int8"})
    return _sealed(model)


def _note(model: Any, facts: Mapping[str, Any]) -> None:
    """Put facts into the file's metadata; a later one replaces an earlier of the same name."""
    texts = metadata_texts(facts)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    for key, text in (kept | texts).items():
        model.metadata_props.add(key=key, value=text)


def _sealed(model: Any) -> bytes:
    """The file, and in it the digest of all the rest."""
    for entry in [entry for entry in model.metadata_props if entry.key == DIGEST_KEY]:
        model.metadata_props.remove(entry)
    _, digest = digests(model.SerializeToString())
    model.metadata_props.add(key=DIGEST_KEY, value=json.dumps(digest))
    content: bytes = model.SerializeToString()
    return content
