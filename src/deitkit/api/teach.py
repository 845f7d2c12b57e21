"""Asking a teacher about all views of a run ahead of its training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.beginning import begin
from deitkit.api.fit import locked_request, train_events
from deitkit.api.freeze import Progress, no_progress
from deitkit.api.request import Request
from deitkit.data import Dataset
from deitkit.errors import ConfigError, StoppedError
from deitkit.runtime.signals import StopRequest
from deitkit.training.events import Event

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.training.assemble import Assembly
    from deitkit.training.teaching import StoredTeaching

FLUSH_INTERVAL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What `teach` did, on all ranks."""

    run_folder: Path
    cache_folder: Path | None
    num_view_epochs: int
    num_views: int
    """In all view epochs."""
    num_asked: int
    """That the teacher was asked about now; the others were there."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), **{k: str(getattr(self, k)) for k in ("run_folder", "cache_folder")}}


def teach(
    *, progress: Progress = no_progress, tell: Any = lambda text: None, **settings: Any
) -> Taught:
    """Fill the teacher's cache for the run of these settings, and leave it ready to be trained.

    Takes the settings of `train`; `views` is short for `view_epochs`. The same call goes on where
    it stopped, and `train(out=...)` then finds every answer. `tell` takes sentences.

    Raises:
        ConfigError: NO_TEACHER without teacher=, CACHE_MODE where nothing would be kept on disk.
        StoppedError: a signal came; what was said so far is kept.
        DeitkitError: as `train`.
    """
    from deitkit.runtime.world import World

    started = time.monotonic()
    if "views" in settings:
        settings["view_epochs"] = settings.pop("views")
    if not {"teacher_cache", "distill.teacher_cache"} & set(settings):
        settings["teacher_cache"] = "disk"
    with (
        locked_request(settings) as (request, stop),
        World.joined(device=request.config.run.device) as world,
    ):
        request.take(world.broadcast_json(request.shared()))
        _check_request(request)
        return _teach(request, world, started, stop, progress, tell)


def _check_request(request: Request) -> None:
    distill = request.config.distill
    if distill.teacher is None or distill.kind == "none":
        raise ConfigError(
            "NO_TEACHER", request.folder, "there is nobody to ask", "add teacher=, or see its help"
        )
    if distill.teacher_cache != "disk":
        raise ConfigError(
            "CACHE_MODE",
            f"teacher_cache={distill.teacher_cache}",
            "answers that are asked for ahead are kept on disk",
            "leave it out",
        )


def _teach(
    request: Request,
    world: World,
    started: float,
    stop: StopRequest,
    progress: Progress,
    tell: Any,
) -> Taught:
    def train_teacher(own: Request, images: Dataset) -> Iterator[Event]:
        return train_events(own, world, time.monotonic(), stop, no_progress, images)

    import torch

    from deitkit.training.spending import Spending

    begun = begin(request, world, Spending(started), stop, progress, train_teacher)
    assembly = begun.assembly
    for text in (*request.notes, *begun.dataset.warnings, *assembly.notes):
        tell(text)
    teaching: Any = assembly.parts.teacher
    with closing(teaching), closing(begun.sources):
        num_asked = _ask_all(request, assembly, teaching, stop, progress)
        world.barrier()
        cache = teaching.cached.cache
        return Taught(
            run_folder=request.folder,
            cache_folder=cache.folder,
            num_view_epochs=cache.num_view_epochs,
            num_views=cache.num_view_epochs * len(assembly.steps.images),
            num_asked=int(world.sum(torch.tensor(float(num_asked)))),
            seconds=time.monotonic() - started,
        )


def _ask_all(
    request: Request,
    assembly: Assembly,
    teaching: StoredTeaching,
    stop: StopRequest,
    progress: Progress,
) -> int:
    """Ask about every view that is not stored; returns how many this rank asked about."""
    cache, parts, steps = teaching.cached.cache, assembly.parts, assembly.steps
    last_flush = time.monotonic()
    num_steps = cache.num_view_epochs * steps.steps_per_epoch
    for view_epoch in range(cache.num_view_epochs):
        first = steps.phases.first_epoch(view_epoch) * steps.steps_per_epoch
        done = view_epoch * steps.steps_per_epoch
        if cache.is_complete(view_epoch):
            progress("asking the teacher", done + steps.steps_per_epoch, num_steps)
            continue
        with closing(assembly.batches(first, first + steps.steps_per_epoch)) as batches:
            for place, batch in enumerate(batches):
                for share, _ in parts.micro_batches(batch):
                    parts.ask_teacher(share, parts.mix(share)[0])
                progress("asking the teacher", done + place + 1, num_steps)
                if time.monotonic() - last_flush > FLUSH_INTERVAL_S:
                    teaching.flush()
                    last_flush = time.monotonic()
                if stop.signal_number is not None:
                    teaching.flush()
                    raise StoppedError(
                        stop.signal_number,
                        request.folder,
                        f"stopped asking the teacher in view epoch {view_epoch + 1} of "
                        f"{cache.num_view_epochs}, what it said is kept",
                        "the same command goes on",
                    )
    return teaching.cached.num_misses
