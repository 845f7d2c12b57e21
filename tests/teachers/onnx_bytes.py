"""ONNX files written byte by byte, so that a test can put anything into them. Protobuf has fields:
a number and wire type, then a whole number or counted bytes."""

from __future__ import annotations

import numpy as np

FLOAT, UINT8, FLOAT16 = 1, 2, 10
"""Element types of onnx.TensorProto."""


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def counted(number: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: np.ndarray, extra: bytes = b"") -> bytes:
    """TensorProto of float32 or int64."""
    kind = {"float32": FLOAT, "int64": 7}[str(values.dtype)]
    dims = b"".join(whole(1, side) for side in values.shape)
    return dims + whole(2, kind) + counted(8, name) + counted(9, values.tobytes()) + extra


def value_info(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    sides = [whole(1, side) if isinstance(side, int) else counted(2, side) for side in shape]
    dims = b"".join(counted(1, side) for side in sides)
    return counted(1, name) + counted(2, counted(1, whole(1, kind) + counted(2, dims)))


def node(op: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    names = b"".join(counted(1, name) for name in inputs)
    return names + counted(2, output) + counted(4, op) + attributes


def int_attribute(name: str, value: int) -> bytes:
    return counted(5, counted(1, name) + whole(3, value) + whole(20, 2))


def ints_attribute(name: str, values: list[int]) -> bytes:
    listed = b"".join(whole(8, value) for value in values)
    return counted(5, counted(1, name) + listed + whole(20, 7))


def model(graph: bytes) -> bytes:
    """ModelProto of operator set 17."""
    return whole(1, 8) + counted(7, graph) + counted(8, counted(1, "") + whole(2, 17))


def mean_colour_classifier(
    weight_CT: np.ndarray,
    bias_T: np.ndarray,
    *,
    kind: int = FLOAT,
    shape: tuple[int | str, ...] = ("n", 3, 8, 8),
    channels_last: bool = False,
    last: str = "Identity",
    tensor_extra: bytes = b"",
    graph_extra: bytes = b"",
) -> bytes:
    """Logits [B, T]: a linear layer on the mean level of each channel, then `last`."""
    axes = [1, 2] if channels_last else [2, 3]
    steps = [
        node("Cast", ["images"], "levels", int_attribute("to", FLOAT)),
        node(
            "ReduceMean",
            ["levels"],
            "means",
            ints_attribute("axes", axes) + int_attribute("keepdims", 0),
        ),
        node("Gemm", ["means", "weight", "bias"], "sums"),
        node(last, ["sums"], "logits"),
    ]
    graph = b"".join(counted(1, step) for step in steps) + counted(2, "classifier")
    graph += counted(5, tensor("weight", weight_CT, tensor_extra))
    graph += counted(5, tensor("bias", bias_T))
    graph += counted(11, value_info("images", kind, shape))
    graph += counted(12, value_info("logits", FLOAT, (shape[0], len(bias_T))))
    return model(graph + graph_extra)
