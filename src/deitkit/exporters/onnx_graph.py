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
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing, covered_sides
from deitkit.errors import ModelFileError
from deitkit.models import ImageModel
from deitkit.runtime.onnx_metadata import metadata_texts
from deitkit.runtime.optional import optional_package

OPSET = 20
"""The first whose Resize and GELU are all here; onnxruntime 1.20 of 2024 runs it."""
IR_VERSION = 10
PREFIX = "deitkit."
"""Before the names of what is written here, so that none meets one of torch's."""


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
        graph = _Graph(onnx, network.graph)
        graph.before(bundle.preprocessing)
        graph.after(bundle)
        network.ir_version = IR_VERSION
        for key, text in metadata_texts(_facts(bundle)).items():
            network.metadata_props.add(key=key, value=text)
        # Shapes that torch noted hold no longer, and quantisation would believe them.
        del network.graph.value_info[:]
        onnx.checker.check_model(network, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelFileError(
            "EXPORT",
            subject,
            f"torch {torch.__version__} cannot write this network as ONNX: {why}",
            "try another version of torch or onnxscript",
        ) from error
    content: bytes = network.SerializeToString()
    return content


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
    with _quietly():
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


@contextlib.contextmanager
def _quietly() -> Any:
    """Without what exporters say of themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Graph:
    """Adds operators in front of and behind a graph."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self.graph = graph
        self.nodes: list[Any] = []

    def op(self, kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        name = out if out in ("logits", "probabilities", "pixels") else PREFIX + out
        node = self.onnx.helper.make_node(kind, inputs, [name], name=PREFIX + out, **attributes)
        self.nodes.append(node)
        return name

    def const(self, name: str, value: Any, dtype: Any) -> str:
        array = np.array(value, dtype=dtype)
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, PREFIX + name))
        return PREFIX + name

    def value(self, name: str, kind: int, shape: Sequence[Any]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def before(self, spec: Preprocessing) -> None:
        """`data.preprocess.preprocess`, step by step, for a batch of images of one size."""
        types = self.onnx.TensorProto
        planes = self.op("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
        levels = self.op("Cast", [planes], "levels", to=types.FLOAT)
        size = self._resized_size(spec)
        first_two = self.op("Shape", [levels], "batch_and_channels", start=0, end=2)
        sizes = self.op("Concat", [first_two, size], "sizes", axis=0)
        resized = self.op(
            "Resize",
            [levels, "", "", sizes],
            "resized",
            mode="cubic",
            antialias=1,
            cubic_coeff_a=-0.5,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        )
        most = self.const("most", 255, np.float32)
        clipped = self.op("Clip", [resized, self.const("least", 0, np.float32), most], "clipped")
        wanted = self.const("wanted", spec.image_size, np.int64)
        slack = self.op("Sub", [size, wanted], "slack")
        first = self.op("Div", [slack, self.const("two", 2, np.int64)], "first")
        last = self.op("Add", [first, wanted], "last")
        cropped = self.op(
            "Slice", [clipped, first, last, self.const("axes", [2, 3], np.int64)], "cropped"
        )
        shares = self.op("Div", [cropped, most], "shares")
        per_channel = (1, spec.channels, 1, 1)
        mean = self.const("mean", np.reshape(spec.mean, per_channel), np.float32)
        std = self.const("std", np.reshape(spec.std, per_channel), np.float32)
        centred = self.op("Sub", [shares, mean], "centred")
        self.op("Div", [centred, std], "pixels")
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *rest])
        self.nodes = []
        del self.graph.input[:]
        self.graph.input.append(self.value("images", types.UINT8, ["N", "H", "W", spec.channels]))

    def _resized_size(self, spec: Preprocessing) -> str:
        """int64 [2]: height and width before the crop, in whole numbers as `resized_size`."""
        covered = covered_sides(spec)
        if spec.resize == "squash":
            return self.const("covered", covered, np.int64)
        covered_height = self.const("covered_height", covered[0], np.int64)
        covered_width = self.const("covered_width", covered[1], np.int64)
        shape = self.op("Shape", ["images"], "shape")
        height = self.op("Gather", [shape, self.const("one", 1, np.int64)], "height")
        width = self.op("Gather", [shape, self.const("the_second", 2, np.int64)], "width")
        by_height = self.op("Mul", [covered_height, width], "by_height")
        by_width = self.op("Mul", [covered_width, height], "by_width")
        is_wide = self.op("GreaterOrEqual", [by_height, by_width], "is_wide")
        long_width = self.op("Div", [by_height, height], "long_width")
        long_height = self.op("Div", [by_width, width], "long_height")
        axis = self.const("axis", [0], np.int64)
        sides = [
            self.op("Where", [is_wide, covered_height, long_height], "resized_height"),
            self.op("Where", [is_wide, long_width, covered_width], "resized_width"),
        ]
        rows = [self.op("Unsqueeze", [side, axis], side[len(PREFIX) :] + "_1") for side in sides]
        return self.op("Concat", rows, "resized_size", axis=0)

    def after(self, bundle: Bundle) -> None:
        """`evaluation.logits.fuse` and the softmax; the heads' own logits are no outputs."""
        heads = [output.name for output in self.graph.output]
        scaled = {name: name for name in heads}
        if bundle.temperature != 1:
            divisor = self.const("temperature", bundle.temperature, np.float32)
            scaled = {name: self.op("Div", [name, divisor], f"cool_{name}") for name in heads}
        cls = scaled["cls_logits"]
        dist = scaled.get("dist_logits")
        if dist is None or bundle.fusion == "cls":
            self.op("Identity", [cls], "logits")
        elif bundle.fusion == "dist":
            self.op("Identity", [dist], "logits")
        elif bundle.fusion == "softmax":
            shares = [
                self.op("Softmax", [name], f"softmax_{place}", axis=1)
                for place, name in enumerate((cls, dist))
            ]
            mean = self.op("Mean", shares, "mean_softmax")
            tiny = self.const("tiny", np.finfo(np.float32).tiny, np.float32)
            self.op("Log", [self.op("Max", [mean, tiny], "above_zero")], "logits")
        else:
            weight = 0.5 if bundle.fusion_weight is None else bundle.fusion_weight
            parts = [
                self.op("Mul", [name, self.const(f"share_{place}", share, np.float32)], f"p{place}")
                for place, (name, share) in enumerate(((cls, 1 - weight), (dist, weight)))
            ]
            self.op("Add", parts, "logits")
        self.op("Softmax", ["logits"], "probabilities", axis=1)
        self.graph.node.extend(self.nodes)
        self.nodes = []
        del self.graph.output[:]
        shape = ["N", len(bundle.class_names)]
        for name in ("logits", "probabilities"):
            kind = self.onnx.TensorProto.FLOAT
            self.graph.output.append(self.value(name, kind, shape))


def quantised_bytes(content: bytes) -> bytes:
    """The same file with int8 weights in its matrix products, computed in whole numbers.

    Weights are unsigned: onnxruntime's signed kernels overflow on CPUs without VNNI.

    Raises:
        ConfigError: MISSING_PACKAGE.
    """
    import tempfile
    from pathlib import Path

    onnx = optional_package("onnx", extra="onnx", subject="int8=true")
    tools = optional_package("onnxruntime.quantization", extra="onnx", subject="int8=true")
    model = onnx.load_from_string(content)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="deitkit-int8-") as folder:
            path = Path(folder) / "int8.onnx"
            tools.quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                weight_type=tools.QuantType.QUInt8,
            )
            return with_metadata(path.read_bytes(), {"precision": "int8"})
    finally:
        logger.setLevel(level)


def with_metadata(content: bytes, facts: Mapping[str, Any]) -> bytes:
    """The same file with these facts about itself besides."""
    onnx = optional_package("onnx", extra="onnx", subject="to=onnx")
    model = onnx.load_from_string(content)
    for key, text in metadata_texts(facts).items():
        model.metadata_props.add(key=key, value=text)
    changed: bytes = model.SerializeToString()
    return changed
