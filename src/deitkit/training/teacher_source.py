"""From what stands in teacher= to a classifier that can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from deitkit.artifacts.bundle import Bundle, has_bundle, load_bundle
from deitkit.data.class_names import read_class_names
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ModelFileError
from deitkit.models.hub import Progress, fetch
from deitkit.models.hub_names import TIMM_TAGS
from deitkit.models.source_facts import SourcePreprocessing, class_names_of, preprocessing_of
from deitkit.models.weight_files import read_folder_json, read_state_dict, weights_in_folder
from deitkit.teachers.adapters.hf_teacher import hf_classifier
from deitkit.teachers.adapters.onnx_teacher import IMAGENET_MEAN, IMAGENET_STD, onnx_classifier
from deitkit.teachers.adapters.timm_teacher import published_repo, timm_classifier
from deitkit.teachers.classifier import Classifier
from deitkit.teachers.outputs import fused_logits
from deitkit.training.teacher_names import AUTO_TEACHER, TeacherName, parse_teacher


def open_teacher(
    asked: str | Path | Classifier,
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> Classifier | Literal["auto"]:
    """The classifier meant by `asked`, frozen and on `device`; "auto" where one is to be trained.

    A run or bundle; `timm:NAME` from the cache or the network, `timm:NAME@file`; `hf:owner/name` or
    `hf:folder`; a file .onnx, whose class names stand, one a line, in a .txt of the same name
    beside it, if anywhere. Weights are read by our own reader: nothing in a file is ever run.

    Raises:
        ConfigError: TEACHER_NAME, MISSING_PACKAGE, BROKEN_PACKAGE.
        ModelFileError: as `load_bundle`, `fetch`, `read_state_dict`, `read_onnx`; NO_HEAD,
            MISMATCH, BAD_CONFIG, TEACHER_CLASSES, TEACHER_OUTPUT.
    """
    if isinstance(asked, Classifier):
        return asked.on(device)
    text = str(asked)
    teacher = parse_teacher(text)
    if teacher.kind == "auto":
        return AUTO_TEACHER
    if teacher.kind == "timm":
        return _from_timm(teacher, text, device, progress)
    if teacher.kind == "hf":
        return _from_hugging_face(teacher, text, device, progress)
    assert teacher.path is not None
    if teacher.kind == "onnx":
        names = read_class_names(teacher.path.with_suffix(".txt"))
        return onnx_classifier(teacher.path, asked=text, class_names=names)
    return from_bundle(_load_bundle(teacher.path), name=text, device=device)


def from_bundle(bundle: Bundle, *, name: str, device: torch.device) -> Classifier:
    """A bundle as a teacher: it answers as `deitkit predict` would, fusion and temperature
    included."""
    model, spec = bundle.build_model(), bundle.preprocessing
    fusing: dict[str, Any] = {
        "fusion": bundle.fusion,
        "temperature": bundle.temperature,
        "weight": bundle.fusion_weight,
    }
    return Classifier.from_module(
        model,
        kind="bundle",
        settings={"model": dict(bundle.model_config), **fusing},
        name=name,
        call=lambda images_BCHW: fused_logits(model(images_BCHW), **fusing),
        features=model.embed,
        num_classes=model.num_classes,
        image_size=spec.image_size,
        mean=spec.mean,
        std=spec.std,
        crop_ratio=spec.crop_ratio,
        resize=spec.resize,
        class_names=tuple(bundle.class_names),
        device=device,
    )


def evaluation_preprocessing_of(
    classifier: Classifier, *, background: tuple[int, int, int] = (255, 255, 255)
) -> Preprocessing:
    """How a clean image becomes what the classifier reads."""
    return Preprocessing(
        image_size=classifier.image_size,
        resize=classifier.resize,
        crop_ratio=classifier.crop_ratio,
        channels=classifier.channels,
        mean=classifier.mean,
        std=classifier.std,
        background=background,
    )


def _load_bundle(path: Path) -> Bundle:
    if path.is_file():
        raise ModelFileError(
            "NO_BUNDLE",
            path,
            "this is a file, not the folder of a run or bundle",
            f"write timm:NAME@{path} with timm's name of the network, or make a bundle of it with "
            "`deitkit import`",
        )
    if path.is_dir() and not has_bundle(path) and (path / "config.json").is_file():
        raise ModelFileError(
            "NO_BUNDLE", path, "it is no run or bundle of ours", f"try teacher=hf:{path}"
        )
    return load_bundle(path)


def _from_timm(
    teacher: TeacherName, text: str, device: torch.device, progress: Progress | None
) -> Classifier:
    name, path, names = teacher.name, teacher.path, None
    if path is None:
        # The same training is meant by a bare name here as by init=timm:NAME.
        name = f"{name}.{TIMM_TAGS[name]}" if name in TIMM_TAGS else name
        path = fetch(f"hf:{published_repo(name, subject=text)}", progress=progress)
    if path.is_dir():
        names = class_names_of(read_folder_json(path / "config.json"), text)
        path = weights_in_folder(path)
    return timm_classifier(
        name,
        read_state_dict(path),
        asked=text,
        is_published=teacher.path is None,
        class_names=names,
        device=device,
    )


def _from_hugging_face(
    teacher: TeacherName, text: str, device: torch.device, progress: Progress | None
) -> Classifier:
    folder = teacher.path or fetch(f"hf:{teacher.name}", progress=progress)
    config = read_folder_json(folder / "config.json")
    known = preprocessing_of(config, read_folder_json(folder / "preprocessor_config.json"), text)
    notes = []
    if known is None:
        side = config.get("image_size", 224)
        size = (side, side) if isinstance(side, int) else tuple(side)
        known = SourcePreprocessing(
            image_size=(int(size[0]), int(size[1])),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            crop_ratio=0.875,
            resize="shorter",
            filter=None,
        )
        notes.append("its preprocessing is not stored in a way we read: ImageNet's is taken")
    return hf_classifier(
        folder,
        read_state_dict(weights_in_folder(folder)),
        asked=text,
        image_size=known.image_size,
        mean=known.mean,
        std=known.std,
        crop_ratio=known.crop_ratio,
        resize=known.resize,
        class_names=class_names_of(config, text),
        notes=notes,
        device=device,
    )
