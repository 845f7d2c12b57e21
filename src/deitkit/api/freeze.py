"""From "auto" to a run that can be repeated: scan, time, decide, write down, and meet again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from deitkit.api.request import CONFIG_FILE, DATA_REPORT_FILE, Request
from deitkit.config import AUTO, RunConfig, flatten, settled, write_config_text
from deitkit.config.changes import FREE
from deitkit.data import Dataset, DecodePolicy, open_dataset
from deitkit.errors import CheckpointError
from deitkit.runtime.durable import write_file, write_json
from deitkit.runtime.memory import available_memory_bytes

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.training.start import Start

Progress = Callable[[str, int, int | None], None]
MEMORY_SHARE = 0.25
MEASURE_SHARE = 0.05
"""Of the budget, what timing a few steps may take."""
FINISH_SHARE = 0.94
"""Of the time left after the measurement, what steps and evaluations may take."""


def no_progress(what: str, done: int, total: int | None) -> None:
    return None


def scan(config: RunConfig, source: Any, progress: Progress) -> Dataset:
    """Read, check and split the images of `source`, keeping small sets in memory."""
    data = config.data
    free = available_memory_bytes() or 0
    keep = {"auto": int(MEMORY_SHARE * free), "memory": 2**62, "off": 0}
    return open_dataset(
        source,
        val_fraction=data.val_fraction,
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
        progress=lambda done, total: progress("reading images", done, total),
    )


def freeze(
    request: Request,
    dataset: Dataset,
    world: World,
    started: float,
    progress: Progress,
) -> None:
    """Turn every "auto" into a value, time a few steps, and write the run's config."""
    from deitkit.runtime.device import free_memory_bytes
    from deitkit.training.assemble import assemble, measure
    from deitkit.training.resolve import budget_s, resolve_from_clock, resolve_from_data

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    start, start_reason = _find_start(request, dataset, world, progress)
    resolution = resolve_from_data(
        request.config,
        dataset,
        device_type=world.device.type,
        num_cores=num_cores,
        start=start,
        start_reason=start_reason,
        free_bytes=world.broadcast_json(free_memory_bytes(world.device)),
    )
    resolution.settle_ranks(world.world_size)
    probe = assemble(resolution.config, dataset, world=world)
    limit_s = MEASURE_SHARE * budget_s(request.config)
    step_s, evaluation_s = measure(
        probe,
        limit_s=limit_s,
        progress=lambda done, total: progress("timing a few steps", done, total),
    )
    elapsed_s = world.max(time.monotonic() - started)
    resolve_from_clock(
        resolution,
        step_s=step_s,
        evaluation_s=evaluation_s,
        steps_per_epoch=probe.steps.steps_per_epoch,
        seconds_left=FINISH_SHARE * (budget_s(request.config) - elapsed_s),
    )
    request.config, request.reasons = resolution.config, resolution.reasons
    share = settled(request.config.schedule.steps) / probe.steps.steps_per_epoch
    if share < 1:
        request.notes.append(
            f"{settled(request.config.schedule.steps)} steps see {100 * share:.0f} % of the images "
            "once, which teaches little; a longer budget= gives more"
        )
    request.notes += _short_run_notes(request.config, len(dataset.train))
    request.identity = {
        "lineage": _lineage(request.config, dataset.fingerprint),
        "data": dataset.fingerprint,
        "teacher": _teacher_digest(request.config),
        "start": "none" if start is None else start.digest,
        "recipe": request.recipe or "none",
        "deitkit": version("deitkit"),
    }
    request.forecast_s = step_s * settled(request.config.schedule.steps)
    if world.is_main:
        # The config comes last: with it there is a run, and that run has its report.
        write_json(request.folder / DATA_REPORT_FILE, dataset.report.to_dict())
        write_config(request)
    world.barrier()


def _short_run_notes(config: RunConfig, num_images: int) -> list[str]:
    """Where settings made for long runs on many images lose their meaning."""
    notes = []
    batch_size, steps = settled(config.optim.batch_size), settled(config.schedule.steps)
    if batch_size > num_images:
        notes.append(
            f"a batch of {batch_size:,} holds all {num_images:,} images: one step an epoch, at the "
            "learning rate of that batch; optim.batch_size= sets a smaller one"
        )
    decay = config.ema.decay
    if decay is not None and not config.ema.warmup and decay**steps > 0.5:
        notes.append(
            f"after {steps:,} steps the average of the weights is still {decay**steps:.0%} the "
            "first ones; ema.decay=none follows the length of the run"
        )
    return notes


def _find_start(
    request: Request, dataset: Dataset, world: World, progress: Progress
) -> tuple[Start | None, str]:
    """The trained start, looked for by one rank and then read by all."""
    from deitkit.training.choices import SMALL_SIDE
    from deitkit.training.start import find_start, open_start

    start, found = None, {}
    if world.is_main:
        config = request.config
        is_large = int(dataset.train.sizes.max()) > SMALL_SIDE
        start, reason = find_start(
            None if config.model.init == AUTO else config.model.init,
            model_name=None if config.model.name == AUTO else config.model.name,
            has_teacher=config.distill.teacher is not None,
            photographs=is_large and config.data.channels == 3,
            device_type=world.device.type,
            progress=progress,
        )
        found = {"asked": "" if start is None else start.asked, "reason": reason}
    found = world.broadcast_json(found)
    if found["asked"] and start is None:
        start = open_start(found["asked"])
    return start, found["reason"]


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


def _lineage(config: RunConfig, fingerprint: str) -> str:
    """Names a run by what decides its weights."""
    values = {k: str(v) for k, v in flatten(config).items() if k not in FREE}
    text = json.dumps([values, fingerprint], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _teacher_digest(config: RunConfig) -> str:
    from deitkit.artifacts.bundle import bundle_digest

    return "none" if config.distill.teacher is None else bundle_digest(config.distill.teacher)


def check_same_teacher(request: Request) -> None:
    digest = _teacher_digest(request.config)
    if digest != request.identity["teacher"] and not request.config.run.accept_changes:
        raise CheckpointError(
            "TEACHER_CHANGED",
            request.config.distill.teacher,
            "is not the teacher this run began with: it was trained anew",
            "start anew with another out= or overwrite=true, or set run.accept_changes=true",
        )


def check_same_data(request: Request, dataset: Dataset) -> None:
    if request.identity["data"] != dataset.fingerprint:
        report = json.loads((request.folder / DATA_REPORT_FILE).read_text(encoding="utf-8"))
        before = report["num_images"]
        raise CheckpointError(
            "DATASET_CHANGED",
            request.folder,
            f"the images are not those this run began with ({before['train']} + {before['val']} "
            f"then, {len(dataset.train)} + {len(dataset.val)} now)",
            "bring the images back, or start anew with another out= or overwrite=true",
        )
