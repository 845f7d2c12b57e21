"""A teacher before training: a head for the user's classes, its answers, and its speed."""

# Shapes: N images, B in a block, C channels, H height, W width, D features, K classes of the user,
# T of the teacher.

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deitkit.data import ImageSet
from deitkit.teachers import Classifier
from deitkit.teachers.live import block_size_for
from deitkit.teachers.outputs import bad_output, check_output
from deitkit.teachers.refit import FittedHead, fit_head
from deitkit.training.teacher_clean import ask_on_clean

Progress = Callable[[str, int, int | None], None]
FIT_IMAGES_PER_CLASS = 100
MIN_FIT_IMAGES, MAX_FIT_IMAGES = 2_000, 20_000
"""Images that a head is fitted on, 100 a class within these bounds. Their number never depends on
the clock: the same images must give the same head, or stored answers of the teacher are lost."""
MIN_ASKED_IMAGES = 200
"""Validation images it is asked about however long that takes."""


class OwnHead(NamedTuple):
    """A fitted head, and what its cross-validated accuracy is compared with."""

    head: FittedHead
    largest_share: float
    """Of the images it was fitted on, those of the largest class."""


class Answers(NamedTuple):
    """What a teacher said of some images."""

    indices: np.ndarray
    """int64 [N], ascending."""
    logits_NT: np.ndarray
    """float32."""
    image_s: float
    """Seconds of its forward for one image, in full blocks."""


def choose_fit_images(
    labels_N: np.ndarray, sample_ids_N: np.ndarray, num_images: int
) -> np.ndarray:
    """So many of the labelled images (-1 has no label), each class by its share, by sample id.

    A class that has images keeps one, as long as there are no more classes than images taken. It
    does not matter in which order the images stand.
    """
    labelled = np.flatnonzero(labels_N >= 0)
    by_class = labelled[np.lexsort((sample_ids_N[labelled], labels_N[labelled]))]
    labels = labels_N[by_class]
    counts_K = np.bincount(labels)
    rank = np.arange(len(labels)) - (np.cumsum(counts_K) - counts_K)[labels]
    taken = by_class[np.lexsort((labels, rank / counts_K[labels]))[:num_images]]
    return taken[np.argsort(sample_ids_N[taken], kind="stable")]


def num_fit_images(num_classes: int) -> int:
    """The most images that a head for so many classes is fitted on."""
    return min(MAX_FIT_IMAGES, max(MIN_FIT_IMAGES, FIT_IMAGES_PER_CLASS * num_classes))


def fit_own_head(
    classifier: Classifier,
    train: ImageSet,
    *,
    seed: int,
    autocast_dtype: torch.dtype | None,
    progress: Progress,
) -> OwnHead:
    """A head for the classes of `train` on the teacher's features of clean training images.

    Raises:
        DataError: ONE_CLASS; an image cannot be read any more.
        ModelFileError: TEACHER_OUTPUT.
    """
    num_classes = len(train.class_names)
    chosen = choose_fit_images(train.labels, train.sample_ids, num_fit_images(num_classes))
    labels = train.labels[chosen]
    features_ND = np.zeros((0, 1), np.float32)
    if len(chosen):
        asked = ask_on_clean(
            classifier,
            train,
            features=True,
            indices=chosen,
            autocast_dtype=autocast_dtype,
            progress=lambda done, total: progress("reading the teacher's features", done, total),
        )
        assert asked is not None, "nothing asked it to stop"
        features_ND = asked
    progress("fitting a head on the teacher", 0, None)
    head = fit_head(torch.from_numpy(features_ND), torch.from_numpy(labels), num_classes, seed=seed)
    return OwnHead(head, float(np.bincount(labels).max() / len(labels)))


def ask_in_time(
    classifier: Classifier,
    images: ImageSet,
    *,
    max_seconds: float | None,
    autocast_dtype: torch.dtype | None,
    progress: Progress,
    min_images: int = MIN_ASKED_IMAGES,
) -> Answers:
    """Ask about clean images by ascending sample id until `max_seconds` are over (None: all).

    At least `min_images` are asked about, or all there are. A first call is slower than
    others, so the first of several blocks is not timed, and a lone one is asked about again.

    Raises:
        DataError: an image cannot be read any more.
        ModelFileError: TEACHER_OUTPUT for NaN, infinity, or another shape than it had.
    """
    timed, block_size = _Timed(classifier), block_size_for(classifier.device)
    order = np.argsort(images.sample_ids, kind="stable")
    begun = time.monotonic()

    def ask(indices_B: np.ndarray) -> np.ndarray:
        rows = ask_on_clean(
            timed.classifier, images, indices=indices_B, autocast_dtype=autocast_dtype
        )
        assert rows is not None, "nothing asked it to stop"
        return rows

    blocks: list[np.ndarray] = []
    num_asked = 0
    while num_asked < len(order):
        is_late = max_seconds is not None and time.monotonic() - begun > max_seconds
        if is_late and num_asked >= min_images:
            break
        blocks.append(ask(order[num_asked : num_asked + block_size]))
        num_asked += len(blocks[-1])
        progress("asking the teacher", num_asked, len(order))
    if len(blocks) == 1:
        ask(order[:num_asked])
    logits_NT = np.concatenate(blocks)
    num_bad = int((~np.isfinite(logits_NT).all(axis=1)).sum())
    if num_bad:
        raise bad_output(
            classifier.name, f"it gives NaN or infinity for {num_bad:,} of {num_asked:,} images"
        )
    by_index = np.argsort(order[:num_asked])
    return Answers(
        indices=order[:num_asked][by_index],
        logits_NT=logits_NT[by_index],
        image_s=float(np.median(timed.block_s[1:])) / block_size,
    )


class _Timed:
    """A classifier whose blocks are timed, decoding and preprocessing left out."""

    def __init__(self, classifier: Classifier) -> None:
        self.block_s: list[float] = []
        self._asked = classifier
        self.classifier = replace(classifier, call=self._call)

    def _call(self, images_BCHW: Tensor) -> Tensor:
        wait_for(images_BCHW.device)
        begun = time.perf_counter()
        logits_BT = self._asked.call(images_BCHW)
        wait_for(images_BCHW.device)
        self.block_s.append(time.perf_counter() - begun)
        check_output(
            self._asked.name,
            logits_BT,
            num_images=len(images_BCHW),
            num_classes=self._asked.num_classes,
        )
        return logits_BT


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
