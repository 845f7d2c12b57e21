"""The teacher as a candidate of a race: what it answers itself, as a run where it is ours."""

# Shapes: K classes of the user, T of the teacher, D features.

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.request import Request
from deitkit.api.teaching import teacher_label
from deitkit.config import with_values
from deitkit.data import Dataset

if TYPE_CHECKING:
    from deitkit.artifacts.bundle import Bundle
    from deitkit.runtime.world import World
    from deitkit.training.teacher_ready import ReadyTeacher

HEAD_PREFIXES = ("head.", "head_dist.")
NUM_TIMED = 5


def teacher_bundle(place: str | Path, ready: ReadyTeacher) -> Bundle | None:
    """The bundle of the teacher at `place` with the user's classes in its heads; None where it is
    not a network of ours, so that no bundle can hold it.

    Its own head's rows where its classes were matched, else the head that was fitted on its frozen
    features, in each of its heads: these features are the mean of what the heads read.
    """
    from deitkit.artifacts.bundle import has_bundle, load_bundle

    if not Path(place).is_dir() or not has_bundle(place):
        return None
    bundle = load_bundle(place)
    state = dict(bundle.state_dict)
    for key, tensor in bundle.state_dict.items():
        if not key.startswith(HEAD_PREFIXES) or not key.endswith(("weight", "bias")):
            continue
        is_weight = key.endswith("weight")
        if ready.head is not None:
            state[key] = (ready.head.weight_KD if is_weight else ready.head.bias_K).clone()
        else:
            state[key] = tensor[list(ready.columns)].clone()
    if ready.head is not None:
        bundle = replace(bundle, fusion="mean", fusion_weight=None)
    return replace(
        bundle,
        model_config={**bundle.model_config, "num_classes": len(ready.class_names)},
        class_names=ready.class_names,
        state_dict=state,
        temperature=1.0,
        threshold=None,
        provenance={**bundle.provenance, "classes": ready.classes},
        metrics=None,
    )


def rate_teacher(
    request: Request,
    dataset: Dataset,
    world: World,
    place: Any,
    ready: ReadyTeacher,
    *,
    begun: float,
) -> dict[str, Any]:
    """What the teacher reaches, as result.json has it; written as a run where it is ours.

    `has_bundle` says whether it is, and else `latency_ms` stands beside.
    """
    from deitkit.api.frozen_run import write_frozen_run

    bundle = teacher_bundle(place, ready) if isinstance(place, str | Path) else None
    if bundle is None:
        labels_N = dataset.val.labels[ready.val_indices]
        num_right = int((ready.val_NK.argmax(axis=1) == labels_N).sum())
        return {
            "has_bundle": False,
            "num_val": len(labels_N),
            "val_top1": num_right / len(labels_N),
            "model": teacher_label(request.config, ready.classifier.name),
            "parameters": ready.classifier.num_params or 0,
            "latency_ms": _latency_ms(ready, dataset),
            "command_seconds": round(time.monotonic() - begun, 2),
        }
    spec = bundle.preprocessing
    values = {
        "model.name": bundle.model_config["name"],
        "model.init": str(place),
        "data.image_size": spec.image_size,
        "data.resize": spec.resize,
        "data.crop_ratio": spec.crop_ratio,
        "data.mean": spec.mean,
        "data.std": spec.std,
    }
    request.config = with_values(request.config, values)
    result = write_frozen_run(
        request,
        dataset,
        world,
        bundle,
        start=ready.classifier.digest,
        begun=begun,
    )
    return {**result, "has_bundle": True}


def _latency_ms(ready: ReadyTeacher, dataset: Dataset) -> float:
    """Median of one decoded picture at a time."""
    from deitkit.training.teacher_clean import ask_on_clean

    seconds = []
    for _ in range(NUM_TIMED):
        start = time.perf_counter()
        ask_on_clean(ready.classifier, dataset.val, indices=ready.val_indices[:1], block_size=1)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)
