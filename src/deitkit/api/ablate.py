"""The ladder: recipes that build on each other, each trained as an ordinary run, and compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.fit import fit
from deitkit.api.freeze import Progress, no_progress
from deitkit.api.ladder import (
    fit_to_data,
    folder_name,
    learns_from_teacher,
    own_settings,
    read_ladder,
)
from deitkit.api.parts import told_as_part
from deitkit.api.request import CONFIG_FILE
from deitkit.api.run import Run
from deitkit.config import build_config, flatten, read_config_file
from deitkit.config.changes import FREE
from deitkit.data import check_source
from deitkit.errors import CheckpointError, ConfigError
from deitkit.reporting.ablation import RungSummary, draw_ablation, summarise_rungs
from deitkit.runtime.durable import write_file, write_json
from deitkit.training.events import Event

if TYPE_CHECKING:
    from deitkit.evaluation.evaluation import Evaluation

DEFAULT_BUDGET = "5m"
RESULT_NAME, CHART_NAME, TEACHER_NAME = "ablation.json", "ablation.svg", "teacher"
MAX_SEEDS = 100


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A finished ladder. The same is in `ablation.json`, drawn in `ablation.svg`."""

    folder: Path
    seeds: tuple[int, ...]
    measured_on: str
    num_images: int
    teacher: str | None
    """Run folder, where a step has a teacher."""
    teacher_seconds: float | None
    """What training it took, where that was done for the ladder."""
    rungs: tuple[RungSummary, ...]
    settings: dict[str, dict[str, Any]]
    """By step: all that was set, by dotted name, but seed and folder."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "seeds": list(self.seeds),
            "measured_on": self.measured_on,
            "num_images": self.num_images,
            "teacher": self.teacher,
            "teacher_seconds": self.teacher_seconds,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "settings": self.settings,
        }


def ablate(
    *,
    data: str | os.PathLike[str],
    steps: str | Sequence[str],
    seeds: int = 3,
    epochs: int | str | None = None,
    budget: str | None = None,
    teacher: Any = None,
    model: str | None = None,
    out: str | os.PathLike[str] = "runs/ablation",
    on_run: Callable[[str, int, int], None] = lambda name, number, total: None,
    on_event: Callable[[Event], None] = lambda event: None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Ablation:
    """Train every step with every seed for the same time, and say what each step brings.

    `steps` are recipes (names or files); one with a plus sign adds its settings to the step
    before. Each run is `fit`'s, in out/<step>-seed<k>, with `epochs` or `budget` (5 minutes where
    neither is given) for itself; the same call goes on, and repeats no finished run. `settings`
    are train's and hold for all steps, `distill` only for those with a teacher. Steps that learn
    from a teacher take the distilled variant of the model; without `teacher` (a folder or a Run)
    one is trained first, in out/teacher. Accuracy is on the test split, else on the validation
    images. `on_run` is told of each run (name, number, how many).

    Raises:
        ConfigError: steps or settings that cannot be right.
        CheckpointError: the folder holds a run of this name with other settings.
        DeitkitError: as `fit`.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise ConfigError("BAD_VALUE", "seeds", f"got {seeds}", f"give 1 to {MAX_SEEDS}")
    base = {"data": data, "model": model, "epochs": epochs, "budget": budget}
    if epochs is None and budget is None:
        base["budget"] = DEFAULT_BUDGET
    own = own_settings({**base, **settings})
    ladder = read_ladder(steps, own)
    learning = [name for name, rung in ladder.items() if learns_from_teacher(rung)]
    check_source(own["data.path"])
    folder = Path(out).expanduser().resolve()
    place = _teacher_place(teacher, learning, folder)
    trains_teacher = bool(learning) and teacher is None
    ladder, teacher_settings = fit_to_data(ladder, own, progress, trains_teacher=trains_teacher)
    runs = _Runs(len(ladder) * seeds + trains_teacher, on_run, on_event, progress)
    teacher_s = None
    if teacher_settings is not None:
        teacher_s = _seconds(runs.train(TEACHER_NAME, folder, teacher_settings, seed=0))
    for name in learning:
        ladder[name]["distill.teacher"] = place
    found, evaluation = runs.climb(ladder, folder, seeds)
    num_images = evaluation.fused.num_images
    ablation = Ablation(
        folder=folder,
        seeds=tuple(range(seeds)),
        measured_on=evaluation.source,
        num_images=num_images,
        teacher=place,
        teacher_seconds=teacher_s,
        rungs=tuple(summarise_rungs(found, num_images=num_images)),
        settings={name: _typed(rung) for name, rung in ladder.items()},
    )
    write_json(folder / RESULT_NAME, ablation.to_dict())
    write_file(folder / CHART_NAME, draw_ablation(ablation.to_dict()).encode())
    return ablation


def _teacher_place(teacher: Any, learning: Sequence[str], folder: Path) -> str | None:
    """Folder of the teacher that the steps `learning` have, given or still to be trained.

    Raises:
        ConfigError: NO_TEACHER, the folder does not exist, which would else show in the last run;
            TEACHER, nobody learns from it.
    """
    if teacher is None:
        return str(folder / TEACHER_NAME) if learning else None
    place = Path(getattr(teacher, "folder", teacher)).expanduser()
    if not learning:
        raise ConfigError("TEACHER", place, "no step learns from it", "add the step +teacher")
    if not place.exists():
        raise ConfigError(
            "NO_TEACHER", place, "does not exist", "leave teacher= out, and one is trained first"
        )
    return str(place.resolve())


class _Runs:
    """Trains the runs of a ladder one after the other, and counts them."""

    def __init__(
        self,
        total: int,
        on_run: Callable[[str, int, int], None],
        on_event: Callable[[Event], None],
        progress: Progress,
    ) -> None:
        self.number, self.total = 0, total
        self.on_run, self.on_event, self.progress = on_run, on_event, progress

    def climb(
        self, ladder: Mapping[str, Mapping[str, Any]], folder: Path, seeds: int
    ) -> tuple[dict[str, list[tuple[float, float]]], Evaluation]:
        """(accuracy, seconds) of each step's runs, by seed, and the last evaluation.

        All steps of a seed come before the next seed: a ladder that is stopped has pairs.
        """
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ladder}
        for seed in range(seeds):
            for name, settings in ladder.items():
                run_name = f"{folder_name(name)}-seed{seed}"
                run = self.train(
                    run_name, folder, settings, seed=seed, title=f"{name}, seed {seed}"
                )
                evaluation = run.evaluate(progress=self.progress)
                found[name].append((evaluation.accuracy, _seconds(run)))
        return found, evaluation

    def train(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        seed: int,
        title: str | None = None,
    ) -> Run:
        """The run `name` in `folder`, begun, gone on with, or found finished."""
        self.number += 1
        self.on_run(title or name, self.number, self.total)
        place = folder / name
        _check_same(place, settings)
        settings = {**settings, "run.out": str(place), "run.seed": seed}
        title = f"run {self.number} of {self.total}, {name}"
        with told_as_part(folder, title, goes_on="the same `deitkit ablate` command goes on"):
            for event in fit(progress=self.progress, **settings):
                self.on_event(event)
        return Run(place)


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a run that was begun with a setting that is not given now.

    `fit` compares what is given and keeps the rest; a step of a ladder is given all of it.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or build_config(settings).run.overwrite:
        return
    asked = read_config_file(path)[1]["asked"]
    gone = sorted(set(asked) - set(settings) - FREE - {"run.seed"})
    if gone:
        raise CheckpointError(
            "CONFIG_MISMATCH",
            folder,
            "this run has settings that the step has not: "
            + "; ".join(f"{name}={asked[name]}" for name in gone),
            "choose another out= or overwrite=true to start anew",
        )


def _typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the run read them: numbers where the user typed words."""
    values = flatten(build_config(settings))
    return {name: values[name] for name in settings}


def _seconds(run: Run) -> float:
    assert run.result is not None, "a run that ended has its result"
    return float(run.result["command_seconds"])
