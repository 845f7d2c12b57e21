"""A teacher made ready for a run: its classes are the user's, and it has shown what it knows.

One rank prepares it; the others, and a run that goes on, read what it wrote to
`teacher.safetensors`: a fitted head is then the same bits everywhere.
"""

# Shapes: N validation images, D features, K classes of the user, T of the teacher.

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from deitkit.artifacts.state_tree import to_saved_tensors
from deitkit.data import ImageSet
from deitkit.errors import CheckpointError, ModelFileError
from deitkit.runtime.durable import write_file
from deitkit.runtime.safetensors_header import MAX_HEADER_BYTES, read_safetensors_header
from deitkit.runtime.strict_json import load_json
from deitkit.teachers import Classifier, LiveTeacher
from deitkit.teachers.class_match import match_classes
from deitkit.teachers.refit import FittedHead
from deitkit.teachers.teacher_check import TeacherCheck, check_teacher
from deitkit.training.teacher_asking import (
    MIN_ASKED_IMAGES,
    Answers,
    OwnHead,
    Progress,
    ask_in_time,
    fit_own_head,
)

SCHEMA = 1
TEACHER_FILE = "teacher.safetensors"
_HEAD_WEIGHT, _HEAD_BIAS = "head.weight", "head.bias"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadyTeacher:
    """A classifier that speaks the user's classes, and what it said of clean images."""

    classifier: Classifier
    """With the new head where one was fitted."""
    class_names: tuple[str, ...]
    """The user's."""
    columns: tuple[int, ...]
    """The classifier's index of each class of the user."""
    classes: str
    """How its classes became the user's, a sentence: matched by name, or by a fitted head with
    what cross-validation says of it."""
    head: FittedHead | None
    """None where the classes were matched by name."""
    val_indices: np.ndarray
    """int64 [N], ascending: the validation images it was asked about."""
    val_NK: np.ndarray
    """Its float32 logits of them, in the order of the user's classes."""
    image_s: float
    """Seconds of its forward for one image, in full blocks."""
    check: TeacherCheck
    notes: tuple[str, ...]
    """Warnings and assumptions, a sentence each."""

    def live(self, *, autocast_dtype: torch.dtype | None) -> LiveTeacher:
        """The teacher as training asks it."""
        return LiveTeacher(
            self.classifier, class_columns=self.columns, autocast_dtype=autocast_dtype
        )


def prepare_teacher(
    classifier: Classifier,
    train: ImageSet,
    val: ImageSet,
    *,
    channels: int,
    seed: int,
    max_seconds: float | None,
    autocast_dtype: torch.dtype | None = None,
    progress: Progress = lambda what, done, total: None,
) -> ReadyTeacher:
    """Make the teacher's classes those of `train` and measure what it knows and costs.

    Where the names do not match, a head is fitted on its features of clean training images;
    `seed` deals them into the folds of cross-validation. Then it is asked about as many clean
    validation images as `max_seconds` allow (None: all), at least 200. `progress` may raise to
    end all of it.

    Raises:
        ModelFileError: CHANNELS, where the student reads `channels` and it does not;
            TEACHER_CHANCE, with the accuracy measured; TEACHER_OUTPUT.
        DataError: ONE_CLASS; an image cannot be read any more.
    """
    if classifier.channels != channels:
        raise ModelFileError(
            "CHANNELS",
            classifier.name,
            f"the teacher reads {classifier.channels} channels, the student {channels}",
            f"use data.channels={classifier.channels}",
        )
    names = tuple(train.class_names)
    match = match_classes(classifier.class_names, names)
    own, ready, columns, classes = None, classifier, match.columns, match.explain()
    notes = list(classifier.notes)
    if columns is None:
        own = fit_own_head(
            classifier, train, seed=seed, autocast_dtype=autocast_dtype, progress=progress
        )
        head = own.head
        ready = classifier.with_head(head.weight_KD, head.bias_K, class_names=names)
        columns, classes = tuple(range(len(names))), f"{classes}; {head.describe()}"
        if classifier.features is None:
            notes.append("nobody can look inside it: its logits were taken for its features")
    answers = ask_in_time(
        ready, val, max_seconds=max_seconds, autocast_dtype=autocast_dtype, progress=progress
    )
    val_NK = np.ascontiguousarray(answers.logits_NT[:, list(columns)])
    if len(answers.indices) < len(val):
        notes.append(
            f"it was asked about {len(answers.indices):,} of {len(val):,} validation images, "
            "for lack of time"
        )
    check = _check(classifier.name, answers, val_NK, val, own)
    if check.warning is not None:
        notes.append(check.warning)
    return ReadyTeacher(
        classifier=ready,
        class_names=names,
        columns=columns,
        classes=classes,
        head=None if own is None else own.head,
        val_indices=answers.indices,
        val_NK=val_NK,
        image_s=answers.image_s,
        check=check,
        notes=tuple(notes),
    )


def _check(
    name: str, answers: Answers, val_NK: np.ndarray, val: ImageSet, own: OwnHead | None
) -> TeacherCheck:
    """By validation images; where these are few and cross-validation has seen more, by that."""
    labels_N = val.labels[answers.indices]
    num_images, num_classes = len(labels_N), val_NK.shape[1]
    if own is not None and own.head.cv_accuracy is not None:
        num_scored = own.head.num_scored
        if num_images < MIN_ASKED_IMAGES and num_images < num_scored:
            return check_teacher(
                name,
                num_correct=round(own.head.cv_accuracy * num_scored),
                num_images=num_scored,
                num_classes=num_classes,
                largest_share=own.largest_share,
            )
    largest_share = float(np.bincount(labels_N).max() / num_images)
    return check_teacher(
        name,
        num_correct=int((val_NK.argmax(axis=1) == labels_N).sum()),
        num_images=num_images,
        num_classes=num_classes,
        # Images of one class cannot tell knowledge from always saying it.
        largest_share=largest_share if largest_share < 1 else 0.0,
    )


def save_ready(ready: ReadyTeacher, folder: Path) -> None:
    """Write all but the network itself to `folder/teacher.safetensors`, durably.

    Raises:
        ResourceError: the disk refused.
    """
    tensors = {
        "columns": torch.tensor(ready.columns, dtype=torch.int64),
        "val_indices": torch.from_numpy(ready.val_indices),
        "val_logits": torch.from_numpy(ready.val_NK),
    }
    if ready.head is not None:
        tensors |= {_HEAD_WEIGHT: ready.head.weight_KD, _HEAD_BIAS: ready.head.bias_K}
    about = {
        "schema": SCHEMA,
        "teacher": ready.classifier.digest,
        "class_names": _names_digest(ready.class_names),
        "classes": ready.classes,
        "head": None if ready.head is None else ready.head.to_dict(),
        "image_s": ready.image_s,
        "check": asdict(ready.check),
        "notes": list(ready.notes),
    }
    text = json.dumps(about, allow_nan=False)
    metadata = {"about": text, "sha256": _seal(text, tensors)}
    data = safetensors.torch.save(to_saved_tensors(tensors), metadata=metadata)
    write_file(Path(folder) / TEACHER_FILE, data)


def load_ready(classifier: Classifier, folder: Path, class_names: Sequence[str]) -> ReadyTeacher:
    """What `save_ready` wrote, around the same `classifier` opened anew; equal in every bit.

    Raises:
        CheckpointError: CORRUPT for a file that is missing, damaged or not ours; NEWER;
            TEACHER_CHANGED where the classifier or the classes are not those of then.
    """
    path = Path(folder) / TEACHER_FILE
    try:
        about, tensors = _read(path)
        _check_schema(path, about["schema"])
        if about["class_names"] != _names_digest(class_names):
            raise _changed(classifier, "its classes became other classes than these")
        head = _head(about["head"], tensors)
        ready = classifier
        if head is not None:
            ready = classifier.with_head(head.weight_KD, head.bias_K, class_names=class_names)
        if about["teacher"] != ready.digest:
            raise _changed(classifier, "is not the teacher that this run began with")
        return ReadyTeacher(
            classifier=ready,
            class_names=tuple(class_names),
            columns=tuple(tensors["columns"].tolist()),
            classes=about["classes"],
            head=head,
            val_indices=tensors["val_indices"].numpy(),
            val_NK=tensors["val_logits"].numpy(),
            image_s=about["image_s"],
            check=TeacherCheck(**about["check"]),
            notes=tuple(about["notes"]),
        )
    except (KeyError, TypeError, ValueError, SafetensorError, ModelFileError) as error:
        why = error.why if isinstance(error, ModelFileError) else str(error)
        raise CheckpointError(
            "CORRUPT",
            path,
            f"what is known of the teacher cannot be read ({why})",
            "restore it from a backup, or set overwrite=true to begin anew",
        ) from error


def _check_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA:
        raise CheckpointError(
            "NEWER",
            path,
            f"written in format {schema}, this deitkit reads up to {SCHEMA}",
            "update deitkit, or go on with the version that began this run",
        )


def _changed(classifier: Classifier, why: str) -> CheckpointError:
    return CheckpointError(
        "TEACHER_CHANGED",
        classifier.name,
        why,
        "bring the old one back, start anew with another out= or overwrite=true, or go on with it "
        "with run.accept_changes=true",
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """JSON and tensors of the file, once their digest is the one in it."""
    entries = read_safetensors_header(path)
    data = path.read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    said = load_json(header, path, max_bytes=MAX_HEADER_BYTES, max_depth=3)["__metadata__"]
    loaded = safetensors.torch.load(data)
    tensors = {name: loaded[name] for name in entries}
    if said["sha256"] != _seal(said["about"], tensors):
        raise ValueError("its digest differs")
    return load_json(said["about"].encode(), path), tensors


def _seal(text: str, tensors: dict[str, Tensor]) -> str:
    """Of the text and of name, type, shape and content of every tensor, in hex."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _names_digest(names: Sequence[str]) -> str:
    """They may be too many for the header."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:32]


def _head(about: dict[str, Any] | None, tensors: dict[str, Tensor]) -> FittedHead | None:
    if about is None:
        return None
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about.items()}
    return FittedHead(weight_KD=tensors[_HEAD_WEIGHT], bias_K=tensors[_HEAD_BIAS], **values)
