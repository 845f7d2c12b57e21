"""A network that was not trained here, written as an ordinary run that is finished. Settings of
training stay "auto" in its config.yaml."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import freeze
from deitkit.api.request import BEST_FOLDER, RESULT_FILE, Request
from deitkit.data import Dataset
from deitkit.runtime.durable import write_json

if TYPE_CHECKING:
    from deitkit.artifacts.bundle import Bundle
    from deitkit.runtime.world import World


def write_frozen_run(
    request: Request,
    dataset: Dataset,
    world: World,
    bundle: Bundle,
    *,
    start: str,
    begun: float,
) -> dict[str, Any]:
    """Put `bundle` into the folder of `request`, and config.yaml; result.json is returned.

    `start` names the digest of what it came from, `begun` the monotonic time at which making it
    began. Its steps are 0.

    Raises:
        DeitkitError: as `calibrate_bundle`.
    """
    from deitkit.api.calibrating import calibrate_bundle
    from deitkit.artifacts.bundle import save_bundle
    from deitkit.evaluation.metrics import summarise
    from deitkit.models import model_cost

    request.identity = {"lineage": "frozen", "data": dataset.fingerprint, "start": start}
    save_bundle(request.folder / BEST_FOLDER, bundle)
    calibrated = calibrate_bundle(
        request.folder / BEST_FOLDER, dataset.val, world=world, fits_fusion=False
    )
    names = tuple(dataset.class_names)
    metrics = summarise(calibrated.fused(), dataset.val.labels, names)
    num_params, macs = model_cost(calibrated.bundle.build_model())
    seconds = round(time.monotonic() - begun, 2)
    best: dict[str, Any] = {"step": 0, "source": "raw", "top1": metrics.top1, "nll": metrics.nll}
    best |= {"ece": metrics.ece, "num_images": metrics.num_images, "peak_top1": metrics.top1}
    result = {
        "best": best,
        "steps": 0,
        "seconds": seconds,
        "command_seconds": seconds,
        "model": bundle.model_config["name"],
        "parameters": num_params,
        "macs": macs,
        "num_train": len(dataset.train),
        "num_val": metrics.num_images,
        "val_top1": metrics.top1,
        "val_top1_interval": list(metrics.top1_interval),
        "classes": list(names),
        "calibration": calibrated.to_dict(),
    }
    freeze(request, dataset)
    write_json(request.folder / RESULT_FILE, result)
    return result
