"""What the folds of a run say together: each image answered once, by a model that never saw it."""

# Shapes: N all images, K classes.

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deitkit.api.folds_asked import FOLDS_FOLDER
from deitkit.api.freeze import Progress
from deitkit.api.request import BEST_FOLDER, METRICS_FILE, RESULT_FILE
from deitkit.config import RunConfig
from deitkit.data import Dataset, ImageSet
from deitkit.data.folds import fold_places
from deitkit.errors import CheckpointError, StoppedError
from deitkit.runtime.signals import StopRequest
from deitkit.runtime.strict_json import load_json

if TYPE_CHECKING:
    from deitkit.evaluation.logits import HeadLogits
    from deitkit.evaluation.metrics import Metrics
    from deitkit.models import ImageModel
    from deitkit.runtime.world import World
    from deitkit.training.state import TrainState


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """All training images, each answered by the fold that held it out."""

    logits: HeadLogits
    """In the order of all images."""
    metrics: Metrics
    """Of the fused heads."""
    ends: dict[str, dict[str, float]]
    """Of the weights ("raw") and their average ("ema") at the ends of the folds: what the run on
    all images has for its own validation."""
    best_epochs: tuple[float, ...]
    """After how many epochs each fold's best weights were found."""
    found: dict[str, Any]
    """All that is told, as plain JSON values."""

    def validates(self, state: TrainState) -> Callable[[ImageModel, Any], dict[str, float]]:
        """Stands for the validation of the run on all images: no image is left to it."""

        def validate(model: ImageModel, stop: Any) -> dict[str, float]:
            return dict(self.ends["raw" if model is state.model else "ema"])

        return validate


def fold_folder(folder: Path, fold: int) -> Path:
    """Where the run of a fold lies, from 1."""
    return folder / FOLDS_FOLDER / str(fold)


def fold_result(folder: Path, fold: int) -> dict[str, Any]:
    """What a fold that ended wrote last. Raises CheckpointError NO_FOLDS where it is gone."""
    path = fold_folder(folder, fold) / RESULT_FILE
    if not path.is_file():
        raise CheckpointError(
            "NO_FOLDS",
            folder,
            f"fold {fold} is gone, and with it what it said",
            "bring it back, or start anew with overwrite=true",
        )
    return load_json(path.read_bytes(), path)


def judge_folds(
    folder: Path,
    config: RunConfig,
    whole: Dataset,
    world: World,
    progress: Progress,
    stop: StopRequest | None = None,
) -> Judged:
    """Ask the best weights of each fold about what it held out. The ranks share the work.

    Raises:
        StoppedError: a signal came meanwhile.
        DataError, ModelFileError: an image or a bundle cannot be read.
    """
    from deitkit.evaluation.logits import HeadLogits
    from deitkit.evaluation.metrics import summarise

    images, num_folds = whole.train, config.data.folds
    results = [fold_result(folder, number) for number in range(1, num_folds + 1)]
    places = fold_places(images, num_folds)
    heads: dict[str, np.ndarray] = {}
    fused_NK = np.zeros((len(images), len(whole.class_names)), np.float64)
    for number, place in enumerate(places, 1):
        progress("asking the folds", number, num_folds)
        part = images.subset(place, "val")
        logits, fused = _answers(fold_folder(folder, number), part, world, stop)
        fused_NK[place] = fused
        for name, rows in (("cls_NK", logits.cls_NK), ("dist_NK", logits.dist_NK)):
            if rows is not None:
                heads.setdefault(name, np.zeros_like(fused_NK, np.float32))[place] = rows
    metrics = summarise(fused_NK, images.labels, whole.class_names)
    best_epochs = tuple(
        result["epochs"] * result["best"]["step"] / result["steps"] for result in results
    )
    return Judged(
        logits=HeadLogits(
            indices=np.arange(len(images)),
            cls_NK=heads["cls_NK"],
            dist_NK=heads.get("dist_NK"),
        ),
        metrics=metrics,
        ends=_ends(folder, num_folds),
        best_epochs=best_epochs,
        found=_found(metrics, results, best_epochs),
    )


def _answers(
    folder: Path, images: ImageSet, world: World, stop: StopRequest | None
) -> tuple[HeadLogits, np.ndarray]:
    """The heads of a fold's best weights, and both as its bundle fuses them, uncalibrated."""
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.training.scoring import ask_together

    def number() -> int | None:
        return None if stop is None or world.world_size > 1 else stop.signal_number

    bundle = load_bundle(folder / BEST_FOLDER)
    logits = ask_together(
        bundle.build_model().to(world.device),
        images,
        bundle.preprocessing,
        world,
        stop=lambda: number() is not None,
    )
    if logits is None:
        raise StoppedError(
            number() or 15,
            folder.parents[1],
            "stopped while the folds were asked",
            f"go on with `deitkit train out={folder.parents[1]}`",
        )
    return logits, logits.fused(bundle.fusion, weight=bundle.fusion_weight)


def _ends(folder: Path, num_folds: int) -> dict[str, dict[str, float]]:
    """Scores after the last step, as means over the images of all folds."""
    from deitkit.api.reporting import read_log

    last = []
    for number in range(1, num_folds + 1):
        lines = read_log(fold_folder(folder, number) / METRICS_FILE)
        last.append([line for line in lines if line["event"] == "evaluated"][-1]["scores"])
    ends = {}
    for source in last[0]:
        sizes = [scores[source]["num_images"] for scores in last]
        total = sum(sizes)
        ends[source] = {
            name: sum(n * scores[source][name] for n, scores in zip(sizes, last, strict=True))
            / total
            for name in ("top1", "nll", "ece")
        }
        ends[source] |= {"num_images": total, "folds": num_folds}
    return ends


def _found(
    metrics: Metrics, results: Sequence[Mapping[str, Any]], best_epochs: Sequence[float]
) -> dict[str, Any]:
    accuracies = [result["val_top1"] for result in results]
    return {
        "num_images": metrics.num_images,
        "accuracy": metrics.top1,
        "interval": list(metrics.top1_interval),
        "macro": metrics.macro,
        "macro_interval": list(metrics.macro_interval),
        "mean": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "folds": [
            {
                "num_train": result["num_train"],
                "num_val": result["num_val"],
                "accuracy": result["val_top1"],
                "interval": result["val_top1_interval"],
                "epochs": result["epochs"],
                "best_epoch": round(epoch, 3),
                "seconds": result["command_seconds"],
            }
            for result, epoch in zip(results, best_epochs, strict=True)
        ],
        "per_class": metrics.to_dict()["per_class"],
        "confusion": metrics.confusion_KK.tolist(),
    }
