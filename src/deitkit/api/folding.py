"""A run with folds: one run for each, what they say together, then one run on all images.

The folds are ordinary runs in out/folds/1, 2 and so on, each validated on the images that it holds
out. What the first fold chooses is what all are trained with. The last run has no image left to be
validated on: it is as long as the folds found right, and their answers stand for its validation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.fit import part_events
from deitkit.api.folds_asked import FOLDS_FILE, write_folds_asked
from deitkit.api.folds_judged import Judged, fold_folder, fold_result, judge_folds
from deitkit.api.freeze import Progress, scan_whole
from deitkit.api.parts import told_as_part
from deitkit.api.request import CONFIG_FILE, Request, meet_folder, read_request
from deitkit.config import AUTO, build_config, flatten, read_config_file, with_values
from deitkit.data.folds import hold_out
from deitkit.runtime.durable import write_json
from deitkit.runtime.lock import check_output_folder
from deitkit.runtime.signals import StopRequest
from deitkit.training.events import Event, FoldsJudged, PartBegun, Warned

if TYPE_CHECKING:
    from deitkit.runtime.world import World

NOT_OF_A_FOLD = {
    "data.path",
    "run.out",
    "run.overwrite",
    "run.accept_changes",
    "distill.teacher",
    "schedule.budget",
    "schedule.epochs",
}
"""What is asked of the whole, and given to each run in another way."""
OWN_TO_A_RUN = {"data.mean", "data.std", "distill.teacher"}
"""What each run chooses for itself, beside all that belongs to the sections run and schedule."""
FIRST_SHARE = 0.85
"""Of the time of a fold, what the first one plans for: all others train as many epochs, and shall
end in time also where the machine is slower for a while."""
END_ONLY = 10**10
"""As interval of evaluations: one, at the end."""


def folded_events(
    request: Request,
    world: World,
    started: float,
    stop: StopRequest,
    progress: Progress,
) -> Iterator[Event]:
    """Train all folds and then the run on all images; finished ones are met again and left. The
    budget is shared by all, from `started` on.

    Raises:
        DataError: FOLDS, a class is too small.
        CheckpointError: NO_FOLDS, a fold of the last run is gone.
        StoppedError: in which run a signal came.
    """
    from deitkit.training.timing import load_optimizers

    num_folds = request.config.data.folds
    whole = scan_whole(request.config, request.source, progress)
    last = hold_out(whole, num_folds=num_folds, fold=0)
    total = num_folds + 1
    goes_on = f"go on with `deitkit train out={request.folder}`"
    if said := _seen_before(request):
        yield Warned(said)
    load_optimizers()
    if not request.resumes:
        # Else all folds are done, and their settings have become those of the last run.
        if world.is_main:
            write_folds_asked(request)
        world.barrier()
        for fold in range(1, num_folds + 1):
            part = hold_out(whole, num_folds=num_folds, fold=fold)
            own = _fold_request(request, fold, world, started)
            title = f"fold {fold} of {num_folds}"
            yield PartBegun(title, fold, total)
            with told_as_part(request.folder, title, goes_on=goes_on):
                yield from part_events(own, world, stop, progress, part)
            world.barrier()
    judged = judge_folds(request.folder, request.config, whole, world, progress, stop)
    if world.is_main:
        write_json(request.folder / FOLDS_FILE, judged.found)
    yield FoldsJudged(judged.found)
    if not request.resumes:
        _settle_last(request, judged, started)
        # By the clock of one rank: all have to plan for the same time.
        request.take(world.broadcast_json(request.shared()))
    yield PartBegun("all images", total, total)
    yield from part_events(request, world, stop, progress, last, judged)


def _fold_request(request: Request, fold: int, world: World, started: float) -> Request:
    """What a fold is asked: as all, on its own images, for its share of the time."""
    folder = fold_folder(request.folder, fold)
    values = flatten(request.config)
    settings = {name: values[name] for name in request.asked if name not in NOT_OF_A_FOLD}
    settings |= {
        "data": request.source,
        "out": str(folder),
        "data.fold": fold,
        "teacher": request.teacher or values["distill.teacher"],
    }
    chosen = _chosen(request.folder) if fold > 1 else {}
    settings |= chosen
    if not (folder / CONFIG_FILE).is_file():
        settings |= _length(request, fold, started)
    own = read_request(settings)
    own.recipe = request.recipe
    if world.is_main:
        check_output_folder(folder)
        meet_folder(own)
    own.take(world.broadcast_json(own.shared()))
    if not own.resumes:
        own.reasons |= dict.fromkeys(chosen, "as in the first fold")
    return own


def _length(request: Request, fold: int, started: float) -> dict[str, Any]:
    """Epochs and time of a fold, or of the run on all images after the last fold.

    A fold trains on all images but one part, and the time that is left is divided by that.
    """
    from deitkit.training.choices import MAX_AUTO_EPOCHS
    from deitkit.training.resolve import budget_s

    schedule, num_folds = request.config.schedule, request.config.data.folds
    epochs: Any = schedule.epochs
    if fold > 1 and epochs == AUTO:
        first = fold_result(request.folder, 1)
        epochs = max(1, round(first["epochs"] * first["planned_steps"] / first["steps"]))
    elif epochs == AUTO and schedule.budget == AUTO:
        epochs = MAX_AUTO_EPOCHS
    if schedule.budget == AUTO != schedule.epochs:
        return {"epochs": epochs}
    left_s = budget_s(request.config) - (time.monotonic() - started)
    share = (num_folds - 1) / num_folds
    own = share if fold <= num_folds else 1.0
    rest = share * max(0, num_folds + 1 - fold) + 1.0
    own_s = left_s * own / rest * (FIRST_SHARE if fold == 1 else 1.0)
    length = {"budget": f"{max(1.0, own_s):.1f}s"}
    return length if epochs == AUTO else {**length, "epochs": epochs}


def _chosen(folder: Path) -> dict[str, Any]:
    """Every "auto" that the first fold decided, but what each run finds out for itself."""
    values, information = read_config_file(fold_folder(folder, 1) / CONFIG_FILE)
    known = flatten(build_config(values))
    return {
        name: known[name]
        for name in information["reasons"]
        if name not in OWN_TO_A_RUN and name.partition(".")[0] not in ("run", "schedule")
    }


def _settle_last(request: Request, judged: Judged, started: float) -> None:
    """The settings of the run on all images."""
    num_folds = request.config.data.folds
    chosen = _chosen(request.folder)
    length = _length(request, num_folds + 1, started)
    epochs = max(1, round(statistics.median(judged.best_epochs)))
    values = {**chosen, "schedule.epochs": epochs, "schedule.eval_interval": END_ONLY}
    if "budget" in length:
        values["schedule.budget"] = length["budget"]
    request.config = with_values(request.config, values)
    request.reasons |= dict.fromkeys(chosen, "as in the folds")
    request.reasons["schedule.epochs"] = f"the median of what {num_folds} folds found right"
    request.reasons["schedule.eval_interval"] = "at the end; its folds were validated"


def _seen_before(request: Request) -> str | None:
    """A warning where weights from elsewhere may have seen what the folds hold out."""
    from deitkit.training.teacher_names import AUTO_TEACHER

    config = request.config
    named = {"teacher": config.distill.teacher, "init": config.model.init}
    seen = [
        f"{name}={value}"
        for name, value in named.items()
        if value not in (None, AUTO, AUTO_TEACHER, "scratch")
        and not str(value).startswith(("timm:", "hf:"))
    ]
    if not seen:
        return None
    return (
        f"if {' and '.join(seen)} learned from these images, the folds' accuracy will look too "
        "good: what they hold out was then seen"
    )
