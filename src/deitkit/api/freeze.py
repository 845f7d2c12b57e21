"""The images of a run, and what is written down before its first step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.api.request import CONFIG_FILE, DATA_REPORT_FILE, FORECAST_FILE, Request
from deitkit.config import RunConfig, write_config_text
from deitkit.data import Dataset, DecodePolicy, open_dataset, open_unlabelled
from deitkit.data.folds import hold_out
from deitkit.data.label_overlay import apply_overlay
from deitkit.errors import CheckpointError
from deitkit.runtime.durable import write_file, write_json
from deitkit.runtime.memory import available_memory_bytes

Progress = Callable[[str, int, int | None], None]
MEMORY_SHARE = 0.25


def no_progress(what: str, done: int, total: int | None) -> None:
    return None


def scan(config: RunConfig, source: Any, progress: Progress) -> Dataset:
    """Read, check and split the images of `source`, keeping small sets in memory."""
    dataset = scan_whole(config, source, progress)
    folds, fold = config.data.folds, config.data.fold
    return hold_out(dataset, num_folds=folds, fold=fold) if folds else dataset


def scan_whole(config: RunConfig, source: Any, progress: Progress) -> Dataset:
    """As `scan`, but of a run with folds none is held out yet."""
    from deitkit.runtime.device import num_local_ranks

    data = config.data
    free = (available_memory_bytes() or 0) // num_local_ranks()
    keep = {"auto": int(MEMORY_SHARE * free), "memory": free or 2**62, "disk": 0, "off": 0}
    dataset = open_dataset(
        source,
        val_fraction=data.val_fraction,
        holds_out=data.folds == 0,
        bad_images=data.bad_images,
        decode=DecodePolicy(
            channels=data.channels,
            background=data.background,
            max_pixels=data.max_pixels,
            min_side=data.min_side,
        ),
        fail_on_leak=data.fail_on_leak,
        allow_empty_class=data.allow_empty_class,
        follow_symlinks_outside=data.follow_symlinks_outside,
        keep_bytes=keep[data.image_cache],
        remember=data.remember_scan,
        progress=lambda done, total: progress("reading images", done, total),
    )
    if data.labels is not None:
        dataset = apply_overlay(dataset, Path(data.labels))
    if data.unlabelled is None:
        return dataset
    unlabelled = open_unlabelled(
        data.unlabelled,
        class_names=dataset.class_names,
        decode=dataset.train.decode,
        bad_images=data.bad_images,
        follow_symlinks_outside=data.follow_symlinks_outside,
        keep_bytes=keep[data.image_cache],
        remember=data.remember_scan,
        exclude_digests_M16=np.concatenate([dataset.train.digests, dataset.val.digests]),
        progress=lambda done, total: progress("reading unlabelled images", done, total),
    )
    if unlabelled.report is not None:
        dataset.report.warnings.extend(unlabelled.report.warnings)
    digest = hashlib.blake2b(dataset.fingerprint.encode(), digest_size=16)
    digest.update(np.unique(unlabelled.digests, axis=0).tobytes())
    return replace(dataset, unlabelled=unlabelled, fingerprint=digest.hexdigest())


def freeze(request: Request, dataset: Dataset) -> None:
    """Write down what was decided; from then on there is a run."""
    write_json(request.folder / DATA_REPORT_FILE, dataset.report.to_dict())
    if request.forecast is not None:
        write_json(request.folder / FORECAST_FILE, {"forecast": request.forecast})
    # The config comes last: with it there is a run, and that run has its report.
    write_config(request)


def write_config(request: Request) -> None:
    text = write_config_text(
        request.config,
        asked=request.asked,
        reasons=request.reasons,
        identity=request.identity,
        header="A deitkit run, every setting as it was used. Repeat it with\n"
        f"deitkit train config={CONFIG_FILE} out=somewhere/else",
    )
    write_file(request.folder / CONFIG_FILE, text.encode())


def check_same_data(request: Request, dataset: Dataset) -> None:
    if request.identity["data"] != dataset.fingerprint:
        report = json.loads((request.folder / DATA_REPORT_FILE).read_text(encoding="utf-8"))
        before = {"val": 0, **report["num_images"]}
        raise CheckpointError(
            "DATASET_CHANGED",
            request.folder,
            f"the images are not those this run began with ({before['train']} + {before['val']} "
            f"then, {len(dataset.train)} + {len(dataset.val)} now)",
            "bring the images back, or start anew with another out= or overwrite=true",
        )
