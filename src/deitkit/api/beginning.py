"""From a request to everything a run is made of: images, teacher, choices, parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deitkit.api.deciding import TeacherCost, TeacherTimes, decide
from deitkit.api.freeze import Progress, check_same_data, freeze, scan, write_config
from deitkit.api.image_sources import open_run_sources
from deitkit.api.precision import settle_precision
from deitkit.api.request import CHECKPOINT_FOLDER, TEACHER_FACTS_FILE, Request
from deitkit.api.teaching import find_teacher, teacher_label, train_auto_teacher
from deitkit.config import RunConfig, settled
from deitkit.data import Dataset
from deitkit.errors import StoppedError
from deitkit.runtime.durable import write_json
from deitkit.runtime.signals import StopRequest
from deitkit.training.events import Event

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.teachers import LiveTeacher
    from deitkit.training.assemble import Assembly
    from deitkit.training.sources import OpenSources
    from deitkit.training.spending import Spending
    from deitkit.training.teacher_ready import ReadyTeacher


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run before its first step, or before the next one."""

    dataset: Dataset
    assembly: Assembly
    sources: OpenSources
    ready: ReadyTeacher | None
    facts: dict[str, Any] | None
    """What is known of the teacher, `TeacherFacts.to_dict()`; None for a run that goes on."""


def begin(
    request: Request,
    world: World,
    spending: Spending,
    stop: StopRequest,
    progress: Progress,
    train_teacher: Callable[[Request, Dataset], Iterator[Event]],
    dataset: Dataset | None = None,
) -> Begun:
    """Read the images, find the teacher, choose what is not chosen, and build the parts.

    `train_teacher` trains the teacher of teacher=auto. `dataset` are images that were read before.
    What each part takes is in `spending`.

    Raises:
        DeitkitError: of every room there is.
        RankNotNeeded: on the ranks that ranks=auto does without; `assembly.world` are those left.
    """
    from deitkit.artifacts.checkpoint import has_checkpoint
    from deitkit.training.assemble import assemble
    from deitkit.training.precision import training_dtype
    from deitkit.training.scoring import TeacherSaid
    from deitkit.training.spending import ASKING, CHOOSING, READING, START_UP, TEACHER

    spending.mark(START_UP)
    told = until_stopped(request, stop, progress)
    if dataset is None:
        dataset = scan(request.config, request.source, told)
    if request.resumes:
        check_same_data(request, dataset)
    spending.mark(READING)
    settle_precision(request, world.device)
    train_auto_teacher(request, dataset, world, train_teacher, progress)
    spending.mark(TEACHER)
    ready = find_teacher(request, dataset, world, told)
    spending.mark(ASKING)
    live, cost, times = None, None, None
    if ready is not None:
        dtype = training_dtype(request.config.run.precision, world.device)
        live = ready.live(autocast_dtype=dtype)
        cost = TeacherCost(live.image_size, ready.image_s, live.digest)

    def open_sources(config: RunConfig) -> OpenSources:
        return open_run_sources(config, dataset, world, tell=request.notes.append, progress=told)

    if request.resumes:
        if request.changed and world.is_main:
            write_config(request)
        sources = open_sources(request.config)
    else:
        decided = decide(
            request, dataset, world, spending, told, teacher=cost, open_sources=open_sources
        )
        world, times, sources = decided.world, decided.times, decided.sources
        # Its model and its optimizer's state would stay in memory beside the run's.
        del decided
        if world.is_main:
            freeze(request, dataset)
        world.barrier()
    assembly = assemble(
        request.config,
        dataset,
        world=world,
        teacher=live,
        sources=sources,
        said=None if ready is None else TeacherSaid(ready.val_indices, ready.val_NK),
        starts=not has_checkpoint(request.folder / CHECKPOINT_FOLDER),
    )
    spending.mark(CHOOSING)
    facts = None
    told_of = None if dataset.trains_on_val else ready
    if told_of is not None and live is not None and times is not None and world.is_main:
        facts = _facts(request, told_of, live, times, assembly, told)
        write_json(request.folder / TEACHER_FACTS_FILE, facts)
    world.barrier()
    spending.mark(ASKING)
    return Begun(dataset=dataset, assembly=assembly, sources=sources, ready=ready, facts=facts)


def _facts(
    request: Request,
    ready: ReadyTeacher,
    live: LiveTeacher,
    times: TeacherTimes,
    assembly: Assembly,
    progress: Progress,
) -> dict[str, Any]:
    """The table of the teacher before training."""
    from deitkit.api.teacher_report import teacher_facts

    config = request.config
    cache = config.distill.teacher_cache
    kept = cache in ("memory", "disk")
    reasons = [
        request.reasons[name]
        for name in ("distill.teacher_cache", "distill.view_epochs", "distill.until")
        if name in request.reasons
    ]
    facts = teacher_facts(
        ready,
        name=teacher_label(config, ready.classifier.name),
        live=live,
        steps=assembly.steps,
        val_labels_N=assembly.dataset.val.labels,
        erasing_fill=config.views.erasing_fill,
        mean=settled(config.data.mean),
        std=settled(config.data.std),
        student_step_s=times.student_step_s,
        teacher_step_s=times.teacher_step_s,
        num_epochs=times.num_epochs,
        num_view_epochs=settled(config.distill.view_epochs) if kept else None,
        until=settled(config.distill.until),
        storage=cache if kept else "live",
        storage_reason="; ".join(reasons) or "asked for",
        progress=lambda done, total: progress("asking the teacher about views", done, total),
    )
    return facts.to_dict()


def until_stopped(request: Request, stop: StopRequest, progress: Progress) -> Progress:
    """`progress` that ends the reading of images when a signal came: there is nothing to save."""

    def told(what: str, done: int, total: int | None) -> None:
        if stop.signal_number is not None:
            raise StoppedError(
                stop.signal_number, request.folder, f"stopped {what}", "the same command goes on"
            )
        progress(what, done, total)

    return told
