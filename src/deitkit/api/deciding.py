"""From "auto" to a run that can be repeated: every choice, and the forecast that goes with it.

`train` and `plan` both come here, so that what is planned is what is trained.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deitkit.api.choosing_ranks import Arranged, arrange_ranks
from deitkit.api.forecasting import forecast_run
from deitkit.api.freeze import Progress
from deitkit.api.image_sources import settle_run_sources
from deitkit.api.request import Request
from deitkit.api.short_runs import Shortage, find_shortage, short_run_notes
from deitkit.config import AUTO, RunConfig, flatten, settled
from deitkit.config.changes import FREE
from deitkit.data import Dataset
from deitkit.runtime.disk_faults import free_space_bytes
from deitkit.runtime.memory import available_memory_bytes

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.training.assemble import Assembly
    from deitkit.training.forecast import Forecast
    from deitkit.training.resolution import Resolution
    from deitkit.training.sources import OpenSources
    from deitkit.training.spending import Spending
    from deitkit.training.start import Start

NUM_RENDERED = 16
"""Views that are rendered at the teacher's size to time it."""
MEASURE_SHARE = 0.05
"""Of the budget, what timing a few steps may take."""
FINISH_SHARE = 0.94
"""Of the time left after the measurement, what steps and evaluations may take."""


class TeacherCost(NamedTuple):
    """What a decision needs to know of a teacher."""

    image_size: tuple[int, int]
    """Of the views it wants."""
    image_s: float
    """Seconds of its forward for one image."""
    digest: str


class TeacherTimes(NamedTuple):
    """What a run's teacher costs."""

    student_step_s: float
    """Seconds of a step without it."""
    teacher_step_s: float
    num_epochs: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Decided:
    """What was found out besides the settings, which are the request's from now on."""

    world: World
    """The ranks that go on."""
    times: TeacherTimes | None
    """None without a teacher."""
    sources: OpenSources
    forecast: Forecast
    probe: Assembly
    """What was timed; its weights are spoilt."""
    shortage: Shortage | None
    """None where each image is seen at least once."""


def decide(
    request: Request,
    dataset: Dataset,
    everyone: World,
    spending: Spending,
    progress: Progress,
    *,
    teacher: TeacherCost | None,
    open_sources: Callable[[RunConfig], OpenSources],
) -> Decided:
    """Turn every "auto" into a value with a reason, after timing a few steps. Writes nothing.

    `open_sources` opens what views are cut from, before the steps are timed; what it takes, or
    would take, is in `spending` after it.

    Raises:
        ConfigError: settings that do not fit together or to the images.
        RankNotNeeded: on the ranks that ranks=auto does without.
    """
    from deitkit.runtime.compiler import compiler_fault
    from deitkit.training.compile_choice import settle_compile
    from deitkit.training.forecast import Costs
    from deitkit.training.resolve import budget_s, resolve_from_clock
    from deitkit.training.spending import CHOOSING

    arranged, sources, start = _timed(
        request, dataset, everyone, spending, progress, teacher=teacher, open_sources=open_sources
    )
    world, resolution, probe, step_s, evaluation_s = arranged
    teacher_step_s = 0.0
    if teacher is not None:
        teacher_step_s = world.max(_teacher_step_s(probe, teacher))
    elapsed_s = world.max(spending.elapsed_s())
    resolve_from_clock(
        resolution,
        step_s=step_s,
        evaluation_s=evaluation_s,
        steps_per_epoch=probe.steps.steps_per_epoch,
        seconds_left=FINISH_SHARE * (budget_s(request.config) - elapsed_s),
        teacher_step_s=teacher_step_s,
    )
    settle_compile(
        resolution,
        device_type=world.device.type,
        step_s=step_s,
        fault=lambda: world.broadcast_json(compiler_fault(world.device)),
    )
    if teacher is not None:
        _settle_cache(resolution, probe)
    request.config = resolution.config
    request.reasons = {**request.reasons, **resolution.reasons}
    request.identity = {
        "lineage": _lineage(request.config, dataset.fingerprint),
        "data": dataset.fingerprint,
        "teacher": "none" if teacher is None else teacher.digest,
        "start": "none" if start is None else start.digest,
        "recipe": request.recipe or "none",
        "deitkit": version("deitkit"),
    }
    share = settled(request.config.schedule.steps) / probe.steps.steps_per_epoch
    best_s, checkpoint_s = _saving_s(probe)
    costs = Costs(
        step_s=step_s,
        teacher_step_s=teacher_step_s,
        evaluation_s=evaluation_s,
        best_s=best_s,
        checkpoint_s=checkpoint_s,
    )
    shortage = find_shortage(request.config, probe, costs, before_s=elapsed_s, share=FINISH_SHARE)
    if shortage is not None:
        request.notes.append(shortage.said)
    request.notes += short_run_notes(request.config, len(dataset.train))
    spending.mark(CHOOSING)
    forecast = forecast_run(request.config, probe, costs, spending, has_teacher=teacher is not None)
    request.forecast = forecast.to_dict()
    return Decided(
        world=world,
        times=None if teacher is None else TeacherTimes(step_s, teacher_step_s, share),
        sources=sources,
        forecast=forecast,
        probe=probe,
        shortage=shortage,
    )


def _timed(
    request: Request,
    dataset: Dataset,
    everyone: World,
    spending: Spending,
    progress: Progress,
    *,
    teacher: TeacherCost | None,
    open_sources: Callable[[RunConfig], OpenSources],
) -> tuple[Arranged, OpenSources, Start | None]:
    """Choose what the data decides, open what views are cut from, and time a few steps."""
    from deitkit.runtime.device import free_memory_bytes
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.assemble import assemble
    from deitkit.training.resolve import budget_s, resolve_from_data
    from deitkit.training.spending import CHOOSING, IMAGE_CACHE
    from deitkit.training.teaching import BlankTeacher

    start, start_reason = find_request_start(request, dataset, everyone, progress)
    free_bytes = everyone.broadcast_json(free_memory_bytes(everyone.device))
    blank = None if teacher is None else BlankTeacher(len(dataset.class_names))
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
        teacher_size = None if teacher is None else teacher.image_size
        settle_run_sources(resolution, dataset, everyone, teacher_size=teacher_size)
        return resolution

    def build(chosen: Resolution, ranks: World) -> Assembly:
        if not opened:
            spending.mark(CHOOSING)
            opened.append(open_sources(chosen.config))
            spending.mark(IMAGE_CACHE)
        return assemble(chosen.config, dataset, world=ranks, teacher=blank, sources=opened[0])

    arranged = arrange_ranks(
        everyone,
        resolve,
        build,
        keeps_all=request.keeps_ranks,
        limit_s=MEASURE_SHARE * budget_s(request.config),
        told=lambda done, total: progress("timing a few steps", done, total),
    )
    return arranged, opened[0], start


def _saving_s(probe: Assembly) -> tuple[float, float]:
    """Seconds of writing the best weights and of a checkpoint."""
    from deitkit.training.timing import measure_saving

    times = measure_saving(probe) if probe.world.is_main else None
    best_s, checkpoint_s = probe.world.broadcast_json(times)
    return best_s, checkpoint_s


def _teacher_step_s(probe: Assembly, teacher: TeacherCost) -> float:
    """Seconds that the teacher adds to a step: its views rendered, and its answers."""
    batch = probe.steps[0]
    few = min(len(batch), NUM_RENDERED)
    render_s = 0.0
    if teacher.image_size != batch.image_size:
        start = time.monotonic()
        probe.steps.rendered(batch.indices_B[:few], batch.views[:few], teacher.image_size)
        render_s = (time.monotonic() - start) / few / max(1, settled(probe.config.run.workers))
    return len(batch) * (teacher.image_s + render_s)


def _settle_cache(resolution: Resolution, probe: Assembly) -> None:
    """Choose where the teacher's answers are kept, alike on all ranks."""
    from deitkit.training.resolve_teacher import settle_teacher_cache

    world = probe.world
    settle_teacher_cache(
        resolution,
        num_images=len(probe.steps.images),
        num_classes=len(probe.dataset.class_names),
        free_disk=world.broadcast_json(_free_disk_bytes(resolution.config)),
        free_memory=world.broadcast_json(available_memory_bytes() or 0),
    )


def _free_disk_bytes(config: RunConfig) -> int | None:
    from deitkit.teachers.cache_folder import default_root

    folder = config.distill.cache_folder
    return free_space_bytes(default_root() if folder is None else Path(folder))


def find_request_start(
    request: Request, dataset: Dataset, world: World, progress: Progress
) -> tuple[Start | None, str]:
    """The trained start, looked for by one rank and then read by all."""
    from deitkit.training.model_choices import SMALL_SIDE
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


def _lineage(config: RunConfig, fingerprint: str) -> str:
    """Names a run by what decides its weights."""
    values = {k: str(v) for k, v in flatten(config).items() if k not in FREE}
    text = json.dumps([values, fingerprint], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
