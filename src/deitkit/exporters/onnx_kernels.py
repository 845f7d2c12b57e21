"""Convolutions whose kernels are stored as bytes.

onnxruntime's own dynamic quantisation of convolutions is slower than none; so they are stored small
and computed in floating point.
"""

# Shapes: O channels out, I channels in, R rows, S columns.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXED = "filters"
"""How names of kernels end that are not learnt. Those whiten: each takes the difference of large
values, and rounding would let the values themselves through."""

Kernels = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]


def store_kernels_as_bytes(onnx: Any, graph: Any) -> None:
    """Put a DequantizeLinear in front of each Conv that learnt, with the kernels it had as unsigned
    bytes."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        is_learnt = node.op_type == "Conv" and not node.input[1].endswith(FIXED)
        tensor = constants.pop(node.input[1], None) if is_learnt else None
        if tensor is not None:
            kernels_OIRS = onnx.numpy_helper.to_array(tensor)
            names = [f"{tensor.name}_{part}" for part in ("bytes", "scale", "zero")]
            for name, array in zip(names, quantised_kernels(kernels_OIRS), strict=True):
                graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            graph.initializer.remove(tensor)
            back = onnx.helper.make_node("DequantizeLinear", names, [tensor.name], axis=0)
            nodes.append(back)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def quantised_kernels(kernels_OIRS: NDArray[np.float32]) -> Kernels:
    """bytes [O, I, R, S], scale [O], zero [O]: kernels = (bytes - zero) * scale, 0 exactly so."""
    least_O = np.minimum(kernels_OIRS.min(axis=(1, 2, 3)), 0)
    most_O = np.maximum(kernels_OIRS.max(axis=(1, 2, 3)), 0)
    scale_O = (most_O - least_O) / 255
    scale_O = np.where(scale_O > 0, scale_O, 1).astype(np.float32)
    zero_O = np.rint(-least_O / scale_O)
    levels_OIRS = np.rint(kernels_OIRS / scale_O[:, None, None, None])
    bytes_OIRS = np.clip(levels_OIRS + zero_O[:, None, None, None], 0, 255)
    return bytes_OIRS.astype(np.uint8), scale_O, zero_O.clip(0, 255).astype(np.uint8)
