"""An ONNX file as a teacher: looked through before it is run, then as its bytes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deitkit.errors import ModelFileError
from deitkit.runtime.onnx_file import read_onnx
from deitkit.teachers import LiveTeacher
from deitkit.training.teacher_source import open_teacher
from tests.teachers import onnx_bytes
from tests.teachers.onnx_bytes import counted, mean_colour_classifier, node, tensor, whole

CPU = torch.device("cpu")
RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(size=(3, 5)).astype(np.float32)
BIAS = RNG.normal(size=5).astype(np.float32)
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def some_images(num: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand((num, 3, side, side), generator=torch.Generator().manual_seed(num))


# The file, before anything runs it.

WHOLE = mean_colour_classifier(WEIGHT, BIAS)
OUTSIDE = counted(13, counted(1, "location") + counted(2, "../../etc/passwd"))
EXTERNAL = tensor("far", np.zeros(2, np.float32), OUTSIDE + whole(14, 1))


def inside(attribute: bytes) -> bytes:
    """A graph's node that carries an attribute."""
    return counted(1, node("Constant", [], "x", counted(5, counted(1, "value") + attribute)))


@pytest.mark.parametrize(
    "content",
    [
        mean_colour_classifier(WEIGHT, BIAS, tensor_extra=OUTSIDE),
        mean_colour_classifier(WEIGHT, BIAS, tensor_extra=whole(14, 1)),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=counted(5, EXTERNAL)),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=counted(15, counted(1, EXTERNAL))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=counted(15, counted(2, EXTERNAL))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=inside(counted(5, EXTERNAL))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=inside(counted(10, EXTERNAL))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=inside(counted(22, counted(1, EXTERNAL)))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=inside(counted(6, counted(5, EXTERNAL)))),
        mean_colour_classifier(WEIGHT, BIAS, graph_extra=inside(counted(11, counted(5, EXTERNAL)))),
        WHOLE + counted(25, counted(7, node("If", [], "x", counted(5, counted(5, EXTERNAL))))),
        WHOLE + counted(20, counted(1, counted(5, EXTERNAL))),
        # A second graph: protobuf would merge it with the first.
        WHOLE + counted(7, counted(5, EXTERNAL)),
    ],
    ids=[
        "initializer",
        "location alone",
        "second initializer",
        "sparse values",
        "sparse indices",
        "attribute",
        "attribute list",
        "sparse attribute",
        "subgraph",
        "subgraph list",
        "function",
        "training",
        "merged graph",
    ],
)
def test_weights_in_another_file_are_refused_wherever_they_stand(content, tmp_path):
    """M13."""
    with pytest.raises(ModelFileError) as caught:
        read_onnx(written(tmp_path / "t.onnx", content))
    assert caught.value.code == "EXTERNAL_DATA"


def test_the_numbers_of_a_file_are_counted(tmp_path):
    """Linear layer 3 -> 5: 15 weights and 5 biases."""
    assert read_onnx(written(tmp_path / "t.onnx", WHOLE)) == (WHOLE, 20)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "holds no graph"),
        (b"PK\x03\x04" + bytes(60), "no whole ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "no whole ONNX model"),
        (WHOLE[:-3], "no whole ONNX model"),
        (WHOLE[: len(WHOLE) // 2], "no whole ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS_POINTER"),
        (b"<html>not found</html>", "no whole ONNX model"),
        (b"\xff" * 40, "no whole ONNX model"),
        (counted(7, inside(b"") * 1), "nothing"),
    ],
    ids=["empty", "zip", "png", "cut", "half", "lfs", "html", "ones", "whole"],
)
def test_other_files_are_named_as_such(content, said, tmp_path):
    """M02, M15."""
    path = written(tmp_path / "t.onnx", content)
    if said == "nothing":
        assert read_onnx(path) == (content, 0)
        return
    with pytest.raises(ModelFileError, match=said):
        read_onnx(path)


def test_graphs_in_graphs_without_end_are_refused(tmp_path):
    """M11: no recursion of the author's choosing."""
    graph = counted(5, tensor("x", np.zeros(1, np.float32)))
    for _ in range(200):
        graph = inside(counted(6, graph))
    with pytest.raises(ModelFileError, match="deep in each other"):
        read_onnx(written(tmp_path / "t.onnx", counted(7, graph)))


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_gives_a_file_or_our_error(at, byte, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    try:
        content, _ = read_onnx(path)
    except ModelFileError as error:
        assert error.code in ("FORMAT", "EXTERNAL_DATA")
    else:
        assert content == path.read_bytes()


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(Exception, match=r"MISSING_PACKAGE.*pip install 'deitkit\[onnx\]'"):
        open_teacher(str(written(tmp_path / "t.onnx", WHOLE)), device=CPU)


# The session.


@pytest.fixture
def runtime():
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize("shape", [("n", 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8), (2, 3, "h", "w")])
def test_float_images_are_normalised_and_the_batch_is_the_files(runtime, shape, tmp_path):
    """Against the two lines of numpy the file stands for; fixed and free numbers of images."""
    content = mean_colour_classifier(WEIGHT, BIAS, shape=shape)
    teacher = open_teacher(str(written(tmp_path / "t.onnx", content)), device=CPU)
    side = 8 if shape[2] == 8 else 224
    assert teacher.image_size == (side, side) and teacher.num_classes == 5
    images = some_images(3, side)
    means = ((images - MEAN) / STD).mean(dim=(2, 3)).numpy()
    got = LiveTeacher(teacher, block_size=8)(images)
    np.testing.assert_allclose(got.numpy(), means @ WEIGHT + BIAS, rtol=1e-4, atol=1e-5)
    assert any("its mean and deviation" in note for note in teacher.notes)
    assert any("any image size" in note for note in teacher.notes) == (side == 224)
    assert teacher.num_params == 20 and teacher.module is None


@pytest.mark.parametrize("shape", [("n", 8, 8, 3), (1, 8, 8, 3), ("n", "h", "w", 3)])
def test_bytes_are_given_as_they_are_and_channels_last(runtime, shape, tmp_path):
    """Mixed pixels are rounded to whole levels; the file does its own arithmetic."""
    content = mean_colour_classifier(
        WEIGHT, BIAS, kind=onnx_bytes.UINT8, shape=shape, channels_last=True
    )
    teacher = open_teacher(str(written(tmp_path / "t.onnx", content)), device=CPU)
    assert teacher.mean == (0.0, 0.0, 0.0) and teacher.std == (1.0, 1.0, 1.0)
    images = some_images(3, teacher.image_size[0])
    levels = np.rint(images.numpy() * 255).mean(axis=(2, 3))
    got = LiveTeacher(teacher)(images)
    np.testing.assert_allclose(got.numpy(), levels @ WEIGHT + BIAS, rtol=1e-4, atol=1e-3)


def test_half_precision_input(runtime, tmp_path):
    content = mean_colour_classifier(WEIGHT, BIAS, kind=onnx_bytes.FLOAT16)
    teacher = open_teacher(str(written(tmp_path / "t.onnx", content)), device=CPU)
    means = ((some_images() - MEAN) / STD).mean(dim=(2, 3)).numpy()
    got = LiveTeacher(teacher)(some_images()).numpy()
    np.testing.assert_allclose(got, means @ WEIGHT + BIAS, rtol=2e-3, atol=2e-3)


def test_an_images_logits_are_the_same_bits_in_any_batch(runtime, tmp_path):
    """K14."""
    live = LiveTeacher(open_teacher(str(written(tmp_path / "t.onnx", WHOLE)), device=CPU))
    images = some_images(70)
    alone = torch.cat([live(images[i : i + 1]) for i in range(0, 70, 7)])
    assert torch.equal(live(images)[::7], alone)


def test_logits_serve_as_features_of_a_new_head(runtime, tmp_path):
    """Nobody can look inside the file."""
    teacher = open_teacher(str(written(tmp_path / "t.onnx", WHOLE)), device=CPU)
    assert teacher.features is None
    assert torch.equal(teacher.embed(some_images()), teacher.call(some_images()))
    refitted = teacher.with_head(torch.eye(5)[:2] * 3, torch.zeros(2), class_names="ab")
    torch.testing.assert_close(refitted.call(some_images()), 3 * teacher.call(some_images())[:, :2])


def test_class_names_stand_in_a_text_beside_the_file(runtime, tmp_path):
    path = written(tmp_path / "t.onnx", WHOLE)
    assert open_teacher(str(path), device=CPU).class_names is None
    (tmp_path / "t.txt").write_text("a\nb\nc\nd\ne\n")
    assert open_teacher(str(path), device=CPU).class_names == tuple("abcde")
    (tmp_path / "t.txt").write_text("a\nb\n")
    with pytest.raises(ModelFileError, match="2 classes have names, it gives 5 logits"):
        open_teacher(str(path), device=CPU)


def test_the_digest_is_of_the_bytes(runtime, tmp_path):
    """Not of the path."""
    one = open_teacher(str(written(tmp_path / "t.onnx", WHOLE)), device=CPU)
    same = open_teacher(str(written(tmp_path / "u.onnx", WHOLE)), device=CPU)
    content = mean_colour_classifier(WEIGHT + np.float32(1e-3), BIAS)
    other = open_teacher(str(written(tmp_path / "v.onnx", content)), device=CPU)
    assert one.digest == same.digest != other.digest


def test_probabilities_are_taken_back_to_logits(runtime, tmp_path):
    """Many files end in a softmax: log p differs from the logits by one number an image."""
    content = mean_colour_classifier(WEIGHT, BIAS, last="Softmax")
    teacher = open_teacher(str(written(tmp_path / "t.onnx", content)), device=CPU)
    plain = open_teacher(str(written(tmp_path / "u.onnx", WHOLE)), device=CPU)
    images = some_images()
    expected = LiveTeacher(plain)(images).log_softmax(dim=1)
    torch.testing.assert_close(LiveTeacher(teacher)(images), expected, rtol=1e-4, atol=1e-4)
    assert any("probabilities" in note for note in teacher.notes)


@pytest.mark.parametrize(
    "content, said",
    [
        (mean_colour_classifier(WEIGHT, BIAS, kind=7), "not a batch of images"),
        (mean_colour_classifier(WEIGHT[:2], BIAS), "cannot run it"),
        (onnx_bytes.model(counted(1, node("Nonsense", ["a"], "b"))), "cannot run it"),
    ],
    ids=["no images", "other shapes", "unknown operator"],
)
def test_a_file_that_is_no_classifier_of_images_is_refused(runtime, content, said, tmp_path):
    with pytest.raises(ModelFileError, match=said) as caught:
        open_teacher(str(written(tmp_path / "t.onnx", content)), device=CPU)
    assert caught.value.code == "FORMAT"


def test_an_output_that_is_no_logits_is_refused(runtime, tmp_path):
    """K11: here the images' own shape comes out."""
    graph = counted(1, node("Identity", ["images"], "logits")) + counted(2, "g")
    graph += counted(11, onnx_bytes.value_info("images", onnx_bytes.FLOAT, ("n", 3, 8, 8)))
    graph += counted(12, onnx_bytes.value_info("logits", onnx_bytes.FLOAT, ("n", 3, 8, 8)))
    with pytest.raises(ModelFileError, match=r"TEACHER_OUTPUT.*\[2, 3, 8, 8\] for 2 images"):
        open_teacher(str(written(tmp_path / "t.onnx", onnx_bytes.model(graph))), device=CPU)


def test_numbers_are_counted_as_the_onnx_package_does(tmp_path):
    """An exported network of torch, against onnx's own reader."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    loaded = onnx.load_from_string(WHOLE)
    onnx.checker.check_model(loaded)
    counts = [np.prod(t.dims) for t in loaded.graph.initializer]
    assert read_onnx(written(tmp_path / "t.onnx", WHOLE))[1] == sum(counts)
