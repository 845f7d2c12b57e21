"""The race of strategy=auto: cheap answers first, short trials, and the rest for the winner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from deitkit.api.beginning import until_stopped
from deitkit.api.deciding import find_request_start
from deitkit.api.fit import already_finished, train_events
from deitkit.api.freeze import Progress, check_same_data, freeze, no_progress, scan
from deitkit.api.linear_arm import run_linear
from deitkit.api.parts import told_as_part
from deitkit.api.race_arms import (
    LINEAR,
    TAUGHT,
    TEACHER,
    list_arms,
)
from deitkit.api.race_choice import choose_finalist, drop_hopeless, trainable
from deitkit.api.race_end import adopt, say_arm
from deitkit.api.race_record import (
    FAILED,
    FINISHED,
    IMPOSSIBLE,
    TRIED,
    WAITING,
    ArmRecord,
)
from deitkit.api.race_rule import (
    TRIALS_SHARE,
    linear_s,
    num_trials,
    trial_s,
    winner_of,
)
from deitkit.api.race_track import ARM_FAULTS, Track
from deitkit.api.request import TEACHER_FILES, Request
from deitkit.api.teaching import find_teacher, has_teacher, train_auto_teacher
from deitkit.config import RunConfig, with_values
from deitkit.data import Dataset
from deitkit.training.events import Event, Finished, Planned, Raced, Warned

if TYPE_CHECKING:
    from deitkit.runtime.signals import StopRequest
    from deitkit.runtime.world import World


def race_events(
    request: Request, world: World, started: float, stop: StopRequest, progress: Progress
) -> Iterator[Event]:
    """Try the arms one after the other, train the winner, and make the run's folder its own.

    The images are read once, and split once. A race that was stopped goes on: what is finished
    stays, and its seconds count.

    Raises:
        DeitkitError: as `fit`; of an arm's own faults only where no arm is left.
    """
    told = until_stopped(request, stop, progress)
    if request.resumes:
        # Once the winner's settings stand in config.yaml, the race's own are those asked for.
        values = {**request.asked, "run.out": str(request.folder), "run.overwrite": False}
        request.config = with_values(RunConfig(), values)
    dataset = scan(request.config, request.source, told)
    if request.resumes:
        check_same_data(request, dataset)
    else:
        request.identity = {"lineage": "race", "data": dataset.fingerprint}
        freeze(request, dataset)
    track = Track(request, dataset, world, started, stop, told)
    goes_on = f"go on with `deitkit train out={request.folder}`"
    with told_as_part(request.folder, goes_on=goes_on):
        _line_up(track)
        yield from _fit_linear(track)
        yield from _meet_teacher(track)
        yield from drop_hopeless(track)
        yield from _try(track)
        yield from _train_finalist(track)
        yield from _conclude(track)


def _line_up(track: Track) -> None:
    """Look for the start once, and list who takes part."""
    record = track.record
    if not record.is_started:
        track.start, record.start_why = find_request_start(
            track.request, track.dataset, track.world, track.told
        )
        record.start = None if track.start is None else track.start.asked
        record.is_started = True
    track.arms = list_arms(
        track.request.asked,
        start=record.start,
        start_why=record.start_why,
        has_teacher=has_teacher(track.request.config),
    )
    for name, arm in track.arms.items():
        if name not in record.arms:
            state, why = (WAITING, "") if arm.why_not is None else (IMPOSSIBLE, arm.why_not)
            record.arms[name] = ArmRecord(name=name, title=arm.title, state=state, why=why)
    track.save()


def _fit_linear(track: Track) -> Iterator[Event]:
    """The first answer."""
    record = track.record.arms[LINEAR]
    if record.state != WAITING:
        return
    from deitkit.training.start import open_start

    limit_s = linear_s(track.record.budget_s)

    def run() -> None:
        own = track.own_request(LINEAR, LINEAR)
        start = track.start or open_start(str(track.record.start))
        result = run_linear(
            own, track.dataset, track.world, start, limit_s=limit_s, progress=track.told
        )
        track.enter(record, own, result, FINISHED)
        record.seconds = result["command_seconds"]

    yield from track.guarded(record, run)


def _meet_teacher(track: Track) -> Iterator[Event]:
    """Train it where it is to be trained first, make its classes the user's, and rate it."""
    record = track.record.arms[TEACHER]
    if record.state not in (WAITING, FINISHED):
        return
    begun = time.monotonic()

    def train(own: Request, images: Dataset) -> Iterator[Event]:
        return train_events(own, track.world, time.monotonic(), track.stop, no_progress, images)

    def run() -> None:
        from deitkit.api.teacher_arm import rate_teacher

        train_auto_teacher(track.request, track.dataset, track.world, train, track.told)
        asked = [track.request.folder / name for name in TEACHER_FILES]
        is_known = record.state == FINISHED and asked[-1].is_file()
        asking = replace(track.request, resumes=track.request.resumes and is_known)
        track.ready = find_teacher(asking, track.dataset, track.world, track.told)
        if record.state == FINISHED:
            return
        assert track.ready is not None
        own, place = track.own_request(TEACHER, TEACHER), track.teacher_place()
        result = rate_teacher(own, track.dataset, track.world, place, track.ready, begun=begun)
        track.enter(record, own if result["has_bundle"] else None, result, FINISHED)
        record.seconds = result["command_seconds"]

    if record.state == FINISHED:
        run()
        return
    yield from track.guarded(record, run)
    if record.state == FAILED:
        for name in TAUGHT:
            other = track.record.arms[name]
            if other.state == WAITING:
                other.state, other.why = IMPOSSIBLE, f"no teacher: {record.why}"
        track.save()


def _try(track: Track) -> Iterator[Event]:
    """A short run of each trained arm that is left, where there are several; then one is chosen."""
    if track.record.final_arm is not None:
        return
    left, budget_s = trainable(track), track.record.budget_s
    seconds = trial_s(budget_s)

    def tried_s() -> float:
        return sum(track.record.arms[name].seconds for name in left)

    # The same number however often the race was stopped: trials are the end of what was spent.
    left_s = budget_s - (track.spent_s() - tried_s())
    num = num_trials(len(left), budget_s=budget_s, left_s=left_s)
    for name in left[:num]:
        if tried_s() + seconds > TRIALS_SHARE * left_s:
            break  # a machine so slow that those before took longer than they should
        record = track.record.arms[name]
        if record.state == WAITING:

            def run(name: str = name, record: ArmRecord = record) -> None:
                own = track.own_request(name, f"{name}_trial", budget=f"{seconds:.0f}s")
                result = track.train_quietly(own, f"trial: {record.title}")
                track.enter(record, own, result, TRIED)
                record.seconds, record.trial_accuracy = (
                    result["command_seconds"],
                    result["val_top1"],
                )

            yield from track.guarded(record, run)
    if left := trainable(track):
        choose_finalist(track, left)


def _train_finalist(track: Track) -> Iterator[Event]:
    """The rest of the budget."""
    name = track.record.final_arm
    if not name or track.record.arms[name].state not in (WAITING, TRIED):
        return
    record, begun = track.record.arms[name], time.monotonic()
    try:
        own = track.own_request(name, name, budget=track.record.final_budget)
        with closing(track.train(own)) as events:
            for event in events:
                if isinstance(event, Planned):
                    yield replace(event, run_folder=str(track.request.folder))
                elif isinstance(event, Finished):
                    result = dict(event.result)
                else:
                    yield event
    except ARM_FAULTS as fault:
        track.fail(record, fault, begun)
    else:
        tried = record.score
        if tried is None or result["val_top1"] >= tried.accuracy:
            track.enter(record, own, result, FINISHED)
        else:
            record.state = FINISHED
            record.why = f"its trial; longer training gave {100 * result['val_top1']:.1f} %"
        record.seconds += result["command_seconds"]
    track.save()
    yield Warned(say_arm(record))


def _conclude(track: Track) -> Iterator[Event]:
    """The winner's run becomes that of the race's folder."""
    record = track.record
    if not record.scores():
        assert track.fault is not None, "training from scratch can always be tried"
        raise track.fault
    record.winner = winner_of(record.scores())
    track.save()
    result = adopt(track.request, track.dataset, track.world, record)
    yield Raced(race=record.to_dict())
    yield replace(already_finished(result), already=False)
