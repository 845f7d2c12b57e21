"""Training from a request to its last event: lock, scan, choose, assemble, train, conclude."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.beginning import Begun, begin
from deitkit.api.choosing_ranks import RankNotNeeded
from deitkit.api.concluding import conclude
from deitkit.api.freeze import Progress, no_progress
from deitkit.api.request import (
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    START_REPORT_FILE,
    Request,
    meet_folder,
    read_request,
)
from deitkit.config import AUTO, flatten, settled
from deitkit.data import Dataset
from deitkit.errors import CheckpointError
from deitkit.reporting.found import describe_dataset
from deitkit.reporting.metrics_log import MetricsLog
from deitkit.reporting.tensorboard_log import FOLDER, TensorBoardLog
from deitkit.runtime.durable import write_file
from deitkit.runtime.lock import RunLock, check_output_folder
from deitkit.runtime.signals import StopRequest
from deitkit.runtime.temporary_names import remove_leftovers
from deitkit.runtime.threads import calm_process
from deitkit.training.events import Evaluated, Event, Finished, Planned, Saved, StepDone, Warned

if TYPE_CHECKING:
    from deitkit.api.folds_judged import Judged
    from deitkit.runtime.world import World
    from deitkit.training.assemble import Assembly


def fit(*, progress: Progress = no_progress, **settings: Any) -> Iterator[Event]:
    """Train, and yield what happens: `for event in deitkit.fit(data="photos", out="runs/a")`.

    Takes the settings of `train`. Leaving the loop early saves a checkpoint; the same call goes on.

    Raises:
        DeitkitError: see the FAULTS each class stands for; StoppedError after a signal.
    """
    started = time.monotonic()
    with locked_request(settings) as (request, stop):
        yield from _fit_locked(request, started, stop, progress)


@contextmanager
def locked_request(settings: Mapping[str, Any]) -> Iterator[tuple[Request, StopRequest]]:
    """What is asked, its folder locked and met, while a signal only asks to stop."""
    calm_process()
    request = read_request(settings)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        check_output_folder(request.folder)
    with RunLock(request.folder, enabled=is_main), StopRequest() as stop:
        if is_main:
            remove_leftovers(request.folder)
            meet_folder(request)
        yield request, stop


def _fit_locked(
    request: Request, started: float, stop: StopRequest, progress: Progress
) -> Iterator[Event]:
    is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if is_alone and (result := request.finished):
        yield already_finished(result)
        return
    from deitkit.runtime.world import World

    with World.joined(device=request.config.run.device) as world, suppress(RankNotNeeded):
        request.take(world.broadcast_json(request.shared()))
        if result := world.broadcast_json(request.finished):
            yield already_finished(result)
            return
        if request.is_race:
            from deitkit.api.racing import race_events

            yield from race_events(request, world, started, stop, progress)
            return
        if not request.config.data.folds or request.config.data.fold:
            yield from train_events(request, world, started, stop, progress)
            return
        from deitkit.api.folding import folded_events

        yield from folded_events(request, world, started, stop, progress)


def already_finished(result: Mapping[str, Any]) -> Finished:
    """What is told of a run that was complete before this command."""
    return Finished(
        step=result["steps"],
        seconds=result["seconds"],
        best=result["best"],
        already=True,
        result=result,
    )


def part_events(
    request: Request,
    world: World,
    stop: StopRequest,
    progress: Progress,
    images: Dataset,
    judged: Judged | None = None,
) -> Iterator[Event]:
    """One run of several that a command is made of; a finished one is only told of."""
    if result := request.finished:
        yield already_finished(result)
        return
    yield from train_events(request, world, time.monotonic(), stop, progress, images, judged)


def train_events(
    request: Request,
    world: World,
    started: float,
    stop: StopRequest,
    progress: Progress,
    dataset: Dataset | None = None,
    judged: Judged | None = None,
) -> Iterator[Event]:
    """One run, of images that are there already or are read now; `judged` by its folds."""
    from deitkit.models.hub_names import is_hub_name
    from deitkit.runtime.device import describe_machine
    from deitkit.training.loop import Fit
    from deitkit.training.precision import BFLOAT16
    from deitkit.training.spending import CHECKPOINTS, EVALUATIONS, STEPS, Spending

    spending = Spending(started)

    def train_teacher(own: Request, images: Dataset) -> Iterator[Event]:
        return train_events(own, world, time.monotonic(), stop, no_progress, images)

    begun = begin(request, world, spending, stop, progress, train_teacher, dataset)
    assembly, world = begun.assembly, begun.assembly.world
    machine = describe_machine(world.device)
    if request.config.run.compile is True:
        machine["compile"] = "on"
    if request.config.run.precision == BFLOAT16:
        machine["precision"] = BFLOAT16
    warnings = [*request.notes, *begun.dataset.warnings, *assembly.notes]
    if assembly.start is not None:
        warnings.append(f"begins with {assembly.start.summary()}; see {START_REPORT_FILE}")
        if world.is_main:
            text = "\n".join(assembly.start.lines()) + "\n"
            write_file(request.folder / START_REPORT_FILE, text.encode())
    warnings += restore(assembly, request, machine)
    earlier_s = assembly.state.seconds
    log = MetricsLog(request.folder / METRICS_FILE, enabled=world.is_main)
    board = TensorBoardLog(
        request.folder / FOLDER, enabled=world.is_main and request.config.run.tensorboard
    )
    for one in (log, board):
        one.rewind(assembly.state.step)
    schedule = request.config.schedule
    provenance = {"lineage": request.identity["lineage"], "steps": schedule.steps}
    if request.config.model.init != "scratch":
        init = request.config.model.init
        provenance["start"] = init if is_hub_name(init) else Path(init).name
        provenance["start_digest"] = request.identity["start"]
    run = Fit(
        state=assembly.state,
        parts=assembly.parts,
        batches=assembly.batches,
        validate=assembly.validate if judged is None else judged.validates(assembly.state),
        save_best=assembly.save_best(request.folder, provenance),
        folder=request.folder / CHECKPOINT_FOLDER,
        total_steps=settled(schedule.steps),
        eval_interval=settled(schedule.eval_interval),
        checkpoint_interval=settled(schedule.checkpoint_interval),
        lineage=request.identity["lineage"],
        machine=machine,
        stop=stop,
        patience=schedule.patience,
    )
    yield _planned(request, begun)
    yield from (Warned(text) for text in warnings)
    with (
        closing(begun.sources),
        log,
        board,
        closing(assembly.parts.teacher),
        _reported(request, world),
    ):
        parts: dict[type, str] = {Evaluated: EVALUATIONS, Saved: CHECKPOINTS}
        for event in run.events():
            spending.mark(parts.get(type(event), STEPS))
            if isinstance(event, Finished):
                event = conclude(
                    request, begun, event, spending, earlier_s=earlier_s, judged=judged
                )
            elif isinstance(event, StepDone | Evaluated):
                for one in (log, board):
                    one.write(event, log_interval=request.config.run.log_interval)
            yield event
            if isinstance(event, Evaluated) and assembly.steps.num_remade:
                yield Warned(
                    f"{assembly.steps.num_remade:,} images of the image cache were damaged or gone "
                    "and were decoded again"
                )
                assembly.steps.num_remade = 0


@contextmanager
def _reported(request: Request, world: World) -> Iterator[None]:
    """Write what can be said of a run that ends before its end."""
    try:
        yield
    except BaseException:
        if world.is_main and request.config.run.report:
            from deitkit.api.reporting import write_unfinished_report

            write_unfinished_report(request.folder)
        raise


def restore(assembly: Assembly, request: Request, machine: dict[str, Any]) -> list[str]:
    """Put the newest valid checkpoint into the state; say what was found.

    Raises:
        CheckpointError: checkpoints exist and none is valid, NOT_SHARED where ranks see different
            ones, or exactness was required and the machine differs.
    """
    from deitkit.artifacts.checkpoint import load_newest
    from deitkit.runtime.device import compare_machines

    checkpoint = load_newest(
        request.folder / CHECKPOINT_FOLDER,
        lineage=request.identity["lineage"],
        rename_rejected=assembly.world.is_main,
    )
    step = -1 if checkpoint is None else checkpoint.step
    if (newest := assembly.world.max(step)) != step:
        raise CheckpointError(
            "NOT_SHARED",
            request.folder,
            f"rank {assembly.world.rank} sees "
            f"{'no checkpoint' if checkpoint is None else f'step {step}'}, another one step "
            f"{newest:.0f}",
            "put out= on a disk that all machines share",
        )
    if checkpoint is None:
        return []
    assembly.state.unpack(checkpoint.tensors, checkpoint.state)
    notes = [f"set aside {bad.path.name}: {bad.why}" for bad in checkpoint.rejected]
    differences = compare_machines(checkpoint.machine, machine)
    if differences:
        said = "not bit-exact: " + ", ".join(differences)
        if request.config.run.require_exact:
            raise CheckpointError(
                "NOT_EXACT", request.folder, said, "go on there, or set run.require_exact=false"
            )
        notes.append(said)
    return notes


def _planned(request: Request, begun: Begun) -> Planned:
    from deitkit.models import model_cost

    assembly = begun.assembly
    num_params, macs = model_cost(assembly.state.model)
    values = flatten(request.config)
    choices = [(name, str(values[name]), why) for name, why in request.reasons.items()]
    summary = describe_dataset(assembly.dataset)
    recipe = request.identity.get("recipe", "none")
    if recipe != "none":
        summary.append(("recipe", f"{recipe}; every setting is in config.yaml"))
    summary.append(
        ("model", f"{num_params:,} parameters, {macs / 1e6:,.1f} M multiply-adds an image")
    )
    return Planned(
        run_folder=str(request.folder),
        total_steps=settled(request.config.schedule.steps),
        steps_per_epoch=assembly.steps.steps_per_epoch,
        start_step=assembly.state.step,
        batch_size=settled(request.config.optim.batch_size),
        summary=summary,
        choices=choices,
        forecast=request.forecast,
        teacher=begun.facts,
        class_names=begun.dataset.class_names,
        time_decides=AUTO == request.config.schedule.epochs == request.config.schedule.budget,
    )
