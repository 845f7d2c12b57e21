"""What the weights are worth: scores on the validation images, and how teacher and heads agree."""

# Shapes: N images, K classes.

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.diagnostics import head_agreement, token_cosines
from deitkit.evaluation.logits import HeadLogits, collect_logits
from deitkit.evaluation.metrics import summarise
from deitkit.models import ImageModel
from deitkit.runtime.world import World

NUM_TOKEN_IMAGES = 64


class TeacherSaid(NamedTuple):
    """The teacher's logits of clean validation images, in the order of the user's classes."""

    indices: np.ndarray
    logits_NK: np.ndarray


def ask_together(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    world: World,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeadLogits | None:
    """What the heads say of all images, on every rank, each having asked about its share; None when
    asked to stop."""
    logits = collect_logits(
        model,
        images,
        spec,
        device=world.device,
        rank=world.rank,
        world_size=world.world_size,
        stop=stop,
        progress=progress,
    )
    return None if logits is None else logits.gathered(world.gather_rows)


def score(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    world: World,
    stop: Callable[[], bool],
    *,
    fusion: str = "mean",
    said: TeacherSaid | None = None,
) -> dict[str, float] | None:
    """top1, nll, calibration error of the fused heads and num_images; None when asked to stop.

    Where it is known what the teacher `said` of them, also how often each head agrees with it, as
    agree_fused, agree_cls, agree_dist, and how alike the two tokens are, as token_cos_in and
    token_cos_out (Touvron et al. 2021, arXiv:2012.12877, section 5.2).
    """
    logits = ask_together(model, images, spec, world, stop=stop)
    if logits is None:
        return None
    metrics = summarise(logits.fused(fusion), images.labels[logits.indices], images.class_names)
    scores = {
        "top1": metrics.top1,
        "nll": metrics.nll,
        "ece": metrics.ece,
        "num_images": metrics.num_images,
    }
    if said is None:
        return scores
    asked = logits.at(said.indices)
    agreement = head_agreement(said.logits_NK, asked, fusion=fusion)
    scores |= {f"agree_{head}": share.value or 0.0 for head, share in agreement.items()}
    tokens = token_cosines(
        model, images, spec, device=world.device, max_images=NUM_TOKEN_IMAGES, stop=stop
    )
    if tokens is not None:
        scores |= {"token_cos_in": tokens.input, "token_cos_out": tokens.output}
    return scores
