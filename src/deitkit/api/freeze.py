"""From "auto" to a run that can be repeated: scan, time, decide, write down, and meet again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deitkit.api.choosing_ranks import arrange_ranks
from deitkit.api.image_sources import open_run_sources, settle_run_sources
from deitkit.api.request import CONFIG_FILE, DATA_REPORT_FILE, Request
from deitkit.config import AUTO, RunConfig, flatten, settled, write_config_text
from deitkit.config.changes import FREE
from deitkit.data import Dataset, DecodePolicy, open_dataset, open_unlabelled
from deitkit.data.label_overlay import apply_overlay
from deitkit.errors import CheckpointError
from deitkit.runtime.disk_faults import free_space_bytes
from deitkit.runtime.durable import write_file, write_json
from deitkit.runtime.memory import available_memory_bytes

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.teachers import LiveTeacher
    from deitkit.training.assemble import Assembly
    from deitkit.training.resolution import Resolution
    from deitkit.training.sources import OpenSources
    from deitkit.training.start import Start

NUM_RENDERED = 16
"""Views that are rendered at the teacher's size to time it."""


class TeacherTimes(NamedTuple):
    """What a run's teacher costs."""

    student_step_s: float
    """Seconds of a step without it."""
    teacher_step_s: float
    num_epochs: float


class Frozen(NamedTuple):
    """What was found out besides the settings."""

    world: World
    """The ranks that go on."""
    times: TeacherTimes | None
    """None without a teacher."""
    sources: OpenSources


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
    from deitkit.runtime.device import num_local_ranks

    data = config.data
    free = (available_memory_bytes() or 0) // num_local_ranks()
    keep = {"auto": int(MEMORY_SHARE * free), "memory": free or 2**62, "disk": 0, "off": 0}
    dataset = open_dataset(
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
        exclude_digests_M16=np.concatenate([dataset.train.digests, dataset.val.digests]),
        progress=lambda done, total: progress("reading unlabelled images", done, total),
    )
    if unlabelled.report is not None:
        dataset.report.warnings.extend(unlabelled.report.warnings)
    digest = hashlib.blake2b(dataset.fingerprint.encode(), digest_size=16)
    digest.update(np.unique(unlabelled.digests, axis=0).tobytes())
    return replace(dataset, unlabelled=unlabelled, fingerprint=digest.hexdigest())


def freeze(
    request: Request,
    dataset: Dataset,
    everyone: World,
    started: float,
    progress: Progress,
    teacher: LiveTeacher | None = None,
    teacher_image_s: float = 0.0,
) -> Frozen:
    """Turn every "auto" into a value, time a few steps, and write the run's config.

    The image cache is filled before the steps are timed. `teacher_image_s` are the seconds in
    which the teacher sees one image.
    """
    from deitkit.runtime.device import free_memory_bytes
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.assemble import assemble
    from deitkit.training.resolve import budget_s, resolve_from_clock, resolve_from_data
    from deitkit.training.resolve_teacher import settle_teacher_cache
    from deitkit.training.teaching import BlankTeacher

    start, start_reason = _find_start(request, dataset, everyone, progress)
    free_bytes = everyone.broadcast_json(free_memory_bytes(everyone.device))
    blank = None if teacher is None else BlankTeacher(len(dataset.class_names))
    teacher_size = None if teacher is None else teacher.image_size
    opened: list[OpenSources] = []

    def resolve(num_ranks: int) -> Resolution:
        resolution = resolve_from_data(
            request.config,
            dataset,
            device_type=everyone.device.type,
            num_cores=usable_cpus(),
            num_ranks=num_ranks,
            start=start,
            start_reason=start_reason,
            free_bytes=free_bytes,
        )
        settle_run_sources(resolution, dataset, everyone, teacher_size=teacher_size)
        return resolution

    def build(chosen: Resolution, ranks: World) -> Assembly:
        if not opened:
            opened.append(
                open_run_sources(
                    chosen.config, dataset, everyone, tell=request.notes.append, progress=progress
                )
            )
        config = chosen.config
        return assemble(config, dataset, world=ranks, teacher=blank, sources=opened[0])

    world, resolution, probe, step_s, evaluation_s = arrange_ranks(
        everyone,
        resolve,
        build,
        limit_s=MEASURE_SHARE * budget_s(request.config),
        told=lambda done, total: progress("timing a few steps", done, total),
    )
    teacher_step_s = 0.0
    if teacher is not None:
        teacher_step_s = world.max(_teacher_step_s(probe, teacher, teacher_image_s))
    elapsed_s = world.max(time.monotonic() - started)
    resolve_from_clock(
        resolution,
        step_s=step_s,
        evaluation_s=evaluation_s,
        steps_per_epoch=probe.steps.steps_per_epoch,
        seconds_left=FINISH_SHARE * (budget_s(request.config) - elapsed_s),
        teacher_step_s=teacher_step_s,
    )
    if teacher is not None:
        settle_teacher_cache(
            resolution,
            num_images=len(probe.steps.images),
            num_classes=len(dataset.class_names),
            free_disk=world.broadcast_json(_free_disk_bytes(request.config)),
            free_memory=world.broadcast_json(available_memory_bytes() or 0),
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
        "teacher": "none" if teacher is None else teacher.digest,
        "start": "none" if start is None else start.digest,
        "recipe": request.recipe or "none",
        "deitkit": version("deitkit"),
    }
    times = None
    request.forecast_s = step_s * settled(request.config.schedule.steps)
    if teacher is not None:
        times = TeacherTimes(step_s, teacher_step_s, share)
        asked = settled(request.config.distill.view_epochs) or share
        request.forecast_s += teacher_step_s * probe.steps.steps_per_epoch * min(asked, share)
    if world.is_main:
        # The config comes last: with it there is a run, and that run has its report.
        write_json(request.folder / DATA_REPORT_FILE, dataset.report.to_dict())
        write_config(request)
    world.barrier()
    return Frozen(world, times, opened[0])


def _teacher_step_s(probe: Assembly, teacher: LiveTeacher, image_s: float) -> float:
    """Seconds that the teacher adds to a step: its views rendered, and its answers."""
    batch = probe.steps[0]
    few = min(len(batch), NUM_RENDERED)
    render_s = 0.0
    if teacher.image_size != batch.image_size:
        start = time.monotonic()
        probe.steps.rendered(batch.indices_B[:few], batch.views[:few], teacher.image_size)
        render_s = (time.monotonic() - start) / few / max(1, settled(probe.config.run.workers))
    return len(batch) * (image_s + render_s)


def _free_disk_bytes(config: RunConfig) -> int | None:
    from deitkit.teachers.cache_folder import default_root

    folder = config.distill.cache_folder
    path = default_root() if folder is None else Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    return free_space_bytes(path)


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
