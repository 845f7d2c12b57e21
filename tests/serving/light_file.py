"""An exported file in a few nodes, which says how light a picture is: its answer by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deitkit.data.preprocess import Preprocessing
from deitkit.runtime.onnx_file import DIGEST_KEY, digests
from deitkit.runtime.onnx_metadata import metadata_texts


def write_light_file(path: Path, class_names: Sequence[str] = ("dark", "light")) -> Path:
    """P(light) = mean level / 255; as `toy.lightness`."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "white"], ["shares"]),
        helper.make_node("Unsqueeze", ["shares", "last"], ["light"]),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        helper.make_node("Concat", ["dark", "light"], ["probabilities"], axis=1),
        helper.make_node("Log", ["probabilities"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])
        for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(nodes, "light", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = {
        "class_names": list(class_names),
        "preprocessing": Preprocessing(image_size=(16, 16)).to_dict(),
        "model": {"name": "light"},
        "provenance": {"start": "by hand"},
    }
    for key, text in metadata_texts(facts).items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    _, digest = digests(model.SerializeToString())
    model.metadata_props.add(key=DIGEST_KEY, value=json.dumps(digest))
    path.write_bytes(model.SerializeToString())
    return path
