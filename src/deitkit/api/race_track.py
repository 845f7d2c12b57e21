"""What all arms of a race share: images, clock, record, and the way a run of theirs is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.fit import part_events
from deitkit.api.freeze import Progress, no_progress
from deitkit.api.linear_arm import fine_tuning_size
from deitkit.api.race_arms import FINE_TUNED, FINE_TUNED_TAUGHT, LINEAR, TAUGHT, TEACHER, Arm
from deitkit.api.race_end import keep_best, latency_of, say_arm
from deitkit.api.race_record import FAILED, FINISHED, ArmRecord, read_record
from deitkit.api.request import (
    CONFIG_FILE,
    RACE_FILE,
    RACE_FOLDER,
    TEACHER_FOLDER,
    Request,
    meet_folder,
    read_request,
)
from deitkit.data import Dataset
from deitkit.errors import ConfigError, DeitkitError, DivergedError, ModelFileError
from deitkit.training.events import Event, Finished, Planned, StepDone, Warned
from deitkit.training.teacher_names import AUTO_TEACHER

if TYPE_CHECKING:
    from deitkit.runtime.signals import StopRequest
    from deitkit.runtime.world import World
    from deitkit.training.start import Start
    from deitkit.training.teacher_ready import ReadyTeacher

ARM_FAULTS = (ConfigError, ModelFileError, DivergedError)
"""What ends one arm, and not the race."""


class Track:
    """The race of one command. `record` outlives it."""

    def __init__(
        self,
        request: Request,
        dataset: Dataset,
        world: World,
        started: float,
        stop: StopRequest,
        told: Progress,
    ) -> None:
        from deitkit.training.resolve import budget_s

        self.request, self.dataset, self.world = request, dataset, world
        self.stop, self.told = stop, told
        self.record = read_record(request.folder / RACE_FILE, budget_s=budget_s(request.config))
        self._started = started - self.record.spent_s
        self.start: Start | None = None
        """Where it was opened already."""
        self.ready: ReadyTeacher | None = None
        self.arms: dict[str, Arm] = {}
        self.fault: DeitkitError | None = None
        """The last one of an arm."""

    def spent_s(self) -> float:
        """Since the first command began, without the time between commands."""
        return time.monotonic() - self._started

    def save(self) -> None:
        """Write race.json."""
        self.record.spent_s = self.spent_s()
        self.record.save()

    def guarded(self, record: ArmRecord, run: Callable[[], None]) -> Iterator[Event]:
        """Run an arm; a fault of its own is written down, and the others go on."""
        begun = time.monotonic()
        try:
            run()
        except ARM_FAULTS as fault:
            self.fail(record, fault, begun)
        self.save()
        yield Warned(say_arm(record))

    def fail(self, record: ArmRecord, fault: DeitkitError, begun: float) -> None:
        """Write down what ended an arm; what it reached before stays."""
        self.fault = fault
        record.state, record.why = FAILED, fault.why
        record.seconds += time.monotonic() - begun

    def enter(
        self, record: ArmRecord, own: Request | None, result: dict[str, Any], state: str
    ) -> None:
        """Write down what an arm reached, of a run `own` or of a teacher that has none; the best
        one so far is what the race's folder answers with."""
        record.state = state
        record.num_images = result["num_val"]
        record.num_right = round(result["val_top1"] * result["num_val"])
        record.model, record.parameters = result["model"], result["parameters"]
        if own is None:
            record.latency_ms = result["latency_ms"]
            return
        record.latency_ms = latency_of(own.folder, self.dataset)
        record.folder = str(own.folder.relative_to(self.request.folder))
        keep_best(self.request, self.record, record)

    def own_request(self, name: str, folder: str, *, budget: str | None = None) -> Request:
        """The request of one arm, its folder in race/ met."""
        place = self.request.folder / RACE_FOLDER / folder
        settings: dict[str, Any] = {
            **self.arms[name].settings,
            "data": self.request.source,
            "run.out": str(place),
            "run.report": False,
            "schedule.budget": budget,
        }
        if name in (FINE_TUNED, FINE_TUNED_TAUGHT):
            settings |= self._fine_tuning(place, budget)
        if name in TAUGHT and name != TEACHER:
            settings["distill.teacher"] = self.teacher_place()
        own = read_request(settings)
        own.ready = self.ready if name in TAUGHT else None
        meet_folder(own)
        return own

    def teacher_place(self) -> Any:
        """The teacher, as `teacher=` takes it."""
        if self.request.teacher is not None:
            return self.request.teacher
        asked = self.request.config.distill.teacher
        if asked == AUTO_TEACHER:
            return str(self.request.folder / TEACHER_FOLDER)
        return asked

    def train(self, own: Request) -> Generator[Event]:
        """The run of one arm, on the images all share; without a teacher on labelled ones only."""
        images = self.dataset
        if own.config.distill.teacher is None:
            images = replace(images, unlabelled=None)
        yield from part_events(own, self.world, self.stop, no_progress, images)

    def train_quietly(self, own: Request, title: str) -> dict[str, Any]:
        """Its result.json; of its events only a line of progress is left."""
        total = 0
        for event in self.train(own):
            if isinstance(event, Planned):
                total = event.total_steps
            elif isinstance(event, StepDone):
                self.told(title, event.step, total)
            elif isinstance(event, Finished):
                return dict(event.result)
        raise AssertionError("a run ends with Finished")

    def _fine_tuning(self, place: Path, budget: str | None) -> dict[str, Any]:
        """The start with the head that was fitted on it: training then begins where the linear
        classifier ends. Kumar et al. 2022, "Fine-tuning can distort pretrained features and
        underperform out-of-distribution", arXiv:2202.10054."""
        linear = self.record.arms[LINEAR]
        if linear.state != FINISHED or linear.folder is None:
            return {"model.init": self.record.start}
        folder = self.request.folder / linear.folder
        settings: dict[str, Any] = {"model.init": str(folder)}
        is_asked = {"data.image_size", "model.name"} & set(self.request.asked)
        if not is_asked and not (place / CONFIG_FILE).is_file():
            side = fine_tuning_size(folder, self.dataset, self.world, budget=str(budget))
            settings |= {} if side is None else {"data.image_size": side}
        return settings
