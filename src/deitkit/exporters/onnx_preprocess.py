"""`data.preprocess.preprocess` as ONNX operators, for a batch of images of one size.

One side decides how far an image is resized; the other is cut to the columns (or rows) that the
model sees before anything is resized, so that a strip of 8 x 60,000 pixels costs no more than a
square. ONNX's Resize cannot resize a part, hence it only does the side that decides; the other is a
product with the matrix of `preprocess.resize_antialiased`'s weights, built from whole numbers.
"""

# Shapes: N images, C channels, H height, W width, J pixels kept, I pixels read.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deitkit.data.preprocess import Preprocessing, covered_sides

PREFIX = "deitkit."
"""Before the names of what is written here, so that none meets one of torch's."""
SIDES = ("height", "width")


class Operators:
    """Collects operators, and puts their constants into a graph."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: set[str] = set()

    def op(self, kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        """One operator; its result is called `out`."""
        name = out if out in ("logits", "probabilities", "pixels") else PREFIX + out
        node = self.onnx.helper.make_node(kind, inputs, [name], name=PREFIX + out, **attributes)
        self.nodes.append(node)
        return name

    def const(self, name: str, value: Any, dtype: Any) -> str:
        """A constant; of one name there is one."""
        if name not in self.constants:
            self.constants.add(name)
            tensor = self.onnx.numpy_helper.from_array(np.array(value, dtype), PREFIX + name)
            self.graph.initializer.append(tensor)
        return PREFIX + name

    def whole(self, value: int) -> str:
        """int64 [1]."""
        return self.const(f"whole_{value}", [value], np.int64)

    def number(self, value: float) -> str:
        """float32, a scalar."""
        return self.const(f"number_{value:g}", value, np.float32)

    def value(self, name: str, kind: int, shape: Sequence[Any]) -> Any:
        """What a graph says of an input or output."""
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)


@dataclass(frozen=True, kw_only=True)
class Side:
    """Height or width, as names of results."""

    low: str
    """The first pixel of the source that is read."""
    high: str
    """The one after the last."""
    resized: str
    """How many there are after Resize."""
    weights_JI: str
    """float32, from there to the pixels that the model sees."""


def preprocessing_operators(ops: Operators, spec: Preprocessing) -> None:
    """uint8 images [N, H, W, C] -> float32 pixels [N, C, H, W], resized, cropped, normalised."""
    types = ops.onnx.TensorProto
    height, width = _sides(ops, spec)
    low = ops.op("Concat", [height.low, width.low], "low", axis=0)
    high = ops.op("Concat", [height.high, width.high], "high", axis=0)
    axes = ops.const("rows_and_columns", [1, 2], np.int64)
    read = ops.op("Slice", ["images", low, high, axes], "read")
    planes = ops.op("Transpose", [read], "planes", perm=[0, 3, 1, 2])
    levels = ops.op("Cast", [planes], "levels", to=types.FLOAT)
    first_two = ops.op("Shape", [levels], "batch_and_channels", start=0, end=2)
    sizes = ops.op("Concat", [first_two, height.resized, width.resized], "sizes", axis=0)
    resized = ops.op(
        "Resize",
        [levels, "", "", sizes],
        "resized",
        mode="cubic",
        antialias=1,
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )
    columns_IJ = ops.op("Transpose", [width.weights_JI], "columns", perm=[1, 0])
    across = ops.op("MatMul", [resized, columns_IJ], "across")
    cropped = ops.op("MatMul", [height.weights_JI, across], "cropped")
    most = ops.number(255)
    clipped = ops.op("Clip", [cropped, ops.number(0), most], "clipped")
    shares = ops.op("Div", [clipped, most], "shares")
    per_channel = (1, spec.channels, 1, 1)
    mean = ops.const("mean", np.reshape(spec.mean, per_channel), np.float32)
    std = ops.const("std", np.reshape(spec.std, per_channel), np.float32)
    centred = ops.op("Sub", [shares, mean], "centred")
    ops.op("Div", [centred, std], "pixels")


def _sides(ops: Operators, spec: Preprocessing) -> list[Side]:
    """Both sides; their lengths before the crop are those of `preprocess.resized_size`."""
    covered = [ops.whole(side) for side in covered_sides(spec)]
    shape = ops.op("Shape", ["images"], "shape")
    lengths = [
        ops.op("Gather", [shape, ops.whole(1 + place)], name) for place, name in enumerate(SIDES)
    ]
    if spec.resize == "squash":
        decide = [ops.const("always", [True], np.bool_)] * 2
        full = covered
    else:
        by_height = ops.op("Mul", [covered[0], lengths[1]], "by_height")
        by_width = ops.op("Mul", [covered[1], lengths[0]], "by_width")
        # Not GreaterOrEqual: of its result onnxruntime 1.20 believes that it has no elements.
        is_tall = ops.op("Less", [by_height, by_width], "is_tall")
        decide = [ops.op("Not", [is_tall], "is_wide"), is_tall]
        others = [
            ops.op("Div", [by_width, lengths[1]], "other_height"),
            ops.op("Div", [by_height, lengths[0]], "other_width"),
        ]
        full = [
            ops.op("Where", [decide[place], covered[place], others[place]], f"full_{name}")
            for place, name in enumerate(SIDES)
        ]
    return [
        _side(ops, name, lengths[place], full[place], decide[place], spec.image_size[place])
        for place, name in enumerate(SIDES)
    ]


def _side(ops: Operators, name: str, length: str, full: str, decides: str, num_kept: int) -> Side:
    """A side of `length` pixels that would have `full` before the crop to `num_kept`.

    Positions are counted in halves of a resized pixel's share of the source, so that all of them
    are whole numbers: pixel i of the source stands at (2 i + 1) full, pixel j of those that are
    kept at (2 (first + j) + 1) length, and the kernel reaches 4 max(length, full) far.
    """

    def op(kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        return ops.op(kind, inputs, f"{name}_{out}", **attributes)

    two, one = ops.whole(2), ops.whole(1)
    first = op("Div", [op("Sub", [full, ops.whole(num_kept)], "slack"), two], "first")
    twice_first = op("Mul", [first, two], "twice_first")
    twice_full = op("Mul", [full, two], "twice_full")
    reach = op("Mul", [op("Max", [length, full], "longest"), ops.whole(4)], "reach")
    begin = op("Mul", [op("Add", [twice_first, one], "first_odd"), length], "begin")
    last_odd = op("Add", [twice_first, ops.whole(2 * num_kept - 1)], "last_odd")
    end = op("Mul", [last_odd, length], "end")
    before = op("Div", [op("Sub", [begin, reach], "least"), twice_full], "before")
    after = op("Div", [op("Add", [end, reach], "most"), twice_full], "after")
    seen_low = op("Max", [before, ops.whole(0)], "seen_low")
    seen_high = op("Min", [op("Add", [after, one], "past"), length], "seen_high")
    low = op("Where", [decides, ops.whole(0), seen_low], "low")
    high = op("Where", [decides, length, seen_high], "high")
    num_read = op("Sub", [high, low], "num_read")
    resized = op("Where", [decides, full, num_read], "resized")
    now = op("Where", [decides, full, length], "length_now")
    odd_J1 = ops.const(f"{name}_odd", 2 * np.arange(num_kept)[:, None] + 1, np.int64)
    centres_J1 = op("Mul", [op("Add", [odd_J1, twice_first], "odds"), now], "centres")
    places_I = _range(ops, name, low, resized)
    sources_I = op("Mul", [op("Add", [places_I, one], "odd_places"), full], "sources")
    apart_JI = op("Sub", [centres_J1, sources_I], "apart")
    unit = op("Mul", [op("Max", [now, full], "longest_now"), two], "unit")
    weights_JI = _weights(ops, name, apart_JI, unit)
    return Side(low=low, high=high, resized=resized, weights_JI=weights_JI)


def _range(ops: Operators, name: str, low: str, num: str) -> str:
    """int64 [I]: 2 low, 2 low + 2, ... of so many."""
    zero = ops.const("zero", 0, np.int64)
    step = ops.const("step", 2, np.int64)
    axis = ops.whole(0)
    twice = ops.op("Mul", [num, ops.whole(2)], f"{name}_twice_num")
    stop = ops.op("Squeeze", [twice, axis], f"{name}_stop")
    counted = ops.op("Range", [zero, stop, step], f"{name}_counted")
    start = ops.op("Mul", [low, ops.whole(2)], f"{name}_twice_low")
    return ops.op("Add", [counted, start], f"{name}_places")


def _weights(ops: Operators, name: str, apart_JI: str, unit: str) -> str:
    """float32 [J, I]: Keys' cubic kernel of a = -1/2 at |apart| / unit, each row's sum 1."""
    kind = ops.onnx.TensorProto.FLOAT

    def op(kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        return ops.op(kind, inputs, f"{name}_{out}", **attributes)

    far_off = op("Cast", [op("Abs", [apart_JI], "distance")], "far_off", to=kind)
    x = op("Div", [far_off, op("Cast", [unit], "unit_float", to=kind)], "x")
    near = op("Sub", [op("Mul", [x, ops.number(1.5)], "near_1"), ops.number(2.5)], "near_2")
    near = op("Mul", [op("Mul", [near, x], "near_3"), x], "near_4")
    near = op("Add", [near, ops.number(1)], "near")
    far = op("Mul", [op("Sub", [x, ops.number(5)], "far_1"), x], "far_2")
    far = op("Mul", [op("Add", [far, ops.number(8)], "far_3"), x], "far_4")
    far = op("Mul", [op("Sub", [far, ops.number(4)], "far_5"), ops.number(-0.5)], "far")
    within = op("Less", [x, ops.number(2)], "within")
    outer = op("Where", [within, far, ops.number(0)], "outer")
    kernel = op("Where", [op("Less", [x, ops.number(1)], "is_near"), near, outer], "kernel")
    total = op("ReduceSum", [kernel, ops.whole(1)], "total", keepdims=1)
    return op("Div", [kernel, total], "weights")
