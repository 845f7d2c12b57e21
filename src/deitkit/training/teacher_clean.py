"""A teacher on clean images: what it says of them, and the features a new head is fitted on."""

# Shapes: N images, B at a time, D features, T classes of the teacher.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from deitkit.data import ImageSet
from deitkit.evaluation.logits import prepare_batch
from deitkit.teachers.classifier import Classifier
from deitkit.teachers.live import block_size_for
from deitkit.teachers.outputs import in_blocks
from deitkit.training.teacher_source import evaluation_preprocessing_of


@torch.no_grad()
def ask_on_clean(
    classifier: Classifier,
    images: ImageSet,
    *,
    features: bool = False,
    indices: np.ndarray | None = None,
    autocast_dtype: torch.dtype | None = None,
    block_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> np.ndarray | None:
    """Float32 logits [N, T], or features [N, D], of the images at `indices` (all of them), in
    that order; None when `stop` says so.

    Prepared as the teacher was evaluated, not as views; in blocks of one size, as a live teacher.
    """
    classifier.check_frozen()
    ask = classifier.embed if features else classifier.call
    spec = evaluation_preprocessing_of(classifier)
    block_size = block_size or block_size_for(classifier.device)
    chosen = np.arange(len(images)) if indices is None else indices
    rows: list[np.ndarray] = []
    for start in range(0, len(chosen), block_size):
        if stop():
            return None
        batch = torch.from_numpy(prepare_batch(images, chosen[start : start + block_size], spec))
        with torch.autocast(
            classifier.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None
        ):
            answer = in_blocks(ask, batch.to(classifier.device), block_size=block_size)
        rows.append(answer.float().cpu().numpy())
        progress(start + len(batch), len(chosen))
    return np.concatenate(rows)
