"""A plan: everything `train` would choose, and what it would take, without training."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deitkit.api.choosing_ranks import RankNotNeeded
from deitkit.api.deciding import Decided, TeacherCost, decide
from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.image_sources import plan_run_sources
from deitkit.api.plan_rows import PlanRow, plan_rows
from deitkit.api.precision import settle_precision
from deitkit.api.race_arms import TITLES
from deitkit.api.request import CONFIG_FILE, Request, check_new, read_request
from deitkit.api.teaching import ASK_SHARE, has_teacher, open_asked, read_auto_request
from deitkit.config import RunConfig, flatten
from deitkit.data import Dataset
from deitkit.errors import ConfigError
from deitkit.runtime.threads import calm_process
from deitkit.training.teacher_names import AUTO_TEACHER

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.teachers import Classifier
    from deitkit.training.forecast import Forecast
    from deitkit.training.sources import OpenSources
    from deitkit.training.spending import Spending

NUM_ASKED_BLOCKS = 3
"""Blocks of clean images that a teacher is asked about, to time it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `deitkit train` would do with the same settings."""

    rows: tuple[PlanRow, ...]
    """What was chosen, for people: what, value, reason."""
    settings: Mapping[str, Any]
    """Every setting by its dotted name, as config.yaml would hold it."""
    reasons: Mapping[str, str]
    """Why, for those that were chosen."""
    forecast: Forecast
    data: tuple[tuple[str, str], ...]
    """What was found, lines of (name, text)."""
    notes: tuple[str, ...]
    """What the user should know."""
    command: str
    """What to type."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "choices": [asdict(row) for row in self.rows],
            "forecast": self.forecast.to_dict(),
            "data": dict(self.data),
            "notes": list(self.notes),
            "command": self.command,
            "settings": dict(self.settings),
            "reasons": dict(self.reasons),
        }


def plan(*, progress: Progress = no_progress, **settings: Any) -> Plan:
    """Read the images and time the machine, and say what `train` with these settings would do.

    Takes the settings of `train`. Nothing is trained, and no run folder is made; only a trained
    start or teacher that has to come over the network is fetched, as training would.

    Raises:
        ConfigError: RACE, for strategy=auto; BUDGET, it does not reach for seeing each image once;
            and as `train`.
        RankNotNeeded: on the ranks that ranks=auto does without.
        DeitkitError: as `train` before its first step.
    """
    started = time.monotonic()
    from deitkit.runtime.world import World

    calm_process()
    request = read_request(settings)
    check_new(request)
    if request.is_race:
        raise _cannot_plan_race()
    if request.config.data.folds and not request.config.data.fold:
        raise ConfigError(
            "FOLDS",
            f"folds={request.config.data.folds}",
            "are several runs, and one is planned",
            "leave it out, or plan one of them: add data.fold=1 and its part of the budget",
        )
    with World.joined(device=request.config.run.device) as world, suppress(RankNotNeeded):
        return _plan(request, world, started, settings, progress)
    # Only now: an error would be told to the rank that goes on.
    raise RankNotNeeded


def _cannot_plan_race() -> ConfigError:
    return ConfigError(
        "RACE",
        "strategy=auto",
        "a race decides as it goes; it would try, where there is a start and a teacher: "
        + "; ".join(TITLES.values()),
        "leave strategy= out to plan one run",
    )


def _plan(
    request: Request,
    world: World,
    started: float,
    settings: Mapping[str, Any],
    progress: Progress,
) -> Plan:
    from deitkit.reporting.found import describe_dataset
    from deitkit.training.spending import READING, START_UP, Spending

    spending = Spending(started)
    spending.mark(START_UP)
    dataset = scan(request.config, request.source, progress)
    spending.mark(READING)
    settle_precision(request, world.device)
    opened = _Opened(dataset, world, request.notes.append, progress)
    teacher, teacher_said = None, None
    if has_teacher(request.config):
        classifier, teacher_said = _teacher(request, opened, spending, progress)
        teacher = _time_teacher(request, classifier, dataset, spending, progress)
    decided = decide(
        request,
        dataset,
        world,
        spending,
        progress,
        teacher=teacher,
        open_sources=opened.for_spending(spending),
    )
    decided.sources.close()
    if decided.shortage is not None:
        raise ConfigError(
            "BUDGET",
            f"budget={decided.shortage.budget}",
            decided.shortage.why,
            f"use budget={decided.shortage.needed} or more, or epochs=",
        )
    return Plan(
        rows=tuple(plan_rows(request, decided.probe, teacher_said)),
        settings=flatten(request.config),
        reasons=request.reasons,
        forecast=decided.forecast,
        data=tuple(describe_dataset(dataset)),
        notes=tuple(_notes(request, dataset, decided)),
        command=_command(settings),
    )


class _Opened:
    """What views are cut from, for the student and for a teacher that is trained first."""

    def __init__(
        self, dataset: Dataset, world: World, tell: Callable[[str], None], progress: Progress
    ) -> None:
        self.dataset, self.world, self.tell, self.progress = dataset, world, tell, progress
        self._counted: set[tuple[Any, ...]] = set()

    def for_spending(
        self, spending: Spending, dataset: Dataset | None = None
    ) -> Callable[[RunConfig], OpenSources]:
        """A function that opens them and has `spending` expect what an image cache takes; one that
        both need is filled once."""
        from deitkit.training.spending import IMAGE_CACHE

        def open_sources(config: RunConfig) -> OpenSources:
            images = dataset or self.dataset
            sources, filling_s = plan_run_sources(
                config, images, self.world, tell=self.tell, progress=self.progress
            )
            key = (config.data.image_cache_folder, config.data.source_side, images.fingerprint)
            if key not in self._counted:
                spending.expect(IMAGE_CACHE, filling_s)
            self._counted.add(key)
            return sources

        return open_sources


def _teacher(
    request: Request, opened: _Opened, spending: Spending, progress: Progress
) -> tuple[Classifier, str | None]:
    """The teacher, and for teacher=auto how it will be trained: then it is an untrained one of the
    same shape."""
    from deitkit.training.spending import TEACHER, Spending
    from deitkit.training.teacher_source import from_bundle

    own = None
    world = opened.world
    if request.config.distill.teacher == AUTO_TEACHER:
        own = read_auto_request(request, opened.dataset, device_type=world.device.type)
    if own is None or own.result is not None:
        classifier = open_asked(
            request.config,
            request.folder,
            device=world.device,
            given=request.teacher,
            progress=progress,
        )
        spending.mark(TEACHER)
        return classifier, None
    settle_precision(own, world.device)
    spent = Spending(time.monotonic())
    images = replace(opened.dataset, unlabelled=None)
    decided = decide(
        own,
        images,
        world,
        spent,
        progress,
        teacher=None,
        open_sources=opened.for_spending(spent, images),
    )
    decided.sources.close()
    name = own.config.model.name
    bundle = decided.probe.bundle(decided.probe.state.model, {})
    classifier = from_bundle(bundle, name=name, device=world.device)
    took_s = spending.mark(TEACHER)
    spending.expect(TEACHER, decided.forecast.total_s - took_s)
    steps = own.config.schedule.steps
    return classifier, f"{name} is trained first, {steps:,} steps"


def _time_teacher(
    request: Request,
    classifier: Classifier,
    dataset: Dataset,
    spending: Spending,
    progress: Progress,
) -> TeacherCost:
    """Ask about a few clean images, and have `spending` expect what training asks before its first
    step."""
    from deitkit.teachers.class_match import match_classes
    from deitkit.teachers.live import block_size_for
    from deitkit.training.precision import training_dtype
    from deitkit.training.resolve import budget_s
    from deitkit.training.spending import ASKING
    from deitkit.training.teacher_asking import MIN_ASKED_IMAGES, ask_in_time, num_fit_images

    answers = ask_in_time(
        classifier,
        dataset.val,
        max_seconds=0.0,
        autocast_dtype=training_dtype(request.config.run.precision, classifier.device),
        progress=progress,
        min_images=NUM_ASKED_BLOCKS * block_size_for(classifier.device),
    )
    took_s = spending.mark(ASKING)
    image_s = took_s / len(answers.indices)
    within = int(ASK_SHARE * budget_s(request.config) / image_s)
    num_asked = min(len(dataset.val), max(MIN_ASKED_IMAGES, within))
    if match_classes(classifier.class_names, tuple(dataset.class_names)).columns is None:
        num_asked += min(len(dataset.train), num_fit_images(len(dataset.class_names)))
    spending.expect(ASKING, max(0.0, num_asked * image_s - took_s))
    return TeacherCost(classifier.image_size, answers.image_s, classifier.digest)


def _notes(request: Request, dataset: Dataset, decided: Decided) -> list[str]:
    notes = [*request.notes, *dataset.warnings]
    if (request.folder / CONFIG_FILE).is_file() and not request.config.run.overwrite:
        notes.append(
            f"{request.folder} holds a run already, which the command would go on with; out= names "
            "another folder"
        )
    return notes


def _command(settings: Mapping[str, Any]) -> str:
    """`deitkit train` with the same settings."""
    words = [f"{name}={_typed(value)}" for name, value in settings.items() if value is not None]
    return shlex.join(["deitkit", "train", *words])


def _typed(value: Any) -> str:
    """A setting as it is typed; for an object, which only Python can give, three dots."""
    value = getattr(value, "folder", value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | os.PathLike | int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
        return ",".join(map(str, value))
    return "..."
