"""What the user asked for, checked against the folder it is asked of. No torch yet."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deitkit.api.folds_asked import (
    FOLDS_FILE,
    FOLDS_FOLDER,
    check_folds_asked,
    recall_folds,
)
from deitkit.api.race_arms import check_race
from deitkit.config import (
    AUTO,
    RunConfig,
    build_config,
    canonical_name,
    flatten,
    read_config_file,
    settled,
    with_values,
)
from deitkit.config.changes import find_changes
from deitkit.config.recipes import read_recipe
from deitkit.data import check_source
from deitkit.errors import CheckpointError, ConfigError
from deitkit.training.teacher_names import check_teacher_path, parse_teacher

CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
DATA_REPORT_FILE = "data_report.json"
FORECAST_FILE = "forecast.json"
START_REPORT_FILE = "start_report.txt"
TEACHER_FACTS_FILE = "teacher.json"
TEACHER_FILES = (TEACHER_FACTS_FILE, "teacher.safetensors")
TEACHER_FOLDER = "teacher"
"""The run in which teacher=auto is trained."""
RACE_FILE, RACE_FOLDER = "race.json", "race"
"""What a race found, and the runs it tried."""
BEST_FOLDER = "best"
CHECKPOINT_FOLDER = "last"
RUN_ENTRIES = (
    CONFIG_FILE,
    RESULT_FILE,
    METRICS_FILE,
    DATA_REPORT_FILE,
    FORECAST_FILE,
    START_REPORT_FILE,
    *TEACHER_FILES,
    TEACHER_FOLDER,
    RACE_FILE,
    RACE_FOLDER,
    FOLDS_FOLDER,
    FOLDS_FILE,
    BEST_FOLDER,
)
PYTHON_SEQUENCE = "(python sequence)"
PYTHON_TEACHER = "(python classifier)"


@dataclass
class Request:
    """One call of train: its settings, its folder, and whether it goes on with a run."""

    config: RunConfig
    folder: Path
    asked: dict[str, Any]
    """What the user set, by dotted name; all else is default or chosen."""
    source: Any
    """Path of the data, or the sequence itself."""
    teacher: Any = None
    """A `Classifier` that was given as an object."""
    ready: Any = None
    """A `ReadyTeacher`, where a race has prepared the teacher for all its runs."""
    recipe: str | None = None
    """Name or file that settings came from."""
    keeps_ranks: bool = False
    """Whether all ranks are needed after it, however fast one alone would be."""
    resumes: bool = False
    changed: bool = False
    """Whether it goes on under other settings than are written down in its folder."""
    reasons: dict[str, str] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    """lineage and data fingerprint of a run, written when it began."""
    notes: list[str] = field(default_factory=list)
    forecast: dict[str, Any] | None = None
    """`Forecast.to_dict()` of a run that begins now."""

    def shared(self) -> dict[str, Any]:
        """What rank 0 alone found out, for the others."""
        names = ("asked", "resumes", "reasons", "identity", "notes")
        return {"settings": flatten(self.config)} | {name: getattr(self, name) for name in names}

    def take(self, shared: Mapping[str, Any]) -> None:
        """Become what rank 0 shared; a sequence of images each rank has itself."""
        self.config = build_config(shared["settings"])
        for name in ("asked", "resumes", "reasons", "identity", "notes"):
            setattr(self, name, shared[name])
        if self.source is None:
            self.source = self.config.data.path

    @property
    def result(self) -> dict[str, Any] | None:
        """What a finished run wrote last."""
        path = self.folder / RESULT_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def is_race(self) -> bool:
        """Whether strategy=auto was asked for; in the end the settings are the winner's."""
        return bool(self.asked.get("schedule.strategy") == AUTO)

    @property
    def finished(self) -> dict[str, Any] | None:
        """The result, where there is nothing left to do."""
        return self.result if self.resumes else None


def read_request(settings: Mapping[str, Any]) -> Request:
    """Merge settings, file and defaults. Nothing is written; the data are not read.

    Raises:
        ConfigError: a setting that cannot be right, data or run folder that do not exist.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    source = settings.get("data", settings.get("data.path"))
    if _is_in_python(source):
        settings["data"] = PYTHON_SEQUENCE
    teacher = _teacher_in_python(settings)
    file_values: dict[str, Any] = {}
    if (recipe := settings.pop("recipe", None)) is not None:
        file_values = read_recipe(str(recipe))
        if "model" in settings or "model.name" in settings:
            # The size stands in the name, and the name that was typed is the user's word.
            file_values.pop("data.image_size", None)
    if (config_file := settings.pop("config", None)) is not None:
        own_values, _ = read_config_file(Path(config_file).expanduser())
        for name in ("run.out", "run.overwrite", "run.accept_changes"):
            own_values.pop(name, None)
        file_values |= own_values
    typed = {name: value for name, value in settings.items() if value is not None}
    config = build_config(typed, base=build_config(file_values))
    known = flatten(config)
    names = [*file_values, *(canonical_name(name, known) for name in typed)]
    if known["distill.teacher"] not in (None, PYTHON_TEACHER):
        named = str(parse_teacher(str(known["distill.teacher"])))
        config = with_values(config, {"distill.teacher": named})
    always = ["data.path", "data.labels", "data.unlabelled", "data.image_cache_folder"]
    always += ["run.out", "distill.cache_folder"]
    for name in (*always, "model.init"):
        path = known[name]
        is_path = name in always or (path and Path(path).expanduser().exists())
        if path and is_path and path != PYTHON_SEQUENCE:
            config = with_values(config, {name: str(Path(path).expanduser().resolve())})
    known = flatten(config)
    folder = _run_folder(config)
    config = with_values(config, {"run.out": str(folder)})
    asked = {name: known[name] for name in dict.fromkeys(names)}
    if not _is_in_python(source):
        source = config.data.path
    request = Request(config=config, folder=folder, asked=asked, source=source)
    request.teacher = teacher
    request.recipe = None if recipe is None else str(recipe)
    if request.is_race:
        check_race(request.asked)
    if config.data.folds and config.run.ranks == AUTO:
        raise ConfigError(
            "RANKS", "ranks=auto", "folds need the same number in every run", "give a number"
        )
    is_new = config.run.overwrite or not (folder / CONFIG_FILE).is_file()
    if is_new and not config.run.overwrite:
        recall_folds(request)
    ranks = request.asked.get("run.ranks", 1)
    if isinstance(ranks, int) and ranks > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "RANKS",
            f"ranks={ranks}",
            "this is one process",
            f"write `deitkit train ranks={ranks} ...`, or start it with torchrun",
        )
    if is_new:
        check_new(request)
    return request


def _teacher_in_python(settings: dict[str, Any]) -> Any:
    """The classifier that is given as an object; its place in the settings says so.

    A run counts as its folder. Raises ConfigError TEACHER_NAME for a bare network or function.
    """
    name = "distill.teacher" if "distill.teacher" in settings else "teacher"
    teacher = settings.get(name)
    teacher = getattr(teacher, "folder", teacher)
    if isinstance(teacher, os.PathLike):
        teacher = str(teacher)
    if teacher is None or isinstance(teacher, str):
        settings[name] = teacher
        return None
    if not (hasattr(teacher, "digest") and hasattr(teacher, "image_size")):
        raise ConfigError(
            "TEACHER_NAME",
            f"teacher={type(teacher).__name__}",
            "a network or function alone does not say its name, size and normalisation",
            "give deitkit.Classifier.from_callable(net, name=..., version=..., image_size=..., "
            "mean=..., std=...)",
        )
    settings[name] = PYTHON_TEACHER
    return teacher


def _is_in_python(source: Any) -> bool:
    """Whether the images are given as objects and not as a path."""
    return source is not None and not isinstance(source, str | os.PathLike)


def _run_folder(config: RunConfig) -> Path:
    if config.run.out is not None:
        return Path(config.run.out)
    if config.data.path is None:
        raise ConfigError(
            "NO_DATA",
            "train",
            "neither data= nor out= is given",
            "write `deitkit train data=photos/`",
        )
    name = "run" if config.data.path == PYTHON_SEQUENCE else Path(config.data.path).stem
    return (Path("runs") / name).resolve()


def meet_folder(request: Request) -> None:
    """Decide between a new run, going on, and refusing; `overwrite` clears what was there.

    Called with the folder locked.

    Raises:
        CheckpointError: CONFIG_MISMATCH with the differences listed.
        ConfigError: the run's images are gone, or were a Python sequence and are not given again.
    """
    path = request.folder / CONFIG_FILE
    if request.config.run.overwrite:
        clear(request.folder)
    if not path.is_file():
        check_folds_asked(request)
        return
    values, information = read_config_file(path)
    frozen = build_config(values)
    accepts = request.config.run.accept_changes
    changes = find_changes(frozen, information["asked"], request.asked)
    refused = [
        change
        for change in changes
        if change.kind == "forbidden"
        or (change.kind == "needs_flag" and not accepts)
        or (
            change.kind == "free"
            and change.name == "schedule.epochs"
            and (request.result or frozen.data.folds)
        )
    ]
    if refused:
        flag = (
            ""
            if any(change.kind == "forbidden" for change in refused)
            else (", run.accept_changes=true to go on with them")
        )
        raise CheckpointError(
            "CONFIG_MISMATCH",
            request.folder,
            "this run has other settings: " + "; ".join(map(str, refused)),
            f"choose another out={flag} or overwrite=true to start anew",
        )
    request.notes += [f"changed: {change}" for change in changes if change.name != "run.out"]
    taken = {change.name: change.now for change in changes if change.name != "schedule.epochs"}
    request.config = with_values(frozen, {**taken, "run.out": str(request.folder)})
    epochs = [change.now for change in changes if change.name == "schedule.epochs"]
    if epochs:
        per_epoch = settled(frozen.schedule.steps) / settled(frozen.schedule.epochs)
        steps = round(epochs[0] * per_epoch)
        changed = {"schedule.epochs": epochs[0], "schedule.steps": steps}
        request.config = with_values(request.config, changed)
        request.notes.append("the cosine is stretched: not the run that began with these epochs")
    request.changed = any(change.name != "run.out" for change in changes)
    request.asked = {**information["asked"], **request.asked}
    request.reasons = dict(information["reasons"])
    request.identity = dict(information["identity"])
    request.resumes = True
    if not _is_in_python(request.source):
        request.source = request.config.data.path
    if request.result is None:
        if request.source == PYTHON_SEQUENCE:
            raise ConfigError(
                "NO_DATA",
                request.folder,
                "this run was trained on a Python sequence",
                "call deitkit.train(data=..., out=...) with it again",
            )
        check_data_path(request)


def check_new(request: Request) -> None:
    """Raise ConfigError unless a new run could begin; before a folder is made or cleared."""
    if request.config.data.path is None:
        raise ConfigError(
            "NO_DATA",
            request.folder,
            "holds no run to go on with",
            "name the images: `deitkit train data=photos/ out=...`",
        )
    check_data_path(request)
    teacher = request.config.distill.teacher
    if teacher not in (None, PYTHON_TEACHER):
        check_teacher_path(parse_teacher(teacher))
    init = request.config.model.init
    is_word = init in (AUTO, "scratch") or init.startswith(("hf:", "timm:"))
    if not is_word and not Path(init).exists():
        raise ConfigError(
            "NO_START",
            init,
            "does not exist",
            f"did you mean init=timm:{init}?"
            if init.startswith(("deit", "vit", "regnet"))
            else "give a run folder, a weights file, hf:owner/name or timm:name, or init=scratch",
        )


def check_data_path(request: Request) -> None:
    if isinstance(request.source, str):
        check_source(request.source)


def clear(folder: Path) -> None:
    """Remove a run from its folder; files that are not ours stay."""
    for name in RUN_ENTRIES:
        entry = folder / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    checkpoints = folder / CHECKPOINT_FOLDER
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints)
