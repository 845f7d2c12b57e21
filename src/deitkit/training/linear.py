"""A linear classifier on the frozen features of a network: the answer that costs no training."""

# Shapes: N images, B at a time, D features, K classes.

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.logits import EVALUATION_BATCH_SIZE, prepare_batch
from deitkit.models import ImageModel
from deitkit.runtime.device import precision_for
from deitkit.teachers.head_inputs import HeadInputs
from deitkit.teachers.outputs import fused_logits
from deitkit.teachers.refit import FittedHead, fit_head
from deitkit.training.teacher_asking import MAX_FIT_IMAGES, choose_fit_images

NUM_FOLDS = 3
"""Of the cross-validation that chooses the penalty."""
LOOSE, TIGHT = 1e-4, 1e-5
"""Slopes at which its fits are done, and the head itself: a third of a teacher's time, and the same
decisions on the images tried."""
NUM_TIMED = 8
"""Images whose features are timed to choose a size."""


def fit_linear(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    *,
    device: torch.device,
    seed: int,
    max_images: int = MAX_FIT_IMAGES,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> FittedHead:
    """Replace the heads of `model`, in place, by logistic regression on its own features.

    They are read from clean images, of the labelled ones `max_images` at most. A distilled model's
    mean of both heads then answers as the one regression on the features of both tokens does.
    `seed` deals the folds by which the penalty is chosen; `told` may raise to end all of it.

    Raises:
        DataError: ONE_CLASS; an image cannot be read any more.
        ModelFileError: TEACHER_OUTPUT, the features are not finite or all the same.
    """
    model.to(device).eval()
    inputs = HeadInputs(model, lambda x: fused_logits(model(x)), num_classes=model.num_classes)
    chosen = choose_fit_images(images.labels, images.sample_ids, max_images)
    rows: list[Tensor] = []
    for first in range(0, len(chosen), EVALUATION_BATCH_SIZE):
        indices_B = chosen[first : first + EVALUATION_BATCH_SIZE]
        rows.append(_features(inputs, images, indices_B, spec, device))
        told(first + len(indices_B), len(chosen))
    features_ND = torch.cat(rows) if rows else torch.zeros(0, 1)
    head = fit_head(
        features_ND,
        torch.from_numpy(images.labels[chosen]),
        model.num_classes,
        num_folds=NUM_FOLDS,
        loose=LOOSE,
        tight=TIGHT,
        seed=seed,
    )
    put_heads(inputs.layers, head.weight_KD, head.bias_K)
    return head


@torch.no_grad()
def put_heads(layers: list[nn.Module], weight_KD: Tensor, bias_K: Tensor) -> None:
    """Make the mean of linear `layers`, each on its part of the features, the one given.

    With H layers: mean_h (H W_h x_h + b) = W x + b.
    """
    first = 0
    for layer in layers:
        assert isinstance(layer, nn.Linear), "our networks end in a linear layer"
        last = first + layer.in_features
        layer.weight.copy_(len(layers) * weight_KD[:, first:last])
        layer.bias.copy_(bias_K)
        first = last
    assert first == weight_KD.shape[1], "the heads read all the features"


def features_s(
    model: ImageModel, images: ImageSet, spec: Preprocessing, *, device: torch.device
) -> float:
    """Seconds that the features of one image take, decoding included."""
    model.to(device).eval()
    inputs = HeadInputs(model, lambda x: fused_logits(model(x)), num_classes=model.num_classes)
    indices_B = np.arange(min(NUM_TIMED, len(images)))
    for _ in range(2):  # a first call is slower than all others
        start = time.perf_counter()
        _features(inputs, images, indices_B, spec, device)
        seconds = time.perf_counter() - start
    return seconds / len(indices_B)


def _features(
    inputs: HeadInputs,
    images: ImageSet,
    indices_B: np.ndarray,
    spec: Preprocessing,
    device: torch.device,
) -> Tensor:
    """[B, D] float32 on the CPU."""
    dtype = precision_for(device)
    batch = torch.from_numpy(prepare_batch(images, indices_B, spec)).to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        return inputs(batch).float().cpu()
