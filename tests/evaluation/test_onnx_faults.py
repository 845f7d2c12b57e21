"""Exported files that the disk damaged or a stranger wrote: refused, with nothing run."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deitkit.errors import ModelFileError
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.exporters import onnx_graph
from tests.evaluation.toy_export import SPEC, by_a_stranger, by_hand, toy_content
from tests.exporters.plain_networks import onnx, pictures


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "model.onnx").write_bytes(toy_content())
    return tmp_path / "model.onnx"


def refused(path: Path, code: str, said: str = "") -> None:
    with pytest.raises(ModelFileError) as caught:
        OnnxPredictor(path)
    assert (caught.value.code, caught.value.exit_code) == (code, 5), str(caught.value)
    assert said in str(caught.value)


def test_flipped_bits_are_all_refused(path):
    """M07: the file alone, wherever it was copied to."""
    chance = random.Random(0)
    codes = set()
    content = toy_content()
    for _ in range(300):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ModelFileError) as caught:
            OnnxPredictor(path)
        codes.add(caught.value.code)
    assert "DIGEST" in codes
    path.write_bytes(content)
    OnnxPredictor(path)


def facts(**values: Any) -> Callable[[Any], None]:
    return lambda model: onnx_graph._note(model, values)


def text(key: str, value: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == f"deitkit.{key}")
        entry.value = value

    return change


def weights_of(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "dist")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[1, 2] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    return change


def lying_output(model: Any) -> None:
    """Says it answers 5 classes, as many as have names."""
    facts(class_names=list("abcde"))(model)
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 5


def custom_operator(model: Any) -> None:
    model.graph.node[0].domain = "com.example.shell"


@pytest.mark.parametrize(
    ("fault", "change", "code", "said"),
    [
        ("M08", facts(class_names=["a", "b"]), "CONFIG_LIES", "2 classes have names, it answers 3"),
        ("M08", facts(class_names=list("abcd")), "CONFIG_LIES", "4 classes have names, it ans"),
        ("M08", lying_output, "CONFIG_LIES", "5 classes have names, it answers 3"),
        ("M08", facts(class_names=["a", "b", "a"]), "BAD_CONFIG", "no list of different texts"),
        ("M08", facts(class_names=["a", "b", 3]), "BAD_CONFIG", "no list of different texts"),
        ("M08", facts(class_names="abc"), "BAD_CONFIG", "no list of different texts"),
        ("M06", weights_of(float("nan")), "NOT_FINITE", "not a number"),
        ("M06", weights_of(float("inf")), "NOT_FINITE", "not a number"),
        ("M09", facts(preprocessing={}), "PREPROCESSING", "missing keys"),
        ("M09", facts(preprocessing=SPEC.to_dict() | {"std": [0, 1, 1]}), "PREPROCESSING", "std"),
        ("M09", facts(preprocessing=[]), "PREPROCESSING", "not a table"),
        ("M09", facts(threshold="high"), "BAD_CONFIG", "its threshold is 'high'"),
        ("M09", facts(threshold=1.5), "BAD_CONFIG", "its threshold is 1.5"),
        ("M09", facts(threshold=True), "BAD_CONFIG", "its threshold is True"),
        ("M10", custom_operator, "FORMAT", "cannot run it"),
        ("M11", text("class_names", "[" * 100_000), "JSON", "nested deeper"),
        ("M11", text("provenance", f'"{"x" * (1 << 20)}"'), "JSON", "more than 1,048,576"),
        ("M11", text("model", '{"a": 1, "a": 2}'), "JSON", "stands twice"),
        ("M11", text("threshold", "NaN"), "JSON", "NaN"),
        ("", text("schema", "2"), "NEWER", "format 2, this deitkit reads up to 1"),
        ("", text("schema", "true"), "NOT_OURS", "does not say its classes"),
        ("", text("schema", '"1"'), "NOT_OURS", "does not say its classes"),
    ],
)
def test_a_strangers_file_is_refused(path, fault, change, code, said):
    path.write_bytes(by_a_stranger(change))
    refused(path, code, said)


def test_a_file_without_its_digest_is_no_export(path):
    model = onnx.load_from_string(toy_content())
    model.metadata_props.remove(
        next(entry for entry in model.metadata_props if entry.key == "deitkit.sha256")
    )
    path.write_bytes(model.SerializeToString())
    refused(path, "BAD_CONFIG", "the digest that shows it is whole")


def foreign(name: str, kind: int, outputs: tuple[str, ...]) -> Callable[[Any], None]:
    """Our metadata on a graph of another form."""

    def change(model: Any) -> None:
        helper = onnx.helper
        shape = ["n", 8, 8, 3]
        nodes = [
            helper.make_node("Cast", [name], [out], to=onnx.TensorProto.FLOAT) for out in outputs
        ]
        made = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, shape) for out in outputs],
        )
        model.graph.CopyFrom(made)

    return change


BOTH = ("logits", "probabilities")


@pytest.mark.parametrize(
    ("name", "kind", "outputs", "code", "said"),
    [
        ("images", 1, BOTH, "BAD_CONFIG", "its input is not uint8 images"),
        ("pixels", 2, BOTH, "BAD_CONFIG", "its input is not uint8 images"),
        ("images", 2, ("logits",), "BAD_CONFIG", "gives no logits and probabilities"),
        ("images", 2, BOTH, "CONFIG_LIES", "3 classes have names, it answers 192"),
    ],
)
def test_a_graph_of_another_form_is_refused(path, name, kind, outputs, code, said):
    path.write_bytes(by_a_stranger(foreign(name, kind, outputs)))
    refused(path, code, said)


def test_other_peoples_onnx_is_not_ours(path):
    model = onnx.load_from_string(toy_content())
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    refused(path, "NOT_OURS", "use a file that `deitkit export to=onnx` wrote")


@pytest.mark.parametrize("place", ["beside", "above", "absolute", "symlink", "hardlink"])
def test_weights_outside_the_file_are_never_read(path, tmp_path, place):
    """M13: as onnx's own library writes them, wherever they lie."""
    model = onnx.load_from_string(toy_content())
    secret = tmp_path / "secret"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").rename(secret)
    where = {"beside": "w.bin", "above": f"../{tmp_path.name}/secret", "absolute": str(secret)}
    if place == "beside":
        secret.rename(tmp_path / "w.bin")
    elif place == "symlink":
        (tmp_path / "w.bin").symlink_to(secret)
    elif place == "hardlink":
        (tmp_path / "w.bin").hardlink_to(secret)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = where.get(place, "w.bin")
    path.write_bytes(model.SerializeToString())
    refused(path, "EXTERNAL_DATA", "its weights lie in another file")


@pytest.mark.parametrize(
    ("fault", "data", "code"),
    [
        ("M02", b"PK\x03\x04" + bytes(200), "FORMAT"),
        ("M02", b"\x80\x04\x95\x10\x00" + bytes(200), "FORMAT"),
        ("M02", (40).to_bytes(8, "little") + b'{"w":{"dtype":"F32"}}' + bytes(60), "FORMAT"),
        ("M15", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS_POINTER"),
        ("M15", b"<!DOCTYPE html><html>404</html>", "FORMAT"),
        ("M03", b"", "FORMAT"),
    ],
    ids=["zip", "pickle", "safetensors", "lfs", "html", "empty"],
)
def test_other_files_by_that_name(path, fault, data, code):
    path.write_bytes(data)
    refused(path, code)


def test_half_a_file(path):
    """M03."""
    content = toy_content()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ModelFileError):
            OnnxPredictor(path)
    path.unlink()
    refused(path, "NOT_FOUND")


def test_nothing_that_it_names_is_imported_or_fetched(path):
    """M10: a module, a file, an address; they are words, and it answers as before."""
    seen: list[str] = []
    watching = False
    watched = ("import", "socket.connect", "subprocess.Popen", "os.system", "exec", "compile")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in watched:
            seen.append(f"{event} {arguments[:1]}")

    named = {"name": "os.system", "code": "https://example.org/m.py", "class": "../../m.Model"}
    path.write_bytes(by_a_stranger(facts(model=named, provenance=named)))
    shown = list(pictures(2, 20, 24, 3))
    OnnxPredictor(path).probabilities(shown)
    sys.addaudithook(watch)
    watching = True
    predictor = OnnxPredictor(path)
    got = predictor.probabilities(shown)
    watching = False
    assert seen == []
    np.testing.assert_allclose(got, by_hand(shown), atol=1e-5)
    assert predictor.name == "os.system (model.onnx)"
    assert json.loads(json.dumps(predictor.metadata["model"])) == named
