"""Exports that went wrong on the way, refused by the gate: no file, and the images that moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deitkit.api.exporting import RunExport, export_run
from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.errors import ModelFileError
from deitkit.evaluation.paired import Share
from deitkit.evaluation.predictor import Predictor
from deitkit.exporters import onnx_graph
from deitkit.runtime.sealed_folder import verify_folder
from tests.exporters.plain_networks import TWO_HEADS, onnx, outspoken, pictures, torch_network


@pytest.fixture(scope="module")
def bundle(make_bundle) -> Bundle:
    made = outspoken(make_bundle(**TWO_HEADS))
    return dataclasses.replace(made, class_names=("a", "b", "c"), temperature=0.7)


@pytest.fixture(scope="module")
def photos(bundle, tmp_path_factory) -> Path:
    """12 pictures, 0.png black, each in the folder of the class that the run sees in it."""
    folder = tmp_path_factory.mktemp("photos")
    shown = pictures(12, 20, 24, 3, seed=4)
    shown[0] = 0
    seen = Predictor(bundle, device=torch.device("cpu")).probabilities(list(shown)).argmax(axis=1)
    assert set(seen) == {0, 1, 2}
    for k, picture in enumerate(shown):
        path = folder / "abc"[seen[k]] / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture
def export(bundle, photos, tmp_path, monkeypatch) -> Callable[..., RunExport]:
    monkeypatch.setattr(onnx_graph, "_network", torch_network)
    save_bundle(tmp_path / "flowers", bundle)

    def run(**settings: Any) -> RunExport:
        return export_run(tmp_path / "flowers", "onnx", data=photos, **settings)

    return run


def spoil(monkeypatch, change: Callable[[Any], None]) -> None:
    """torch's exporter makes a mistake."""

    def spoilt(model, spec):
        network = torch_network(model, spec)
        change(network.graph)
        return network

    monkeypatch.setattr(onnx_graph, "_network", spoilt)


def change_weight(tensor_name: str, change: Callable[[np.ndarray], None]) -> Callable[[Any], None]:
    def changed(graph: Any) -> None:
        (tensor,) = (one for one in graph.initializer if one.name.endswith(tensor_name))
        array = onnx.numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    return changed


def flip_a_bit(array: np.ndarray) -> None:
    """The lowest bit of one exponent: twice or half the weight."""
    array.reshape(-1).view(np.uint32)[5] ^= 1 << 23


def scale_one(array: np.ndarray) -> None:
    array.reshape(-1)[-1] *= 1.5


def drop_dist(graph: Any) -> None:
    """The distillation head's answer is the other one's."""
    for node in graph.node:
        node.output[:] = ["unused" if out == "dist_logits" else out for out in node.output]
    graph.node.append(onnx.helper.make_node("Identity", ["cls_logits"], ["dist_logits"]))


def nan_on_black(graph: Any) -> None:
    """0 / 0 where an image has no light at all, and times 1 elsewhere."""
    helper = onnx.helper
    for node in graph.node:
        node.output[:] = ["torchs" if out == "cls_logits" else out for out in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e6), "most"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "least"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1, 2, 3]), "plane"))
    graph.initializer.append(
        onnx.numpy_helper.from_array(np.float32([2, 5 / 3, 1.5])[:, None, None], "black")
    )
    graph.node.extend(
        [
            helper.make_node("Add", ["pixels", "black"], ["light"]),
            helper.make_node("ReduceSum", ["light", "plane"], ["sum"], keepdims=0),
            helper.make_node("Floor", ["sum"], ["rounded"]),
            helper.make_node("Clip", ["rounded", "least", "most"], ["some"]),
            helper.make_node("Div", ["some", "some"], ["one"]),
            helper.make_node("Flatten", ["one"], ["one_N1"], axis=1),
            helper.make_node("Mul", ["torchs", "one_N1"], ["cls_logits"]),
        ]
    )


def left(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_sound_export_passes(export, photos, tmp_path):
    """Every number of the table, from the file that was written."""
    found = export(int8=True, tolerance=1.0)
    assert found.folder == tmp_path / "flowers-export-onnx"
    assert verify_folder(found.folder) == []
    assert [one.file for one in found.checked] == ["model.onnx", "model.int8.onnx"]
    precise, small = found.checked
    assert 0 < precise.drift < 2e-5 < small.drift < 0.2
    assert precise.gain.share == precise.gain.other == small.gain.other == Share(12, 12)
    for one in found.checked:
        assert one.num_bytes == (found.folder / one.file).stat().st_size
    assert found.checked_on.startswith(str(photos))


@pytest.mark.parametrize(
    "change",
    [
        change_weight("head.weight", flip_a_bit),
        change_weight("head_dist.weight", flip_a_bit),
        change_weight("patch_embed.proj.weight", flip_a_bit),
        change_weight("head.bias", scale_one),
        drop_dist,
    ],
    ids=["a bit of head", "a bit of head_dist", "a bit of patch_embed", "a bias", "no dist head"],
)
def test_a_spoilt_network_is_refused_and_its_images_named(export, monkeypatch, tmp_path, change):
    """X01, X02: no file under the final name, nothing beside it; an earlier export stays."""
    before = left(tmp_path)
    spoil(monkeypatch, change)
    for _ in range(2):
        with pytest.raises(ModelFileError) as caught:
            export()
        assert (caught.value.code, caught.value.exit_code) == ("EXPORT_DRIFT", 5)
        said = str(caught.value)
        assert f"{tmp_path / 'flowers-export-onnx' / 'model.onnx'}: " in said
        assert "of 12 images get another answer" in said
        assert ".png" in said.split("allowed")[1]
        assert left(tmp_path) == before
        if "flowers-export-onnx/model.onnx" not in before:
            monkeypatch.setattr(onnx_graph, "_network", torch_network)
            export()
            before = left(tmp_path)
            spoil(monkeypatch, change)


def test_only_the_image_that_moved_is_named(export, monkeypatch, tmp_path):
    """NaN for one black picture of twelve."""
    spoil(monkeypatch, nan_on_black)
    with pytest.raises(ModelFileError) as caught:
        export()
    assert caught.value.code == "EXPORT_DRIFT"
    assert "1 of 12 images" in str(caught.value)
    named = str(caught.value).split("(allowed 0.0001): ")[1].split("; no file")[0]
    assert Path(named).name == "0.png" and ", " not in named
    assert not (tmp_path / "flowers-export-onnx").exists()


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.4, 0.5, 0.61)}, {"std": (0.2, 0.3, 0.3)}, {"resize": "squash"}]
)
def test_wrong_preprocessing_is_refused(export, monkeypatch, tmp_path, wrong):
    """X04."""
    put = onnx_graph._put_before

    def wrongly(onnx, graph, spec):
        put(onnx, graph, dataclasses.replace(spec, **wrong))

    monkeypatch.setattr(onnx_graph, "_put_before", wrongly)
    with pytest.raises(ModelFileError, match=r"\[EXPORT_DRIFT\].*of 12 images.*\.png"):
        export()
    assert not (tmp_path / "flowers-export-onnx").exists()


def test_a_lost_fusion_or_temperature_is_refused(export, monkeypatch, tmp_path):
    put = onnx_graph._put_after
    for wrong in ({"fusion": "cls"}, {"fusion": "softmax"}, {"temperature": 0.71}):

        def wrongly(onnx, graph, bundle, wrong=wrong):
            put(onnx, graph, dataclasses.replace(bundle, **wrong))

        monkeypatch.setattr(onnx_graph, "_put_after", wrongly)
        with pytest.raises(ModelFileError, match=r"\[EXPORT_DRIFT\].*of 12 images.*\.png"):
            export()
    assert not (tmp_path / "flowers-export-onnx").exists()


def test_a_bit_flipped_in_the_finished_file_is_refused(export, monkeypatch, tmp_path):
    """M07: the gate reads what the disk gives back."""
    sealed = onnx_graph._sealed

    def flipped(model):
        content = bytearray(sealed(model))
        content[len(content) // 2] ^= 4
        return bytes(content)

    monkeypatch.setattr(onnx_graph, "_sealed", flipped)
    with pytest.raises(ModelFileError, match="its digest differs"):
        export()
    assert not (tmp_path / "flowers-export-onnx").exists()


def test_int8_beyond_its_tolerance_is_refused(export, monkeypatch, tmp_path):
    """Neither file is left; named are those that the run was right about; tolerance= allows it."""
    kernels = onnx_graph.store_kernels_as_bytes

    def badly(onnx, graph):
        kernels(onnx, graph)
        for tensor in graph.initializer:
            if "head" in tensor.name and tensor.name.endswith("_scale"):
                scale = -onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(scale), tensor.name))

    monkeypatch.setattr(onnx_graph, "store_kernels_as_bytes", badly)
    with pytest.raises(ModelFileError) as caught:
        export(int8=True)
    assert (caught.value.code, caught.value.exit_code) == ("EXPORT_INT8", 5)
    assert "of 12 images, the run on 12: " in str(caught.value)
    assert ".png" in str(caught.value).split("lost are ")[1]
    assert not (tmp_path / "flowers-export-onnx").exists()
    found = export(int8=True, tolerance=1.0)
    assert found.checked[1].gain.difference < -0.005
