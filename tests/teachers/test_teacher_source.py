"""What may stand in teacher=, from its text to a classifier that answers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle, load_bundle, save_bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError, ModelFileError
from deitkit.evaluation.logits import collect_logits
from deitkit.models import create_model
from deitkit.runtime import optional
from deitkit.teachers import Classifier
from deitkit.training.teacher_clean import ask_on_clean
from deitkit.training.teacher_names import check_teacher_path, parse_teacher
from deitkit.training.teacher_source import evaluation_preprocessing_of, open_teacher
from tests.training.toy import ConvTeacher, toy_images

CPU = torch.device("cpu")
SPEC = Preprocessing(
    image_size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop_ratio=0.8, resize="squash"
)


def a_bundle(**more) -> Bundle:
    torch.manual_seed(0)
    model = create_model("deit_nano_distilled_patch4_16", num_classes=3, depth=2)
    settings = {
        "model_config": model.config,
        "class_names": ("a", "b", "c"),
        "preprocessing": SPEC,
        "state_dict": model.state_dict(),
        "provenance": {},
    }
    return Bundle(**(settings | more))


# The text.


@pytest.mark.parametrize(
    "text, kind, name, path",
    [
        ("auto", "auto", "", None),
        ("runs/t", "bundle", "", "runs/t"),
        ("./auto", "bundle", "", "auto"),
        ("timm:resnet50.a1_in1k", "timm", "resnet50.a1_in1k", None),
        ("timm:resnet50@w/r@2.pth", "timm", "resnet50", "w/r@2.pth"),
        ("hf:google/vit-base", "hf", "google/vit-base", None),
        ("hf:google/vit-base@abc", "hf", "google/vit-base@abc", None),
        ("nets/T.ONNX", "onnx", "", "nets/T.ONNX"),
    ],
)
def test_a_text_is_one_kind_of_teacher(text, kind, name, path):
    teacher = parse_teacher(text)
    assert (teacher.kind, teacher.name) == (kind, name)
    assert teacher.path == (None if path is None else Path(path))


@pytest.mark.parametrize("text", ["", "timm:", "timm:@w.pth", "timm:resnet50@", "hf:", "hf:name"])
def test_texts_that_name_nothing(text):
    with pytest.raises(ConfigError, match="TEACHER_NAME"):
        parse_teacher(text)


def test_the_same_request_from_another_folder(tmp_path, monkeypatch):
    """What a run writes down still means the same when it goes on elsewhere."""
    (tmp_path / "hub").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = ["runs/t", "timm:x@w.pth", "hf:hub", "t.onnx", "auto", "timm:x", "hf:a/b"]
    kept = [str(parse_teacher(text)) for text in asked]
    there = str(tmp_path)
    assert kept == [
        f"{there}/runs/t",
        f"timm:x@{there}/w.pth",
        f"hf:{there}/hub",
        f"{there}/t.onnx",
        "auto",
        "timm:x",
        "hf:a/b",
    ]
    assert [str(parse_teacher(text)) for text in kept] == kept


def test_what_is_not_there_is_told_before_anything_is_read(tmp_path):
    for text in (f"{tmp_path}/none", f"timm:x@{tmp_path}/none.pth", f"{tmp_path}/none.onnx"):
        with pytest.raises(ConfigError, match="NO_TEACHER"):
            check_teacher_path(parse_teacher(text))
    for text in (str(tmp_path), "auto", "timm:x", "hf:a/b"):
        check_teacher_path(parse_teacher(text))


def test_reading_the_text_needs_no_torch():
    code = (
        "import sys; from deitkit.training.teacher_names import parse_teacher; "
        "parse_teacher('timm:x@y'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_opening_a_bundle_imports_no_other_library(tmp_path):
    """Each is imported when a teacher of its kind is asked for."""
    save_bundle(tmp_path / "b", a_bundle())
    code = (
        "import sys, torch; from deitkit.training.teacher_source import open_teacher; "
        f"open_teacher({str(tmp_path / 'b')!r}, device=torch.device('cpu')); "
        "print([m for m in ('timm', 'transformers', 'onnxruntime', 'torchvision') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Bundles, and what Python gives.


@pytest.mark.parametrize(
    "fusion, weight", [("mean", None), ("softmax", None), ("dist", None), ("fitted", 0.8)]
)
def test_a_bundle_answers_as_it_predicts(fusion, weight, tmp_path):
    """Against evaluation, on clean images, its own fusion and temperature included."""
    save_bundle(tmp_path, a_bundle(fusion=fusion, fusion_weight=weight, temperature=1.6))
    bundle = load_bundle(tmp_path)
    teacher = open_teacher(str(tmp_path), device=CPU)
    assert evaluation_preprocessing_of(teacher) == SPEC
    assert teacher.class_names == ("a", "b", "c")
    images = toy_images(11, one_size=False)
    logits = collect_logits(bundle.build_model(), images, SPEC, device=CPU, embeddings=True)
    got = ask_on_clean(teacher, images, block_size=4)
    np.testing.assert_allclose(got, logits.fused(fusion, 1.6, weight), rtol=1e-4, atol=1e-4)
    features = ask_on_clean(teacher, images, features=True, block_size=4)
    np.testing.assert_allclose(features, logits.embeddings_ND, rtol=1e-4, atol=1e-5)


def test_a_bundles_digest_is_of_what_it_answers(tmp_path):
    """K01: not of its path or provenance, but of weights, fusion and preprocessing."""
    first = a_bundle()
    spec = replace(SPEC, crop_ratio=0.9)
    changed = [
        {"provenance": {"date": "today"}},
        {"class_names": ("x", "y", "z")},
        {"fusion": "dist"},
        {"temperature": 2.0},
        {"preprocessing": spec},
        {"state_dict": {k: t + 1e-3 for k, t in first.state_dict.items()}},
    ]
    digests = []
    for number, more in enumerate([{}, *changed]):
        save_bundle(tmp_path / str(number), a_bundle(**more))
        digests.append(open_teacher(str(tmp_path / str(number)), device=CPU).digest)
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 5


def test_a_classifier_from_python_is_taken_as_it_is():
    teacher = Classifier.from_callable(
        ConvTeacher(), name="t", version="1", image_size=16, mean=SPEC.mean, std=SPEC.std
    )
    assert open_teacher(teacher, device=CPU) is teacher
    assert open_teacher("auto", device=CPU) == "auto"


def test_files_that_are_no_teachers_get_a_hint(tmp_path):
    weights = tmp_path / "w.pth"
    torch.save({}, weights)
    with pytest.raises(ModelFileError, match=f"write timm:NAME@{weights}"):
        open_teacher(str(weights), device=CPU)
    with pytest.raises(ModelFileError, match="NO_BUNDLE"):
        open_teacher(str(tmp_path), device=CPU)


# Clean images.


def test_clean_answers_come_in_the_order_asked_for_and_stop_when_told():
    teacher = Classifier.from_callable(
        ConvTeacher(), name="t", version="1", image_size=16, mean=SPEC.mean, std=SPEC.std
    )
    images, told = toy_images(9), []
    every = ask_on_clean(teacher, images, progress=lambda *now: told.append(now), block_size=4)
    few = ask_on_clean(teacher, images, indices=np.array([7, 0, 3]), block_size=4)
    assert every.tobytes() != few.tobytes() and np.array_equal(few, every[[7, 0, 3]])
    assert told == [(4, 9), (8, 9), (9, 9)]
    assert ask_on_clean(teacher, images, stop=lambda: True) is None


# Libraries that are missing or broken.


@pytest.mark.parametrize(
    "text, package, extra",
    [("timm:resnet50@{}", "timm", "timm"), ("hf:{}", "transformers", "hf")],
)
def test_a_missing_library_says_what_to_install(text, package, extra, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        open_teacher(text.format(tmp_path), device=CPU)
    assert caught.value.code == "MISSING_PACKAGE"
    assert caught.value.do == f"run: pip install 'deitkit[{extra}]'"


def test_a_torchvision_that_cannot_be_imported_is_named():
    """Beside CPU torch its usual wheel fails, and timm and transformers with it. In a process of
    its own, where no test has declared the missing operators."""
    code = (
        "from deitkit.runtime.optional import check_torchvision\n"
        "from deitkit.errors import ConfigError\n"
        "try: check_torchvision('timm:x')\n"
        "except ConfigError as error: print(error)\n"
        "else: print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "fine":
        pytest.skip("torchvision works here, or is not installed")
    assert done.stdout.startswith("[BROKEN_PACKAGE] timm:x: it needs torchvision, whose import")
    assert "pip install torchvision --index-url" in done.stdout


def test_a_library_whose_import_fails_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "torn.py").write_text("raise RuntimeError('no such operator\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"BROKEN_PACKAGE.*fails here \(no such operator\)"):
        optional.optional_package("torn", extra="x", subject="t")
