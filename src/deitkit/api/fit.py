"""Training from a request to its last event: lock, scan, choose, assemble, train, conclude."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from deitkit.api.request import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    DATA_REPORT_FILE,
    METRICS_FILE,
    RESULT_FILE,
    Request,
    meet_folder,
    read_request,
)
from deitkit.config import RunConfig, flatten, settled, write_config_text
from deitkit.config.changes import FREE
from deitkit.data import Dataset, DecodePolicy, open_dataset
from deitkit.errors import CheckpointError, StoppedError
from deitkit.reporting.found import describe_dataset
from deitkit.reporting.metrics_log import MetricsLog
from deitkit.runtime.durable import write_file, write_json
from deitkit.runtime.lock import RunLock, check_output_folder
from deitkit.runtime.memory import available_memory_bytes
from deitkit.runtime.signals import StopRequest
from deitkit.runtime.temporary_names import remove_leftovers
from deitkit.runtime.threads import calm_threads
from deitkit.training.events import Evaluated, Event, Finished, Planned, StepDone, Warned

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.training.assemble import Assembly

Progress = Callable[[str, int, int | None], None]
MEMORY_SHARE = 0.25
MEASURE_SHARE = 0.05
"""Of the budget, what timing a few steps may take."""
FINISH_SHARE = 0.94
"""Of the time left after the measurement, what steps and evaluations may take."""


def no_progress(what: str, done: int, total: int | None) -> None:
    return None


def fit(*, progress: Progress = no_progress, **settings: Any) -> Iterator[Event]:
    """Train, and yield what happens: `for event in deitkit.fit(data="photos", out="runs/a")`.

    Takes the settings of `train`. Leaving the loop early saves a checkpoint; the same call goes on.

    Raises:
        DeitkitError: see the FAULTS each class stands for; StoppedError after a signal.
    """
    started = time.monotonic()
    calm_threads()
    request = read_request(settings)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        check_output_folder(request.folder)
    with RunLock(request.folder, enabled=is_main), StopRequest() as stop:
        if is_main:
            remove_leftovers(request.folder)
            meet_folder(request)
        yield from _fit_locked(request, started, stop, progress)


def _fit_locked(
    request: Request, started: float, stop: StopRequest, progress: Progress
) -> Iterator[Event]:
    result = request.result
    if request.resumes and result is not None:
        yield Finished(
            step=result["steps"],
            seconds=result["seconds"],
            best=result["best"],
            already=True,
            result=result,
        )
        return
    from deitkit.runtime.world import World

    world = World.from_environment(device=request.config.run.device)
    try:
        request.take(world.broadcast_json(request.shared()))
        yield from _train(request, world, started, stop, progress)
    finally:
        world.close()


def _train(
    request: Request, world: World, started: float, stop: StopRequest, progress: Progress
) -> Iterator[Event]:
    from deitkit.runtime.device import describe_machine
    from deitkit.training.assemble import assemble
    from deitkit.training.loop import Fit

    dataset = scan(request.config, request.source, _until_stopped(request, stop, progress))
    if request.resumes:
        _check_same_data(request, dataset)
        if request.changed and world.is_main:
            write_config(request)
    else:
        freeze(request, dataset, world, started, progress)
    assembly = assemble(request.config, dataset, world=world)
    machine = describe_machine(world.device)
    warnings = [*request.notes, *dataset.warnings]
    warnings += restore(assembly, request, machine)
    earlier_s = assembly.state.seconds
    log = MetricsLog(request.folder / METRICS_FILE, enabled=world.is_main)
    log.rewind(assembly.state.step)
    schedule = request.config.schedule
    provenance = {"lineage": request.identity["lineage"], "steps": schedule.steps}
    run = Fit(
        state=assembly.state,
        parts=assembly.parts,
        batches=assembly.batches,
        validate=assembly.validate,
        save_best=assembly.save_best(request.folder, provenance),
        folder=request.folder / CHECKPOINT_FOLDER,
        total_steps=settled(schedule.steps),
        eval_interval=settled(schedule.eval_interval),
        checkpoint_interval=settled(schedule.checkpoint_interval),
        lineage=request.identity["lineage"],
        machine=machine,
        stop=stop,
    )
    yield _planned(request, assembly)
    yield from (Warned(text) for text in warnings)
    with log:
        for event in run.events():
            if isinstance(event, Finished):
                elapsed_s = time.monotonic() - started + earlier_s
                event = conclude(request, assembly, event, elapsed_s)
            elif isinstance(event, StepDone | Evaluated):
                log.write(event, log_interval=request.config.run.log_interval)
            yield event


def _until_stopped(request: Request, stop: StopRequest, progress: Progress) -> Progress:
    """`progress` that ends the reading of images when a signal came: there is nothing to save."""

    def told(what: str, done: int, total: int | None) -> None:
        if stop.signal_number is not None:
            raise StoppedError(
                stop.signal_number, request.folder, f"stopped {what}", "the same command goes on"
            )
        progress(what, done, total)

    return told


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
    from deitkit.training.assemble import assemble, measure
    from deitkit.training.resolve import budget_s, resolve_from_clock, resolve_from_data

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    resolution = resolve_from_data(
        request.config, dataset, device_type=world.device.type, num_cores=num_cores
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
    request.identity = {
        "lineage": _lineage(request.config, dataset.fingerprint),
        "data": dataset.fingerprint,
        "deitkit": version("deitkit"),
    }
    request.forecast_s = step_s * settled(request.config.schedule.steps)
    if world.is_main:
        # The config comes last: with it there is a run, and that run has its report.
        write_json(request.folder / DATA_REPORT_FILE, dataset.report.to_dict())
        write_config(request)
    world.barrier()


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


def restore(assembly: Assembly, request: Request, machine: dict[str, Any]) -> list[str]:
    """Put the newest valid checkpoint into the state; say what was found.

    Raises:
        CheckpointError: checkpoints exist and none is valid, or exactness was required and the
            machine differs.
    """
    from deitkit.artifacts.checkpoint import load_newest
    from deitkit.runtime.device import compare_machines

    checkpoint = load_newest(
        request.folder / CHECKPOINT_FOLDER,
        lineage=request.identity["lineage"],
        rename_rejected=assembly.world.is_main,
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


def conclude(request: Request, assembly: Assembly, event: Finished, elapsed_s: float) -> Finished:
    """Write result.json, the last file of a run."""
    from deitkit.evaluation.metrics import wilson_interval
    from deitkit.models import model_cost

    num_params, macs = model_cost(assembly.state.model)
    best = dict(event.best)
    num_val = len(assembly.dataset.val)
    low, high = wilson_interval(round(best["top1"] * num_val), num_val)
    result = {
        "best": best,
        "steps": event.step,
        "seconds": round(event.seconds, 2),
        "command_seconds": round(elapsed_s, 2),
        "model": request.config.model.name,
        "parameters": num_params,
        "macs": macs,
        "num_train": len(assembly.dataset.train),
        "num_val": num_val,
        "val_top1": best["top1"],
        "val_top1_interval": [low, high],
        "classes": list(assembly.dataset.class_names),
    }
    if assembly.world.is_main:
        write_json(request.folder / RESULT_FILE, result)
    assembly.world.barrier()
    return Finished(step=event.step, seconds=event.seconds, best=best, result=result)


def _planned(request: Request, assembly: Assembly) -> Planned:
    from deitkit.models import model_cost

    num_params, macs = model_cost(assembly.state.model)
    values = flatten(request.config)
    choices = [(name, str(values[name]), why) for name, why in request.reasons.items()]
    summary = describe_dataset(assembly.dataset)
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
        forecast_s=request.forecast_s,
        budget=request.config.schedule.budget,
    )


def _lineage(config: RunConfig, fingerprint: str) -> str:
    """Names a run by what decides its weights."""
    values = {k: str(v) for k, v in flatten(config).items() if k not in FREE}
    text = json.dumps([values, fingerprint], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _check_same_data(request: Request, dataset: Dataset) -> None:
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
