"""An ONNX file, run by onnxruntime on the CPU. The library is optional (`deitkit[onnx]`)."""

# Shapes: B images, C channels, H height, W width, T classes of the teacher.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deitkit.errors import ModelFileError
from deitkit.runtime.onnx_file import read_onnx
from deitkit.runtime.optional import optional_package
from deitkit.teachers.classifier import Classifier
from deitkit.teachers.digests import teacher_digest
from deitkit.teachers.outputs import Ask, are_probabilities, bad_output

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL_SIDE = 224
TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputForm:
    """How the file wants its images."""

    name: str
    dtype: type[np.generic]
    """float32 or float16: normalised levels; uint8: levels of 0 to 255."""
    channels: int
    channels_last: bool
    size: tuple[int, int] | None
    """Height and width; None where any will do."""
    batch: int | None
    """How many images at a time; None where any number will do."""


def onnx_classifier(
    path: Path, *, asked: str, class_names: Sequence[str] | None = None
) -> Classifier:
    """The classifier in one ONNX file: one image input, logits [B, T] as its first output.

    Float images are given normalised with ImageNet's mean and deviation, as nearly all published
    classifiers want them (grey ones with 0.5), bytes as they are, rounded from the mixed view. A
    file that leaves the image size open gets 224 pixels, one that fixes the number of images that
    many at a time. It runs on the CPU whatever the student does.

    Raises:
        ConfigError: MISSING_PACKAGE, BROKEN_PACKAGE.
        ModelFileError: as `read_onnx`; FORMAT for a file that onnxruntime refuses, or whose input
            is no batch of images; TEACHER_OUTPUT; TEACHER_CLASSES.
    """
    content, num_numbers = read_onnx(path)
    runtime = optional_package("onnxruntime", extra="onnx", subject=asked)
    session = _session(runtime, content, path)
    form = _input_form(session.get_inputs(), path)
    size = form.size or (USUAL_SIDE, USUAL_SIDE)
    mean, std, notes = _levels(form)
    if form.size is None:
        notes.append(f"the file takes any image size: {USUAL_SIDE} pixels are given")
    call, num_classes, is_log = _asking(session, form, size, path)
    if is_log:
        notes.append("it gives probabilities: their logarithm is taken")
    settings = {"sha256": hashlib.sha256(content).hexdigest(), "image_size": size}
    return Classifier(
        name=asked,
        call=call,
        features=None,
        num_classes=num_classes,
        image_size=size,
        mean=mean,
        std=std,
        crop_ratio=1.0 if max(size) < USUAL_SIDE else 0.875,
        digest=teacher_digest("onnx", settings | {"mean": mean, "std": std}),
        device=torch.device("cpu"),
        class_names=None if class_names is None else tuple(class_names),
        num_params=num_numbers,
        notes=tuple(notes),
    )


def _levels(form: InputForm) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Mean and deviation, and what was assumed."""
    if form.dtype is np.uint8:
        return (0.0,) * form.channels, (1.0,) * form.channels, []
    is_colour = form.channels == 3
    mean = IMAGENET_MEAN if is_colour else (0.5,) * form.channels
    std = IMAGENET_STD if is_colour else (0.5,) * form.channels
    return mean, std, [f"an ONNX file does not say its mean and deviation: taken are {mean}, {std}"]


def _asking(
    session: Any, form: InputForm, size: tuple[int, int], path: Path
) -> tuple[Ask, int, bool]:
    """Images -> logits, how many classes they are of, and whether they are logarithms.

    Two images of noise are shown to the network. Raises ModelFileError FORMAT, TEACHER_OUTPUT.
    """
    output = session.get_outputs()[0].name

    def answer(images_BCHW: Tensor) -> Tensor:
        blocks = images_BCHW.split(form.batch or max(1, len(images_BCHW)))
        return torch.cat([_run(session, form, output, block) for block in blocks])

    def log_answer(images_BCHW: Tensor) -> Tensor:
        return answer(images_BCHW).clamp_min(torch.finfo(torch.float32).tiny).log()

    chance = torch.Generator().manual_seed(0)
    try:
        logits_BT = answer(torch.rand((2, form.channels, *size), generator=chance))
    except Exception as error:  # its exceptions have no common base of their own
        why = f"it cannot read images of {size} ({_first_line(error)})"
        raise _refused(path, why) from error
    if logits_BT.ndim != 2 or len(logits_BT) != 2 or logits_BT.shape[1] < 2:
        raise bad_output(str(path), f"its first output is {list(logits_BT.shape)} for 2 images")
    is_log = are_probabilities(logits_BT)
    return (log_answer if is_log else answer), int(logits_BT.shape[1]), is_log


def _session(runtime: ModuleType, content: bytes, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception too
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        why = f"onnxruntime {runtime.__version__} cannot run it ({_first_line(error)})"
        raise _refused(path, why) from error


def _input_form(inputs: Sequence[Any], path: Path) -> InputForm:
    if len(inputs) != 1:
        raise _refused(path, f"it has {len(inputs)} inputs, a classifier has one")
    only = inputs[0]
    dtype = TYPES.get(only.type)
    if dtype is None or len(only.shape) != 4:
        raise _refused(path, f"its input is {only.type} {only.shape}, not a batch of images")
    batch, *rest = [side if isinstance(side, int) and side > 0 else None for side in only.shape]
    last = rest[0] not in (1, 3) and (rest[2] in (1, 3) or dtype is np.uint8)
    channels, height, width = (rest[2], rest[0], rest[1]) if last else rest
    return InputForm(
        name=only.name,
        dtype=dtype,
        channels=channels or 3,
        channels_last=last,
        size=None if height is None or width is None else (height, width),
        batch=batch,
    )


def _run(session: Any, form: InputForm, output: str, images_BCHW: Tensor) -> Tensor:
    num_images = len(images_BCHW)
    missing = (form.batch or num_images) - num_images
    values = F.pad(images_BCHW, (0, 0, 0, 0, 0, 0, 0, missing)).numpy()
    if form.channels_last:
        values = values.transpose(0, 2, 3, 1)
    if form.dtype is np.uint8:
        values = np.rint(np.clip(values, 0.0, 1.0) * 255.0)
    values = np.ascontiguousarray(values, dtype=form.dtype)
    (answer,) = session.run([output], {form.name: values})
    return torch.from_numpy(np.asarray(answer, dtype=np.float32).copy())[:num_images]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _refused(path: Path, why: str) -> ModelFileError:
    return ModelFileError("FORMAT", path, why, "export a classifier of images in one ONNX file")
